"""Logits as rows of a table for people, and the files that hold such rows."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.names import printable
from trainer.prediction import Meaning

NOT_FINITE = "the network gives numbers that are not finite"
ENDINGS = (".csv", ".jsonl", ".parquet")
# Between the classes of a cell of CSV.
SEPARATOR = ";"
# Rows of a Parquet file that are in memory at a time.
CHUNK = 4096


class Answers:
    """Logits as a row of a table for people.

    single_label: class, probability, class_2, probability_2, ...: the most probable ones.
    binary: class, probability_NAME of the class of 1.
    multi_label: class, a list of those above the threshold; probability_NAME of each.
    regression: value_NAME of each.
    And of all `name`, of the image, and `reason`, why it has no prediction.

    Args:
        top_k: classes of a single label; None: 1.
        threshold: the probability above which a class counts as predicted, binary and multi_label; None: 0.5, the
            decision that an evaluation counts.

    Raises:
        UserError: either is out of its range, or not of this task.
    """

    def __init__(self, meaning: Meaning, *, top_k: int | None = None, threshold: float | None = None):
        self._task, self._names = meaning.task, [printable(name) for name in meaning.names]
        self._top_k = 1 if top_k is None else top_k
        self._threshold = 0.5 if threshold is None else threshold
        most, decides = len(self._names), self._task in ("binary", "multi_label")
        single = self._task == "single_label"
        _expect("top_k", top_k, top_k is None or (single and 1 <= top_k <= most), f"1 to {most}", single, self._task)
        within = threshold is None or (decides and 0 <= threshold <= 1)
        _expect("threshold", threshold, within, "a probability, 0 to 1", decides, self._task)

    @property
    def columns(self) -> list[str]:
        """Names of all, in their order."""
        answer = self.row(np.zeros(1 if self._task == "binary" else len(self._names), np.float32))
        return ["name", *(name for name in answer if name != "reason"), "reason"]

    def row(self, logits: np.ndarray) -> dict[str, object]:
        """The columns that have a value, but for the name; [K] float32 logits."""
        if not np.isfinite(logits).all():
            return {"reason": NOT_FINITE}
        if self._task == "regression":
            return {f"value_{name}": short(value) for name, value in zip(self._names, logits, strict=True)}
        if self._task == "single_label":
            probabilities, answer = softmax(logits), {}
            for place, index in enumerate(np.argsort(-logits, kind="stable")[: self._top_k], start=1):
                which = "" if place == 1 else f"_{place}"
                answer |= {f"class{which}": self._names[index], f"probability{which}": short(probabilities[index])}
            return answer
        probabilities = [short(probability) for probability in sigmoid(logits)]
        with np.errstate(divide="ignore"):
            above = logits > np.log(self._threshold) - np.log1p(-self._threshold)
        if self._task == "binary":
            return {"class": self._names[int(above[0])], f"probability_{self._names[1]}": probabilities[0]}
        named = {f"probability_{name}": value for name, value in zip(self._names, probabilities, strict=True)}
        return {"class": [self._names[index] for index in np.flatnonzero(above)], **named}


def softmax(logits: np.ndarray) -> np.ndarray:
    """[K] -> [K] float64."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    return shares / shares.sum()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """[K] -> [K] float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def short(value: float) -> float:
    """The shortest number that float32 tells from all others."""
    return float(str(np.float32(value)))


def _expect(flag: str, value: object, holds: bool, expected: str, known: bool, task: str) -> None:
    if not holds:
        raise UserError(
            f"--{flag}={value}",
            where="command line",
            expected=expected if known else f"no --{flag} for the task {task}",
            do="correct it" if known else "leave it out",
        )


@contextlib.contextmanager
def writer(path: Path, columns: Sequence[str], *, lists: bool = False) -> Iterator[Callable[[dict], None]]:
    """A function that takes row after row; the file is there once all are written, and not before.

    Args:
        path: in one of ENDINGS.
        columns: of the table; a row may lack some.
        lists: whether `class` is a list of names, as of several labels.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    if path.suffix not in ENDINGS:
        expected = f"a name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise UserError(f"--output={path}", where="command line", expected=expected, do="rename it")
    open_rows = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        part.touch()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"the predictions cannot be written: {error}",
            where="--output",
            expected="a file in a folder that is there and can be written",
            do="choose another --output",
        ) from error
    try:
        with open_rows(part, columns, lists) as write:
            yield write
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(path: Path, columns: Sequence[str], lists: bool) -> Iterator[Callable[[dict], None]]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        yield lambda row: table.writerow({name: cell(value) for name, value in row.items()})


@contextlib.contextmanager
def _jsonl(path: Path, columns: Sequence[str], lists: bool) -> Iterator[Callable[[dict], None]]:
    with open(path, "w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(dict.fromkeys(columns) | row, allow_nan=False), file=file)


@contextlib.contextmanager
def _parquet(path: Path, columns: Sequence[str], lists: bool) -> Iterator[Callable[[dict], None]]:
    """Text for names, classes and reasons, float64 for all else; what a row lacks is null."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "pyarrow is not installed, which writes Parquet",
            where="--output",
            expected="the package pyarrow, or a name in .csv or .jsonl",
            do="pip install 'onward[parquet]'",
        ) from error
    text = pyarrow.string()

    def kind(column: str) -> pyarrow.DataType:
        if column == "class" and lists:
            return pyarrow.list_(text)
        return text if column in ("name", "reason", "class") or column.startswith("class_") else pyarrow.float64()

    schema = pyarrow.schema([(column, kind(column)) for column in columns])
    waiting: list[dict] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as file:

        def flush() -> None:
            file.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(row: dict) -> None:
            waiting.append(row)
            if len(waiting) == CHUNK:
                flush()

        yield write
        flush()


def cell(value: object) -> object:
    """A value as a cell of text: of a list its entries, joined."""
    return SEPARATOR.join(value) if isinstance(value, list) else value


def sentence(row: dict) -> str:
    """A row for a terminal."""
    classes = [value for column, value in row.items() if column == "class" or column.startswith("class_")]
    figures = {column: value for column, value in row.items() if column.startswith(("probability", "value_"))}
    if "probability" in figures:
        told = [f"{name} {float(share):.4f}" for name, share in zip(classes, figures.values(), strict=True)]
    else:
        told = [f"{name.split('_', 1)[-1]} {float(value):.4f}" for name, value in figures.items()]
        told = [*([cell(row["class"]) or "no class"] if "class" in row else []), *told]
    return f"{row['name']}: {', '.join(told)}"
