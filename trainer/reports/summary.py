"""The header of a run, and `summary.json` at its end, both computed from what is recorded."""

import math
import statistics
from pathlib import Path

from data.frozen import Frozen
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
    devices += f" on {environment['workers']} workers" if environment["workers"] > 1 else ""
    rows.append(("devices", f"{devices}, {recipe.precision}, global batch {recipe.batch_size}"))
    rows.append(("workdir", f"{workdir}{f', goes on at step {step}' if step else ''}"))
    rows.extend(("note", note) for note in data.examples.notes)
    return rows


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
