"""What is drawn again and again at the foot of a terminal while a run works."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data.names import printable

# Seconds between two drawings.
EVERY = 0.25

_drawn: "set[Block]" = set()


@contextlib.contextmanager
def taken_away() -> Iterator[None]:
    """Leaves no block on the terminal, however it ends: what is printed then begins on a line of its own."""
    try:
        yield
    finally:
        for block in list(_drawn):
            block.close()


class Block:
    """A few lines, none wider than the terminal: how far the work is, its figures, the last evaluation.

    It is drawn by whoever reports, in no thread of its own, and never hides the cursor: whatever ends the process, the
    terminal stays as it was.
    """

    def __init__(self, console: Console):
        self._console = console
        self._live: Live | None = None
        self._title, self._drawn = "", 0.0

    def show(
        self, title: str, done: int | None, total: int | None, *, left: str | None, figures: str, evaluation: str
    ) -> None:
        """Draws it, unless it has been drawn just before.

        Args:
            done, total: None: nobody knows.
            left: of the time; None: nobody knows.
            figures: of training; empty: there are none yet.
            evaluation: likewise.
        """
        now = time.monotonic()
        if title == self._title and done != total and now - self._drawn < EVERY:
            return
        self._title, self._drawn = title, now
        texts = [Text(text, no_wrap=True, overflow="ellipsis") for text in (figures, evaluation) if text]
        lines = Group(_bar(title, done, total, left), *texts)
        if self._live is None:
            # Errors of other threads go past it: they must not wait for whoever draws.
            self._live = Live(lines, console=self._console, auto_refresh=False, transient=True, redirect_stderr=False)
            _drawn.add(self)
            self._live.start()
            self._console.show_cursor(True)
        self._live.update(lines, refresh=True)

    def close(self) -> None:
        """Takes it away."""
        _drawn.discard(self)
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()


def _bar(title: str, done: int | None, total: int | None, left: str | None) -> Table:
    row = Table.grid(expand=True, padding=(0, 2, 0, 0))
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    title = Text(printable(title), style="bold")
    if total is None:
        row.add_row(title if done is None else title.append(f" {done:,}"), "", "")
    else:
        share = f"{100 * done / max(total, 1):3.0f} %"
        title.append(f" {done:,}/{total:,}")
        row.add_row(title, ProgressBar(total=total, completed=done), share if left is None else f"{share}  left {left}")
    return row
