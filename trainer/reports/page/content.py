"""What a page tells of one session, section by section."""

from collections.abc import Callable, Sequence

import numpy as np

from data.names import printable
from trainer.outcomes import Details
from trainer.preview import Section
from trainer.reports.page import chosen, curves, facts, results
from trainer.reports.page.chosen import Chosen
from trainer.reports.page.part import Part, attempt, evaluate
from trainer.reports.page.pictures import Picture, pictures
from trainer.reports.page.run import Run

# Pictures of each kind.
MOST = 24
CLASSES = 60


def parts(run: Run, *, picture: Picture, sheet: Callable[[], Section | None]) -> dict[str, Part]:
    """All sections by name.

    Args:
        picture: see `trainer.reports.page.pictures`.
        sheet: renders the augmentation sheet; may raise UserError.
    """
    watched = details(run)
    return {
        "tiles": attempt(lambda: Part(values=facts.tiles(run))),
        "figures": attempt(lambda: facts.figures(run)),
        "curves": attempt(lambda: _nonempty(curves.of_run(run), "There is no step in metrics.jsonl yet.")),
        "classes": attempt(lambda: _of_details(run, watched, classes)),
        "confusion": attempt(lambda: _of_details(run, watched, confusion)),
        "calibration": attempt(lambda: _of_details(run, watched, calibration)),
        "mistakes": attempt(
            lambda: _of_details(run, watched, lambda each: gallery(each, chosen.mistakes(each, MOST), picture))
        ),
        "lost": attempt(lambda: lost(run, picture)),
        "histogram": attempt(lambda: histogram(run)),
        "sheet": attempt(lambda: _sheet(sheet)),
        "stages": attempt(lambda: facts.stages(run)),
        "drift": attempt(lambda: facts.drift(run)),
        "events": attempt(lambda: Part(values=facts.events(run))),
        "environment": attempt(lambda: Part(values=facts.environment(run.environment))),
    }


def _nonempty(values: Sequence, instead: str) -> Part:
    return Part(values=values) if values else Part(instead=instead)


def details(run: Run) -> Details | None:
    """What is shown of single examples: of test where there is such, else of validation."""
    return next((run.details[split] for split in ("test", "validation") if split in run.details), None)


def _of_details(run: Run, found: Details | None, make: Callable[[Details], Part]) -> Part:
    if found is None:
        splits = list(run.table.images()) if run.table else []
        split = next((name for name in ("test", "validation") if name in splits), "test")
        return Part(instead="No evaluation has left word of single examples. To have it:", command=evaluate(run, split))
    return make(found)


def classes(found: Details) -> Part:
    """Figures of each class or number."""
    columns, rows, left_out = results.per_class(found)
    return Part(
        values={
            "noun": "number" if found.task == "regression" else "class",
            "columns": columns,
            "rows": rows,
            "left_out": left_out,
            "about": about(found),
        }
    )


def about(found: Details) -> str:
    """Which evaluation it was."""
    weights = f", {found.weights} weights" if found.weights else ""
    return f"{found.split}, step {found.step:,}{weights}"


def confusion(found: Details) -> Part:
    """The confusion matrix, or the pairs that are mistaken most; of regressions, predictions against targets."""
    if found.task == "regression":
        return Part(values={"scatters": results.scatters(found), "about": about(found)})
    if found.confusion is None:
        return Part(instead="An example of this task may have several labels: there is no confusion matrix.")
    names = [printable(name) for name in found.class_names]
    return Part(
        values={"cells": results.matrix(found), "names": names, "pairs": results.confused(found), "about": about(found)}
    )


def calibration(found: Details) -> Part:
    """The reliability diagram."""
    bins = results.reliability(found)
    if not bins:
        return Part(instead="A regression gives no probabilities.")
    whose = {"single_label": "of the predicted class", "binary": "of class 1", "multi_label": "of every class"}[
        found.task
    ]
    if found.task == "binary":
        whose = f"of {printable(found.class_names[1])}"
    return Part(
        values={
            "bins": bins,
            "whose": whose,
            "error": results.shown(found.figures.get("calibration_error")),
            "about": about(found),
        }
    )


def gallery(found: Details, rows: Sequence[Chosen], picture: Picture) -> Part:
    """Examples with their pictures, their paths and what there is to say of them."""
    names = [bytes(found.names[row]) for row, _ in rows]
    addresses = pictures(names, picture)
    shown = [(addresses.get(name), printable(name), text) for name, (_, text) in zip(names, rows, strict=True)]
    return Part(values={"shown": shown, "root": printable(found.root), "about": about(found), "split": found.split})


def lost(run: Run, picture: Picture) -> Part:
    """The training images with the greatest losses."""
    if "train" not in run.details:
        sentence = (
            "Nobody has asked how the training images come in: a training does not look back at them. To have it:"
        )
        return Part(instead=sentence, command=evaluate(run, "train"))
    found = run.details["train"]
    return gallery(found, chosen.lost(found, MOST), picture)


def histogram(run: Run) -> Part:
    """Images of each class by split, with the share of the largest class for a bar."""
    if run.table is None:
        return Part(instead="There is no table of examples yet.")
    images = run.table.images()
    if run.table.task == "regression":
        return Part(values={"splits": list(images), "totals": list(images.values()), "rows": [], "left_out": 0})
    counts = run.table.counts()
    first = next(iter(counts.values()))
    order = np.arange(len(run.table.class_names))
    if len(order) > CLASSES:
        ranked = np.argsort(-first, kind="stable")
        order = np.concatenate([ranked[: CLASSES // 2], ranked[-CLASSES // 2 :]])
    largest = max(int(values.max()) for values in counts.values()) or 1
    rows = [
        (run.table.class_names[row], [(int(values[row]), float(values[row] / largest)) for values in counts.values()])
        for row in order.tolist()
    ]
    return Part(
        values={
            "splits": list(counts),
            "totals": [images[name] for name in counts],
            "rows": rows,
            "left_out": len(first) - len(rows),
        }
    )


def _sheet(make: Callable[[], Section | None]) -> Part:
    found = make()
    if found is None:
        return Part(instead="Nothing augments: training shows every image plain.")
    return Part(values=found)
