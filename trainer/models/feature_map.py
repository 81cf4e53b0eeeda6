"""The part of a functional model that ends in a feature map [B, h, w, C]."""

import difflib
from collections.abc import Callable

import keras

from data.errors import UserError


def tensors(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """What each layer of a functional model gives, by its name, from the input to the output."""
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return {node.operation.name: node.outputs[0] for node in nodes}


def up_to(model: keras.Model, layer: str, *, where: str) -> keras.Model:
    """The model that ends with the feature map of a layer; it shares its layers.

    Args:
        where: the binding of the name, for messages.

    Raises:
        UserError: there is no such layer, or what it gives is no feature map.
    """
    found = tensors(model)
    maps = [name for name, tensor in found.items() if _is_map(tensor)]
    if layer in maps:
        return keras.Model(model.inputs[0], found[layer], name=model.name)
    nearest = difflib.get_close_matches(layer, maps, n=3, cutoff=0.4) or maps[-3:]
    gives = f"the layer {layer!r} gives {tuple(found[layer].shape)}" if layer in found else f"no layer {layer!r}"
    raise UserError(
        f"{gives} in {model.name}",
        where=where,
        expected="a layer that gives a feature map [B, h, w, C]",
        do=f"for example {', '.join(nearest)}",
    )


def last_map(model: keras.Model) -> keras.Model | None:
    """The model that ends with its last feature map of more than one pixel; None: it has none."""
    if _is_map(model.output):
        return model
    maps = [tensor for tensor in tensors(model).values() if _is_map(tensor) and tuple(tensor.shape[1:3]) != (1, 1)]
    # The first is the image.
    return keras.Model(model.inputs[0], maps[-1], name=model.name) if len(maps) > 1 else None


def _is_map(tensor: keras.KerasTensor) -> bool:
    return isinstance(tensor, keras.KerasTensor) and len(tensor.shape) == 4


def flat(model: keras.Model) -> keras.Model:
    """The same layers in one functional model without models in it."""

    def opened(layer: keras.layers.Layer, *arguments, **options) -> keras.KerasTensor:
        return layer.call(*arguments) if isinstance(layer, keras.Model) else layer(*arguments, **options)

    model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    while any(isinstance(layer, keras.Model) for layer in model.layers):
        model = _cloned(model, lambda layer: layer, call_function=opened)
    return model


def renewed(model: keras.Model, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """A copy with new weights for another size of image, in the precision in effect where the model has no other."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer) and layer.dtype_policy.name == "float32":
            config["dtype"] = keras.config.dtype_policy().name
        return layer.__class__.from_config(config)

    return _cloned(model, copy, input_tensors=keras.Input(input_shape, dtype="float32"))


def _cloned(model: keras.Model, copy: Callable[[keras.layers.Layer], keras.layers.Layer], **options) -> keras.Model:
    found = keras.models.clone_model(model, clone_function=copy, **options)
    return keras.Model(found.inputs[0], found.outputs[0], name=model.name)
