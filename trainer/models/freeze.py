"""What trains in a stage: variables, their learning-rate factors, and the mode of every batch normalisation."""

import dataclasses
from collections.abc import Sequence

import keras

from data.errors import UserError
from trainer.models.backbones import Backbone
from trainer.models.network import Network, layer_of
from trainer.models.patterns import Names

BATCHNORM_MODES = ("frozen", "recalibrate", "train")


@dataclasses.dataclass(frozen=True)
class Trainable:
    """What of a network trains.

    Attributes:
        names: names of the variables that gradients update, in the order of the model.
        normalising: the layers whose batch normalisation uses and updates batch statistics, as `Network.layers` names
            them.
        factors: of each of these variables, what multiplies the learning rate.
    """

    names: tuple[str, ...]
    normalising: frozenset[str]
    factors: dict[str, float]


def choose(
    network: Network,
    backbone: Backbone,
    patterns: Sequence[str],
    *,
    batchnorm: str,
    where: str,
    factors: Sequence[tuple[str, float]] = (),
    layer_decay: float = 1.0,
    factors_where: str = "",
) -> Trainable:
    """Finds what the patterns of a stage name. Changes nothing.

    Args:
        patterns: see `trainer.models.patterns.Names.matching`; they add up. A leading `!` takes what the rest names
            away from what the others have named, wherever it stands.
        batchnorm: of the backbone. `frozen`: statistics, scale and offset stay and inference mode is used;
            `recalibrate`: every layer uses batch statistics and its moving statistics follow them, scale and offset
            stay, whatever the patterns say; `train`: those that a pattern names use batch statistics and train.
            Outside the backbone they always train where a pattern names them.
        where: the stage's binding of the patterns, for messages.
        factors: pattern and factor of the learning rate of what it names; the last that matches a variable counts.
        layer_decay: in (0, 1]. Multiplies the learning rate once for every block from the head to the variable: not in
            the head, once in the last block, twice in the block before (Clark et al. 2020, ELECTRA; Bao et al. 2022,
            BEiT). Multiplied with `factors`.
        factors_where: the stage's binding of the factors, for messages.

    Raises:
        UserError: a pattern that is malformed or names nothing that is there, an exclusion that takes nothing away, a
            factor for nothing that trains, or nothing to train at all.
    """
    names, layers = Names.of(network, backbone), network.layers
    chosen: set[str] = set()
    for pattern in patterns:
        if not pattern.startswith("!"):
            chosen |= names.matching(pattern, where=where)
    included = set(chosen)
    for pattern in patterns:
        if pattern.startswith("!"):
            excluded = names.matching(pattern[1:], where=where)
            if not excluded & included:
                raise UserError(
                    f"{pattern!r} excludes nothing of what the other patterns name",
                    where=where,
                    expected="an exclusion of something that would train",
                    do="remove it",
                )
            chosen -= excluded

    def normalises(name: str) -> bool:
        return isinstance(layers[layer_of(name)], keras.layers.BatchNormalization)

    def kept_still(name: str) -> bool:
        return batchnorm != "train" and normalises(name) and name.startswith("backbone/")

    chosen = {name for name in chosen if not kept_still(name)}
    if not chosen:
        raise UserError(
            f"nothing trains with the patterns {list(patterns)} and batchnorm = {batchnorm!r}",
            where=where,
            expected="at least one variable",
            do="name more layers, or set stage.batchnorm = 'train'",
        )
    ordered = tuple(name for name in names.variables if name in chosen)
    normalising = {layer_of(name) for name in ordered if normalises(name)}
    if batchnorm == "recalibrate":
        normalising |= {layer_of(name) for name in network.variables if kept_still(name)}
    of_patterns = _factors(names, ordered, factors, factors_where)
    decayed = {name: layer_decay ** names.distance(name) for name in ordered}
    return Trainable(ordered, frozenset(normalising), {name: of_patterns[name] * decayed[name] for name in ordered})


def _factors(
    names: Names, trained: Sequence[str], factors: Sequence[tuple[str, float]], where: str
) -> dict[str, float]:
    found = dict.fromkeys(trained, 1.0)
    for pattern, factor in factors:
        matched = names.matching(pattern, where=where) & found.keys()
        if not matched:
            raise UserError(
                f"the pattern {pattern!r} of a learning-rate factor matches nothing that trains in the stage",
                where=where,
                expected="patterns of what trains",
                do="remove it, or let the stage train what it names",
            )
        found |= dict.fromkeys(matched, float(factor))
    return found


def set_batchnorm(network: Network, trainable: Trainable) -> None:
    """Puts every batch normalisation into the stage's mode. Takes effect in functions traced afterwards."""
    for name, layer in network.layers.items():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = name in trainable.normalising


def moving_statistics(network: Network, trainable: Trainable) -> list[keras.Variable]:
    """The variables that batch normalisation updates by itself in this stage, differently on each replica."""
    return [network.variables[name] for name in moving_names(network, trainable)]


def moving_names(network: Network, trainable: Trainable) -> list[str]:
    """Their names."""
    return [
        name
        for name in network.variables
        if layer_of(name) in trainable.normalising and name.split("/")[-1].startswith("moving_")
    ]
