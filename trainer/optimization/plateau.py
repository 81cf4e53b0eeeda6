"""Lowers the learning rate where evaluations stop getting better, as Keras' ReduceLROnPlateau does."""

import dataclasses
import math

import gin
import tensorflow as tf

from data.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
    """See `plateau`."""

    factor: float
    patience: int
    min_delta: float
    cooldown: int
    floor: float


@gin.configurable
def plateau(
    *, factor: float = 0.1, patience: int = 3, min_delta: float = 1e-4, cooldown: int = 0, floor: float = 0.0
) -> Plateau:
    """Multiplies the rates of the schedule by `factor`, again and again, while evaluations do not get better.

    Judged is what decides which checkpoint is best (`trainer.metrics.merit`). Each stage begins afresh.

    Args:
        factor: above 0 and below 1.
        patience: evaluations without a gain before the rate falls.
        min_delta: what counts as a gain, in the unit of the deciding figure.
        cooldown: evaluations after a fall that do not count.
        floor: below this share of the schedule's rate it does not fall, in 0..1.

    Raises:
        UserError: a number out of its range.
    """
    for name, value, holds, expected in (
        ("factor", factor, _is_number(factor) and 0 < factor < 1, "a number above 0 and below 1"),
        ("patience", patience, isinstance(patience, int) and patience >= 1, "a whole number above 0"),
        ("min_delta", min_delta, _is_number(min_delta) and 0 <= min_delta < math.inf, "a number, at least 0"),
        ("cooldown", cooldown, isinstance(cooldown, int) and cooldown >= 0, "a whole number, at least 0"),
        ("floor", floor, _is_number(floor) and 0 <= floor <= 1, "a number in 0..1"),
    ):
        if not holds:
            raise UserError(
                f"{name} = {value!r}", where=f"gin binding plateau.{name}", expected=expected, do="correct it"
            )
    return Plateau(factor=factor, patience=patience, min_delta=min_delta, cooldown=cooldown, floor=floor)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class PlateauState:
    """How long evaluations have not got better, in variables. Build it in the strategy's scope.

    An evaluation belongs to the stage whose last steps it has seen; what earlier stages came to counts no more.
    """

    def __init__(self, rule: Plateau):
        self._rule = rule
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self._factor = tf.Variable(1.0, dtype=tf.float64, **shared)
        self._best = tf.Variable(-math.inf, dtype=tf.float64, **shared)
        self._waited = tf.Variable(0, dtype=tf.int64, **shared)
        self._cooling = tf.Variable(0, dtype=tf.int64, **shared)
        self._seen = tf.Variable(-1, dtype=tf.int64, **shared)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {
            "factor": self._factor,
            "best": self._best,
            "waited": self._waited,
            "cooling": self._cooling,
            "seen": self._seen,
        }

    def factor(self, start: int) -> float:
        """What the rates of the stage that began at step `start` are multiplied by."""
        return float(self._factor.numpy()) if int(self._seen.numpy()) > start else 1.0

    def take(self, step: int, merit: float, *, start: int) -> bool:
        """Takes note of an evaluation; one that has been seen before changes nothing.

        Args:
            step: of the evaluation.
            merit: the larger the better.
            start: first step of the stage that ends at `step` or later.

        Returns:
            whether the learning rate has fallen.
        """
        seen = int(self._seen.numpy())
        if step <= seen:
            return False
        factor, best, waited, cooling = 1.0, -math.inf, 0, 0
        if seen > start:
            factor, best = float(self._factor.numpy()), float(self._best.numpy())
            waited, cooling = int(self._waited.numpy()), int(self._cooling.numpy())
        before = factor
        if cooling:
            cooling, waited = cooling - 1, 0
        if merit > best + self._rule.min_delta:
            best, waited = merit, 0
        elif not cooling:
            waited += 1
            if waited >= self._rule.patience and factor > self._rule.floor:
                factor = max(factor * self._rule.factor, self._rule.floor)
                waited, cooling = 0, self._rule.cooldown
        for variable, value in (
            (self._factor, factor),
            (self._best, best),
            (self._waited, waited),
            (self._cooling, cooling),
            (self._seen, step),
        ):
            variable.assign(value)
        return factor < before
