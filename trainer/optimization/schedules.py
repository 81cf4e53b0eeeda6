"""Learning rates as pure functions of the step within a stage, in float64 on the host.

Every schedule warms up linearly from 0. Those that do not end low by themselves can cool down: over the last part of
the stage a straight line leads from where the schedule stands to `final` times `peak`.
"""

from collections.abc import Callable, Sequence

import gin
import numpy as np

from data import durations
from data.durations import Duration
from data.errors import UserError

NONE: Duration = (0, "steps")
SCALINGS = {"linear": 1.0, "square_root": 0.5}

StepsOf = Callable[[Duration, str], int]
# (steps done in the stage [N] int64, steps of the stage, steps per duration) -> learning rates [N] float64
Schedule = Callable[[np.ndarray, int, StepsOf], np.ndarray]
# (steps done since the warm-up [N] int64, steps that are left for it, steps per duration) -> shares of the peak [N]
Shape = Callable[[np.ndarray, int, StepsOf], np.ndarray]


@gin.configurable
def constant_rate(*, peak: float, warmup: Duration = NONE, cooldown: Duration = NONE, final: float = 0.0) -> Schedule:
    """`peak` throughout; with a cool-down a trapezoid (Zhai et al. 2022)."""

    def shape(step, total, steps_of):
        return np.ones(step.shape)

    return _schedule("constant_rate", shape, peak=peak, warmup=warmup, cooldown=cooldown, final=final)


@gin.configurable
def linear_decay(*, peak: float, warmup: Duration = NONE, final: float = 0.0) -> Schedule:
    """A straight line from `peak` to `final` times `peak` at the end of the stage."""

    def shape(step, total, steps_of):
        return 1 - (1 - final) * _share(step, total)

    return _schedule("linear_decay", shape, peak=peak, warmup=warmup)


@gin.configurable
def polynomial(*, peak: float, power: float = 2.0, warmup: Duration = NONE, final: float = 0.0) -> Schedule:
    """From `peak` to `final` times `peak` at the end of the stage, by a power of the share that is left."""
    _check_positive("polynomial.power", power)

    def shape(step, total, steps_of):
        return final + (1 - final) * (1 - _share(step, total)) ** power

    return _schedule("polynomial", shape, peak=peak, warmup=warmup)


@gin.configurable
def cosine(*, peak: float, warmup: Duration = NONE, final: float = 0.0) -> Schedule:
    """Half a cosine from `peak` to `final` times `peak` at the end of the stage (Loshchilov, Hutter 2017)."""

    def shape(step, total, steps_of):
        wave = (1 + np.cos(np.pi * _share(step, total))) / 2
        return final + (1 - final) * wave

    return _schedule("cosine", shape, peak=peak, warmup=warmup)


@gin.configurable
def exponential(
    *,
    peak: float,
    factor: float,
    every: Duration,
    warmup: Duration = NONE,
    cooldown: Duration = NONE,
    final: float = 0.0,
) -> Schedule:
    """`peak` times `factor` once in each duration `every`, smoothly; counted from the end of the warm-up."""
    _check_positive("exponential.factor", factor)

    def shape(step, total, steps_of):
        return float(factor) ** (step / _period(every, steps_of, "exponential.every"))

    return _schedule("exponential", shape, peak=peak, warmup=warmup, cooldown=cooldown, final=final)


@gin.configurable
def step_decay(
    *,
    peak: float,
    factor: float = 0.1,
    every: Duration | None = None,
    milestones: Sequence[Duration] = (),
    warmup: Duration = NONE,
    cooldown: Duration = NONE,
    final: float = 0.0,
) -> Schedule:
    """`peak` times `factor` after each duration `every` and at each milestone, counted from the end of the warm-up."""
    _check_positive("step_decay.factor", factor)
    if every is None and not milestones:
        raise UserError(
            "a rate that never falls",
            where="gin bindings step_decay.every, step_decay.milestones",
            expected="one of them",
            do="for example step_decay.every = (30, 'epochs'); or @constant_rate()",
        )

    def shape(step, total, steps_of):
        drops = np.zeros(step.shape)
        if every is not None:
            drops += step // _period(every, steps_of, "step_decay.every")
        for milestone in milestones:
            drops += step >= steps_of(milestone, "step_decay.milestones")
        return float(factor) ** drops

    return _schedule("step_decay", shape, peak=peak, warmup=warmup, cooldown=cooldown, final=final)


def _schedule(
    name: str, shape: Shape, *, peak: float, warmup: Duration, cooldown: Duration = NONE, final: float = 0.0
) -> Schedule:
    def schedule(step, total, steps_of):
        up, down = steps_of(warmup, f"{name}.warmup"), steps_of(cooldown, f"{name}.cooldown")
        if down and up + down > total:
            raise UserError(
                f"{up} steps of warm-up and {down} of cool-down in a stage of {total}",
                where=f"gin bindings {name}.warmup, {name}.cooldown",
                expected="both within the stage",
                do="shorten them, or make the stage longer",
            )
        cooling = total - down
        # Shapes begin where the warm-up ends, and the cool-down begins where they stand by then.
        shares = shape(np.maximum(np.minimum(step, cooling) - up, 0), total - up, steps_of)
        shares = shares * np.minimum(1.0, (step + 1) / (up + 1))
        gone = np.clip((step - cooling) / max(down, 1), 0.0, 1.0)
        return peak * (shares + gone * (final - shares))

    return schedule


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise UserError(
            f"{name} = {value!r}", where=f"gin binding {name}", expected="a number above 0", do="correct it"
        )


def _share(step: np.ndarray, total: int) -> np.ndarray:
    return np.clip(step / max(total, 1), 0.0, 1.0)


def _period(every: Duration, steps_of: StepsOf, where: str) -> int:
    steps = steps_of(every, where)
    if steps < 1:
        raise UserError(
            f"{every!r} is no time",
            where=f"gin binding {where}",
            expected="more than 0",
            do="for example (1, 'epochs')",
        )
    return steps


def batch_factor(scaling: str | None, *, batch: int, reference: int) -> float:
    """What a learning rate that suits batches of `reference` is multiplied by: SCALINGS names the powers.

    `linear` as Goyal et al. 2017, for SGD; `square_root` as Krizhevsky 2014, and for Adam Malladi et al. 2022.
    """
    return 1.0 if scaling is None else (batch / reference) ** SCALINGS[scaling]


def steps_function(*, examples: int, batch: int) -> StepsOf:
    """How schedules turn a duration into steps of this run."""
    return lambda duration, where: durations.steps(duration, examples=examples, batch=batch, where=where)
