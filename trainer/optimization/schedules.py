"""Learning rates as pure functions of the step within a stage, in float64 on the host."""

from collections.abc import Callable

import gin
import numpy as np

from data import durations
from data.durations import Duration

# (steps done in the stage [N] int64, steps of the stage, steps per duration) -> learning rates [N] float64
Schedule = Callable[[np.ndarray, int, Callable[[Duration, str], int]], np.ndarray]


@gin.configurable
def constant_rate(*, peak: float, warmup: Duration = (0, "steps")) -> Schedule:
    """`peak` throughout, after a linear warm-up from 0."""

    def schedule(step, total, steps_of):
        return peak * _warming(step, steps_of(warmup, "constant_rate.warmup"))

    return schedule


@gin.configurable
def linear_decay(*, peak: float, warmup: Duration = (0, "steps"), final: float = 0.0) -> Schedule:
    """Linear warm-up from 0 to `peak`, then a straight line to `final` times `peak` at the end of the stage."""

    def schedule(step, total, steps_of):
        steps = steps_of(warmup, "linear_decay.warmup")
        share = _share(step, steps, total)
        return peak * _warming(step, steps) * (1 - (1 - final) * share)

    return schedule


@gin.configurable
def cosine(*, peak: float, warmup: Duration = (0, "steps"), final: float = 0.0) -> Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine to `final` times `peak` (Loshchilov, Hutter 2017)."""

    def schedule(step, total, steps_of):
        steps = steps_of(warmup, "cosine.warmup")
        wave = (1 + np.cos(np.pi * _share(step, steps, total))) / 2
        return peak * _warming(step, steps) * (final + (1 - final) * wave)

    return schedule


def _warming(step: np.ndarray, warmup: int) -> np.ndarray:
    return np.minimum(1.0, (step + 1) / (warmup + 1))


def _share(step: np.ndarray, warmup: int, total: int) -> np.ndarray:
    return np.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)


def steps_function(*, examples: int, batch: int) -> Callable[[Duration, str], int]:
    """How schedules turn a duration into steps of this run."""
    return lambda duration, where: durations.steps(duration, examples=examples, batch=batch, where=where)
