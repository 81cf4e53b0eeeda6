"""Images per second of the training loop and of its peers, measured in turn in one run."""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from data.examples import Examples
from data.frozen import Frozen
from trainer import data_setup, losses
from trainer.optimization.stages import plan
from trainer.recipe import Recipe
from trainer.state import TrainingState

# Trains one window and returns when its figures have reached the host.
Round = Callable[[], None]

KERAS_LOSSES = {
    "single_label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "binary": keras.losses.BinaryCrossentropy(from_logits=True),
    "multi_label": keras.losses.BinaryCrossentropy(from_logits=True),
    "regression": keras.losses.MeanSquaredError(),
}


def onward(recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy) -> Round:
    """The loop of scripts/train.py in the first stage of a recipe: canvases, augmentation, step, figures."""
    examples, order = data_setup.training_part(recipe, frozen.parts()["train"])
    planned = plan(recipe.stages, examples=order.epoch_length, batch=recipe.batch_size)
    loss = losses.chosen(recipe.loss, examples.task)
    aim = {"outputs": examples.outputs, "task": examples.task, "loss": loss}
    state = TrainingState(recipe, planned, strategy=strategy, **aim)
    window = state.window(recipe, planned.stages[0].stage, strategy=strategy)
    view = data_setup.view(recipe, frozen)
    first = {"stage": planned.stages[0].stage, "step": 0, "steps": planned.steps}
    batches = data_setup.stream(recipe, examples, order, view, strategy=strategy, **first)
    rates = tf.fill([recipe.window], 1e-3)

    def run() -> None:
        records = window(batches, rates, tf.constant(recipe.window))
        if not np.isfinite(records["loss"].numpy()).all():
            raise RuntimeError("the benchmark's loss is not finite")

    return run


def keras_fit(recipe: Recipe, examples: Examples, *, steps_per_execution: int, jit_compile: bool) -> Round:
    """`keras.Model.fit` of the same model, optimizer, batch and precision on normalised float images in memory.

    It augments nothing, which spares it work that the loop does.
    """
    architecture = recipe.model
    network = architecture.build(
        image_size=recipe.image_size, classes=examples.outputs, precision=recipe.precision, fused=False
    )
    colour = architecture.backbone.colour
    images = examples.pixels.astype(np.float32) @ colour[:, :3].T + colour[:, 3]
    dataset = tf.data.Dataset.from_tensor_slices((images, examples.labels)).shuffle(len(examples)).repeat()
    dataset = dataset.batch(recipe.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    network.model.compile(
        optimizer=recipe.optimizer.make(),
        loss=KERAS_LOSSES[examples.task],
        metrics=["mean_absolute_error" if examples.task == "regression" else "accuracy"],
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )

    def run() -> None:
        network.model.fit(dataset, steps_per_epoch=recipe.window, epochs=1, verbose=0)

    return run


def rates(
    rounds: dict[str, Round], *, images: int | dict[str, int], repeats: int, report: Callable[[str], None]
) -> dict[str, list]:
    """Images per second of each contestant, measured in turn after one round of warm-up (with its trace).

    Args:
        images: in one round, of all alike or by contestant.
        repeats: measurements of each.
        report: is told what was measured.

    Returns:
        contestant -> [repeats] images per second.
    """
    for name, run in rounds.items():
        began = time.perf_counter()
        run()
        report(f"{name}: trace and first round {time.perf_counter() - began:.1f} s")
    measured: dict[str, list] = {name: [] for name in rounds}
    for repeat in range(repeats):
        for name, run in rounds.items():
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            measured[name].append((images if isinstance(images, int) else images[name]) / seconds)
        report(
            f"round {repeat + 1} of {repeats}: "
            + ", ".join(f"{name} {all_[-1]:.1f}" for name, all_ in measured.items())
        )
    return measured


def compare(measured: dict[str, list], *, against: str) -> list[dict]:
    """One row a contestant: median images per second, and the ratio of `against` to it with its range over rounds."""
    rows = []
    for name, speeds in measured.items():
        ratios = [ours / other for ours, other in zip(measured[against], speeds, strict=True)]
        rows.append(
            {
                "name": name,
                "images_per_second": statistics.median(speeds),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows
