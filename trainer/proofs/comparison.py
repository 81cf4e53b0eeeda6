"""Two sessions of the same recipe side by side: every variable, every figure, and the first that differs."""

import json
import math
from pathlib import Path

import numpy as np

from trainer import checkpoints
from trainer.reports.log import MetricsLog

# Measured, not computed: they differ from run to run.
TIMES = ("time", "seconds", "images_per_second", "data_wait")
# What a start and an end by a signal add of their own.
STARTS = ("start", "resume", "stop")
# Functions of the step: the same in whatever order is added.
SCHEDULE = ("step", "epoch", "learning_rate", "loss_scale", "positions")
# What follows evaluations. A checkpoint that a stop has made in the middle of an evaluation does not know of it; the
# next start catches up out of the log.
FOLLOWING = ("best/", "best_raw/", "plateau/", "early_stopping/")
# Half the distance between two float32 at 1.
UNIT = 2.0**-24


class Rounding:
    """What the numbers of two runs may be apart that saw the same examples and added them up in another order.

    A step rounds each number once, by at most a UNIT of it, and moves it by a gradient, a sum whose order of addends
    changes it by at most `terms` UNITs of the largest. All steps together, each at its worst and in one direction, give
    the bound. Another example in one batch would show in the loss of that step: it is the mean of `terms` losses.

    Args:
        steps: that both have made.
        terms: examples in a batch.
    """

    def __init__(self, steps: int, *, terms: int):
        self.share = steps * (1 + terms) * UNIT

    def equal(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether two arrays agree to this share of the largest number in them; all but floats exactly."""
        if one.dtype.kind not in "fV":
            return np.array_equal(one, other)
        most = max(float(np.abs(each[np.isfinite(each)]).max(initial=0)) for each in (one, other))
        return _apart(one, other) <= self.share * most

    def same(self, one, other) -> bool:
        """Whether two values of events agree; numbers to this share of the larger one, or of 1."""
        if isinstance(one, dict) and isinstance(other, dict):
            exact = all(one.get(name) == other.get(name) for name in SCHEDULE)
            return exact and one.keys() == other.keys() and all(self.same(one[name], other[name]) for name in one)
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self.same, one, other))
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=self.share, abs_tol=self.share)
        return one == other


def first_difference(straight: Path, interrupted: Path, *, rounding: Rounding | None = None) -> str | None:
    """The first variable or figure that differs; prints what was compared.

    Args:
        straight, interrupted: workdirs.
        rounding: what numbers may be apart; None: nothing, bit for bit.
    """
    return (
        _of_variables(straight, interrupted, rounding)
        or _of_events(straight, interrupted, rounding)
        or _of_summary(straight, interrupted, rounding)
    )


def _of_variables(straight: Path, interrupted: Path, rounding: Rounding | None) -> str | None:
    stopped_at = {event["step"] for event in MetricsLog(interrupted / "metrics.jsonl").find("stop")}
    for place in ("", checkpoints.BEST, checkpoints.BEST_RAW, checkpoints.KEPT):
        folders = [path / "checkpoints" / place for path in (straight, interrupted)]
        steps = [checkpoints.steps_in(folder) for folder in folders]
        if not place:
            # A run that is asked to stop saves where it is; older ones then make room earlier.
            steps = [each[-1:] for each in steps]
        if steps[0] != steps[1]:
            return f"checkpoints of the steps {steps[1]} in {folders[1]}, straight {steps[0]}"
        for step in steps[0]:
            but = FOLLOWING if place or step in stopped_at else ()
            if difference := _of_checkpoints(*(folder / f"ckpt-{step}" for folder in folders), rounding, but=but):
                return difference
    return None


def _of_checkpoints(
    straight: Path, interrupted: Path, rounding: Rounding | None, *, but: tuple[str, ...]
) -> str | None:
    for prefix in (straight, interrupted):
        if reason := checkpoints.damage(prefix):
            return f"{prefix} is damaged: {reason}"
    left, right = (
        {name: value for name, value in checkpoints.read(prefix).items() if not name.startswith(but)}
        for prefix in (straight, interrupted)
    )
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
            return f"{name} in {interrupted}: of another shape or type, or not in both"
        if not (one.tobytes() == other.tobytes() if rounding is None else rounding.equal(one, other)):
            return f"{name} in {interrupted}: up to {_apart(one, other):g} apart"
    how = "bit for bit" if rounding is None else f"to {rounding.share:.1g} of the largest number in each"
    print(f"{len(left)} variables of {interrupted.parent.name}/{interrupted.name} are equal {how}, slots included")
    return None


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest distance between two numbers in the same place; infinity where one alone is not finite."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        distances = np.abs(one - other)
    return float(np.nan_to_num(distances[~same], nan=np.inf).max(initial=0))


def _of_events(straight: Path, interrupted: Path, rounding: Rounding | None) -> str | None:
    logs = [MetricsLog(path / "metrics.jsonl") for path in (straight, interrupted)]
    kinds = dict.fromkeys(event["event"] for log in logs for event in log.events)
    stopped_at = {event["step"] for event in logs[1].find("stop")}
    for kind in (kind for kind in kinds if kind not in STARTS):
        one, other = ([_computed(event) for event in log.find(kind)] for log in logs)
        if kind == "checkpoint":
            # A run that is asked to stop saves where it is.
            due = {event["step"] for event in one}
            other = [event for event in other if event["step"] in due or event["step"] not in stopped_at]
        for left, right in zip(one, other, strict=False):
            if left != right and (rounding is None or not rounding.same(left, right)):
                return f"event {right}, straight {left}"
        if len(one) != len(other):
            return f"{len(other)} {kind} events, straight {len(one)}"
        how = "equal" if rounding is None else f"equal to {rounding.share:.1g} (step, epoch and learning rate exactly)"
        print(f"{len(one)} {kind} events are {how}, each there once")
    steps = [event["step"] for event in logs[1].find("train")]
    return None if steps == list(range(1, len(steps) + 1)) else "the steps of the train events are not 1, 2, 3, ..."


def _of_summary(straight: Path, interrupted: Path, rounding: Rounding | None) -> str | None:
    left, right = (_computed(json.loads((path / "summary.json").read_text())) for path in (straight, interrupted))
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if one != other and (rounding is None or not rounding.same(one, other)):
            return f"{name} in {interrupted / 'summary.json'}: {other}, straight {one}"
    print("the summaries are equal")
    return None


def _computed(value):
    """What of an event or a summary no clock has measured."""
    if isinstance(value, dict):
        return {name: _computed(inner) for name, inner in value.items() if name not in TIMES}
    return [_computed(inner) for inner in value] if isinstance(value, list) else value
