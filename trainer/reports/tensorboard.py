"""`WORKDIR/tensorboard/`: event files that `tensorboard --logdir` opens; the numbers are those of `metrics.jsonl`.

The package tensorboard makes the records; it is imported where one is made. Each kind of figures is a run of its own
below the folder: `train`, and one for each split that is evaluated. Pictures, texts, histograms and hyperparameters
belong to the folder itself.
"""

import contextlib
import dataclasses
import errno
import importlib.util
import io
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from data.errors import UserError, expect
from trainer.reports.log import MetricsLog

# Points of a curve of training that are made again at a start; TensorBoard shows 1,000 of them.
POINTS = 10_000
# What an event holds beside its figures.
ABOUT = ("event", "step", "split", "weights", "examples", "seconds")
HYPERPARAMETERS = "_hparams_/"
# Seconds between two points of the curves of training.
EVERY = 0.1
# The run of what is logged while training.
TRAIN = "train"
# Event files have this in their names.
OWN = "*.tfevents.*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """See `tensorboard`."""

    images: int = 8
    histograms: bool = False
    profile: int = 0

    def __post_init__(self):
        for name in ("images", "profile"):
            value = getattr(self, name)
            expect(
                f"tensorboard.{name}",
                value,
                isinstance(value, int) and not isinstance(value, bool) and value >= 0,
                "0 or more",
            )
        expect("tensorboard.histograms", self.histograms, isinstance(self.histograms, bool), "True or False")


@gin.configurable
def tensorboard(*, images: int = 8, histograms: bool = False, profile: int = 0) -> TensorBoard:
    """What `WORKDIR/tensorboard/` shows beside curves, confusion matrices, configuration and hyperparameters.

    Args:
        images: how many of the first batch of each stage, as the network sees them.
        histograms: of every variable that trains in a stage, at each evaluation.
        profile: windows of each start, from its third on, that are profiled.
    """
    return TensorBoard(images=images, histograms=histograms, profile=profile)


def is_installed() -> bool:
    """Whether the package that makes the records is there."""
    return importlib.util.find_spec("tensorboard") is not None


def wanted(setting: TensorBoard | str | None) -> TensorBoard | None:
    """What is written: with `auto` what is usual, if the package is there.

    Raises:
        UserError: more was asked for, and it is not.
    """
    if setting == "auto":
        return TensorBoard() if is_installed() else None
    if setting is not None and not is_installed():
        raise UserError(
            "the package tensorboard is not installed",
            where="gin binding train.tensorboard",
            expected="what writes its event files",
            do="pip install tensorboard, or set train.tensorboard = 'auto'",
        )
    return setting


class EventFiles:
    """Writes what a session shows. Made at a start; what an earlier one has written is brought to its step.

    Args:
        folder: of all of it.
        log: its figures.
        step: at which the session stands.
        window: steps of a window.
        batch: examples of a step.

    Attributes:
        folder: likewise.
    """

    def __init__(self, folder: Path, log: MetricsLog, *, step: int, window: int, batch: int):
        self.folder, self._log, self._window, self._batch = folder, log, window, batch
        self._files: dict[str, _EventFile] = {}
        self._pending: Mapping | None = None
        self._wrote = 0.0
        self.cut(step)

    def cut(self, step: int) -> None:
        """Forgets what is of later steps, and has the curves show what the log has."""
        self._pending = None
        self.close()
        # A start that was killed may have written them twice.
        kept = dict.fromkeys(_read(self.folder, step))
        old = [path for pattern in (OWN, f"*/{OWN}") for path in self.folder.glob(pattern)]
        for event in kept:
            self._file("").write(event)
        for run, figures, at, clock in self._curves(step):
            self._scalars(run, figures, step=at, clock=clock)
        self._flush()
        for path in old:
            path.unlink()

    def take(self, events: Sequence[Mapping]) -> None:
        """The figures of events as they are logged: of a window of training those of its last step.

        Where windows are short, some of them wait for the next one, and are shown at the next start only.
        """
        self._pending = next((event for event in reversed(events) if event["event"] == "train"), self._pending)
        evaluations = [event for event in events if event["event"] == "eval"]
        if evaluations or time.monotonic() - self._wrote > EVERY:
            self._write_pending()
        for event in evaluations:
            self._scalars(_run(event), _figures(event), step=event["step"], clock=time.time())
            self._flush()

    def _write_pending(self) -> None:
        if self._pending is not None:
            self._wrote = time.monotonic()
            self._scalars(TRAIN, _figures(self._pending), step=self._pending["step"], clock=time.time())
            self._pending = None
            self._flush()

    def _curves(self, last: int) -> Iterator[tuple[str, dict[str, float], int, float]]:
        """Run, figures, step and time of each point that the log has, of training so many at most."""
        stride = self._window * max(1, -(-last // (self._window * POINTS)))
        clock, before = time.time(), 0
        for event in self._log.points(lambda step: step % stride == 0 or step == last):
            kind, step = event["event"], event["step"]
            if kind in ("start", "resume"):
                clock, before = event.get("time", clock), step
            elif kind == "eval":
                clock += event.get("seconds") or 0.0
                yield _run(event), _figures(event), step, clock
            elif kind == "train":
                clock += (step - before) * self._batch / event.get("images_per_second", np.inf)
                before = step
                yield _run(event), _figures(event), step, clock

    def _scalars(self, run: str, figures: Mapping[str, float], *, step: int, clock: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # The short form, which TensorBoard reads as any other and which takes a tenth of the time.
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._file(run).add([Summary(value=values)], step=step, clock=clock)

    def text(self, tag: str, text: str, *, step: int) -> None:
        """A text, as Markdown has it."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._show([text_pb(tag, text)], step)

    def images(self, tag: str, pixels: np.ndarray, *, step: int) -> None:
        """Pictures side by side, [N, H, W, 3] uint8."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.image import metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        height, width = pixels.shape[1:3]
        strings = [str(width).encode(), str(height).encode(), *map(_png, pixels)]
        summary = Summary()
        about = metadata.create_summary_metadata(display_name=None, description=None)
        summary.value.add(tag=tag, metadata=about, tensor=make_tensor_proto(strings))
        self._show([summary], step)

    def histograms(self, values: Mapping[str, Callable[[], np.ndarray]], *, step: int) -> None:
        """How the numbers of each variable are spread."""
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        self._show((histogram_pb(f"weights/{name}", read()) for name, read in values.items()), step)

    def hyperparameters(self, values: Mapping[str, bool | float | str], *, figures: Sequence[tuple[str, str]]) -> None:
        """What the session was made with.

        Args:
            figures: what it is judged by: run and tag.
        """
        from tensorboard.plugins.hparams import api

        metrics = [api.Metric(tag, group=run, display_name=f"{run} {tag}") for run, tag in figures]
        names = [api.HParam(name) for name in values]
        config = api.hparams_config_pb(hparams=names, metrics=metrics)
        self._show([config, api.hparams_pb(values, trial_id=str(self.folder.parent))], 0)

    def done(self) -> None:
        """Says of the hyperparameters that the session has come to its end."""
        from tensorboard.plugins.hparams import api_pb2, summary

        self._show([summary.session_end_pb(api_pb2.STATUS_SUCCESS)], 0)

    def _show(self, summaries: Iterable, step: int) -> None:
        for summary in summaries:
            self._file("").add([summary], step=step, clock=time.time())
        self._flush()

    def _file(self, run: str) -> "_EventFile":
        if run not in self._files:
            self._files[run] = _EventFile(self.folder / run)
        return self._files[run]

    def close(self) -> None:
        """Closes the files; another figure would begin new ones."""
        self._write_pending()
        while self._files:
            self._files.popitem()[1].close()

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()


class _EventFile:
    """One file of a run, begun anew: whoever has shown what the run had before forgets it."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        with self._on_disk():
            self._records = tf.io.TFRecordWriter(str(self._path))
        now = time.time()
        self.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        self.write(Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)).SerializeToString())

    def add(self, summaries: Sequence, *, step: int, clock: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=clock, step=step)
        for summary in summaries:
            # Some come as a message of TensorFlow's own.
            event.summary.MergeFromString(summary.SerializeToString())
        self.write(event.SerializeToString())

    def write(self, record: bytes) -> None:
        with self._on_disk():
            self._records.write(record)

    def flush(self) -> None:
        with self._on_disk():
            self._records.flush()

    def close(self) -> None:
        with self._on_disk():
            self._records.close()

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Tells a full disk as Python does."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error


def _read(folder: Path, last: int) -> Iterator[bytes]:
    """Pictures, texts and histograms up to a step; of a damaged file those before the damage."""
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for path in sorted(folder.glob(OWN)):
        # What of a damaged record passes its checksum is left out; a file may also be gone or empty.
        with contextlib.suppress(DecodeError, tf.errors.OpError):
            for record in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(record)
                written_anew = any(value.tag.startswith(HYPERPARAMETERS) for value in event.summary.value)
                if event.HasField("summary") and event.step <= last and not written_anew:
                    yield record


def _run(event: Mapping) -> str:
    return TRAIN if event["event"] == "train" else run_of(event["split"], event.get("weights"))


def run_of(split: str, weights: str | None) -> str:
    """The run that shows the evaluations of a split; `weights`: where there are two kinds, which."""
    # Our own are words; a file may say anything.
    name = "-".join(filter(None, (split, weights)))
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _figures(event: Mapping) -> dict[str, float]:
    return {name: value for name, value in event.items() if name not in ABOUT and isinstance(value, int | float)}


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
