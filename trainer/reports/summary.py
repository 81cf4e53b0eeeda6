"""The header of a run, and `summary.json` at its end, both computed from what is recorded."""

import math
import statistics
from pathlib import Path

from data.frozen import Frozen
from trainer import metrics
from trainer.forgetting.report import before_and_after
from trainer.optimization.stages import Plan
from trainer.recipe import Recipe
from trainer.reports.log import MetricsLog
from trainer.state import TrainingState

# What an `eval` event holds beside its figures.
ABOUT = ("event", "step", "split", "weights", "seconds")


def header(
    recipe: Recipe,
    state: TrainingState,
    plan: Plan,
    data: Frozen,
    *,
    environment: dict,
    workdir: Path,
    step: int,
    weights: str,
) -> list[tuple[str, str]]:
    """What will happen, as name and value; `weights`: where those of the first step come from."""
    network, names = state.network, data.examples.class_names
    counts = ", ".join(f"{len(part)} {name}" for name, part in data.parts().items())
    rows = [
        ("data", f"{data.examples.root or recipe.source.__name__}: {counts}"),
        ("task", data.examples.task),
        (
            "outputs" if data.examples.task == "regression" else "classes",
            f"{len(names)}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}",
        ),
        (
            "model",
            f"{recipe.model.backbone.name} at {recipe.image_size} px, {network.model.count_params():,} parameters",
        ),
        ("weights", weights),
    ]
    for planned in plan.stages:
        chosen = state.trainable[planned.stage.name].names
        size = sum(math.prod(network.variables[name].shape) for name in chosen)
        trains = f"{', '.join(planned.stage.trains)} ({len(chosen)} variables, {size:,} parameters)"
        rows.append((f"stage {planned.stage.name}", f"steps {planned.start} to {planned.stop}: trains {trains}"))
    if state.cut is not None:
        numbers = f"{' x '.join(map(str, state.cut.prefix.shape))} numbers of {recipe.features.dtype}"
        rows.append(
            ("features", f"{numbers} behind {state.cut.prefix.layer}, {recipe.features.views} view(s) an image")
        )
    devices = f"{environment['replicas']} x {environment['device_kind']}"
    rows.append(("devices", f"{devices}, {recipe.precision}, global batch {recipe.batch_size}"))
    rows.append(("workdir", f"{workdir}{f', goes on at step {step}' if step else ''}"))
    rows.extend(("note", note) for note in data.examples.notes)
    return rows


def make(log: MetricsLog, plan: Plan, *, deciding: str | None, task: str, weights: str | None = None) -> dict:
    """`summary.json` out of the events of a run that has ended.

    Args:
        deciding: the split whose evaluations decide which checkpoint is best.
        weights: the kind of weights that is reported and decides; None where there is one kind only.

    Returns:
        dict with steps, epochs, final {split: figures of `trainer.metrics`}, best {split, metric, value, step} by the
        task's decisive figure (empty without an evaluation), images_per_second (median over the steps; 0 where the log
        was lost) and seconds (of training and evaluation); if there are two kinds, the weights that these are of; and
        what `before_and_after` finds, as `forgetting`.
    """
    evaluations = log.find("eval", weights=weights)
    final = {
        event["split"]: {name: value for name, value in event.items() if name not in ABOUT}
        for event in evaluations
        if event["step"] == plan.steps
    }
    # There is no checkpoint of step 0.
    decided = [event for event in evaluations if event["split"] == deciding and event["step"]]
    # max keeps the first of equals, as training does.
    best = max(decided, key=lambda event: metrics.merit(event, task=task), default=None)
    metric = metrics.decisive(task)
    forgotten = before_and_after(evaluations, last=plan.steps)
    speeds = [event["images_per_second"] for event in log.find("train")]
    return {
        "steps": plan.steps,
        "epochs": plan.epoch(plan.steps),
        **({} if weights is None else {"weights": weights}),
        "final": final,
        "best": {}
        if best is None
        else {"split": deciding, "metric": metric, "value": best[metric], "step": best["step"]},
        **({"forgetting": forgotten} if forgotten else {}),
        "images_per_second": statistics.median(speeds or [0.0]),
        "seconds": sum(plan.batch / speed for speed in speeds) + sum(event["seconds"] for event in log.find("eval")),
    }
