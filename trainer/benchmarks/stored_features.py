"""Training on stored features against Keras' `fit` through the frozen layers: images a second, and what is learned."""

import dataclasses
import statistics
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError
from data.examples import Examples
from data.frozen import Frozen
from data.inspection import Inspection, inspect
from data.splits import TEST
from trainer import data_setup, devices, features, launch, losses
from trainer.benchmarks import augmentation, fit, inputs
from trainer.benchmarks.results import Result
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import network_images
from trainer.benchmarks.windows import Round, rounds_of
from trainer.benchmarks.windows import ratio as ratio_of
from trainer.evaluation import Evaluator
from trainer.optimization.stages import plan
from trainer.recipe import Recipe
from trainer.reports import environment
from trainer.reports.console import Console
from trainer.state import TrainingState

# What trains -> steps of one measurement on features, and how many times as fast as `fit` these have to be.
TRAINED = {"head": (400, 100.0), "last 3 blocks": (20, 2.0)}
FIT_STEPS = 10
RATE = 1e-3


def run(settings: Settings, console: Console) -> Result:
    """--part=features."""
    recipe = settings.recipe()
    strategy = devices.set_up(settings.devices, reduce_by=recipe.reduction, threads=recipe.threads)
    if recipe.features is None:
        raise UserError(
            "the recipe stores no features",
            where="gin binding train.features",
            expected="@features()",
            do="--gin_file=configs/features.gin",
        )
    frozen = photos(recipe, inputs.indexed(recipe), count=settings.images)
    rows, rates, known = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="onward-features-") as folder:
        for name in TRAINED:
            where = {"strategy": strategy, "console": console, "folder": Path(folder) / name}
            bench = Bench(recipe, frozen, name=name, **where)
            rounds, images = bench.rounds()
            measured = rounds_of(rounds, images=images, repeats=settings.repeats, report=console.say)
            rows.append(ratio(measured, name=name))
            rates |= {f"{name}, {contestant}": all_ for contestant, all_ in measured.items()}
            if name == "head":
                known = Bench(recipe, frozen, name=name, **where).accuracies(settings.epochs)
    told = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in known.items())
    facts = environment.describe(strategy, project=launch.PROJECT, precision=recipe.precision)
    return Result(
        environment=facts,
        figures={"rows": rows, "rates": rates, "accuracy": known},
        tables=[augmentation.times_as_fast(rows)],
        sentences=[f"test accuracy of the head after {settings.epochs} epochs of the same batches: {told}"],
    )


def photos(recipe: Recipe, examples: Examples, *, count: int) -> Frozen:
    """`count` examples spread evenly over a table, split as the recipe splits them, so that some are test.

    Raises:
        UserError: an image does not decode, or there is nothing to test with.
    """
    chosen = examples.take(np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int))
    if chosen.root is None:
        seen = Inspection.of_arrays(chosen)
    else:
        seen = inspect(chosen, decoding=data_setup.decoding(recipe))
        if seen.bad:
            raise data_setup.bad_images(chosen, seen.bad)
        chosen = dataclasses.replace(chosen, orientations=seen.orientations, kinds=seen.kinds)
    split = data_setup.split_of(recipe, chosen)
    if not (split == TEST).any():
        raise UserError(
            "no image is in the split test",
            where="gin binding train.split",
            expected="some, which show what is learned",
            do="--gin_file=configs/features.gin",
        )
    return Frozen(chosen, split, seen, data_setup.decoding(recipe))


