"""Where a network is cut into a frozen prefix, whose outputs can be stored, and the suffix that trains on them."""

import dataclasses
import difflib
from collections.abc import Iterable

import gin
import keras

from data.errors import UserError
from data.feature_store import DTYPES
from trainer.models.freeze import Trainable, moving_names
from trainer.models.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """See `features`."""

    layer: str | None
    views: int
    dtype: str
    folder: str | None


@gin.configurable
def features(
    *, layer: str | None = None, views: int = 1, dtype: str = "float16", folder: str | None = None
) -> Features:
    """What the frozen part of the network says of each image is computed once; the rest trains on that.

    Args:
        layer: the last layer of the frozen part; None: as late as `cut` finds one.
        views: so many epochs of augmented images are computed; epoch e shows those of epoch e mod views.
        dtype: of the stored numbers, `float16` or `float32`.
        folder: where they are stored; None: WORKDIR/features.
    """
    for name, value, holds, expected in (
        ("layer", layer, layer is None or (isinstance(layer, str) and layer), "None or the name of a layer"),
        ("views", views, isinstance(views, int) and not isinstance(views, bool) and views >= 1, "a number above 0"),
        ("dtype", dtype, dtype in DTYPES, f"one of {', '.join(DTYPES)}"),
        ("folder", folder, folder is None or (isinstance(folder, str) and folder), "None or a folder"),
    ):
        if not holds:
            raise UserError(
                f"features.{name} = {value!r}", where=f"gin binding features.{name}", expected=expected, do="correct it"
            )
    return Features(layer=layer, views=views, dtype=dtype, folder=folder)


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The part of a network up to a layer.

    Attributes:
        layer: its name.
        model: normalised pixels [B, S, S, 3] float32 -> features [B, ...]; to be called with training=False.
        variables: those of the model, by their names in the network.
    """

    layer: str
    model: keras.Model
    variables: dict[str, keras.Variable]

    @classmethod
    def of(cls, network: Network, layer: str, model: keras.Model) -> "Prefix":
        """A model that is made of layers of a network."""
        inside = {id(variable) for variable in model.variables}
        return cls(layer, model, {name: each for name, each in network.variables.items() if id(each) in inside})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one image."""
        return tuple(self.model.output_shape[1:])


@dataclasses.dataclass(frozen=True)
class Cut:
    """A network in two parts, which share its variables.

    Attributes:
        prefix: the frozen part.
        suffix: features [B, ...] -> logits [B, classes] float32.
    """

    prefix: Prefix
    suffix: keras.Model


@dataclasses.dataclass(frozen=True)
class _Place:
    """A layer of the network.

    Attributes:
        tensor: its output where that is all that the layers behind it see, else None.
        inside: whether the tensor is one of the backbone's own graph.
    """

    operation: keras.Operation
    tensor: keras.KerasTensor | None
    inside: bool


def cut(network: Network, layer: str | None, *, stages: Iterable[Trainable]) -> Cut:
    """Cuts behind a layer, or as late as nothing in front of the cut trains in any stage.

    A random layer (dropout) of the head, or right in front of the cut, stays behind it, where it is on in training.
    Those further in front are off: a frozen part is in inference mode.

    Raises:
        UserError: there is no such layer, others lead around it, or something in front of the cut trains.
    """
    stages = list(stages)
    changing = {id(network.variables[name]) for each in stages for name in (*each.names, *moving_names(network, each))}
    places = _places(network)

    def changes(place: _Place) -> bool:
        owned = getattr(place.operation, "variables", ())
        return any(id(variable) in changing for variable in owned)

    first = next((index for index, place in enumerate(places) if changes(place)), len(places))
    fixed = places[:first]
    if layer is None:
        drawn = next((index for index, place in enumerate(fixed) if _is_random(place) and not place.inside), first)
        usable = [place for place in fixed[:drawn] if place.tensor is not None]
        while usable and _is_random(usable[-1]):
            usable.pop()
        # The first place is the input.
        if len(usable) < 2:
            raise _nothing_frozen(places, first)
        chosen = usable[-1]
    else:
        chosen = _named(places, fixed, layer)
    model = keras.Model(network.backbone.input if chosen.inside else network.model.input, chosen.tensor)
    return Cut(Prefix.of(network, chosen.operation.name, model), _suffix(network, chosen))


