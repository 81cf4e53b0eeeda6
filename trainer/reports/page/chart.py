"""Curves as a template draws them: few points whatever the length of a run, in thousandths of a field."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# Points of a line at most; of longer series each is the mean of some neighbours.
POINTS = 300
# Values of an evaluation, each with a mark of its own.
DOTS = 80
FIELD = 1000
# What a logarithmic axis spans at most.
DECADES = 6


class Tick(NamedTuple):
    """Per cent from the left or from the bottom, and what is said there."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """What a line is made of.

    Attributes:
        look: name of the colour.
        x, y: [N] numbers; where y is not finite there is no point.
        dotted: whether each point is marked and told.
        dashed: whether it is drawn as the lesser one of two.
        bars: whether each point is a bar, not a corner of a line.
        points: that are drawn at most.
    """

    name: str
    look: str
    x: np.ndarray
    y: np.ndarray
    dotted: bool = False
    dashed: bool = False
    bars: bool = False
    points: int = POINTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A series in a field of 1000 by 1000, down from the top.

    Attributes:
        path: of the line, for SVG.
        band: of the field between the least and the greatest of the points behind each mean; empty where there is none.
        dots: path of a mark, and what it tells.
    """

    name: str
    look: str
    dashed: bool
    path: str
    band: str
    dots: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A field with its lines and axes.

    Attributes:
        unit: of what goes across.
        marks: names of what begins there.
        told: in a sentence, for who does not see it.
    """

    title: str
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    marks: list[Tick]
    unit: str
    told: str


def chart(
    title: str,
    series: Iterable[Series],
    *,
    span: tuple[float, float],
    unit: str = "step",
    marks: Sequence[tuple[float, str]] = (),
    logarithmic: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Chart | None:
    """Draws series into one field; None where there is no point.

    Args:
        span: what the field spans across.
        marks: where something begins, and its name.
        logarithmic: the axis that goes up; what is not above 0 is left out.
        bounds: that the axis never goes beyond.
    """
    shown = [(each, *resampled(each, logarithmic=logarithmic)) for each in series]
    shown = [entry for entry in shown if len(entry[1])]
    if not shown:
        return None
    low, high = _range(np.concatenate([means for _, _, means, _, _ in shown]), logarithmic, bounds)
    left, right = span if span[1] > span[0] else (span[0] - 0.5, span[0] + 0.5)

    def across(x: np.ndarray) -> np.ndarray:
        return np.clip((x - left) / (right - left), 0, 1) * FIELD

    def down(y: np.ndarray) -> np.ndarray:
        y = np.log10(np.maximum(y, 1e-300)) if logarithmic else y
        return (1 - np.clip((y - low) / (high - low), 0, 1)) * FIELD

    lines = []
    for each, x, means, least, greatest in shown:
        x_places, y_places = across(x), down(means)
        spread = bool((greatest > least).any())
        lines.append(
            Line(
                name=each.name,
                look=each.look,
                dashed=each.dashed,
                path=_bars(x_places, y_places) if each.bars else _path(x_places, y_places),
                band=_band(x_places, down(least), down(greatest)) if spread else "",
                dots=_dots(each, x, means, x_places, y_places, unit) if each.dotted else [],
            )
        )
    up = _logarithmic_ticks(low, high) if logarithmic else ticks(low, high)
    return Chart(
        title=title,
        lines=lines,
        across=ticks(left, right, count=5, whole=unit != "epoch"),
        up=up,
        marks=[Tick(float(across(np.array(x))) / 10, name) for x, name in marks],
        unit=unit,
        told=f"{title}: "
        + "; ".join(f"{each.name} from {said(means[0])} to {said(means[-1])}" for each, _, means, _, _ in shown),
    )


def resampled(series: Series, *, logarithmic: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most `points` of a series: [P] x, means, least and greatest, each of neighbours."""
    good = np.isfinite(series.y) & ((series.y > 0) if logarithmic else True)
    x, y = np.asarray(series.x, np.float64)[good], np.asarray(series.y, np.float64)[good]
    if len(x) <= series.points:
        return x, y, y, y
    starts = np.linspace(0, len(x), series.points, endpoint=False).astype(int)
    counts = np.diff(starts, append=len(x))
    means = np.add.reduceat(y, starts) / counts
    return np.add.reduceat(x, starts) / counts, means, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)


def _range(values: np.ndarray, logarithmic: bool, bounds: tuple[float, float]) -> tuple[float, float]:
    if logarithmic:
        values = np.log10(values)
        high = float(values.max())
        low = max(float(values.min()), high - DECADES, math.log10(bounds[0]) if bounds[0] > 0 else -math.inf)
        return (low - 0.1, high + 0.1) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    if 0 <= low < 0.4 * high:
        low = margin = 0.0
    top = high + (margin or 0.05 * high)
    return max(low - margin, bounds[0]), min(top, max(bounds[1], high))


def ticks(low: float, high: float, *, count: int = 4, whole: bool = False) -> list[Tick]:
    """About so many round numbers between two, with where they stand."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count + 0.5)
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, first + 2 * count + 4) if index * step <= high + 1e-9 * step]
    return [Tick(100 * (value - low) / (high - low), said(value)) for value in values]


def _logarithmic_ticks(low: float, high: float) -> list[Tick]:
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if len(inside) > 1:
            break
    return [Tick(100 * (math.log10(value) - low) / (high - low), said(value)) for value in inside]


def said(value: float) -> str:
    """A number in few signs: 1,250 or 0.731 or 2e-5."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.3g}")


def _path(x: np.ndarray, y: np.ndarray) -> str:
    points = [f"{across:.1f} {down:.1f}" for across, down in zip(x, y, strict=True)]
    # A line of one point is a dot where its ends are round.
    return f"M{points[0]}L{' '.join(points[1:] or points)}"


def _bars(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(f"M{across:.1f} {FIELD}V{down:.1f}" for across, down in zip(x, y, strict=True))


def _band(x: np.ndarray, least: np.ndarray, greatest: np.ndarray) -> str:
    return _path(np.concatenate([x, x[::-1]]), np.concatenate([least, greatest[::-1]])) + "Z"


def _dots(
    series: Series, x: np.ndarray, y: np.ndarray, across: np.ndarray, down: np.ndarray, unit: str
) -> list[tuple[str, str]]:
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), DOTS)).astype(int))
    return [
        (f"M{across[at]:.1f} {down[at]:.1f}h0", f"{series.name}, {unit} {said(x[at])}: {y[at]:.4g}") for at in chosen
    ]
