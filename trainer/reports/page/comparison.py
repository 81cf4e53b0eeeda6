"""What differs between several sessions: figures, classes, settings, machines."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.errors import UserError
from data.names import printable
from trainer import launch
from trainer.metrics import LOWER_IS_BETTER
from trainer.reports.page import content, curves, facts, results
from trainer.reports.page.chart import said
from trainer.reports.page.run import Run

CLASSES, LONGEST = 60, 200
# What is written at every start, of which a difference says nothing.
MEANINGLESS = ("session", "data_fingerprint")


def parts(runs: Sequence[Run]) -> dict[str, object]:
    """What the template needs."""
    return {
        "figures": figures(runs),
        "curves": curves.of_runs(runs),
        "classes": classes(runs),
        "settings": differences([_settings(run) for run in runs]),
        "machines": differences([dict(facts.environment(_telling(run.environment))) for run in runs]),
    }


def figures(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """A row for each figure of the last evaluations: for each run its value, and whether it is the best of several."""
    last = [run.history.last() for run in runs]
    rows = []
    for split in ("validation", "test"):
        of_split = [found.get(split, {}) for found in last]
        names = dict.fromkeys(name for event in of_split for name in event if name not in facts.ABOUT)
        for name in sorted(names, key=lambda name: name == "examples"):
            values = [event.get(name) for event in of_split]
            rows.append((f"{split} {results.title(name)}", _marked(values, name)))
    rows.append(("steps", [(f"{run.history.step:,}", False) for run in runs]))
    speeds = [run.history.columns.get("images_per_second") for run in runs]
    rows.append(
        (
            "images a second, median",
            [("–" if each is None else said(float(np.nanmedian(each))), False) for each in speeds],
        )
    )
    seconds = [run.summary.get("seconds") for run in runs]
    rows.append(("time", [(facts.clock(each) if each else "–", False) for each in seconds]))
    rows.append(("outcome", [(run.outcome[0], False) for run in runs]))
    return rows


def _marked(values: Sequence[float | int | None], name: str) -> list[tuple[str, bool]]:
    known = [value for value in values if value is not None]
    lower = name in (*LOWER_IS_BETTER, "log_loss", "calibration_error")
    best = (min if lower else max)(known) if len(set(known)) > 1 and name != "examples" else None
    return [(results.shown(value), value is not None and value == best) for value in values]


def classes(runs: Sequence[Run]) -> dict[str, object] | None:
    """Of each class its F1 or error in each run; None where no run has word of its classes."""
    found = [content.details(run) for run in runs]
    known = [details for details in found if details is not None]
    figure = next(
        (name for name in ("f1", "recall", "mean_absolute_error") if any(name in each.each for each in known)), None
    )
    if figure is None:
        return None
    names = list(dict.fromkeys(name for details in known for name in details.class_names))
    columns = [
        {} if each is None else dict(zip(each.class_names, each.each.get(figure, ()), strict=False)) for each in found
    ]
    rows = [
        (
            printable(name),
            _marked(
                [None if np.isnan(column.get(name, np.nan)) else float(column[name]) for column in columns], figure
            ),
        )
        for name in names[:CLASSES]
    ]
    splits = ["–" if each is None else content.about(each) for each in found]
    return {"figure": results.title(figure), "rows": rows, "left_out": max(0, len(names) - CLASSES), "splits": splits}


def _settings(run: Run) -> dict[str, str]:
    try:
        return launch.settings(run.config)
    except UserError:
        return {}


def _telling(environment: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in environment.items() if name not in MEANINGLESS}


def differences(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """A row for each name whose values are not all equal."""
    names = sorted({name for column in columns for name in column})
    return [
        (printable(name), [printable(column.get(name, "–"))[:LONGEST] for column in columns])
        for name in names
        if len({column.get(name) for column in columns}) > 1
    ]
