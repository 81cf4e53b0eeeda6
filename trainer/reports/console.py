"""What a person sees while a run works: a live block in a terminal, a plain line now and then elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from data.names import printable
from trainer import launch
from trainer.models.backbones import Backbone
from trainer.reports.live import Block

PLAIN_SECONDS = 10.0
PLAIN_WIDTH = 120
# Weight of the newest step in the running mean of the loss.
SMOOTHING = 0.05
# Figures of an evaluation that fit one line; every task has some of them.
HEADLINE = (
    *("loss", "accuracy", "old_accuracy", "new_accuracy", "f1", "exact_match", "macro_f1"),
    *("mean_absolute_error", "r2"),
)
TITLES = {"top5_accuracy": "top-5", "f1": "F1", "macro_f1": "macro F1", "r2": "R2", "roc_auc": "ROC-AUC"}
# So many of them fit beside other words.
BRIEF = 2
# Layers whose drift is shown.
LARGEST = 5
# Classes up to which a confusion matrix fits a terminal.
WIDEST = 12


class Terminal(RichConsole):
    """Standard output. Where nobody reads it any more, whoever prints is told."""

    def __init__(self):
        super().__init__(highlight=False)
        if not self.is_terminal:
            self.width = PLAIN_WIDTH

    def on_broken_pipe(self) -> None:
        raise


class Console:
    """Prints a header, progress and results of one run.

    Args:
        quiet: prints warnings and results only; None: what --quiet says.
    """

    def __init__(self, *, quiet: bool | None = None):
        self._rich, self._quiet = Terminal(), launch.is_quiet() if quiet is None else quiet
        self._block = Block(self._rich)
        self._said = 0.0
        self._figures = self._evaluated = self._stage = ""
        self._mean_loss: float | None = None
        self._speed: float | None = None

    def say(self, text: str, style: str | None = None) -> None:
        """One line, above the live block. With a style it is a warning, which --quiet shows too."""
        if style is not None or not self._quiet:
            self._print(text, style)

    def _print(self, text: str, style: str | None = None, *, whole: bool = False) -> None:
        """A terminal breaks it between words, unless it is to be copied as a whole."""
        self._rich.print(printable(text), style=style, markup=False, soft_wrap=whole or not self._rich.is_terminal)

    def header(self, rows: Sequence[tuple[str, str]]) -> None:
        """What will happen, as name and value."""
        if self._quiet:
            return
        width = max(len(name) for name, _ in rows)
        if not self._rich.is_terminal:
            for name, value in rows:
                self._print(f"{name:<{width}}  {value}")
            return
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, Text(printable(value)))
        self._rich.print(table)

    def count(self, title: str, total: int | None) -> Callable[[int], None]:
        """A function that shows how many of `total` are done; None: nobody knows how many there are."""
        began = time.monotonic()

        def report(done: int) -> None:
            spent = time.monotonic() - began
            left = None if not total or not done or spent < 1 else _clock(spent * (total - done) / done)
            # What is over at once is not worth a line.
            self._progress(title, done, total, left=left, last=done == total and spent > PLAIN_SECONDS)

        return report

    def train(self, stage: str, event: dict, *, steps: int, batch: int) -> None:
        """Progress after a window whose last step gave this `train` event."""
        loss, speed = event["loss"], event["images_per_second"]
        if math.isfinite(loss):
            before = loss if self._mean_loss is None else self._mean_loss
            self._mean_loss = before + SMOOTHING * (loss - before)
        if stage != self._stage:
            # The first window of a stage is compiled as well.
            self._stage, self._speed = stage, None
        else:
            self._speed = speed if self._speed is None else (self._speed + speed) / 2
        mean = "" if self._mean_loss is None else f" (mean {self._mean_loss:.3f})"
        self._figures = (
            f"epoch {event['epoch']:.2f}  loss {loss:.3f}{mean}  {self._speed or speed:.0f} img/s  "
            f"lr {event['learning_rate']:.1e}  wait {100 * event['data_wait']:.0f} %"
        )
        left = None if self._speed is None else _clock((steps - event["step"]) * batch / self._speed)
        told = {"left": left, "figures": self._figures, "last": event["step"] == steps}
        self._progress(stage, event["step"], steps, **told)

    def evaluated(self, event: dict) -> None:
        """The figures of an `eval` event."""
        # Of a single label it says little that accuracy does not, and the line is full.
        named = [name for name in HEADLINE if name in event and (name != "macro_f1" or "exact_match" in event)]
        figures = [f"{_words(name)} {event[name]:.4f}" for name in named]
        which = f"{event['split']} ({event['weights']} weights)" if "weights" in event else event["split"]
        self._evaluated = f"last evaluation: step {event['step']}, {which} {', '.join(figures[:BRIEF])}"
        self.say(f"step {event['step']}: {which} {', '.join(figures)} on {event['examples']} examples")

    def skipped(self, event: dict) -> None:
        """A `skip` event."""
        figures = f"loss {event['loss']:.4g}, loss scale {event['loss_scale']:g}"
        self.say(f"step {event['step']} changed nothing: {event['reason']} ({figures})")

    def rolled_back(self, event: dict, *, step: int, tries: int, suspects: str) -> None:
        """A `rollback` event.

        Args:
            step: where training goes on.
            tries: roll-backs that a session may have.
            suspects: what all bad batches have in common, as the end of a sentence.
        """
        start, stop = event["positions"]
        self.say(
            f"step {event['from']}: {event['reason']} (loss {event['loss']:.4g}); back to step {step}, and on without "
            f"the positions {start} to {stop - 1}: roll-back {event['number']} of {tries}{suspects}",
            style="yellow",
        )

    def stopped(self, why: str, where: str) -> None:
        """The end of a run that goes on another time."""
        self.close()
        self._print(f"{why}: stopped at {where}. The same command goes on from here.")

    def preparing(self, title: str) -> None:
        """Has a terminal show what takes its time and cannot be counted."""
        if self._rich.is_interactive and not self._quiet:
            self._block.show(title, None, None, left=None, figures=self._figures, evaluation=self._evaluated)

    def _progress(
        self, title: str, done: int, total: int | None, *, left: str | None, last: bool, figures: str = ""
    ) -> None:
        if self._quiet:
            return
        if self._rich.is_interactive:
            self._block.show(title, done, total, left=left, figures=self._figures, evaluation=self._evaluated)
        elif last or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            shown = f"{title} {done}" if total is None else f"{title} {done}/{total}"
            parts = [shown, figures, f"left {left}" if left is not None and done != total else ""]
            self._print("  ".join(filter(None, parts)))

    def close(self) -> None:
        """Takes the live block away."""
        self._block.close()

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
        self._print(f"{title}: " + ", ".join(f"{name} {_shown(value)}" for name, value in figures.items()))
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

    def results(self, summary: dict, workdir: Path, *, commands: Sequence[tuple[str, str]] = ()) -> None:
        """The footer: the table of `summary.json`, where everything is, and what to type next.

        Args:
            commands: each with what it is for.
        """
        self.close()
        seconds, speed = _clock(summary["seconds"]), summary["images_per_second"]
        self._print(f"{summary['steps']} steps, {summary['epochs']:.1f} epochs in {seconds}, {speed:.0f} images/s")
        named = dict.fromkeys(name for figures in summary["final"].values() for name in figures)
        table = Table("", *summary["final"])
        for name in ["examples", *(name for name in named if name not in ("examples", "loss")), "loss"]:
            table.add_row(_words(name), *(_shown(figures.get(name)) for figures in summary["final"].values()))
        self._rich.print(table)
        best = summary["best"]
        if best:
            self._print(f"best {best['split']} {_words(best['metric'])}: {best['value']:.4f} at step {best['step']}")
        forgotten = summary.get("forgetting", {})
        for name in ("old", "new"):
            if name in forgotten:
                before, after = (_shown(forgotten[name][when]) for when in ("before", "after"))
                self._print(f"{name} classes: {forgotten['split']} accuracy {before} before, {after} after")
        moved = {layer: distance for layer, distance in summary.get("drift", {}).items() if distance is not None}
        if moved:
            largest = sorted(moved, key=moved.get, reverse=True)[:LARGEST]
            shown = ", ".join(f"{layer} {moved[layer]:.3f}" for layer in largest)
            self._print(f"largest drift from the first weights, of {len(moved)} layers: {shown}")
        self._print(f"workdir: {workdir}", whole=True)
        if commands and not self._quiet:
            width = max(len(command) for command, _ in commands)
            self._print("next:")
            for command, purpose in commands:
                beside = self._rich.is_terminal and width + len(purpose) + 6 > self._rich.width
                self._print(f"  {command}" if beside else f"  {command:<{width}}  {purpose}", whole=True)


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
