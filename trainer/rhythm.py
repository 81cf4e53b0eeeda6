"""When it is time for what: pure functions of the step."""

import dataclasses

from trainer.optimization.stages import Plan, Planned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rhythm:
    """What happens at the ends of windows.

    Attributes:
        plan: the stages.
        window: steps of one call of the compiled loop.
        evaluate, checkpoint: steps from one evaluation, and from one checkpoint, to the next.
        keep: steps from one checkpoint that stays to the next; None: none does for its step.
    """

    plan: Plan
    window: int
    evaluate: int
    checkpoint: int
    keep: int | None = None

    def stage(self, step: int) -> Planned:
        """The stage that trains the step after this one."""
        return next(planned for planned in self.plan.stages if planned.start <= step < planned.stop)

    def window_end(self, step: int) -> int:
        """Where the window ends that the step after this one is in: at a multiple of its length, or with its stage."""
        return min((step // self.window + 1) * self.window, self.stage(step).stop)

    def is_window_end(self, step: int) -> bool:
        """Whether a window ends with this step; a run that was stopped may stand within one."""
        return step % self.window == 0 or self.is_stage_end(step)

    def is_stage_end(self, step: int) -> bool:
        """Whether a stage ends with this step."""
        return any(step == planned.stop for planned in self.plan.stages)

    def is_time(self, every: int | None, step: int) -> bool:
        """Whether a window ends with this step and has a multiple of `every` in it."""
        if every is None or step == 0 or not self.is_window_end(step):
            return False
        starts = [planned.start for planned in self.plan.stages if planned.start < step]
        before = max([*starts, (step - 1) // self.window * self.window])
        return step // every > before // every
