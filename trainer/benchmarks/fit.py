"""The peer of the training loop: `keras.Model.fit` of the same network on the same images."""

import dataclasses
from collections.abc import Collection

import keras
import numpy as np
import tensorflow as tf

from data.pipeline import ordered
from trainer.benchmarks.subject import Subject
from trainer.benchmarks.windows import Round
from trainer.models.network import Network
from trainer.recipe import Recipe

LOSSES = {
    "single_label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "binary": keras.losses.BinaryCrossentropy(from_logits=True),
    "multi_label": keras.losses.BinaryCrossentropy(from_logits=True),
    "regression": keras.losses.MeanSquaredError(),
}
# Images in memory that it trains on, over and over again.
IMAGES = 512
# What it is given whatever its settings.
GIVEN = (
    "normalised float32 images in memory, not augmented: from_tensor_slices().shuffle(all).repeat()"
    ".batch(drop_remainder=True).prefetch(2), autotune off (an iterator that ends may wait for it); verbose=0"
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `compile` is told."""

    steps: int
    jit: bool

    def __str__(self) -> str:
        return f"fit, {self.steps} a call{', XLA' if self.jit else ''}"

    @property
    def told(self) -> str:
        """All that the peer is given, for the list of settings."""
        return f"compile(steps_per_execution={self.steps}, jit_compile={self.jit}); {GIVEN}"


# The loop is compared with the best of these.
SETTINGS = tuple(Setting(steps, jit) for jit in (False, True) for steps in (1, 20))


def peers(subject: Subject, *, windows: int) -> dict[str, Round]:
    """So many windows in one call of `fit` with each of SETTINGS; it augments nothing: work that the loop does.

    Nothing on several replicas, where `fit` of a plain model trains on one.
    """
    if subject.strategy.num_replicas_in_sync > 1:
        return {}
    images, labels = subject.rendered(IMAGES)
    trains = subject.state.trainable[subject.stage.name].names
    outputs = subject.examples.outputs
    given = {"trains": trains, "outputs": outputs, "task": subject.examples.task}
    return {
        str(setting): keras_fit(
            subject.recipe, images, labels, **given, setting=setting, steps=windows * subject.recipe.window
        )
        for setting in SETTINGS
    }


def keras_fit(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    trains: Collection[str],
    outputs: int,
    task: str,
    setting: Setting,
    steps: int,
) -> Round:
    """`keras.Model.fit` of the same model, optimizer, batch and precision.

    Args:
        images: [N, S, S, 3] float32 as the network takes them, normalised.
        labels: as the table has them.
        trains: names of the variables that train; layers without any of them are frozen.
        steps: of a call.
    """
    side = images.shape[1]
    network = recipe.model.build(image_size=side, classes=outputs, precision=recipe.precision, fused=False)
    freeze_others(network, trains)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).repeat()
    dataset = dataset.batch(recipe.batch_size, drop_remainder=True).prefetch(2).with_options(ordered())
    network.model.compile(
        optimizer=recipe.optimizer.make(),
        loss=LOSSES[task],
        metrics=[figure(task)],
        steps_per_execution=setting.steps,
        jit_compile=setting.jit,
    )

    def run() -> None:
        network.model.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0)

    return run


def freeze_others(network: Network, trains: Collection[str]) -> None:
    """Has Keras train the layers that have a variable of these names, and no other."""
    for name, layer in network.layers.items():
        if layer is not network.backbone and layer.weights:
            layer.trainable = any(each.startswith(f"{name}/") for each in trains)


def figure(task: str) -> str:
    """The metric that `fit` computes, as the loop does."""
    return "mean_absolute_error" if task == "regression" else "accuracy"
