"""Weights are drawn to what they were before the first step: L2-SP (Li, Grandvalet, Davoine 2018)."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import gin
import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
    """How strongly which weights are held, see `anchor`."""

    weight: float
    patterns: tuple[str, ...]


@gin.configurable
def anchor(*, weight: float = 0.01, patterns: Sequence[str] | str = ("backbone",)) -> Anchor:
    """Adds weight / 2 times the squared distance of weights from their values before the first step to the objective.

    Li, Grandvalet, Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks". In place
    of weight decay, which draws to 0: set `undecayed` of the optimizer, or its `weight_decay` to 0.

    Args:
        weight: above 0.
        patterns: what of the variables that train is held, see `trainer.models.patterns.Names.matching`. A new head
            has no values worth holding.

    Raises:
        UserError: a weight that is not above 0, or patterns that are none.
    """
    if not (isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf):
        raise UserError(
            f"weight = {weight!r}",
            where="gin binding anchor.weight",
            expected="a finite number above 0",
            do="correct it; without an anchor: train.anchor = None",
        )
    listed = (patterns,) if isinstance(patterns, str) else patterns
    if not (isinstance(listed, list | tuple) and listed and all(isinstance(pattern, str) for pattern in listed)):
        raise UserError(
            f"patterns = {patterns!r}",
            where="gin binding anchor.patterns",
            expected="head, backbone, all, last N blocks, regular expressions, or a list of these",
            do="correct it",
        )
    return Anchor(weight=weight, patterns=tuple(listed))


class Anchored:
    """Weights and where they are held. Build it in the strategy's scope.

    Args:
        variables: those that are held, by name.
    """

    def __init__(self, rule: Anchor, variables: Mapping[str, keras.Variable]):
        self._weight = rule.weight
        self._pairs = {
            # Not in float16 even if it were to train so: the distance is small.
            name: (variable.value, tf.Variable(tf.zeros(variable.shape, tf.float32), trainable=False))
            for name, variable in variables.items()
        }

    def hold(self, values: Mapping[str, np.ndarray]) -> None:
        """Says where: an array for each name, and maybe others."""
        for name, (_, place) in self._pairs.items():
            place.assign(values[name])

    def term(self, names: Sequence[str]) -> Callable[[], tf.Tensor]:
        """What is added to the objective for those of these variables that are held.

        Returns:
            function () -> scalar float32, at least 0. Gradients pass to the variables as they are watched.
        """
        held = [self._pairs[name] for name in names if name in self._pairs]

        def distance() -> tf.Tensor:
            squares = [
                tf.reduce_sum(tf.math.squared_difference(tf.cast(value, tf.float32), place)) for value, place in held
            ]
            return tf.constant(self._weight / 2, tf.float32) * tf.add_n([*squares, tf.constant(0.0)])

        return distance
