"""What `metrics.jsonl` tells of a run, as columns: a run of a million steps fits into memory, and is read once."""

import array
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.examples import SPLITS
from trainer import metrics
from trainer.reports import log

# Figures of a `train` event that are kept, beside the step; of the last two a task has one.
COLUMNS = ("epoch", "loss", "learning_rate", "images_per_second", "data_wait", "accuracy", "mean_absolute_error")
# Kinds of weights of which evaluations decide: the average, where there is one.
DECIDING = (None, "ema")


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """The events of a run.

    Attributes:
        steps: [S] int64, of its `train` events.
        columns: name -> [S] float64, NaN where an event has no such figure; those of COLUMNS that are there.
        events: all others, oldest first.
    """

    steps: np.ndarray
    columns: dict[str, np.ndarray]
    events: list[dict]

    def find(self, kind: str) -> list[dict]:
        """The events of this kind, oldest first."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def step(self) -> int:
        """The last one there is word of."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def epochs_per_step(self) -> float:
        """Epochs in a step; 0 where nobody knows."""
        epochs = self.columns.get("epoch")
        return float(np.nanmax(epochs) / self.steps[np.nanargmax(epochs)]) if epochs is not None else 0.0

    def evaluations(self, split: str, weights: Sequence[str | None] = DECIDING) -> list[dict]:
        """Those of a split and of such weights."""
        return [event for event in self.find("eval") if event["split"] == split and event.get("weights") in weights]

    def last(self) -> dict[str, dict]:
        """Split -> its last evaluation, of the weights that decide."""
        found = [event for event in self.find("eval") if event.get("weights") in DECIDING]
        by_split = {event["split"]: event for event in found}
        return {split: by_split[split] for split in SPLITS if split in by_split}

    def score(self) -> str | None:
        """Name of the figure that training shows beside the loss; None where there is none."""
        return next(
            (name for name in map(metrics.running, ("single_label", "regression")) if name in self.columns), None
        )


def read(path: Path) -> History:
    """Reads the log, also while it is written; of a missing one, nothing."""
    steps, columns, events = array.array("q"), {name: array.array("d") for name in COLUMNS}, []
    for event in log.stream(path):
        if event["event"] != log.MANY:
            events.append(event)
            continue
        steps.append(event["step"])
        for name, column in columns.items():
            value = event.get(name)
            column.append(float(value) if isinstance(value, int | float) else np.nan)
    found = {name: np.array(column) for name, column in columns.items()}
    kept = {name: column for name, column in found.items() if not np.isnan(column).all()}
    return History(steps=np.array(steps, np.int64), columns=kept, events=events)
