"""The curves of a run, and of several in one field."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.reports.page import results
from trainer.reports.page.chart import Chart, Series, chart
from trainer.reports.page.run import Run

# Where the peaks of the stages, or the speeds of runs, are so many times apart, the axis is logarithmic; that of rates
# goes down to so much below the lowest peak.
FAR, DEEP = 8, 100
# Of a training, by what it is called; points of a line where several runs share a field.
OF_TRAINING = {"loss": "Training loss", "learning_rate": "Learning rate", "images_per_second": "Images a second"}
FEW = 100
# In 0..1.
SHARES = ("accuracy",)


def of_run(run: Run) -> list[Chart]:
    """Loss, the running figure, learning rate and throughput; those that there is something of."""
    history = run.history
    span, marks = (0.0, float(max(history.step, 1))), _marks(run)
    score, rates = history.score(), history.columns.get("learning_rate")
    found = [chart("Loss", _with_evaluations(run, "loss"), span=span, marks=marks)]
    if score is not None:
        bounds = (0.0, 1.0) if score in SHARES else (-math.inf, math.inf)
        found.append(
            chart(
                results.title(score).capitalize(), _with_evaluations(run, score), span=span, marks=marks, bounds=bounds
            )
        )
    if rates is not None:
        line = Series(name="learning rate", look="validation", x=history.steps, y=rates)
        lowest = _lowest_peak(rates, history.steps, marks)
        far = lowest is not None and float(np.nanmax(rates)) > FAR * lowest
        axis = {"logarithmic": True, "bounds": (lowest / DEEP, math.inf)} if far else {}
        found.append(chart("Learning rate", [line], span=span, marks=marks, **axis))
    if "images_per_second" in history.columns:
        line = Series(
            name="images a second", look="validation", x=history.steps, y=history.columns["images_per_second"]
        )
        found.append(chart("Images a second", [line], span=span, marks=marks))
    return [each for each in found if each is not None]


def _marks(run: Run) -> list[tuple[float, str]]:
    """Where stages begin, if there are several."""
    begun = {event["step"]: str(event.get("stage", "")) for event in run.history.find("stage")}
    return [(float(step), name) for step, name in begun.items()] if len(begun) > 1 else []


def _lowest_peak(rates: np.ndarray, steps: np.ndarray, marks: Sequence[tuple[float, str]]) -> float | None:
    """Of the highest rates of the stages, the lowest; None where a stage has none above 0."""
    starts = [*(step for step, _ in marks), math.inf]
    peaks = [rates[(steps > start) & (steps <= stop)] for start, stop in itertools.pairwise(starts)]
    highest = [float(np.nanmax(peak)) for peak in peaks if len(peak) and np.isfinite(peak).any()]
    return min(highest) if highest and min(highest) > 0 else None


def _with_evaluations(run: Run, name: str) -> list[Series]:
    history = run.history
    found = []
    if name in history.columns:
        found.append(Series(name="training batches", look="train", x=history.steps, y=history.columns[name]))
    for split in ("train", "validation", "test"):
        for weights, dashed in (((None, "ema"), False), (("raw",), True)):
            evaluated = [event for event in history.evaluations(split, weights) if event.get(name) is not None]
            if evaluated:
                x, y = (np.array([event[key] for event in evaluated], np.float64) for key in ("step", name))
                title = f"{split}, raw weights" if dashed else split
                found.append(Series(name=title, look=split, x=x, y=y, dotted=True, dashed=dashed))
    return found


def of_layers(moved: Mapping[str, float]) -> Chart | None:
    """The drift of each layer, from the input to the output."""
    distances = np.array(list(moved.values()))
    line = Series(name="drift", look="validation", x=np.arange(1, len(distances) + 1), y=distances, bars=True)
    return chart("From the input to the output", [line], span=(0.0, len(distances) + 1.0), unit="layer")


def of_runs(runs: Sequence[Run]) -> list[Chart]:
    """The same of several runs, by epoch: evaluations, training loss, learning rate and throughput."""
    span = (0.0, max(run.history.step * run.history.epochs_per_step for run in runs) or 1.0)
    scores = dict.fromkeys(run.history.score() for run in runs)
    found = []
    for split in ("validation", "test"):
        for name in ("loss", *filter(None, scores)):
            series = [_evaluated(run, index, split, name) for index, run in enumerate(runs)]
            # A single evaluation is in the table.
            if max(len(each.x) for each in series) > 1:
                title = f"{split} {results.title(name)}".capitalize()
                found.append(chart(title, series, span=span, unit="epoch"))
    for name, title in OF_TRAINING.items():
        series = [_trained(run, index, name) for index, run in enumerate(runs) if name in run.history.columns]
        medians = [float(np.nanmedian(each.y)) for each in series]
        far = name == "images_per_second" and len(medians) > 0 and max(medians) > FAR * min(medians)
        found.append(chart(title, series, span=span, unit="epoch", logarithmic=far))
    return [each for each in found if each is not None]


def _evaluated(run: Run, index: int, split: str, name: str) -> Series:
    events = [event for event in run.history.evaluations(split) if event.get(name) is not None]
    x, y = (np.array([event[key] for event in events], np.float64) for key in ("step", name))
    return Series(name=run.name, look=f"run{index}", x=x * run.history.epochs_per_step, y=y, dotted=True)


def _trained(run: Run, index: int, name: str) -> Series:
    x, y = run.history.steps * run.history.epochs_per_step, run.history.columns[name]
    return Series(name=run.name, look=f"run{index}", x=x, y=y, points=FEW)
