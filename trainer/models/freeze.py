"""What trains in a stage: names and patterns -> variables and the mode of every batch normalisation."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

import keras

from data.errors import UserError
from trainer.models.backbones import Backbone
from trainer.models.network import Network

BATCHNORM_MODES = ("frozen", "train")


@dataclasses.dataclass(frozen=True)
class Trainable:
    """What of a network trains.

    Attributes:
        names: names of the variables that gradients update, in the order of the model.
        normalising: names of the layers whose batch normalisation uses and updates batch statistics.
    """

    names: tuple[str, ...]
    normalising: frozenset[str]


def choose(network: Network, backbone: Backbone, patterns: Sequence[str], *, batchnorm: str, where: str) -> Trainable:
    """Finds what the patterns of a stage name. Changes nothing.

    Args:
        patterns: each `head`, `backbone`, `all`, `last N blocks`, or a regular expression that is searched in names
            like `backbone/block15_project_conv/kernel`.
        batchnorm: `frozen`: in the backbone statistics, scale and offset stay and inference mode is used; `train`:
            those that a pattern names use batch statistics and train. Outside the backbone they always train.
        where: the stage, for messages.

    Raises:
        UserError: a pattern that is malformed or names nothing, or nothing to train at all.
    """
    trainable = {name for name, variable in network.variables.items() if _trains_by_nature(name, variable)}
    blocks = _blocks(network, backbone)
    layers = {layer.name: layer for layer in network.model.layers + network.backbone.layers}
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in trainable if _expression(pattern, blocks, where).search(name)}
        if not matched:
            heads = sorted({name.rsplit("/", 1)[0] for name in trainable})
            nearest = difflib.get_close_matches(pattern, heads, n=3, cutoff=0.3)
            raise UserError(
                f"the pattern {pattern!r} matches no variable",
                where=where,
                expected=f"head, backbone, all, last N blocks, or an expression that matches names like {heads[-1]}",
                do=f"nearest: {', '.join(nearest) or ', '.join(heads[:3])}",
            )
        chosen |= matched

    def normalises(name: str) -> bool:
        return isinstance(layers[name.split("/")[1]], keras.layers.BatchNormalization)

    if batchnorm == "frozen":
        chosen -= {name for name in chosen if normalises(name) and name.startswith("backbone/")}
    if not chosen:
        raise UserError(
            f"nothing trains with the patterns {list(patterns)} and batchnorm = {batchnorm!r}",
            where=where,
            expected="at least one variable",
            do="name more layers, or set stage.batchnorm = 'train'",
        )
    names = tuple(name for name in network.variables if name in chosen)
    return Trainable(names, frozenset(name.split("/")[1] for name in names if normalises(name)))


def set_batchnorm(network: Network, trainable: Trainable) -> None:
    """Puts every batch normalisation into the stage's mode. Takes effect in functions traced afterwards."""
    for layer in network.model.layers + network.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = layer.name in trainable.normalising


def moving_statistics(network: Network, trainable: Trainable) -> list[keras.Variable]:
    """The variables that batch normalisation updates by itself in this stage, differently on each replica."""
    return [
        variable
        for name, variable in network.variables.items()
        if name.split("/")[1] in trainable.normalising and name.split("/")[-1].startswith("moving_")
    ]


def _trains_by_nature(name: str, variable: keras.Variable) -> bool:
    last = name.split("/")[-1]
    return not (last.startswith("moving_") or last == "seed_generator_state") and variable.dtype.startswith("float")


def _blocks(network: Network, backbone: Backbone) -> dict[str, list[str]]:
    """The layers with variables of each block, from the input to the output."""
    found: dict[str, list[str]] = {}
    for layer in network.backbone.layers:
        match = re.match(backbone.block, layer.name)
        if match and layer.weights:
            found.setdefault(next(filter(None, match.groups()), match[0]), []).append(layer.name)
    return found


def _expression(pattern: str, blocks: dict[str, list[str]], where: str) -> re.Pattern:
    last = re.fullmatch(r"last (\d+) blocks?", pattern)
    if last:
        count = int(last[1])
        if not 1 <= count <= len(blocks):
            raise UserError(
                f"{pattern!r}: the backbone has {len(blocks)} blocks",
                where=where,
                expected=f"1 to {len(blocks)}: {', '.join(blocks)}",
                do="choose a number in that range",
            )
        layers = [layer for block in list(blocks)[-count:] for layer in blocks[block]]
        return re.compile(f"^backbone/({'|'.join(map(re.escape, layers))})/")
    words = {"head": "^head/", "backbone": "^backbone/", "all": ""}
    try:
        return re.compile(words.get(pattern, pattern))
    except re.error as error:
        raise UserError(
            f"{pattern!r} is no regular expression: {error}",
            where=where,
            expected="head, backbone, all, last N blocks, or a regular expression",
            do="correct it",
        ) from error