class Bench:
    """One network that trains on stored features, and its twin that `fit` trains on the same images in memory.

    Args:
        name: of TRAINED, what both train.
        folder: for the features.
    """

    def __init__(
        self,
        recipe: Recipe,
        frozen: Frozen,
        *,
        name: str,
        strategy: tf.distribute.Strategy,
        folder: Path,
        console: Console,
    ):
        stage = dataclasses.replace(recipe.stages[0], trains=tuple({"head", name}))
        # Decay that Keras' optimizer knows nothing of would tell the two apart.
        rule = dataclasses.replace(recipe.optimizer, weight_decay=0.0)
        recipe = dataclasses.replace(recipe, stages=(stage,), optimizer=rule)
        self._name, self._recipe, self._frozen, self._strategy, self._stage = name, recipe, frozen, strategy, stage
        self._tables, examples = frozen.parts(), frozen.examples
        table, self._order = data_setup.training_part(recipe, self._tables["train"])
        self._tables["train"] = table
        whole = plan(recipe.stages, examples=self._order.epoch_length, batch=recipe.batch_size)
        self._loss = losses.chosen(recipe.loss, examples.task)
        self._aim = {"task": examples.task, "loss": self._loss}
        self._view = data_setup.view(recipe, frozen)
        keras.utils.set_random_seed(recipe.seed)
        self.state = TrainingState(recipe, whole, strategy=strategy, outputs=examples.outputs, **self._aim)
        store = features.prepare(
            recipe,
            self.state.cut.prefix,
            frozen,
            self._view,
            strategy=strategy,
            folder=folder,
            views=dict.fromkeys(self._tables) | {"train": 1},
            dtype=recipe.features.dtype,
            length=None,
            console=console,
        )
        self._batches = features.FeatureBatches(recipe, store, self._tables, strategy=strategy)
        self._initial = self.state.network.model.get_weights()

    def stored(self, steps: int) -> Round:
        """Trains on the stored features for so many further steps each time."""
        window, length = self.state.window(self._recipe, self._stage, strategy=self._strategy), self._recipe.window
        stream, rates = self._batches.stream(self._order, step=0), tf.fill([length], RATE)

        def run() -> None:
            for start in range(0, steps, length):
                count = min(length, steps - start)
                if not np.isfinite(window(stream, rates, tf.constant(count))["loss"].numpy()[:count]).all():
                    raise RuntimeError("the benchmark's loss is not finite")

        return run

    def fit(self, steps: int) -> tuple[keras.Model, Round]:
        """The twin, with the weights that this one began with, and a round of `fit` on this one's first batches."""
        recipe, examples = self._recipe, self._frozen.examples
        network = recipe.model.build(
            image_size=recipe.image_size, classes=examples.outputs, precision=recipe.precision, fused=False
        )
        model, trains = network.model, set(self.state.trainable[self._stage.name].names)
        model.set_weights(self._initial)
        fit.freeze_others(network, trains)
        optimizer = recipe.optimizer.make()
        optimizer.learning_rate = RATE
        task = examples.task
        model.compile(optimizer=optimizer, loss=fit.LOSSES[task], metrics=[fit.figure(task)], jit_compile=False)
        images, labels = tf.constant(self.images("train")), tf.constant(self._tables["train"].labels)

        def batch(step):
            positions = step * recipe.batch_size + tf.range(recipe.batch_size, dtype=tf.int64)
            rows = self._order.rows(positions)[1]
            return tf.gather(images, rows), tf.gather(labels, rows)

        batches = tf.data.Dataset.range(steps).map(batch).prefetch(2)
        return model, lambda: model.fit(batches, epochs=1, verbose=0)

    def images(self, split: str) -> np.ndarray:
        """[N, S, S, 3] float32, the images of a split as the network sees them."""
        return network_images(self._recipe, self._tables[split], self._view)

    def rounds(self) -> tuple[dict[str, Round], dict[str, int]]:
        """One measurement of each contestant, and how many images it trains."""
        batch, steps = self._recipe.batch_size, TRAINED[self._name][0]
        contestants = {"fit": self.fit(FIT_STEPS)[1], "features": self.stored(steps)}
        return contestants, {"fit": FIT_STEPS * batch, "features": steps * batch}

    def accuracies(self, epochs: int) -> dict[str, float]:
        """Share of the test images that is right after so many epochs of the same batches, by contestant.

        That of what was trained on features is the whole network's, on the images themselves.
        """
        steps = epochs * self._order.epoch_length // self._recipe.batch_size
        self.stored(steps)()
        evaluator = Evaluator(self._recipe, self.state.network, self._view, strategy=self._strategy, **self._aim)
        totals = evaluator.evaluate(self._tables["test"])
        model, fit = self.fit(steps)
        fit()
        logits = model.predict(self.images("test"), batch_size=self._recipe.batch_size, verbose=0)
        right = logits.argmax(axis=1) == self._tables["test"].labels
        return {"fit": float(right.mean()), "features": float(totals["correct"] / totals["weight"])}


def ratio(measured: dict[str, list], *, name: str) -> dict:
    """A row of `augmentation.times_as_fast`: how many times as fast training on features is."""
    return {
        "name": name,
        "contestant": f"{name} on features",
        "against": "keras fit",
        "measure": "wall",
        **ratio_of(measured["features"], measured["fit"]),
        "wanted": TRAINED[name][1],
        "images_per_second": {each: statistics.median(speeds) for each, speeds in measured.items()},
    }
