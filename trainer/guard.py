"""Numbers that go bad: which steps those are, and what a run does about them."""

import dataclasses
import math
from collections.abc import Mapping

import gin
import numpy as np
import tensorflow as tf

from data.errors import UserError
from data.skipping import Ranges

# Ranges of positions that a checkpoint has room for; each roll-back adds at most one.
CAPACITY = 64
SKIP, ROLL_BACK, STOP = "skip", "roll_back", "stop"
ACTIONS = (STOP, SKIP, ROLL_BACK)
# Why a step went bad. A dynamic loss scale skips steps to find its own height; that is nothing bad.
NOT_FINITE, SPIKE, WEIGHTS, LOSS_SCALE = "not finite", "spike", "weights", "loss scale"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """See `guard`."""

    not_finite: str
    spike: float | None
    on_spike: str
    memory: int
    tries: int
    batches: int

    @property
    def watches_weights(self) -> bool:
        """Whether every update is looked at, so that the one that breaks weights is known."""
        return self.not_finite != STOP


@gin.configurable
def guard(
    *,
    not_finite: str = STOP,
    spike: float | None = None,
    on_spike: str = SKIP,
    memory: int = 100,
    tries: int = 3,
    batches: int = 1,
) -> Guard:
    """What happens when numbers go bad. A bad step never changes the weights, whatever follows.

    The dynamic loss scale of mixed_float16 goes on skipping steps by itself while it is above 1.

    Args:
        not_finite: where loss, gradients or what an update makes of the weights are NaN or infinite: `stop`; `skip` the
            step and go on; or `roll_back` to the newest checkpoint before it and go on without its examples. Weights
            that are not finite cannot be skipped: that stops.
        spike: a loss above so many times its running mean is a spike; more than 1. None: no loss is.
        on_spike: as not_finite.
        memory: steps of that mean. There is no spike before a stage has so many steps behind it.
        tries: steps in a row that are skipped, and roll-backs in a session, before the next one stops the run.
        batches: how many batches a roll-back leaves out, the last of which is the bad one.

    Raises:
        UserError: something else.
    """
    whole = f"a whole number, 1 to {CAPACITY}"
    for name, value, holds, expected in (
        ("not_finite", not_finite, not_finite in ACTIONS, f"one of {', '.join(ACTIONS)}"),
        ("spike", spike, spike is None or (_is_number(spike) and 1 < spike < math.inf), "None, or a number above 1"),
        ("on_spike", on_spike, on_spike in ACTIONS, f"one of {', '.join(ACTIONS)}"),
        ("memory", memory, _is_count(memory) and memory < 2**31, "a whole number above 0"),
        ("tries", tries, _is_count(tries) and tries <= CAPACITY, whole),
        ("batches", batches, _is_count(batches), "a whole number above 0"),
    ):
        if not holds:
            raise UserError(
                f"{name} = {value!r}", where=f"gin binding guard.{name}", expected=expected, do="correct it"
            )
    return Guard(not_finite=not_finite, spike=spike, on_spike=on_spike, memory=memory, tries=tries, batches=batches)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """A step that the run cannot simply go on from.

    Attributes:
        step: the first step is 1.
        reason: NOT_FINITE, SPIKE or WEIGHTS.
        loss: of its batch.
        action: ROLL_BACK or STOP.
        tried: what has been tried in vain before a STOP; empty where the rule wants no more than that.
    """

    step: int
    reason: str
    loss: float
    action: str
    tried: str = ""


def reason_of(figures: Mapping[str, float]) -> str | None:
    """Why a step went bad, of what `trainer.step.train_window` records of it; None: it did not."""
    if not figures["finite"]:
        return LOSS_SCALE if figures["loss_scale"] > 1 else NOT_FINITE
    if figures["spike"]:
        return SPIKE
    return None if figures["sound"] else WEIGHTS


class GuardState:
    """What a guard remembers, in variables. Build it in the strategy's scope.

    Attributes:
        rule: what it goes by.
    """

    def __init__(self, rule: Guard):
        self.rule = rule
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self._left_out = tf.Variable(np.zeros([CAPACITY, 2], np.int64), **shared)
        self._roll_backs = tf.Variable(0, dtype=tf.int64, **shared)
        self._skips = tf.Variable(0, dtype=tf.int64, **shared)
        self._mean = tf.Variable(0.0, dtype=tf.float32, **shared)
        self._seen = tf.Variable(0, dtype=tf.int32, **shared)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {
            "left_out": self._left_out,
            "roll_backs": self._roll_backs,
            "skips": self._skips,
            "mean": self._mean,
            "seen": self._seen,
        }

    @property
    def left_out(self) -> Ranges:
        """The positions of the stream that the run goes without."""
        return tuple((start, stop) for start, stop in self._left_out.numpy().tolist() if start < stop)

    @property
    def roll_backs(self) -> int:
        """How many there have been."""
        return int(self._roll_backs.numpy())

    def go_without(self, left_out: Ranges, *, roll_backs: int) -> None:
        """Replaces both."""
        rows = np.zeros([CAPACITY, 2], np.int64)
        rows[: len(left_out)] = left_out
        self._left_out.assign(rows)
        self._roll_backs.assign(roll_backs)

    def begin_stage(self) -> None:
        """Forgets the running mean: other layers, policies and rates make other losses."""
        self._mean.assign(0.0)
        self._seen.assign(0)

    def is_spike(self, loss: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
        """Whether the loss of a step is a spike; otherwise, if finite, it enters the mean. Cross-replica context.

        Args:
            loss: scalar float32, of the global batch.
            finite: scalar bool.
        """
        if self.rule.spike is None:
            return tf.constant(False)
        mean, seen = self._mean.read_value(), self._seen.read_value()
        spike = finite & (seen >= self.rule.memory) & (mean > 0) & (loss > self.rule.spike * mean)
        counts = finite & ~spike
        now = tf.minimum(seen + 1, self.rule.memory)
        self._mean.assign(tf.where(counts, mean + (loss - mean) / tf.cast(now, tf.float32), mean))
        self._seen.assign(tf.where(counts, now, seen))
        return spike

    def judge(self, first: int, records: Mapping[str, np.ndarray]) -> Fault | None:
        """Looks at the steps of a window, and counts those that were skipped in a row.

        Args:
            first: steps done before.
            records: by name [steps], see `trainer.step.train_window`.

        Returns:
            the first step that has to be rolled back or ends the run; None where it goes on.
        """
        skips = int(self._skips.numpy())
        for index in range(len(records["loss"])):
            figures = {name: float(values[index]) for name, values in records.items()}
            reason = reason_of(figures)
            if reason is None:
                skips = 0
            elif reason != LOSS_SCALE:
                action, tried = self._action(reason, skips)
                if action != SKIP:
                    return Fault(
                        step=first + index + 1, reason=reason, loss=figures["loss"], action=action, tried=tried
                    )
                skips += 1
        self._skips.assign(skips)
        return None

    def _action(self, reason: str, skips: int) -> tuple[str, str]:
        wanted = self.rule.on_spike if reason == SPIKE else self.rule.not_finite
        if wanted == SKIP and reason == WEIGHTS:
            return STOP, ""
        if wanted == SKIP and skips == self.rule.tries:
            return STOP, f"steps skipped in a row before it: {skips}"
        if wanted == ROLL_BACK and self.roll_backs >= self.rule.tries:
            return STOP, f"roll-backs before it: {self.roll_backs}"
        return wanted, ""
