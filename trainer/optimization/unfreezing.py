"""Gradual unfreezing: stages that each train more blocks than the one before, at a lower rate (Howard, Ruder 2018)."""

import itertools
from collections.abc import Sequence

import gin
import numpy as np

from data.augment.policy import Policy
from data.durations import Duration
from data.errors import expect
from trainer.optimization.schedules import Schedule
from trainer.optimization.stages import Stage

ALL = "all"
BINDINGS = {"trains": "unfreezing.blocks"} | {
    name: f"unfreezing.{name}" for name in ("length", "schedule", "batchnorm", "policy", "layer_decay")
}


@gin.configurable
def unfreezing(
    *,
    length: Duration | Sequence[Duration],
    schedule: Schedule,
    blocks: Sequence[int | str] = (0, 1, 2, 4),
    rate_factor: float = 0.5,
    batchnorm: str | None = None,
    policy: Policy | None = None,
    layer_decay: float = 1.0,
) -> list[Stage]:
    """Several stages in place of a list of them: `train.stages = @unfreezing()`, or as an entry of that list.

    The stages are called `unfreezing-0`, `unfreezing-1` and so on by what they train; under a gin scope, `SCOPE-0`.

    Args:
        length: of each stage, or a list with a length for each.
        schedule: of each stage, from its own start.
        blocks: of each stage, how many of the last blocks train together with the head, growing; 0 is the head alone,
            `all`, which can only be the last, is everything.
        rate_factor: above 0, at most 1. Stage i multiplies the learning rates of `schedule` by `rate_factor` ** i.
        batchnorm, policy, layer_decay: as of `trainer.optimization.stages.stage`.

    Raises:
        UserError: blocks that do not grow, a number of lengths that is not that of the stages, or another wrong value.
    """
    name = gin.current_scope_str() or "unfreezing"

    counts = list(blocks) if isinstance(blocks, list | tuple) else []
    numbers = counts[:-1] if counts[-1:] == [ALL] else counts
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in numbers)
    growing = whole and all(before < after for before, after in itertools.pairwise(numbers))
    expect(
        "unfreezing.blocks", blocks, counts and growing, "whole numbers that grow, then perhaps 'all': [0, 2, 'all']"
    )
    lengths = list(length) if _several(length) else [length] * len(counts)
    expect(
        "unfreezing.length", length, len(lengths) == len(counts), f"one length, or {len(counts)} as blocks has entries"
    )
    number = isinstance(rate_factor, int | float) and 0 < rate_factor <= 1
    expect("unfreezing.rate_factor", rate_factor, number, "a number above 0, at most 1")
    return [
        Stage(
            name=f"{name}-{count}",
            length=each,
            trains=_trains(count),
            schedule=_slowed(schedule, rate_factor**index),
            batchnorm=batchnorm,
            policy=policy,
            layer_decay=layer_decay,
            bindings=BINDINGS,
        )
        for index, (count, each) in enumerate(zip(counts, lengths, strict=True))
    ]


def _several(length: Duration | Sequence[Duration]) -> bool:
    """A list of durations; a single one is a text, or begins with a number."""
    return isinstance(length, list | tuple) and not (length and isinstance(length[0], int | float))


def _trains(count: int | str) -> tuple[str, ...]:
    if count == ALL:
        return (ALL,)
    return ("head", f"last {count} block{'s' * (count > 1)}") if count else ("head",)


def _slowed(schedule: Schedule, factor: float) -> Schedule:
    return lambda step, total, steps_of: factor * np.asarray(schedule(step, total, steps_of), np.float64)
