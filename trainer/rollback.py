"""Back to the newest good checkpoint, and on without the examples that made numbers bad."""

import dataclasses
from collections.abc import Callable, Sequence

from data import skipping
from trainer.checkpoints import Checkpoints
from trainer.guard import ROLL_BACK, STOP, Fault
from trainer.reports.log import MetricsLog
from trainer.state import TrainingState


def possible(fault: Fault, saved: Sequence[int], *, batches: int) -> Fault:
    """The same fault; it stops the run where it asks for a roll-back and no checkpoint is old enough.

    Args:
        saved: steps of the checkpoints.
        batches: that are left out.
    """
    last = fault.step - batches
    if fault.action != ROLL_BACK or any(step <= last for step in saved):
        return fault
    tried = f"no checkpoint of step {last} or before to roll back to" if saved else "nothing saved to roll back to"
    return dataclasses.replace(fault, action=STOP, tried=f"there is {tried}")


def suspects(log: MetricsLog, reason: str) -> list[str]:
    """The images that were in every batch that went bad for this reason; none where there was but one batch."""
    events = [event for kind in ("skip", "rollback") for event in log.find(kind, reason=reason)]
    batches = [event["images"] for event in events if isinstance(event.get("images"), list)]
    return [image for image in batches[-1] if all(image in batch for batch in batches)] if len(batches) > 1 else []


def roll_back(
    fault: Fault,
    state: TrainingState,
    checkpoints: Checkpoints,
    log: MetricsLog,
    *,
    shown: Callable[[int, int], tuple[list[int], list[str]]],
) -> tuple[dict, int, list[str]]:
    """Restores the newest whole checkpoint before the batches that are left out from here on, and logs it.

    What comes is the same whichever checkpoint that was: none has seen those batches. So nothing but the next
    checkpoint has to remember them: a run that is cut off before it comes upon the same step again.

    Args:
        fault: for which there is a checkpoint, see `possible`.
        shown: (steps done before, steps done after) -> first position of the stream and the one after the last, images.

    Returns:
        the event, the step that was restored, and a sentence on each damaged checkpoint that was set aside.
    """
    guard, last = state.guard, fault.step - state.guard.rule.batches
    positions, images = shown(last, fault.step)
    left_out, number = skipping.adding(guard.left_out, *positions), guard.roll_backs + 1
    restored, set_aside = checkpoints.restore_newest(at_most=last)
    guard.go_without(left_out, roll_backs=number)
    log.cut(restored, roll_backs=number)
    event = {"event": "rollback", "step": last, "number": number, "from": fault.step, "reason": fault.reason}
    event |= {"loss": fault.loss, "positions": positions, "images": images}
    log.append([event])
    return event, restored, set_aside
