"""Ends a training whose evaluations stop getting better, as Keras' EarlyStopping does."""

import dataclasses
import math

import gin
import tensorflow as tf

from data.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """See `early_stopping`."""

    patience: int
    min_delta: float
    start_from: int


@gin.configurable
def early_stopping(*, patience: int = 5, min_delta: float = 0.0, start_from: int = 0) -> EarlyStopping:
    """Ends the training, whatever its stages still hold, where evaluations do not get better.

    Judged is what decides which checkpoint is best (`trainer.metrics.merit`); the best one stays in `best/`.

    Args:
        patience: evaluations without a gain before the training ends.
        min_delta: what counts as a gain, in the unit of the deciding figure.
        start_from: evaluations up to this step do not count.

    Raises:
        UserError: a number out of its range.
    """
    number = isinstance(min_delta, int | float) and not isinstance(min_delta, bool)
    for name, value, holds, expected in (
        ("patience", patience, isinstance(patience, int) and patience >= 1, "a whole number above 0"),
        ("min_delta", min_delta, number and 0 <= min_delta < math.inf, "a number, at least 0"),
        ("start_from", start_from, isinstance(start_from, int) and start_from >= 0, "a step, at least 0"),
    ):
        if not holds:
            raise UserError(
                f"{name} = {value!r}", where=f"gin binding early_stopping.{name}", expected=expected, do="correct it"
            )
    return EarlyStopping(patience=patience, min_delta=min_delta, start_from=start_from)


class EarlyStoppingState:
    """How long evaluations have not got better, in variables. Build it in the strategy's scope."""

    def __init__(self, rule: EarlyStopping):
        self._rule = rule
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self._best = tf.Variable(-math.inf, dtype=tf.float64, **shared)
        self._waited = tf.Variable(0, dtype=tf.int64, **shared)
        self._seen = tf.Variable(-1, dtype=tf.int64, **shared)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {"best": self._best, "waited": self._waited, "seen": self._seen}

    @property
    def done(self) -> bool:
        """Whether the training is to end."""
        return int(self._waited.numpy()) >= self._rule.patience

    def take(self, step: int, merit: float) -> None:
        """Takes note of an evaluation; one that has been seen before changes nothing.

        Args:
            step: of the evaluation.
            merit: the larger the better.
        """
        if step <= max(int(self._seen.numpy()), self._rule.start_from) or self.done:
            return
        self._seen.assign(step)
        if merit > float(self._best.numpy()) + self._rule.min_delta:
            self._best.assign(merit)
            self._waited.assign(0)
        else:
            self._waited.assign_add(1)
