"""A session's network as plain Keras: from pixels in 0..255 to logits."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError
from trainer import checkpoints, rendering
from trainer.exporting.preprocessing import Preprocessing
from trainer.models.naming import NORMALISATION
from trainer.models.network import Network
from trainer.prediction import Meaning
from trainer.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network ready to be written.

    Attributes:
        recipe: of the session.
        meaning: what the outputs stand for.
        prefix: the checkpoint.
        group: `model` or `ema`, which weights of it.
        colour: [3, 4] float64, from (red, green, blue, 1) in 0..255 to the network's input.
        network: in float32, with Keras' own layers.
        model: its layers behind the normalisation: [B, S, S, 3] float32 in 0..255, RGB -> logits [B, outputs] float32.
        calibration: bytes of training images, by which formats of whole numbers choose their scales.
    """

    recipe: Recipe
    meaning: Meaning
    prefix: Path
    group: str
    colour: np.ndarray
    network: Network
    model: keras.Model
    calibration: tuple[bytes, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """What makes the model's pixels of the bytes of an image."""
        return Preprocessing.of(self.recipe)

    def groups(self) -> dict[str, dict[str, tf.Variable]]:
        """Every variable of the model, as a checkpoint holds them: those of the network, and the normalisation."""
        kernel, bias = self.model.get_layer(NORMALISATION).weights
        return {"model": self.network.values(), NORMALISATION: {"kernel": kernel.value, "bias": bias.value}}

    def blank(self) -> tuple[Network, keras.Model]:
        """Network and model of this kind with fresh weights."""
        return _built(self.recipe, self.meaning, self.colour)


def prepare(recipe: Recipe, prefix: Path, meaning: Meaning, *, weights: str | None = None) -> Exported:
    """Builds the network of a session with the weights of a checkpoint.

    Args:
        weights: `raw` or `ema`, see `checkpoints.weights_group`.

    Raises:
        UserError: the checkpoint does not fit, or the normalisation is no matrix.
    """
    colour = rendering.colour_matrix(recipe)
    if colour is None:
        raise UserError(
            f"a normalisation that is no matrix of colours: {list(recipe.normalisation)}",
            where="gin binding train.normalisation",
            expected="linear operations, such as rescale and standardise, which an exported model can hold as a layer",
            do="train with such a normalisation",
        )
    group = checkpoints.weights_group(prefix, weights)
    network, model = _built(recipe, meaning, colour)
    checkpoints.restore_group(prefix, group, network.values())
    return Exported(recipe, meaning, prefix, group, colour, network, model)


def _built(recipe: Recipe, meaning: Meaning, colour: np.ndarray) -> tuple[Network, keras.Model]:
    architecture = dataclasses.replace(recipe.model, pretrained=None)
    size = {"image_size": recipe.image_size, "classes": meaning.outputs}
    network = architecture.build(**size, precision="float32", fused=False)
    normalise = keras.layers.Conv2D(3, 1, trainable=False, dtype="float32", name=NORMALISATION)
    normalise.build((None, None, None, 3))
    normalise.set_weights([colour[:, :3].T[None, None].astype(np.float32), colour[:, 3].astype(np.float32)])

    def call(layer, *arguments, **keywords):
        if layer is network.backbone:
            arguments = (normalise(arguments[0]), *arguments[1:])
        return layer(*arguments, **keywords)

    return network, keras.models.clone_model(network.model, clone_function=lambda layer: layer, call_function=call)
