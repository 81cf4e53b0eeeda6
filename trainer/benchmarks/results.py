"""What a part of the benchmark found: figures for programs, tables for people; both in files."""

import dataclasses
import hashlib
import json
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import gin
import pandas as pd
import tensorflow as tf
from rich.markup import escape
from rich.table import Table as RichTable

from data.errors import UserError
from data.names import printable
from trainer import launch
from trainer.reports import environment
from trainer.reports.console import Terminal
from trainer.workdir import write_bytes, write_json, write_text

KINDS = (".json", ".csv", ".md")
PLOT = ".png"
# Packages that only some parts use.
OPTIONAL = ("opencv-python-headless", "scipy", "tensorboard", "xprof")


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as people read them.

    Attributes:
        rows: as many cells each as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The same as a Markdown table under its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = (" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
        heading = f"**{self.title}**\n\n" if self.title else ""
        return heading + "\n".join(f"| {line} |" for line in cells) + "\n"

    def rich(self) -> RichTable:
        """The same for a terminal."""
        table = RichTable(*map(escape, self.columns), title=escape(self.title) or None, title_justify="left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a part found.

    Attributes:
        figures: JSON-ready. `rates`, where there are any, are contestant -> images a second of each measurement.
        sentences: what follows from them.
        faults: what ought not to be; any ends the command with status 1.
        environment: where and with what it was measured, see `trainer.reports.environment`; None: on the CPU
            of this process.
        plot: a picture of it, an encoded PNG; None: there is none.
    """

    figures: dict
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    faults: Sequence[str] = ()
    environment: dict | None = None
    plot: bytes | None = None

    def document(self, part: str, command: Sequence[str]) -> dict:
        """All of it, JSON-ready; read again by `read`."""
        where = self.environment or environment.describe(tf.distribute.OneDeviceStrategy("CPU"), project=launch.PROJECT)
        config = gin.operative_config_str() or gin.config_str()
        return {
            "part": part,
            "command": shlex.join(command),
            "time": time.time(),
            "environment": where | {"optional": {name: _version(name) for name in OPTIONAL}},
            "config_hash": hashlib.sha256(config.encode()).hexdigest()[:12],
            "config": config,
            **self.figures,
            "sentences": list(self.sentences),
            "faults": list(self.faults),
        }

    def show(self) -> None:
        """Prints tables, what follows from them, and what ought not to be."""
        terminal = Terminal()
        for table in self.tables:
            terminal.print(table.rich())
        for style, sentences in ((None, self.sentences), ("red", self.faults)):
            for sentence in sentences:
                terminal.print(printable(sentence), style=style, markup=False, soft_wrap=True)

    def markdown(self, part: str) -> str:
        """Its tables and sentences as a page."""
        told = [f"- {sentence}\n" for sentence in (*self.sentences, *(f"FAULT: {fault}" for fault in self.faults))]
        return "\n".join([f"# {part}\n", *(table.markdown() for table in self.tables), "".join(told)])


def check(paths: Sequence[str], *, plots: bool = False) -> None:
    """Refuses files that `write` would not know how to write, before anything is measured.

    Args:
        plots: whether there will be a plot.

    Raises:
        UserError: another ending, or a folder that is not there.
    """
    kinds = (*KINDS, PLOT) if plots else KINDS
    for path in paths:
        if Path(path).suffix not in kinds or not Path(path).absolute().parent.is_dir():
            raise UserError(
                f"--output={path}",
                where="command line",
                expected=f"a file that ends in {', '.join(kinds)}, in a folder that is there",
                do="--output=benchmark.json --output=benchmark.md",
            )


def write(path: str, result: Result, document: dict) -> None:
    """Writes one file: all of it (.json), a page (.md), its plot (.png), or one more row of a table (.csv)."""
    file = Path(path).absolute()
    if file.suffix == ".json":
        write_json(file, document)
    elif file.suffix == ".md":
        write_text(file, result.markdown(document["part"]))
    elif file.suffix == PLOT:
        write_bytes(file, result.plot)
    else:
        row = pd.DataFrame([dict(_flat({name: value for name, value in document.items() if name != "config"}))])
        # Another run may have other figures: the table gets their columns.
        before = [pd.read_csv(file, dtype=str)] if file.exists() and file.stat().st_size else []
        write_text(file, pd.concat([*before, row.astype(str)], ignore_index=True).to_csv(index=False))


def read(path: str) -> dict:
    """A document that `write` has written.

    Raises:
        UserError: it is none.
    """
    try:
        document = json.loads(Path(path).read_text())
        rates = {name: [float(each) for each in of_name] for name, of_name in document["rates"].items()}
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, "no result of scripts/benchmark.py with rates") from error
    if not rates or not all(len(all_) and all(map(_is_rate, all_)) for all_ in rates.values()):
        raise _unreadable(path, "rates that are no numbers above 0")
    return document


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_rate(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _unreadable(path: str, found: str) -> UserError:
    return UserError(
        f"{os.fspath(path)}: {found}",
        where="--compare",
        expected="files that --output=NAME.json has written, of a part that measures rates",
        do="run both with --output first",
    )


def _flat(value: Mapping, path: str = "") -> Iterator[tuple[str, str | float]]:
    """Every number and word of nested dicts under a name like `environment.cores`; lists of dicts by their `name`."""
    for name, inner in value.items():
        here = f"{path}{name}"
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{here}.")
        elif isinstance(inner, list):
            named = {each["name"]: each for each in inner if isinstance(each, Mapping) and "name" in each}
            yield from _flat(named, f"{here}.")
        elif isinstance(inner, str | int | float):
            yield here, inner
