"""A backbone and a head as one Keras model, with a name for every variable."""

import dataclasses

import gin
import keras
import tensorflow as tf

from data.errors import UserError
from trainer.models import backbones, keras_file
from trainer.models.backbones import Backbone
from trainer.models.batchnorm import fuse
from trainer.models.heads import Head, linear
from trainer.models.weights import WeightReport

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Network:
    """A built model.

    Attributes:
        model: normalised pixels [B, S, S, 3] float32 -> logits [B, classes] float32.
        backbone: its backbone, a layer of `model`.
        variables: every variable that shapes the future, seed states included, as `backbone/LAYER/VARIABLE` or
            `head/LAYER/VARIABLE`.
        loaded: what became of the pre-trained weights; None when the weights are random.
    """

    model: keras.Model
    backbone: keras.Model
    variables: dict[str, keras.Variable]
    loaded: WeightReport | None

    def values(self) -> dict[str, tf.Variable]:
        """The same variables as TensorFlow's."""
        return {name: variable.value for name, variable in self.variables.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What to build: see `model`."""

    backbone: Backbone
    pretrained: str | None
    head: Head

    def build(self, *, image_size: int, classes: int, precision: str, fused: bool = True) -> Network:
        """Builds the model in the strategy and from the random seed in effect, and loads its weights.

        Args:
            image_size: side of the images.
            classes: number of outputs.
            precision: one of PRECISIONS.
            fused: with the batch normalisation of `trainer.models.batchnorm` in place of Keras'.

        Raises:
            UserError: the image size does not suit the backbone, or the weights do not fit.
        """
        outer = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            inputs = keras.Input((image_size, image_size, 3), dtype="float32")
            backbone = self._backbone(image_size)
            backbone = fuse(backbone) if fused else backbone
            outputs = self._outputs(backbone(inputs), classes)
            model = keras.Model(inputs, outputs, name=f"{self.backbone.name}_with_head")
        finally:
            keras.config.set_dtype_policy(outer)
        loaded = self._load(backbone)
        return Network(model, backbone, _named_variables(model, backbone), loaded)

    def _backbone(self, image_size: int) -> keras.Model:
        try:
            return self.backbone.build((image_size, image_size, 3))
        except ValueError as error:
            raise UserError(
                f"{self.backbone.name} cannot be built for images of {image_size} x {image_size}: {error}",
                where="gin binding train.image_size (image_size)",
                expected=f"a size it accepts; it was trained on {self.backbone.native_size}",
                do="choose a larger image_size",
            ) from error

    def _outputs(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        try:
            return self.head(features, classes)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the head cannot be built: {' '.join(str(error).split())}",
                where="gin binding model.head",
                expected="@linear(), @mlp(), or an own function (feature map, classes) -> logits",
                do="correct the bindings of the head; @linear() needs its ()",
            ) from error

    def _load(self, backbone: keras.Model) -> WeightReport | None:
        if self.pretrained is None:
            return None
        if self.pretrained != "imagenet":
            return keras_file.load_file(backbone, self.pretrained)
        if self.backbone.load_imagenet is None:
            raise UserError(
                f"there are no ImageNet weights for {self.backbone.name}",
                where="gin binding model.weights",
                expected="None or the path of a weights file",
                do="model.weights = None",
            )
        return self.backbone.load_imagenet(backbone)


@gin.configurable
def model(
    *, backbone: str = "efficientnet_lite0", weights: str | None = "imagenet", head: Head | None = None
) -> Architecture:
    """A backbone by name with a new head.

    Args:
        backbone: a name out of `trainer.models.backbones.BACKBONES`.
        weights: `imagenet`, None (random) or the path of a `.weights.h5`, `.keras` or `.h5` file for the backbone.
        head: `@linear()`, `@mlp()` or an own function (feature map, classes) -> logits.
    """
    if not isinstance(weights, str | None):
        raise UserError(
            f"model.weights = {weights!r}",
            where="gin binding model.weights",
            expected="'imagenet', None or the path of a weights file",
            do="correct it",
        )
    return Architecture(backbone=backbones.find(backbone), pretrained=weights, head=head or linear())


def _named_variables(model: keras.Model, backbone: keras.Model) -> dict[str, keras.Variable]:
    named: dict[str, keras.Variable] = {}
    head = [layer for layer in model.layers if layer is not backbone]
    for part, layers in (("backbone", backbone.layers), ("head", head)):
        for layer in layers:
            for variable in layer.variables:
                # The path of a seed generator counts those of the whole process: no name to find it by again.
                inside = variable.path.startswith(f"{layer.name}/")
                path = variable.path.removeprefix(f"{layer.name}/") if inside else variable.name
                named[f"{part}/{layer.name}/{path}"] = variable
    if len(named) != len(model.variables):
        raise RuntimeError(
            f"Received: {len(model.variables)} variables under {len(named)} names  Expected: a name each"
        )
    return named
