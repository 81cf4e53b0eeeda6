"""Images that break after the start: named and counted once, up to a share of all."""

import numpy as np

from data.errors import RunFailure
from data.examples import Examples
from data.frozen import Frozen
from data.pipeline import View
from trainer import data_setup
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.reports.log import MetricsLog


class Replacements:
    """The images of a session that others stand in for, as its log has them."""

    def __init__(self, recipe: Recipe, data: Frozen, view: View, *, log: MetricsLog, console: Console):
        self._recipe, self._data, self._view, self._log, self._console = recipe, data, view, log, console

    def look(self, examples: Examples, rows: list[int], replaced: int, *, step: int) -> None:
        """Finds out which images could not be shown.

        Args:
            rows: of `examples`, what was to be shown.
            replaced: how many of them were not.
        """
        shown = [examples.where(row) for row in rows]
        broken = data_setup.broken(examples.take(np.unique(rows)), self._view)
        for where, reason in broken.items():
            self.note(where, reason, step=step)
        # What can be read again now cannot be named.
        passing = replaced - sum(where in broken for where in shown)
        if passing > 0:
            self._add(None, "could not be read for a while", count=passing, step=step)

    def note(self, image: str, reason: str, *, step: int) -> None:
        """Logs an image, once in a session."""
        if not self._log.find("replaced", image=image):
            self._add(image, reason, count=1, step=step)

    def _add(self, image: str | None, reason: str, *, count: int, step: int) -> None:
        self._log.append([{"event": "replaced", "step": step, "image": image, "count": count, "reason": reason}])
        self._console.say(f"replaced {image or f'{count} images'}: {reason}", style="yellow")

    @property
    def too_many(self) -> bool:
        """Whether there are more than the recipe lets pass."""
        return self._count > data_setup.allowed(self._recipe, self._data)

    @property
    def _count(self) -> int:
        return sum(event["count"] for event in self._log.find("replaced"))

    def failure(self, *, last: str) -> RunFailure:
        """What ends the run then; `last`: the last good checkpoint."""
        return data_setup.too_many_broken(self._recipe, self._data, self._count, where=f"last good checkpoint: {last}")
