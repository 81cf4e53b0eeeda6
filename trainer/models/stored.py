"""What a file of weights holds, by name, and how its names become those of a model."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from data.errors import UserError
from trainer.models.weights import leaves, named_variables


class Array(NamedTuple):
    """An array of a file that is read when asked for, as long as the file is open."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Reading(NamedTuple):
    """One way to understand a file.

    Attributes:
        inside: the arrays of a model, by the model's names where they fit, else by the file's own.
        outside: those of what stands around it in the file, `layer/variable`, in the file's order.
        nested: whether `inside` is one model out of several layers of the file.
    """

    inside: Mapping[str, Array]
    outside: Mapping[str, Array] = {}
    nested: bool = False


class StoredLayer(NamedTuple):
    """One layer of a file: what the file calls it, the best name first, and its variables in order."""

    names: tuple[str, ...]
    variables: list[tuple[str, Array]]


def best(model: keras.Model, readings: Sequence[Reading], *, source: str) -> Reading:
    """The reading under which most of the model's variables are found in their shape; of equals the first.

    Raises:
        UserError: several nested models of the file fit as a whole.
    """
    variables = named_variables(model)
    fits = [
        sum(name in variables and array.shape == tuple(variables[name].shape) for name, array in reading.inside.items())
        for reading in readings
    ]
    whole = [reading for reading, fit in zip(readings, fits, strict=True) if reading.nested and fit == len(variables)]
    if len(whole) > 1:
        raise UserError(
            f"the file holds {len(whole)} nested models that fit, and it is not said which one",
            where=source,
            expected="one model of this architecture",
            do="save the one that is meant by itself",
        )
    return readings[fits.index(max(fits))]


def stored_layers(variables: Iterable[tuple[str, Array]], *, group: str | None = None) -> list[StoredLayer]:
    """Gathers variables, named by a path that ends in `layer/variable`, into layers.

    Args:
        group: what all belong to, which is the name of the layer if there is only one.
    """
    layers: dict[str, list[tuple[str, Array]]] = {}
    for path, array in variables:
        layer, _, variable = path.rpartition("/")
        layers.setdefault(layer, []).append((re.sub(r":\d+$", "", variable), array))
    stored = []
    for layer, arrays in layers.items():
        parts = layer.split("/")
        names = tuple("/".join(parts[start:]) for start in range(len(parts)))
        stored.append(StoredLayer((group, *names) if group and len(layers) == 1 else names, arrays))
    return stored


def named(model: keras.Model, stored: Sequence[StoredLayer], *, by_order: bool = False) -> dict[str, Array]:
    """Arrays by the model's names. Layers go by name, those that Keras numbered by the order of their numbers.

    Args:
        by_order: a layer of an unknown name goes to the layer at its place in the model.
    """
    places = _places(model)
    in_order = list(places) if by_order else []
    renamed = _automatic_names(model, stored)
    found: dict[str, Array] = {}
    for position, layer in enumerate(stored):
        candidates = [renamed.get(name, name) for name in layer.names]
        fallback = in_order[position] if position < len(in_order) else layer.names[0]
        target = next((name for name in candidates if name in places), fallback)
        _put(found, target, places.get(target, []), layer)
    return found


def _put(found: dict[str, Array], target: str, places: list[str], layer: StoredLayer) -> None:
    """Variables go by name, or by position where Keras renamed them (`depthwise_kernel`)."""
    names = [f"{target}/{variable}" for variable, _ in layer.variables]
    if not set(names) <= set(places) and len(names) == len(places):
        names = places
    for name, (_, array) in zip(names, layer.variables, strict=True):
        found[f"{name} (again)" if name in found else name] = array


def _places(model: keras.Model) -> dict[str, list[str]]:
    """Layer -> names of its variables, in the order of the model."""
    places: dict[str, list[str]] = {}
    for name in named_variables(model):
        places.setdefault(name.rpartition("/")[0], []).append(name)
    return places


def _automatic_names(model: keras.Model, stored: Sequence[StoredLayer]) -> dict[str, str]:
    """File name -> model name of layers that Keras numbered (`conv2d_7`): the k-th of a class is the k-th."""
    numbered: dict[str, set[str]] = {}
    for layer in leaves(model):
        kind = to_snake_case(type(layer).__name__)
        if layer.weights and re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            numbered.setdefault(kind, set()).add(layer.name)

    def number(name: str) -> int:
        digits = name.rpartition("_")[2]
        return int(digits) if digits.isdigit() else 0

    renamed = {}
    for kind, ours in numbered.items():
        pattern = re.compile(rf"{kind}(_\d+)?")
        theirs = {name for layer in stored for name in layer.names if pattern.fullmatch(name)}
        renamed.update(zip(sorted(theirs, key=number), sorted(ours, key=number), strict=False))
    return renamed
