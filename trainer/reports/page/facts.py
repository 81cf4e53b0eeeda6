"""What the files of a session tell of the whole: results, stages, drift, events, environment."""

from collections.abc import Mapping

import numpy as np

from data.names import printable
from trainer.reports.page import curves, freezing, results
from trainer.reports.page.chart import said
from trainer.reports.page.part import Part, command
from trainer.reports.page.run import Run

EVENTS = 20
# What stands for an evaluation; every task has one of them.
HEADLINES = ("accuracy", "f1", "macro_f1", "mean_absolute_error")
# Figures of an evaluation that are no results.
ABOUT = ("event", "step", "split", "weights", "seconds", "replaced", "time")
# Layers whose drift is listed.
LARGEST = 12


def headline(figures: Mapping[str, object]) -> str | None:
    """Name of the figure that stands for an evaluation."""
    return next((name for name in HEADLINES if name in figures), None)


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """The run at a glance: what, value, and a few words more."""
    found = []
    for split, event in run.history.last().items():
        name = headline(event)
        if name is not None:
            more = f"loss {results.shown(event.get('loss'))} · {results.shown(event.get('examples'))} images"
            found.append((f"{split} {results.title(name)}", results.shown(event[name]), more))
    best = run.summary.get("best")
    if best:
        found.append(
            (
                f"best {best['split']}",
                results.shown(best["value"]),
                f"{results.title(best['metric'])} at step {best['step']:,}",
            )
        )
    steps, columns = run.history.steps, run.history.columns
    if len(steps):
        epochs = run.summary.get("epochs")
        of_all = f"of {run.planned:,}" if run.planned else ""
        found.append(("steps", f"{run.history.step:,}", f"{epochs:.4g} epochs" if epochs else of_all))
    if "images_per_second" in columns:
        found.append(
            ("images a second", said(float(np.nanmedian(columns["images_per_second"]))), "median while training")
        )
    if run.summary.get("seconds"):
        found.append(("time", clock(run.summary["seconds"]), "training and evaluation"))
    return found


def clock(seconds: float) -> str:
    """1:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def figures(run: Run) -> Part:
    """The table of the last evaluations: a row for each figure, a column for each split."""
    last = run.history.last() or {
        split: figures for split, figures in run.summary.get("final", {}).items() if isinstance(figures, dict)
    }
    if not last:
        return Part(instead="There has been no evaluation yet.")
    names = dict.fromkeys(name for event in last.values() for name in event if name not in ABOUT)
    order = sorted(names, key=lambda name: (name == "examples", list(names).index(name)))
    rows = [(results.title(name), [results.shown(event.get(name)) for event in last.values()]) for name in order]
    steps = [results.shown(event.get("step", run.summary.get("steps"))) for event in last.values()]
    forgotten = run.summary.get("forgetting", {})
    kept = [
        (f"{name} classes", results.shown(forgotten[name]["before"]), results.shown(forgotten[name]["after"]))
        for name in ("old", "new")
        if name in forgotten
    ]
    return Part(
        values={"splits": list(last), "steps": steps, "rows": rows, "forgotten": kept, "split": forgotten.get("split")}
    )


def stages(run: Run) -> Part:
    """The stages, and what trains in them layer by layer."""
    if not run.stages:
        return Part(instead="There is no stages.json. What trains in the stages is told by scripts/train.py --plan.")
    listed = [
        {
            "name": printable(stage["name"]),
            "steps": f"{stage['start']:,} to {stage['stop']:,}",
            "trains": ", ".join(map(printable, stage["trains"])),
            "batchnorm": stage["batchnorm"],
            "size": stage["image_size"],
            "operations": ", ".join(map(printable, stage["operations"])) or "none",
            "parameters": sum(layer["stages"][index]["trained"] for layer in run.stages["layers"]),
        }
        for index, stage in enumerate(run.stages["stages"])
    ]
    rows, left_out = freezing.rows(run.stages)
    total = sum(layer["parameters"] for layer in run.stages["layers"])
    return Part(values={"stages": listed, "rows": rows, "left_out": left_out, "total": total})


def drift(run: Run) -> Part:
    """How far each layer has moved from the weights that the session began with."""
    found = run.summary.get("drift")
    if not found:
        sentence = (
            "At its end a training compares its layers with those that it began with where it has kept them: after "
            "--init_from, or with train.anchor or train.distillation. For the weights that the recipe names:"
        )
        return Part(instead=sentence, command=command("report", run, "--drift"))
    moved = {printable(name): float(distance) for name, distance in found.items() if distance is not None}
    largest = sorted(moved, key=moved.get, reverse=True)[:LARGEST]
    peak = max(moved.values(), default=0.0) or 1.0
    rows = [(name, f"{moved[name]:.4f}", moved[name] / peak) for name in largest]
    still = sum(not distance for distance in moved.values())
    return Part(values={"chart": curves.of_layers(moved), "rows": rows, "layers": len(moved), "still": still})


def events(run: Run) -> list[tuple[str, str]]:
    """What a person should know of: skipped steps, roll-backs, replaced images, starts that went on."""
    found = []
    for event in run.history.events:
        step = f"step {event['step']:,}"
        if event["event"] == "resume":
            found.append((step, "went on after a stop"))
        elif event["event"] == "skip":
            found.append((step, f"changed nothing: {printable(str(event.get('reason')))}"))
        elif event["event"] == "rollback":
            found.append((step, f"rolled back: {printable(str(event.get('reason')))}"))
        elif event["event"] == "replaced":
            found.append((step, f"replaced: {printable(str(event.get('image')))}"))
    if len(found) > EVENTS:
        found = [*found[:EVENTS], ("", f"and {len(found) - EVENTS:,} more, see metrics.jsonl")]
    return found


def environment(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Name and value of everything that environment.json tells."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            text = ", ".join(f"{inner} {entry}" for inner, entry in value.items())
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text and value is not None:
            rows.append((printable(name).replace("_", " "), printable(text)))
    return rows
