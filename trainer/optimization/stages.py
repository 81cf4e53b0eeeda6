"""A run as a list of stages: how long, what trains, at which learning rate, and what batch normalisation does."""

import dataclasses
from collections.abc import Sequence

import gin
import numpy as np

from data import durations
from data.augment.policy import Policy
from data.durations import Duration
from data.errors import UserError
from trainer.models.freeze import BATCHNORM_MODES
from trainer.optimization.schedules import Schedule, steps_function


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """See `stage`."""

    name: str
    length: Duration
    trains: tuple[str, ...]
    schedule: Schedule
    batchnorm: str | None
    policy: Policy | None = None


@gin.configurable
def stage(
    *,
    length: Duration,
    trains: Sequence[str] | str,
    schedule: Schedule,
    batchnorm: str | None = None,
    policy: Policy | None = None,
) -> Stage:
    """A part of training with its own trainable set. Named by its gin scope: `head/stage.length = (3, 'epochs')`.

    Args:
        length: a number and one of steps, epochs, examples.
        trains: patterns, see `trainer.models.freeze.choose`.
        schedule: `@constant_rate()`, `@linear_decay()`, `@cosine()`, or an own function.
        batchnorm: `frozen` or `train` in the backbone; None: frozen where the backbone is pre-trained.
        policy: what augments its images; None: train.policy.
    """
    name = gin.current_scope_str() or "stage"
    if batchnorm not in (None, *BATCHNORM_MODES):
        raise UserError(
            f"batchnorm = {batchnorm!r}",
            where=f"gin binding {name}/stage.batchnorm",
            expected=f"None or one of {', '.join(BATCHNORM_MODES)}",
            do="correct it",
        )
    patterns = (trains,) if isinstance(trains, str) else trains
    if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"trains = {trains!r}",
            where=f"gin binding {name}/stage.trains",
            expected="head, backbone, all, last N blocks, regular expressions, or a list of these",
            do=f"for example {name}/stage.trains = ['head', 'last 3 blocks']",
        )
    if policy is not None and not isinstance(policy, Policy):
        raise UserError(
            f"policy = {policy!r}", where=f"gin binding {name}/stage.policy", expected="@policy()", do="correct it"
        )
    return Stage(
        name=name, length=length, trains=tuple(patterns), schedule=schedule, batchnorm=batchnorm, policy=policy
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage with its place: it trains the steps in [start, stop)."""

    stage: Stage
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of a run of known size, end to end."""

    stages: tuple[Planned, ...]
    examples: int
    batch: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.stages[-1].stop

    def epoch(self, step: int) -> float:
        """Epochs shown after `step` steps."""
        return step * self.batch / self.examples

    def learning_rates(self, first: int, last: int) -> np.ndarray:
        """[last - first] float64, the learning rate of each step; all of one stage."""
        planned = next(planned for planned in self.stages if planned.start <= first < planned.stop)
        steps_of = steps_function(examples=self.examples, batch=self.batch)
        inside = np.arange(first, last, dtype=np.int64) - planned.start
        return np.asarray(planned.stage.schedule(inside, planned.stop - planned.start, steps_of), np.float64)


def plan(stages: Sequence[Stage], *, examples: int, batch: int) -> Plan:
    """Lays the stages end to end.

    Raises:
        UserError: no stage, a stage without steps, two of the same name, or a schedule that gives no learning rate.
    """
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        raise UserError(
            f"stages {names}",
            where="gin binding train.stages",
            expected="at least one stage, each under a gin scope of its own",
            do="for example train.stages = [@head/stage(), @blocks/stage()]",
        )
    planned, start = [], 0
    for stage in stages:
        where = f"{stage.name}/stage.length"
        length = durations.steps(stage.length, examples=examples, batch=batch, where=where)
        if length < 1:
            raise UserError(
                f"the stage {stage.name} has no steps",
                where=f"gin binding {where}",
                expected="a length above 0",
                do="remove the stage from train.stages or make it longer",
            )
        planned.append(Planned(stage=stage, start=start, stop=start + length))
        start += length
    run = Plan(tuple(planned), examples, batch)
    for each in planned:
        _check_rates(run, each)
    return run


def _check_rates(run: Plan, planned: Planned) -> None:
    """Calls the schedule once before anything is written: an own one may be wrong, a built-in one misused."""
    try:
        rates = run.learning_rates(planned.start, planned.start + 1)
        wrong = None if rates.shape == (1,) and 0 <= rates[0] < np.finfo(np.float32).max else f"gives {rates}"
    except (TypeError, ValueError) as error:
        wrong = f"fails: {error}"
    if wrong:
        raise UserError(
            f"the schedule of the stage {planned.stage.name} {wrong}",
            where=f"gin binding {planned.stage.name}/stage.schedule",
            expected="@constant_rate(), @linear_decay() or @cosine() with a number as peak, or an own function",
            do="correct its bindings; @cosine() needs its ()",
        )
