"""Networks that others have built, as backbones: their feature map, and their weights by name."""

from collections.abc import Callable

import keras

from data.errors import UserError
from trainer.models import feature_map
from trainer.models.batchnorm import hides_one
from trainer.models.weights import WeightReport, assign, named_variables

# Whether the weights are wanted -> a model.
Read = Callable[[bool], keras.Model]


def build(read: Read, input_shape: tuple[int | None, int | None, int], *, source: str) -> keras.Model:
    """What `read` gives up to its last feature map, with new weights, without models inside.

    Args:
        source: what to call its origin in messages.

    Raises:
        UserError: it is no network of one image that gives a feature map, or has batch normalisation inside other
            layers, which no stage could freeze.
        ValueError: the size of images does not suit it.
    """
    features = feature_map.last_map(_flat(read(False), source))
    if features is None:
        raise _unfit("it gives no feature map [B, h, w, C]", source)
    try:
        model = feature_map.renewed(features, input_shape)
    except TypeError as error:
        raise _unfit(f"a layer cannot be made anew: {' '.join(str(error).split())[:300]}", source) from error
    for layer in model.layers:
        if hides_one(layer):
            raise _unfit(f"its layer {layer.name} has batch normalisation inside, which no stage could freeze", source)
    return model


def load(read: Read, model: keras.Model, *, source: str) -> WeightReport:
    """Fills a model of `build` with the weights that `read` gives; those behind its end are reported as skipped.

    Raises:
        UserError: they do not fit, as where the size of images decides about shapes.
    """
    arrays = {name: variable.numpy() for name, variable in named_variables(_flat(read(True), source)).items()}
    # All that the model lacks stands behind its end.
    return assign(model, arrays, source=source, head="")


def _flat(model: keras.Model, source: str) -> keras.Model:
    if not getattr(model, "inputs", None):
        raise _unfit("it is no functional or sequential model that was built", source)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _unfit(f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs", source)
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4:
        raise _unfit(f"its input is {shape}", source)
    if shape[-1] not in (3, None):
        raise _unfit(f"its images have {shape[-1]} channels: {shape}", source)
    try:
        return feature_map.flat(model)
    except ValueError as error:
        raise _unfit(" ".join(str(error).split()), source) from error


def _unfit(found: str, source: str) -> UserError:
    return UserError(
        f"the model cannot be a backbone: {found}",
        where=source,
        expected="a functional or sequential model of one RGB image [B, height, width, 3] whose layers have names of "
        "their own, in nested models too, and that gives a feature map [B, h, w, C] on the way",
        do="save the part of it that is such a network",
    )
