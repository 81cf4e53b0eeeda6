"""Training on stored features against Keras' `fit` through the frozen layers: images a second, and what is learned."""

import dataclasses
import statistics
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data import pipeline
from data.errors import UserError
from data.examples import Examples
from data.frozen import Frozen
from data.inspection import Inspection, inspect
from data.splits import TEST
from trainer import data_setup, features, losses
from trainer.benchmark import KERAS_LOSSES, Round
from trainer.evaluation import Evaluator
from trainer.optimization.stages import plan
from trainer.recipe import Recipe
from trainer.rendering import evaluation_policy, rendering
from trainer.reports.console import Console
from trainer.state import TrainingState

# What trains -> steps of one measurement on features, and how many times as fast as `fit` these have to be.
TRAINED = {"head": (400, 100.0), "last 3 blocks": (20, 2.0)}
FIT_STEPS = 10
RATE = 1e-3


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
        for layer in network.model.layers + network.backbone.layers:
            part = "backbone" if layer in network.backbone.layers else "head"
            if layer is not network.backbone and layer.weights:
                layer.trainable = any(name.startswith(f"{part}/{layer.name}/") for name in trains)
        optimizer = recipe.optimizer.make()
        optimizer.learning_rate = RATE
        figure = "mean_absolute_error" if examples.task == "regression" else "accuracy"
        model.compile(optimizer=optimizer, loss=KERAS_LOSSES[examples.task], metrics=[figure], jit_compile=False)
        images, labels = tf.constant(self.images("train")), tf.constant(self._tables["train"].labels)

        def batch(step):
            positions = step * recipe.batch_size + tf.range(recipe.batch_size, dtype=tf.int64)
            rows = self._order.rows(positions)[1]
            return tf.gather(images, rows), tf.gather(labels, rows)

        batches = tf.data.Dataset.range(steps).map(batch).prefetch(2)
        return model, lambda: model.fit(batches, epochs=1, verbose=0)

    def images(self, split: str) -> np.ndarray:
        """[N, S, S, 3] float32, the images of a split as the network sees them."""
        recipe, table = self._recipe, self._tables[split]
        rendered = rendering(recipe, evaluation_policy(recipe), samples=recipe.evaluation_samples)
        found = pipeline.evaluation_batches(
            table, batch=recipe.batch_size, view=self._view, policy=evaluation_policy(recipe)
        )
        return np.concatenate([rendered.images(batch).numpy() for batch in found])[: len(table)]

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
    """A row of `Console.times_as_fast`: how many times as fast training on features is."""
    ratios = [ours / theirs for ours, theirs in zip(measured["features"], measured["fit"], strict=True)]
    return {
        "name": f"{name} on features",
        "against": "keras fit",
        "measure": "wall",
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "wanted": TRAINED[name][1],
        "images_per_second": {each: statistics.median(speeds) for each, speeds in measured.items()},
    }
