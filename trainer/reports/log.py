"""`metrics.jsonl`: one JSON object a line, each event once."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from trainer.workdir import write_text


class MetricsLog:
    """Appends events and knows those that are there. A torn last line, and what is no event, is left out."""

    def __init__(self, path: Path):
        self._path = path
        self.events: list[dict] = []
        if path.exists():
            self.events = [event for line in path.read_bytes().splitlines() if (event := _parsed(line)) is not None]

    def cut(self, step: int) -> None:
        """Forgets what happened after this step, in the file too."""
        self.events = [event for event in self.events if event["step"] <= step]
        write_text(self._path, "".join(map(_line, self.events)))

    def append(self, events: Iterable[dict]) -> None:
        """Adds events; each needs `event` and `step`. Numbers that are not finite become null."""
        finite = [{name: _finite(value) for name, value in event.items()} for event in events]
        with open(self._path, "a") as file:
            file.write("".join(map(_line, finite)))
        self.events.extend(finite)

    def find(self, event: str, **fields) -> list[dict]:
        """The events of this kind whose fields have these values, oldest first."""
        wanted = {"event": event, **fields}
        return [found for found in self.events if all(found.get(name) == value for name, value in wanted.items())]


def _parsed(line: bytes) -> dict | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("step"), int)
    return event if whole else None


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(event: dict) -> str:
    return json.dumps(event, allow_nan=False) + "\n"


def window_events(
    first: int, records: dict[str, np.ndarray], seconds: float, *, batch: int, epoch: Callable[[int], float]
) -> list[dict]:
    """The `train` events of the steps of a window, and a `skip` event behind each one that was not finite.

    Args:
        first: steps done before.
        records: by name [steps] float32, see `trainer.step.train_window`, and learning_rate.
        seconds: that the window took.
        batch: global.
        epoch: of a step.
    """
    steps = len(records["loss"])
    speed = {"images_per_second": steps * batch / seconds, "data_wait": float(records["wait"].sum() / seconds)}
    events = []
    for index in range(steps):
        step = first + index + 1
        figures = {name: float(values[index]) for name, values in records.items()}
        finite = bool(figures.pop("finite"))
        figures.pop("wait")
        figures.pop("replaced")
        events.append({"event": "train", "step": step, "epoch": epoch(step), **figures, **speed})
        if not finite:
            shown = [(step - 1) * batch, step * batch]
            events.append({"event": "skip", "step": step, "positions": shown, "loss_scale": figures["loss_scale"]})
    return events
