"""What scripts/train.py, evaluate.py and predict.py do, as functions that return values: for notebooks and programs.

    from trainer import notebook

    run = notebook.train("configs/extend.gin", workdir="runs/photos", params=["data_dir = 'photos'"])
    notebook.evaluate("runs/photos", split="test").figures["accuracy"]
    notebook.predict("runs/photos", ["new"])

They parse no flags, end no process and may be called again and again. What is wrong is raised, as `UserError` or
`RunFailure`. Each call replaces the gin bindings of the process; functions that are registered with gin stay. Devices
are those of the first call: TensorFlow cannot change them later.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from data.errors import RunFailure, UserError
from trainer import launch, prediction, trained
from trainer.answers import Answers
from trainer.outcomes import Details
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports import log
from trainer.reports.console import Console
from trainer.session import Session
from trainer.trained import Trained
from trainer.workdir import Workdir, read_json


@dataclasses.dataclass(frozen=True)
class Run:
    """What `train` has come to.

    Attributes:
        workdir: folder of the session.
        done: False: it was stopped and saved; the same call goes on.
        summary: of `summary.json`: `final` {split: figures}, `best`, ...; empty unless it is done.
    """

    workdir: Path
    done: bool
    summary: dict

    def history(self, event: str = "train") -> pd.DataFrame:
        """A row for each event of a kind in `metrics.jsonl`: `train` (each step), `eval`, `checkpoint`, ..."""
        events = log.stream(Workdir.existing(str(self.workdir)).metrics)
        return pd.DataFrame([found for found in events if found["event"] == event])


def train(
    gin_files: str | Sequence[str],
    *,
    workdir: str | Path,
    params: Sequence[str] = (),
    devices: str = "auto",
    init_from: str | None = None,
    allow_change: Sequence[str] = (),
    minutes: float | None = None,
) -> Run:
    """Trains a recipe in a workdir, or goes on where the workdir stands.

    An interrupt (the stop button of a notebook, Ctrl-C) finishes the step at hand and saves. A second one, or a step
    that does not end within `train.stop_within`, ends the process.

    Args:
        gin_files: recipes, later ones win; relative paths are also looked up in the project.
        workdir: folder of the session.
        params: gin bindings such as "epochs = 5", which beat the recipes.
        devices: as `--devices`.
        init_from: whose weights a new session begins with, as `--init_from`.
        allow_change: settings that may differ from the last call.
        minutes: after which it stops and saves; None: no limit.

    Raises:
        UserError: the input is wrong.
        RunFailure: disk, memory or numerics gave out; the last good checkpoint is named.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError(
            f"training in the thread {threading.current_thread().name}",
            where="trainer.notebook.train",
            expected="the main thread of the process, the only one that Python tells of an interrupt",
            do="call it there, or start scripts/train.py as a process of its own",
        )
    files = [gin_files] if isinstance(gin_files, str) else gin_files
    seconds, began = None if minutes is None else 60 * minutes, time.monotonic()
    with _errors(devices), contextlib.ExitStack() as ends:
        launch.parse_gin(files, params)
        recipe, folder = launch.call(Recipe), Workdir(str(workdir))
        ends.callback(folder.disown)
        about = {"device_spec": devices, "allow_change": allow_change, "init_from": init_from}
        try:
            status = Session(recipe, folder, seconds=seconds, **about).run()
        except KeyboardInterrupt:
            # Before the first step the time limit ends it in this way as well.
            if seconds is None or time.monotonic() - began < seconds:
                raise
            status = launch.STOPPED
        done = status != launch.STOPPED
        return Run(folder.path, done, read_json(folder.summary) if done else {})


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    weights: str | None = None,
    params: Sequence[str] = (),
    devices: str = "auto",
) -> Details:
    """Evaluates a split of a session, each example once.

    Args:
        split: train, validation or test; None: test, or else validation.
        checkpoint: best, last or a step.
        weights: raw, or ema, their moving average; None: that where there is one.
        params: gin bindings that beat those of the session.

    Returns:
        figures by name, those of each class, the confusion matrix, and what was predicted of each example.

    Raises:
        UserError: the input is wrong.
        RunFailure: the loss is not finite.
    """
    with _errors(devices):
        folder = Workdir.existing(str(workdir))
        launch.parse_gin([str(folder.config)], params)
        recipe = launch.call(Recipe)
        found = {"checkpoint": str(checkpoint), "weights": weights, "device_spec": devices}
        return trained.evaluate(Trained.opened(folder, recipe, **found), Console(), split=split).details


def predict(
    workdir: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    checkpoint: str | int = "best",
    weights: str | None = None,
    params: Sequence[str] = (),
    devices: str = "auto",
) -> pd.DataFrame:
    """What a session says of images.

    Args:
        images: files, folders (every image below them) or patterns.
        top_k, threshold: see `trainer.answers.Answers`.
        checkpoint, weights, params: as of `evaluate`.

    Returns:
        a row an image: `name`, the columns of `trainer.answers.Answers`, and `reason`, why it has no prediction.

    Raises:
        UserError: the input is wrong, or none of the images decodes.
    """
    paths, rows = [images] if isinstance(images, str | Path) else images, []
    with _errors(devices):
        folder, console = Workdir.existing(str(workdir)), Console()
        recipe = launch.session_recipe([str(folder.config)], params, Recipe)
        meaning = Meaning.of(folder)
        answers = Answers(meaning, top_k=top_k, threshold=threshold)
        found = {"checkpoint": str(checkpoint), "weights": weights, "device_spec": devices}
        opened = Trained.opened(folder, recipe, **found)
        listed = prediction.listed(prediction.given(list(map(str, paths))))
        for name, logits, reason in trained.predict(opened, meaning, listed, console):
            rows.append({"name": name, **({"reason": reason} if logits is None else answers.row(logits))})
        console.close()
        prediction.tell_bad({row["name"]: row.get("reason", "") for row in rows}, console)
    return pd.DataFrame(rows, columns=answers.columns)


@contextlib.contextmanager
def _errors(devices: str) -> Iterator[None]:
    """Within, errors of the user are raised as they are, without what gin adds to them.

    It is one as well if TensorFlow would have to change devices that are in use.
    """
    try:
        yield
    except UserError as error:
        kind = RunFailure if isinstance(error, RunFailure) else UserError
        raise kind(error.found, where=error.where, expected=error.expected, do=error.do) from None
    except RuntimeError as error:
        if "after being initialized" not in str(error):
            raise
        raise UserError(
            f"devices={devices!r}, and this process uses others: {error}",
            where="devices",
            expected="those of the first call in this process, before anything else has used TensorFlow",
            do="leave devices as they were, or restart the kernel",
        ) from error
