"""The head of a saved network into ours: layer by layer from the features on, the last one by its classes."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from trainer.models.growing import ClassChange, Outputs, growth
from trainer.models.stored import Array

# Layer -> its variables by name, in order.
Layers = Mapping[str, Mapping[str, Array]]


class Transfer(NamedTuple):
    """What goes over.

    Attributes:
        values: by the names of our variables.
        parameters: how many numbers of them come from the source.
        skipped: names of the source's that have no place.
        classes: what becomes of its classes.
    """

    values: dict[str, np.ndarray]
    parameters: int
    skipped: tuple[str, ...]
    classes: ClassChange


def outputs_layer(model: keras.Model) -> str | None:
    """The layer whose columns are the outputs of a model, element by element; None: they come out of several layers."""
    tensor = model.outputs[0]
    while True:
        layer, node, _ = tensor._keras_history
        if getattr(layer, "weights", ()):
            return layer.name if len(layer.weights[0].shape) > 1 else None
        before = layer._inbound_nodes[node].input_tensors
        if len(before) != 1 or before[0].shape != tensor.shape:
            return None
        tensor = before[0]


def transfer(
    mine: Mapping[str, Mapping[str, keras.Variable]],
    stored: Layers,
    *,
    outputs_layer: str | None,
    theirs: Outputs,
    ours: Outputs,
    source: str,
) -> Transfer:
    """Finds what of a saved head fits ours; changes nothing.

    Layers belong together by name if any is called as one of ours, else by order if there are as many. They go over as
    long as their shapes agree: a layer behind one that starts fresh starts fresh. The outputs of the last one go over
    as `growth` says. Where it is not one layer that makes them, the head goes over for the same classes only.

    Args:
        mine: layer -> its variables by name, from the features to the outputs.
        stored: likewise of the source.
        outputs_layer: of ours, see `outputs_layer`.
        theirs, ours: what the outputs stand for.
        source: for messages.

    Raises:
        UserError: class lists that clash.
    """
    last = next(reversed(mine), None)
    values: dict[str, np.ndarray] = {}
    parameters, used = 0, set()
    told = "its head is another one, ours starts fresh" if stored else "it has no head, ours starts fresh"
    classes = ClassChange(new=ours.names, dropped=theirs.names or (), note=told)
    pairs, single = _pairs(mine, stored), outputs_layer == last
    if not single and (theirs.task not in (None, ours.task) or theirs.names not in (None, ours.names)):
        pairs = []
        told = "several layers make the outputs, so that classes cannot be told apart: the head starts fresh"
        classes = dataclasses.replace(classes, note=told)
    for layer, their_layer in pairs:
        arrays = _in_our_order(list(mine[layer]), stored[their_layer])
        shapes = {name: tuple(variable.shape) for name, variable in mine[layer].items()}
        if layer != last or not single:
            if [array.shape for array in arrays] != list(shapes.values()):
                break
            taken = {name: array.read() for name, array in zip(shapes, arrays, strict=True)}
            parameters += sum(value.size for value in taken.values())
            if layer == last:
                note = "" if theirs.names else "the source does not name its classes: taken in order"
                classes = ClassChange(kept=ours.names, note=note)
        else:
            outputs, their_outputs = next(iter(shapes.values()))[-1], arrays[0].shape[-1]
            resized = {name: _other_outputs(shape, outputs, their_outputs) for name, shape in shapes.items()}
            if [array.shape for array in arrays] != list(resized.values()):
                break
            grown = growth(theirs, ours, outputs=their_outputs, source=source)
            classes = grown.change
            if not grown.columns:
                break
            taken = {}
            for (name, shape), array in zip(shapes.items(), arrays, strict=True):
                counts = shape[-1:] == (outputs,)
                taken[name] = grown.apply(array.read(), mine[layer][name].numpy()) if counts else array.read()
                parameters += int(np.prod(shape[:-1])) * len(grown.columns) if counts else taken[name].size
        values |= taken
        used.add(their_layer)
    skipped = tuple(name for layer, arrays in stored.items() if layer not in used for name in arrays)
    return Transfer(values, parameters, skipped, classes)


def _pairs(mine: Mapping[str, object], stored: Layers) -> list[tuple[str, str]]:
    """Our layers and theirs, up to the first of ours that has no counterpart."""
    if mine.keys() & stored.keys():
        layers = list(mine)
        missing = next((index for index, layer in enumerate(layers) if layer not in stored), len(layers))
        return [(layer, layer) for layer in layers[:missing]]
    return list(zip(mine, stored, strict=True)) if len(mine) == len(stored) else []


def _in_our_order(names: list[str], arrays: Mapping[str, Array]) -> list[Array]:
    """Variables by their last name where these are ours, else as they are."""
    by_name = {name.rpartition("/")[2]: array for name, array in arrays.items()}
    ours = [name.rpartition("/")[2] for name in names]
    return [by_name[name] for name in ours] if set(ours) == by_name.keys() else list(arrays.values())


def _other_outputs(shape: tuple[int, ...], ours: int, theirs: int) -> tuple[int, ...]:
    return (*shape[:-1], theirs) if shape[-1:] == (ours,) else shape
