"""`summary.json`, computed from what is recorded."""

import statistics

from trainer.forgetting.report import before_and_after
from trainer.optimization.stages import Plan
from trainer.reports.log import MetricsLog

# What an `eval` event holds beside its figures.
ABOUT = ("event", "step", "split", "weights", "seconds")


def make(
    log: MetricsLog,
    plan: Plan,
    *,
    step: int,
    deciding: str | None,
    best: int | None,
    metric: str,
    weights: str | None = None,
) -> dict:
    """`summary.json` out of the events of a run that has ended.

    Args:
        step: at which it has.
        deciding: the split whose evaluations decide which checkpoint is best.
        best: step of the best of them; None without an evaluation.
        metric: the figure that decides.
        weights: the kind of weights that is reported and decides; None where there is one kind only.

    Returns:
        dict with steps, epochs, final {split: figures of `trainer.metrics`}, best {split, metric, value, step} (empty
        without an evaluation), images_per_second (median over the steps; 0 where the log was lost) and seconds (of
        training and evaluation); if there are two kinds, the weights that these are of; and what `before_and_after`
        finds, as `forgetting`.
    """
    evaluations = log.find("eval", weights=weights)
    final = {
        event["split"]: {name: value for name, value in event.items() if name not in ABOUT}
        for event in evaluations
        if event["step"] == step
    }
    found = [event for event in evaluations if (event["split"], event["step"]) == (deciding, best)]
    decided = [event for event in found if event.get(metric) is not None]
    forgotten = before_and_after(evaluations, last=step)
    speeds = [event["images_per_second"] for event in log.find("train") if "images_per_second" in event]
    return {
        "steps": step,
        "epochs": plan.epoch(step),
        **({} if weights is None else {"weights": weights}),
        "final": final,
        "best": {"split": deciding, "metric": metric, "value": decided[0][metric], "step": best} if decided else {},
        **({"forgetting": forgotten} if forgotten else {}),
        "images_per_second": statistics.median(speeds or [0.0]),
        "seconds": sum(plan.batch / speed for speed in speeds)
        + sum(event.get("seconds", 0) for event in log.find("eval")),
    }
