"""What evaluations say, as rows and fields: figures, classes, confusion, calibration."""

import dataclasses
import math

import numpy as np

from data.names import printable
from trainer.outcomes import Details
from trainer.reports.page.chart import said

# Classes of a table; of more, the first by what matters most.
CLASSES = 100
# Classes up to which a confusion matrix is a picture; pairs that are listed of larger ones.
WIDEST, PAIRS = 24, 40
# Examples of a scatter plot.
POINTS = 400
TITLES = {
    "f1": "F1", "macro_f1": "macro F1", "r2": "R²", "top5_accuracy": "top-5 accuracy", "roc_auc": "ROC AUC",
    "calibration_error": "calibration error", "log_loss": "log loss",
}  # fmt: skip


def title(name: str) -> str:
    """A figure as a person calls it."""
    return TITLES.get(name, printable(name).replace("_", " "))


def shown(value: object) -> str:
    """A figure: counts as they are, other numbers with four digits, a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or math.isnan(value):
        return "–"
    if isinstance(value, int | np.integer) or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-4 or value == 0 else said(float(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """Of a confusion matrix: a count, its share of the row in 0..1, and whether it is right."""

    count: int
    share: float
    right: bool
    told: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bin:
    """Of a reliability diagram, in per cent: from where on and how wide, share that is right, mean confidence, and the
    number of examples over the greatest there is.
    """

    left: float
    width: float
    right: float
    confidence: float
    count: float
    told: str


def per_class(details: Details) -> tuple[list[str], list[tuple[str, list[tuple[str, float | None]]]], int]:
    """The table of classes: names of columns, rows of name and cells, and how many rows are left out.

    A cell is a figure and, of one in 0..1, its size for a bar. Of many classes the worst come first.
    """
    columns = {name: np.asarray(values) for name, values in details.each.items()}
    names = [printable(name) for name in details.class_names]
    order = np.arange(len(names))
    if len(names) > CLASSES:
        by = next((columns[name] for name in ("f1", "recall") if name in columns), np.arange(len(names)))
        order = np.argsort(np.nan_to_num(by, nan=np.inf), kind="stable")[:CLASSES]
    bars = ("recall", "precision", "f1")
    rows = [
        (
            names[row],
            [
                (shown(_item(values[row])), _share(values[row]) if name in bars else None)
                for name, values in columns.items()
            ],
        )
        for row in order.tolist()
    ]
    return [title(name) for name in columns], rows, len(names) - len(rows)


def _item(value: np.generic) -> int | float:
    """Weighted counts that are whole are shown as such."""
    number = value.item()
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) > 1 else number


def _share(value: np.generic) -> float | None:
    return None if np.isnan(value) else float(np.clip(value, 0, 1))


def matrix(details: Details) -> list[list[Cell]] | None:
    """The confusion matrix, a row of cells for each true class; None where it would not fit or there is none."""
    counts = details.confusion
    if counts is None or len(counts) > WIDEST:
        return None
    names = [printable(name) for name in details.class_names]
    sums = np.maximum(counts.sum(axis=1), 1)
    return [
        [
            Cell(
                count=int(count),
                share=float(count / sums[row]),
                right=row == column,
                told=f"{count} of {sums[row]} {names[row]} predicted as {names[column]}",
            )
            for column, count in enumerate(line)
        ]
        for row, line in enumerate(counts)
    ]


def confused(details: Details) -> list[tuple[str, str, int, str]]:
    """The pairs that are mistaken most: true class, predicted one, count, share of the true class in per cent."""
    if details.confusion is None:
        return []
    wrong = details.confusion * (1 - np.eye(len(details.confusion), dtype=np.int64))
    names, sums = [printable(name) for name in details.class_names], np.maximum(details.confusion.sum(axis=1), 1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        (names[row], names[column], int(wrong[row, column]), f"{100 * wrong[row, column] / sums[row]:.1f}")
        for row, column in pairs
        if wrong[row, column]
    ]


def reliability(details: Details) -> list[Bin]:
    """A bin for each range of confidences in which there are examples."""
    if details.calibration_weight is None:
        return []
    weight, count = np.asarray(details.calibration_weight), len(details.calibration_weight)
    found = []
    for index in np.flatnonzero(weight > 0).tolist():
        confidence, right = (
            float(sums[index] / weight[index]) for sums in (details.calibration_confidence, details.calibration_right)
        )
        span = f"{index / count:.2f} to {(index + 1) / count:.2f}"
        found.append(
            Bin(
                left=100 * index / count,
                width=100 / count,
                right=100 * right,
                confidence=100 * confidence,
                count=100 * float(weight[index] / weight.max()),
                told=f"confidence {span}: {right:.3f} right, mean {confidence:.3f}, {weight[index]:,.6g} examples",
            )
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scatter:
    """Predicted against true values of one number: the range of both axes, and points in thousandths of the field."""

    name: str
    low: str
    high: str
    path: str


def scatters(details: Details, *, most: int = 6) -> list[Scatter]:
    """Of a regression, a field for each of the first numbers; evenly chosen examples where there are many."""
    if details.predictions is None:
        return []
    good = np.flatnonzero(details.seen & np.isfinite(details.predictions).all(axis=1))
    chosen = (
        good[np.unique(np.linspace(0, max(len(good) - 1, 0), min(len(good), POINTS)).astype(int))]
        if len(good)
        else good
    )
    found = []
    for index, name in enumerate(details.class_names[:most]):
        true, predicted = (
            details.labels[chosen, index].astype(np.float64),
            details.predictions[chosen, index].astype(np.float64),
        )
        if not len(true):
            continue
        low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
        size = (high - low) or 1.0
        places = np.column_stack([(true - low) / size, 1 - (predicted - low) / size]) * 960 + 20
        path = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in places)
        found.append(Scatter(name=printable(name), low=said(low), high=said(high), path=path))
    return found
