"""One session as its files tell it, whatever of them is missing, damaged or still being written."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from data import npz
from data.errors import UserError
from data.examples import SPLITS
from data.names import printable
from trainer import outcomes
from trainer.outcomes import Details
from trainer.reports.page import history
from trainer.reports.page.history import History
from trainer.workdir import Workdir, read_json

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Of the frozen table of examples: labels as in `data.examples.Examples`, split [N] index into SPLITS."""

    task: str
    class_names: list[str]
    labels: np.ndarray
    split: np.ndarray

    def counts(self) -> dict[str, np.ndarray]:
        """Split -> [K] images of each class (of each label, where an image has several); only those with images."""
        found = {}
        for index, name in enumerate(SPLITS):
            labels = self.labels[self.split == index]
            if len(labels):
                several = labels.ndim == 2
                found[name] = (
                    np.nansum(labels, axis=0).astype(int)
                    if several
                    else np.bincount(labels, minlength=len(self.class_names))
                )
        return found

    def images(self) -> dict[str, int]:
        """Split -> how many images it has."""
        return {
            name: int((self.split == index).sum()) for index, name in enumerate(SPLITS) if (self.split == index).any()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A session.

    Attributes:
        path: of its workdir.
        name: what to call it.
        history: of `metrics.jsonl`.
        summary, environment, stages: of the JSON files; empty where they are missing or damaged.
        config: gin text.
        table: None where there is none that can be read.
        details: split -> what the last evaluation said of each example; of a training, what was asked for.
        notes: a sentence on each file that cannot be read.
    """

    path: Path
    name: str
    history: History
    summary: dict
    environment: dict
    stages: dict
    config: str
    table: Table | None
    details: dict[str, Details]
    notes: list[str]

    @property
    def task(self) -> str:
        """One of `data.examples.TASKS`; single_label where nobody knows."""
        return self.table.task if self.table else next((each.task for each in self.details.values()), "single_label")

    @property
    def outcome(self) -> tuple[str, str]:
        """Where the run stands, in words, and how good that is: good, warn or nothing."""
        ended = [event for event in self.history.events if event["event"] in ("stop", "start", "resume")]
        reason = ended[-1].get("reason") if ended and ended[-1]["event"] == "stop" else None
        if reason == "done":
            return "complete", "good"
        if reason == "early stopping":
            return "complete, stopped early", "good"
        if reason is not None:
            return f"stopped: {printable(str(reason))}", "warn"
        return "not finished", "warn"

    @property
    def planned(self) -> int | None:
        """Steps of the whole run; None where nobody knows."""
        stages = self.stages.get("stages")
        return stages[-1]["stop"] if stages else None


def read(workdir: Workdir) -> Run:
    """Reads what there is. Nothing is written."""
    notes: list[str] = []

    def tried(reader: Callable[[], Read], nothing: Read) -> Read:
        try:
            return reader()
        except UserError as error:
            notes.append(printable(error.found))
            return nothing

    def optional(path: Path) -> dict:
        return tried(lambda: read_json(path), {}) if path.exists() else {}

    predictions = {name: workdir.predictions / f"{name}.npz" for name in SPLITS}
    details = {name: tried(partial(outcomes.read, path), None) for name, path in predictions.items() if path.exists()}
    return Run(
        path=workdir.path,
        name=printable(workdir.path.name),
        history=history.read(workdir.metrics),
        summary=optional(workdir.summary),
        environment=optional(workdir.environment),
        stages=optional(workdir.stages),
        config=tried(lambda: "\n".join(map(printable, workdir.written_config().splitlines())), ""),
        table=tried(lambda: _table(workdir.examples), None) if workdir.examples.exists() else None,
        details={name: found for name, found in details.items() if found is not None},
        notes=notes,
    )


def _table(path: Path) -> Table:
    try:
        columns = npz.read(path)
        names = [printable(str(name)) for name in columns["class_names"]]
        table = Table(task=str(columns["task"]), class_names=names, labels=columns["labels"], split=columns["split"])
        table.counts()
        return table
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path.name} cannot be read: {error}",
        where=str(path),
        expected="the file as the session wrote it",
        do="put it back from a copy",
    )
