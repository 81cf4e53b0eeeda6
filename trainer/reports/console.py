"""What a person sees while a run works: a live line in a terminal, timed plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table

from data.names import printable
from trainer.models.backbones import Backbone

PLAIN_SECONDS = 10.0
PLAIN_WIDTH = 120
# Weight of the newest step in the running mean of the loss.
SMOOTHING = 0.05
# Figures of an evaluation that fit one line; every task has some of them.
HEADLINE = (
    *("loss", "accuracy", "old_accuracy", "new_accuracy", "f1", "exact_match", "macro_f1"),
    *("mean_absolute_error", "r2"),
)
TITLES = {"top5_accuracy": "top-5", "f1": "F1", "macro_f1": "macro F1", "r2": "R2"}
# Layers whose drift is shown.
LARGEST = 5
# Classes up to which a confusion matrix fits a terminal.
WIDEST = 12


class Console:
    """Prints a header, progress and results of one run."""

    def __init__(self):
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        if not self._rich.is_terminal:
            self._rich.width = PLAIN_WIDTH
        self._live: Progress | None = None
        self._said = 0.0
        self._mean_loss: float | None = None
        self._speed: float | None = None

    def say(self, text: str, style: str | None = None) -> None:
        """One line, above the live one."""
        (self._live.console if self._live else self._rich).print(printable(text), style=style, markup=False)

    def header(self, rows: Sequence[tuple[str, str]]) -> None:
        """What will happen, as name and value."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._rich.print(f"[bold]{name:<{width}}[/bold]  ", end="")
            self._rich.print(printable(value), markup=False)

    def count(self, title: str, total: int | None) -> Callable[[int], None]:
        """A function that shows how many of `total` are done; None: nobody knows how many there are."""
        return lambda done: self._progress(title, done, total, "", final=done == total)

    def train(self, stage: str, event: dict, *, steps: int, batch: int) -> None:
        """Progress after a window whose last step gave this `train` event."""
        loss, speed = event["loss"], event["images_per_second"]
        if math.isfinite(loss):
            before = loss if self._mean_loss is None else self._mean_loss
            self._mean_loss = before + SMOOTHING * (loss - before)
        self._speed = speed if self._speed is None else (self._speed + speed) / 2
        mean = "" if self._mean_loss is None else f" (mean {self._mean_loss:.3f})"
        left = _clock((steps - event["step"]) * batch / self._speed)
        text = (
            f"epoch {event['epoch']:.2f}  loss {loss:.3f}{mean}  {self._speed:.0f} img/s  "
            f"lr {event['learning_rate']:.1e}  wait {100 * event['data_wait']:.0f} %  left {left}"
        )
        self._progress(stage, event["step"], steps, text, final=event["step"] == steps)

    def evaluated(self, event: dict) -> None:
        """The figures of an `eval` event."""
        figures = ", ".join(f"{_words(name)} {event[name]:.4f}" for name in HEADLINE if name in event)
        which = f" ({event['weights']} weights)" if "weights" in event else ""
        self.say(f"step {event['step']}: {event['split']}{which} {figures} on {event['examples']} examples")

    def _progress(self, title: str, done: int, total: int | None, text: str, *, final: bool) -> None:
        shown = f"{title} {done}" if total is None else f"{title} {done}/{total}"
        if self._rich.is_terminal:
            if self._live is None:
                lines = TextColumn("{task.description} ({task.percentage:.0f} %)\n{task.fields[text]}", markup=False)
                self._live = Progress(lines, console=self._rich, transient=True)
                self._task = self._live.add_task("", total=total, text="")
                self._live.start()
            self._live.update(self._task, description=shown, completed=done, total=total, text=text)
        elif final or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self._rich.print(f"{shown}  {text}".rstrip(), markup=False)

    def close(self) -> None:
        """Takes the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def evaluation(
        self,
        title: str,
        figures: dict[str, float | int],
        *,
        per_output: dict[str, np.ndarray],
        names: Sequence[str],
        confusion: np.ndarray | None = None,
    ) -> None:
        """Figures of one evaluation as `trainer.metrics` gives them, and the confusion matrix where it fits.

        Args:
            names: K classes or numbers, the rows of the table of `per_output`.
            confusion: [K, K], or None where the task has none.
        """
        self.say(f"{title}: " + ", ".join(f"{name} {_shown(value)}" for name, value in figures.items()))
        names = [printable(name) for name in names]
        noun = "class" if "recall" in per_output else "output"
        table = Table(noun, *map(_words, per_output), title=f"per {noun}", title_justify="left")
        for name, *values in zip(names, *per_output.values(), strict=True):
            table.add_row(escape(name), *map(_shown, values))
        self._rich.print(table)
        if confusion is not None and len(names) <= WIDEST:
            table = Table("true \\ predicted", *map(escape, names), title="confusion matrix", title_justify="left")
            for name, counts in zip(names, confusion, strict=True):
                table.add_row(escape(name), *map(str, counts))
            self._rich.print(table)

    def benchmark(self, title: str, rows: Sequence[dict]) -> None:
        """The rows of `trainer.benchmark.compare`."""
        table = Table("", "images/s, median", "onward is", "over the rounds", title=title, title_justify="left")
        for row in rows:
            spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
            table.add_row(row["name"], f"{row['images_per_second']:.1f}", f"{row['ratio']:.2f} x", spread)
        self._rich.print(table)

    def costs(self, title: str, rows: Sequence[dict], *, against: str = "decoding") -> None:
        """The rows of `trainer.input_benchmark.compare`."""
        table = Table("", "images/s", "CPU ms an image", f"against {against}", "over the rounds", title=title)
        for row in rows:
            spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
            figures = (f"{row['images_per_second']:.0f}", f"{row['cpu_ms']:.2f}", f"{row['ratio']:.2f} x")
            table.add_row(row["name"], *figures, spread)
        self._rich.print(table)

    def times_as_fast(self, rows: Sequence[dict]) -> None:
        """The rows of `trainer.augment_benchmark.compare`."""
        table = Table("", "against", "times as fast", "over the rounds", "at least")
        for row in rows:
            by = {"wall": "on the clock", "cpu": "per CPU second"}[row["measure"]]
            spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
            figures = (f"{row['ratio']:.2f} {by}", spread, f"{row['wanted']:.2f}")
            table.add_row(row["name"], row["against"], *figures)
        self._rich.print(table)

    def backbones(self, known: Iterable[Backbone]) -> None:
        """What recipes can name as model.backbone, a row each."""
        table = Table("backbone", title="model.backbone (backbone)", title_justify="left")
        for column in ("image size", "parameters", "blocks"):
            table.add_column(column, justify="right")
        table.add_column("ImageNet weights")
        for each in known:
            size, parameters, blocks = each.native_size, each.parameters, each.blocks
            table.add_row(each.name, str(size), f"{parameters:,}", str(blocks), "yes" if each.load_imagenet else "no")
        self._rich.print(table)
        self.say("Also the path of a .keras or .h5 file that holds a whole model, or hub:PRESET with the extra hub.")

    def results(self, summary: dict, workdir: Path) -> None:
        """The footer: the table of `summary.json` and where everything is."""
        self.close()
        seconds, speed = _clock(summary["seconds"]), summary["images_per_second"]
        title = f"{summary['steps']} steps, {summary['epochs']:.1f} epochs in {seconds}, {speed:.0f} images/s"
        named = dict.fromkeys(name for figures in summary["final"].values() for name in figures)
        columns = ["examples", *(name for name in named if name not in ("examples", "loss")), "loss"]
        table = Table("split", *map(_words, columns), title=title, title_justify="left")
        for split, figures in summary["final"].items():
            table.add_row(split, *(_shown(figures.get(name)) for name in columns))
        self._rich.print(table)
        best = summary["best"]
        if best:
            self.say(f"best {best['split']} {_words(best['metric'])}: {best['value']:.4f} at step {best['step']}")
        forgotten = summary.get("forgetting", {})
        for name in ("old", "new"):
            if name in forgotten:
                before, after = (_shown(forgotten[name][when]) for when in ("before", "after"))
                self.say(f"{name} classes: {forgotten['split']} accuracy {before} before, {after} after")
        moved = {layer: distance for layer, distance in summary.get("drift", {}).items() if distance is not None}
        if moved:
            largest = sorted(moved, key=moved.get, reverse=True)[:LARGEST]
            shown = ", ".join(f"{layer} {moved[layer]:.3f}" for layer in largest)
            self.say(f"largest drift from the first weights, of {len(moved)} layers: {shown}")
        self.say(f"workdir: {workdir}")


def _words(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _shown(value: float | None) -> str:
    """A figure for a table: counts as they are, fractions with four digits, a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int | np.integer) else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
