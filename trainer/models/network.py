"""A backbone and a head as one Keras model, with a name for every variable."""

import dataclasses
import re

import gin
import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError
from trainer.models import backbones, feature_map, files
from trainer.models.backbones import Backbone
from trainer.models.batchnorm import BatchNormalization, hides_one
from trainer.models.dropout import Dropout
from trainer.models.heads import Head, linear
from trainer.models.naming import numbered_from_zero, variable_name
from trainer.models.randomness import draw_by_replica
from trainer.models.weights import WeightReport, assign, leaves, named_variables

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# Of Keras' layers, those that compute the same faster.
FASTER = {keras.layers.BatchNormalization: BatchNormalization, keras.layers.Dropout: Dropout}


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

    @property
    def layers(self) -> dict[str, keras.layers.Layer]:
        """Every layer as `backbone/LAYER` or `head/LAYER`, as the names of its variables begin."""
        return _layers(self.model, self.backbone)

    def values(self) -> dict[str, tf.Variable]:
        """The same variables as TensorFlow's."""
        return {name: variable.value for name, variable in self.variables.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of what they hold."""
        return {name: variable.numpy() for name, variable in self.values().items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What to build: see `model`."""

    backbone: Backbone
    pretrained: str | None
    head: Head
    features: str | None = None

    def build(self, *, image_size: int | None, classes: int, precision: str, fused: bool = True) -> Network:
        """Builds the model in the strategy and from the random seed in effect, and loads its weights.

        Args:
            image_size: side of the images; None: the model takes images of any height and width.
            classes: number of outputs.
            precision: one of PRECISIONS.
            fused: with the layers of FASTER in place of Keras', in the backbone.

        Raises:
            UserError: the image size does not suit the backbone, the weights do not fit, or the precision is to be
                chosen, which only a session does.
        """
        if precision not in PRECISIONS:
            raise UserError(
                f"train.precision = {precision!r}: nothing is measured here",
                where="gin binding train.precision (precision)",
                expected=f"one of {', '.join(PRECISIONS)}",
                do="--gin_param=\"precision = 'float32'\"",
            )
        outer = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            inputs = keras.Input((image_size, image_size, 3), dtype="float32")
            with numbered_from_zero():
                backbone = self._backbone(image_size)
            if fused:
                fuse(backbone)
            if self.features is not None:
                backbone = feature_map.up_to(backbone, self.features, where="gin binding model.features")
            with numbered_from_zero():
                outputs = self._outputs(backbone(inputs), classes)
            name = re.sub(r"\W+", "_", self.backbone.name)
            model = keras.Model(inputs, outputs, name=f"{name}_with_head")
        finally:
            keras.config.set_dtype_policy(outer)
        for layer in model.layers:
            if layer is not backbone and hides_one(layer):
                raise UserError(
                    f"the layer {layer.name} of the head has batch normalisation inside, which no stage could freeze",
                    where="gin binding model.head",
                    expected="batch normalisation as a layer of its own",
                    do="call the layers one by one instead of a model or layer that holds them",
                )
        draw_by_replica(model)
        loaded = self.load(backbone)
        return Network(model, backbone, _named_variables(model, backbone), loaded)

    def _backbone(self, image_size: int) -> keras.Model:
        try:
            return self.backbone.build((image_size, image_size, 3))
        except ValueError as error:
            raise UserError(
                f"{self.backbone.name} cannot be built for images of {image_size or 'any'} x {image_size or 'any'}: "
                f"{' '.join(str(error).split())}",
                where="gin binding train.image_size (image_size)",
                expected=f"a size it accepts; it was trained on {self.backbone.native_size}",
                do="choose a larger image_size",
            ) from error

    def _outputs(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        try:
            return self.head(features, classes)
        except (TypeError, ValueError) as error:
            any_size = None in features.shape[1:3]
            raise UserError(
                f"the head cannot be built: {' '.join(str(error).split())}",
                where="gin binding model.head",
                expected="@linear(), @mlp(), or an own function (feature map, classes) -> logits"
                + (" that pools, as images may have any size" if any_size else ""),
                do="correct the bindings of the head; @linear() needs its ()",
            ) from error

    def load(self, backbone: keras.Model) -> WeightReport | None:
        """Fills a built backbone with its pre-trained weights; None where there are to be none.

        Raises:
            UserError: there are no such weights, or they do not fit.
        """
        if self.pretrained is None:
            return None
        if self.features is None:
            return self._load_whole(backbone)
        with numbered_from_zero():
            whole = self.backbone.build(tuple(backbone.input_shape[1:]))
        report = self._load_whole(whole)
        values = {name: variable.numpy() for name, variable in named_variables(whole).items()}
        part = assign(backbone, values, source=report.source, head="")
        return dataclasses.replace(part, skipped=part.skipped + report.skipped, notes=report.notes)

    def _load_whole(self, backbone: keras.Model) -> WeightReport:
        if self.pretrained != "imagenet":
            return files.load_file(backbone, self.pretrained)
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
    *,
    backbone: str = "efficientnet_lite0",
    weights: str | None = "imagenet",
    head: Head | None = None,
    features: str | None = None,
) -> Architecture:
    """A backbone by name with a new head.

    Args:
        backbone: one of those that `scripts/train.py --backbones` lists, the path of a `.keras` or `.h5` file that
            holds a whole model, or `hub:PRESET` of keras-hub.
        weights: `imagenet` (of a model file or preset: its own), None (random) or the path of any file that
            `trainer.models.files.opened` reads, for the backbone.
        head: `@linear()`, `@mlp()` or an own function (feature map, classes) -> logits.
        features: the layer of the backbone whose feature map the head gets, where that is not the last one.
    """
    if not isinstance(weights, str | None):
        raise UserError(
            f"model.weights = {weights!r}",
            where="gin binding model.weights",
            expected="'imagenet', None or the path of a weights file",
            do="correct it",
        )
    return Architecture(backbone=backbones.find(backbone), pretrained=weights, head=head or linear(), features=features)


def fuse(model: keras.Model) -> None:
    """Makes layers of a model those of FASTER.

    In place, since they differ in nothing but `call`: a copy of the model would make and draw its weights once more.
    """
    for layer in leaves(model):
        layer.__class__ = FASTER.get(type(layer), type(layer))


def layer_of(variable: str) -> str:
    """The layer of a variable, by the names of a `Network`."""
    return "/".join(variable.split("/")[:2])


def _layers(model: keras.Model, backbone: keras.Model) -> dict[str, keras.layers.Layer]:
    head = [layer for layer in model.layers if layer is not backbone]
    parts = (("backbone", backbone.layers), ("head", head))
    return {f"{part}/{layer.name}": layer for part, layers in parts for layer in layers}


def _named_variables(model: keras.Model, backbone: keras.Model) -> dict[str, keras.Variable]:
    named: dict[str, keras.Variable] = {}
    for name, layer in _layers(model, backbone).items():
        for variable in layer.variables:
            named[f"{name}/{variable_name(layer, variable)}"] = variable
    if len(named) != len(model.variables):
        raise RuntimeError(
            f"Received: {len(model.variables)} variables under {len(named)} names  Expected: a name each"
        )
    return named
