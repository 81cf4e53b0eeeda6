"""Which examples of an evaluation are worth a look, and what there is to say of each."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.names import printable
from trainer.outcomes import Details
from trainer.reports.page.chart import said


class Chosen(NamedTuple):
    """An example: its row, and a few words."""

    row: int
    text: str


def mistakes(details: Details, count: int) -> list[Chosen]:
    """What was predicted wrong, the most confident first.

    Of an example with several labels the least right one counts; errors of a regression count by the spread of their
    numbers.
    """
    if details.predictions is not None:
        wrong, by, told = _errors(details)
    elif details.probabilities is not None:
        wrong, by, told = _doubts(details)
    elif details.predicted is not None:
        wrong, by, told = _confusions(details)
    else:
        return []
    return _most(wrong & details.seen & (details.example_weights > 0), by, count, told)


def lost(details: Details, count: int) -> list[Chosen]:
    """Those with the greatest losses, greatest first."""
    names = _names(details)

    def told(row: int) -> str:
        loss = f"loss {details.losses[row]:.3f}"
        if details.predicted is None:
            return loss
        label, predicted = names[details.labels[row]], names[details.predicted[row]]
        return f"{label}, {'recognised' if label == predicted else f'taken for {predicted}'}; {loss}"

    return _most(details.seen & np.isfinite(details.losses), details.losses, count, told)


def _most(among: np.ndarray, by: np.ndarray, count: int, told: Callable[[int], str]) -> list[Chosen]:
    rows = np.flatnonzero(among)
    return [Chosen(row, told(row)) for row in rows[np.argsort(-by[rows], kind="stable")][:count].tolist()]


def _names(details: Details) -> list[str]:
    return [printable(name) for name in details.class_names]


def _confusions(details: Details) -> tuple[np.ndarray, np.ndarray, Callable[[int], str]]:
    names, sure = _names(details), details.predicted_probability

    def told(row: int) -> str:
        return f"{names[details.labels[row]]}, taken for {names[details.predicted[row]]} at {sure[row]:.3f}"

    return details.predicted != details.labels, sure, told


def _doubts(details: Details) -> tuple[np.ndarray, np.ndarray, Callable[[int], str]]:
    true = details.labels > 0.5
    wrong = np.nan_to_num(np.where(true, 1 - details.probabilities, details.probabilities), nan=-1)
    which, names = wrong.argmax(axis=1), _names(details)

    def told(row: int) -> str:
        column = which[row]
        return f"{'' if true[row, column] else 'no '}{names[column]}, given {details.probabilities[row, column]:.3f}"

    return wrong.max(axis=1) > 0.5, wrong.max(axis=1), told


def _errors(details: Details) -> tuple[np.ndarray, np.ndarray, Callable[[int], str]]:
    spread = np.maximum(details.labels.std(axis=0), 1e-12)
    errors = np.nan_to_num(np.abs(details.predictions - details.labels) / spread, nan=-1)
    which, names = errors.argmax(axis=1), _names(details)

    def told(row: int) -> str:
        true, predicted = (said(float(values[row, which[row]])) for values in (details.labels, details.predictions))
        return f"{names[which[row]]} {true}, predicted {predicted}"

    return errors.max(axis=1) > 0, errors.max(axis=1), told
