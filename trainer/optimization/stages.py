"""A run as a list of stages: how long, what trains, at which learning rate, and what batch normalisation does."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import gin
import numpy as np

from data import durations
from data.augment.policy import Policy
from data.durations import Duration
from data.errors import UserError, expect
from trainer.models.freeze import BATCHNORM_MODES
from trainer.optimization.schedules import Schedule, steps_function


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """See `stage`.

    Attributes:
        bindings: parameter -> the gin binding it comes from, where that is not `NAME/stage.PARAMETER`.
    """

    name: str
    length: Duration
    trains: tuple[str, ...]
    schedule: Schedule
    batchnorm: str | None
    policy: Policy | None = None
    factors: Sequence[tuple[str, float]] = ()
    layer_decay: float = 1.0
    image_size: int | None = None
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        batchnorm, expected = self.batchnorm, f"None or one of {', '.join(BATCHNORM_MODES)}"
        self._expect("batchnorm", batchnorm in (None, *BATCHNORM_MODES), expected)
        self._expect("policy", self.policy is None or isinstance(self.policy, Policy), "@policy()")
        decay = _is_number(self.layer_decay) and 0 < self.layer_decay <= 1
        self._expect("layer_decay", decay, "a number above 0, at most 1, such as 0.75")
        size = self.image_size
        whole = size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0)
        self._expect("image_size", whole, "None or a whole number above 0")
        pairs = isinstance(self.factors, list | tuple) and all(map(_is_factor, self.factors))
        self._expect("factors", pairs, "patterns with numbers above 0, such as [('backbone', 0.1), ('bias$', 2.0)]")

    def binding(self, parameter: str) -> str:
        """The gin binding of a parameter, for messages."""
        return self.bindings.get(parameter, f"{self.name}/stage.{parameter}")

    def _expect(self, parameter: str, holds: bool, expected: str) -> None:
        expect(self.binding(parameter), getattr(self, parameter), holds, expected)


@gin.configurable
def stage(
    *,
    length: Duration,
    trains: Sequence[str] | str,
    schedule: Schedule,
    batchnorm: str | None = None,
    policy: Policy | None = None,
    factors: Sequence[tuple[str, float]] = (),
    layer_decay: float = 1.0,
    image_size: int | None = None,
) -> Stage:
    """A part of training with its own trainable set. Named by its gin scope: `head/stage.length = (3, 'epochs')`.

    Args:
        length: a number and one of steps, epochs, examples.
        trains: patterns, see `trainer.models.patterns.Names.matching`; one that begins with `!` excludes.
        schedule: `@constant_rate()`, `@linear_decay()`, `@cosine()`, or an own function.
        batchnorm: `frozen`, `recalibrate` or `train` in the backbone, see `trainer.models.freeze.choose`; None: frozen
            where `model.weights` names any, whatever --init_from says, else train.
        policy: what augments its images; None: train.policy.
        factors: pattern and number, `[('backbone', 0.1)]`: what multiplies the learning rate (and with it the decoupled
            weight decay of a step) of what the pattern names; the last pattern that matches a variable counts.
        layer_decay: one more factor for every block between output and variable: 1 in the head, `layer_decay` in the
            last block, its square in the block before, and so on.
        image_size: side of what the network sees in this stage; None: train.image_size, as in every evaluation.
    """
    name = gin.current_scope_str() or "stage"
    patterns = (trains,) if isinstance(trains, str) else trains
    if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"trains = {trains!r}",
            where=f"gin binding {name}/stage.trains",
            expected="head, backbone, all, last N blocks, regular expressions, or a list of these",
            do=f"for example {name}/stage.trains = ['head', 'last 3 blocks']",
        )
    return Stage(
        name=name,
        length=length,
        trains=tuple(patterns),
        schedule=schedule,
        batchnorm=batchnorm,
        policy=policy,
        factors=factors,
        layer_decay=layer_decay,
        image_size=image_size,
    )


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_factor(pair) -> bool:
    two = isinstance(pair, list | tuple) and len(pair) == 2
    return two and isinstance(pair[0], str) and not pair[0].startswith("!") and _is_number(pair[1]) and pair[1] > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage with its place: it trains the steps in [start, stop)."""

    stage: Stage
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of a run of known size, end to end.

    Attributes:
        rate_factor: of every learning rate of the schedules.
    """

    stages: tuple[Planned, ...]
    examples: int
    batch: int
    rate_factor: float = 1.0

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
        rates = np.asarray(planned.stage.schedule(inside, planned.stop - planned.start, steps_of), np.float64)
        return rates * self.rate_factor


def plan(stages: Sequence[Stage], *, examples: int, batch: int, rate_factor: float = 1.0) -> Plan:
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
        where = stage.binding("length")
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
    run = Plan(tuple(planned), examples, batch, rate_factor)
    for each in planned:
        _check_rates(run, each)
    return run


def _check_rates(run: Plan, planned: Planned) -> None:
    """Asks the schedule before anything is written: an own one may be wrong, a built-in one misused."""
    wrong = None
    try:
        for step in (planned.start, planned.stop - 1):
            rates = run.learning_rates(step, step + 1)
            if not (rates.shape == (1,) and 0 <= rates[0] < np.finfo(np.float32).max):
                wrong = f"gives {rates} at step {step - planned.start} of {planned.stop - planned.start}"
    except UserError:
        raise
    # A schedule of one's own may fail in any way.
    except Exception as error:
        wrong = f"fails: {type(error).__name__}: {error}"
    if wrong:
        raise UserError(
            f"the schedule of the stage {planned.stage.name} {wrong}",
            where=f"gin binding {planned.stage.binding('schedule')}",
            expected="@constant_rate(), @linear_decay() or @cosine() with a number as peak, or an own function",
            do="correct its bindings, such as final below 0; @cosine() needs its ()",
        )