def up_to(network: Network, layer: str | None) -> Prefix:
    """The part of a network that ends with a layer; None: with the backbone, whose map is averaged over its places.

    Raises:
        UserError: there is no such layer.
    """
    if layer is None:
        output = network.backbone.output
        mean = keras.layers.GlobalAveragePooling2D()(output) if len(output.shape) == 4 else output
        return Prefix.of(network, "the backbone, averaged", keras.Model(network.backbone.input, mean))
    model = network.backbone if layer in {each.name for each in network.backbone.layers} else network.model
    found = {node.operation.name: node.outputs[0] for node in _nodes(model)}
    if layer not in found:
        raise _unknown(layer, [place.operation.name for place in _places(network)], where="--layer")
    return Prefix.of(network, layer, keras.Model(model.input, found[layer]))


def _suffix(network: Network, place: _Place) -> keras.Model:
    if not place.inside:
        return keras.Model(place.tensor, network.model.output)
    rest = keras.Model(place.tensor, network.backbone.output)
    whole = next(node for node in _nodes(network.model) if node.operation is network.backbone)
    head = keras.Model(whole.outputs[0], network.model.output)
    inputs = keras.Input(place.tensor.shape[1:], dtype=place.tensor.dtype)
    return keras.Model(inputs, head(rest(inputs)))


def _places(network: Network) -> list[_Place]:
    """Every layer of backbone and head, from the input to the output."""
    inner, outer = _with_frontiers(network.backbone), _with_frontiers(network.model)
    at = next(index for index, (operation, _) in enumerate(outer) if operation is network.backbone)
    # What the last layer of the backbone gives is what the backbone gives.
    head = [(inner[-1][0], outer[at][1]), *outer[at + 1 :]]
    return [
        *(_Place(operation, tensor, inside=True) for operation, tensor in inner[:-1]),
        *(_Place(operation, tensor, inside=False) for operation, tensor in head),
    ]


def _nodes(model: keras.Model) -> list:
    """The calls of layers that a functional model consists of, each behind those it depends on."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _with_frontiers(model: keras.Model) -> list[tuple[keras.Operation, keras.KerasTensor | None]]:
    """Each layer, with its output where every path from the input to the output leads through that one tensor."""
    nodes = _nodes(model)
    last_use = {id(model.output): len(nodes)}
    for index, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = max(index, last_use.get(id(tensor), 0))
    found, needed = [], set()
    for index, node in enumerate(nodes):
        needed |= {id(tensor) for tensor in node.outputs if id(tensor) in last_use}
        needed = {tensor for tensor in needed if last_use[tensor] > index}
        alone = len(node.outputs) == 1 and needed == {id(node.outputs[0])}
        found.append((node.operation, node.outputs[0] if alone else None))
    return found


def _is_random(place: _Place) -> bool:
    return any(variable.name == "seed_generator_state" for variable in getattr(place.operation, "variables", ()))


def _named(places: list[_Place], fixed: list[_Place], layer: str) -> _Place:
    usable = [place.operation.name for place in fixed[1:] if place.tensor is not None]
    found = next((place for place in places if place.operation.name == layer), None)
    if found is None:
        raise _unknown(layer, usable, where="gin binding features.layer")
    if found.tensor is None:
        problem = f"other paths lead around the layer {layer!r}"
    elif found not in fixed:
        changing = places[len(fixed)].operation.name
        problem = f"{changing!r} trains in a stage, and is not behind the layer {layer!r}"
    elif found is places[0]:
        problem = f"{layer!r} is the input"
    else:
        return found
    raise UserError(
        problem,
        where="gin binding features.layer",
        expected=f"one of {', '.join(usable[-8:]) or '(none)'}",
        do="name one of them, or none: the latest is found by itself",
    )


def _unknown(layer: str, known: list[str], *, where: str) -> UserError:
    nearest = difflib.get_close_matches(layer, known, cutoff=0.4)
    return UserError(
        f"no layer is called {layer!r}",
        where=where,
        expected=f"one of {', '.join(known[-8:])}",
        do=f"did you mean {' or '.join(nearest)}?" if nearest else "correct the name",
    )


def _nothing_frozen(places: list[_Place], first: int) -> UserError:
    name = places[first].operation.name if first < len(places) else places[-1].operation.name
    return UserError(
        f"the stages train from {name!r} on, and in front of that there is nothing whose features could be stored",
        where="gin bindings train.features, stage.trains, stage.batchnorm",
        expected="stages that leave the first layers as they are",
        do="train less, for example stage.trains = 'head'; or train.features = None",
    )
