"""`metrics.jsonl`: one JSON object a line, each event once."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from data.errors import UserError
from trainer.guard import LOSS_SCALE, reason_of
from trainer.workdir import write_bytes

# What is recorded of a step, and told by other events than `train`.
NOT_TOLD = ("finite", "spike", "sound", "replaced", "wait")
# What no figure comes near to.
LARGEST = 1e100
# Events of each step, too many to be held in memory, and how `_line` begins them.
MANY = "train"
BEGINNING = re.compile(rb'\{"event": "train", "step": (\d+)[,}]')


class MetricsLog:
    """Appends events and knows those that are there. A torn last line, and what is no event, is left out.

    Args:
        path: of the file.
        writes: whether this process writes it; otherwise it keeps what it appends to itself.
    """

    def __init__(self, path: Path, *, writes: bool = True):
        self._path, self._writes = path, writes
        self._follower: Callable[[list[dict]], object] | None = None
        self._held = [event for event in self.points(lambda step: False) if event["event"] != MANY]

    @property
    def events(self) -> list[dict]:
        """All of them, as the file has them, oldest first."""
        return list(stream(self._path))

    def cut(self, step: int, *, roll_backs: int = 0) -> None:
        """Forgets what happened after this step, and all roll-backs but the first so many, in the file too."""

        def stays(event: dict) -> bool:
            if event["event"] == "rollback":
                return event.get("number") in range(roll_backs + 1)
            return event["step"] <= step

        # A long log that stays as it is is not written again.
        if self._writes and (
            not self._path.exists() or any(_left(line, step, stays) != line for line in _lines(self._path))
        ):
            write_bytes(self._path, b"".join(_left(line, step, stays) for line in _lines(self._path)))
        self._held = list(filter(stays, self._held))

    def append(self, events: Iterable[dict]) -> None:
        """Adds events; each needs `event` and `step`. Numbers that are not finite become null."""
        finite = [{name: _finite(value) for name, value in event.items()} for event in events]
        if self._writes:
            with open(self._path, "a") as file:
                file.write("".join(map(_line, finite)))
        self._held.extend(event for event in finite if event["event"] != MANY)
        if self._follower is not None:
            self._follower(finite)

    def followed_by(self, follower: Callable[[list[dict]], object]) -> None:
        """Has a function see what is appended from here on, each time all of it."""
        self._follower = follower

    def points(self, wanted: Callable[[int], bool]) -> Iterator[dict]:
        """The events, oldest first, of `train` those of the steps that are wanted; the others are not even parsed."""
        return stream(self._path, wanted)

    def check(self, session: str | None) -> None:
        """Looks whose log it is, by what each start has written into it.

        Args:
            session: whose it has to be; None: nobody knows.

        Raises:
            UserError: it is another one's.
        """
        owners = {event.get("session") for event in self._held if event["event"] in ("start", "resume")}
        if session is not None and owners - {None, session}:
            raise UserError(
                f"{self._path.name} is of another session",
                where=str(self._path),
                expected=f"the events of the session {session}",
                do="put it back from a copy, or remove it: training goes on without the figures so far",
            )

    def flush(self) -> None:
        """Has the disk hold what has been appended."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def find(self, event: str, **fields) -> list[dict]:
        """The events of this kind whose fields have these values, oldest first."""
        wanted = {"event": event, **fields}
        known = self.events if event == MANY else self._held
        return [found for found in known if all(found.get(name) == value for name, value in wanted.items())]


def stream(path: Path, wanted: Callable[[int], bool] | None = None) -> Iterator[dict]:
    """The events of a file one by one, oldest first; of a missing one, none.

    Args:
        wanted: whether the `train` event of a step is; None: all are.
    """
    for line in _lines(path):
        step = BEGINNING.match(line) if wanted is not None else None
        if step is not None and not wanted(int(step[1])):
            continue
        if (event := _parsed(line)) is not None:
            yield event


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends; of a missing one, none."""
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                yield from line.splitlines(keepends=True)


def _left(line: bytes, step: int, stays: Callable[[dict], bool]) -> bytes:
    """What is left of a line when what comes after a step is cut off; `train` events, which are many, unparsed."""
    found = BEGINNING.match(line)
    if found is not None and line.endswith(b"}\n"):
        return line if int(found[1]) <= step else b""
    event = _parsed(line)
    return _line(event).encode() if event is not None and stays(event) else b""


def _parsed(line: bytes) -> dict | None:
    try:
        event = json.loads(line)
        json.dumps(event, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return event if _is_event(event) else None


def _is_event(event: object) -> bool:
    """Whether it has a kind and a step, and is of the types that are counted on where it is read."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("step")) is not int:
        return False
    if not all(_is_number(event[name]) for name in ("count", "number") if name in event):
        return False
    kind = event["event"]
    if kind == "train":
        speed = event.get("images_per_second", 1)
        return _is_number(speed) and speed > 0
    if kind == "eval":
        figures = [value for name, value in event.items() if name not in ("event", "split", "weights")]
        named = isinstance(event.get("split"), str) and isinstance(event.get("weights", ""), str)
        measured = all(_is_number(event[name]) for name in ("loss", "seconds") if name in event)
        return named and measured and all(value is None or _is_number(value) for value in figures)
    if kind == "start":
        weights = event.get("weights")
        return weights is None or (isinstance(weights, dict) and isinstance(weights.get("summary"), str))
    return kind != "replaced" or ("count" in event and isinstance(event.get("image"), str | None))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(event: dict) -> str:
    return json.dumps(event, allow_nan=False) + "\n"


def window_events(
    first: int,
    records: dict[str, np.ndarray],
    seconds: float,
    *,
    batch: int,
    epoch: Callable[[int], float],
    shown: Callable[[int, int], tuple[list[int], list[str]]],
) -> list[dict]:
    """The `train` events of the steps of a window, and a `skip` event behind each one that went bad.

    Args:
        first: steps done before.
        records: by name [steps] float32, see `trainer.step.train_window`, and learning_rate.
        seconds: that the window took.
        batch: global.
        epoch: of a step.
        shown: (steps done before, steps done after) -> first position and the one after the last, and the images.
    """
    steps = len(records["loss"])
    speed = {"images_per_second": steps * batch / seconds, "data_wait": float(records["wait"].sum() / seconds)}
    events = []
    for index in range(steps):
        step = first + index + 1
        figures = {name: float(values[index]) for name, values in records.items()}
        reason = reason_of(figures)
        told = {name: value for name, value in figures.items() if name not in NOT_TOLD}
        events.append({"event": "train", "step": step, "epoch": epoch(step), **told, **speed})
        if reason is not None:
            positions, images = shown(step - 1, step)
            facts = {name: figures[name] for name in ("loss", "loss_scale")} | {"positions": positions}
            # A scale that finds its height does so for as long as a run goes on, and blames no image.
            facts |= {} if reason == LOSS_SCALE else {"images": images}
            events.append({"event": "skip", "step": step, "reason": reason, **facts})
    return events
