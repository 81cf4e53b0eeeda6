"""A row per image: CSV, TSV, JSON lines, Parquet or a DataFrame."""

import array
import os
from collections.abc import Callable, Sequence

import gin
import numpy as np
import pandas as pd

from data.errors import UserError
from data.examples import TASKS, Examples
from data.sources import columns

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".jsonl", ".ndjson")
JSON_ROWS = 50_000
SUFFIXES = (*DELIMITERS, *JSON_SUFFIXES, ".parquet")
MISSING = "no such file"


@gin.configurable
def table(
    path: str | None = None,
    *,
    frame: pd.DataFrame | None = None,
    root: str | None = None,
    image: str = "image",
    label: str | Sequence[str] = "label",
    task: str = "single_label",
    class_names: Sequence[str] | None = None,
    separator: str | None = None,
    weight: str | None = None,
    repeat: str | None = None,
    split: str | None = None,
    group: str | None = None,
) -> Examples:
    """A row per image; columns are named by the arguments, others are ignored.

    Args:
        path: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`, UTF-8 text with a header (CSV and TSV).
        frame: the table itself, in place of a path.
        root: folder that relative paths start from and that no path may leave; None: the folder of `path`.
        image: column of paths.
        label: column of labels, or several, see `data.sources.columns.labels`. A cell of a multi-label column may be
            empty: none of the classes.
        task: one of single_label, binary, multi_label, regression.
        class_names: order of the outputs; None: natural order of the names found.
        separator: what stands between the classes of one cell in a multi-label column of text.
        weight: column of weights, at least 0.
        repeat: column of repeat factors, above 0.
        split: column of train, validation or test; an empty cell leaves the choice to `train.split`.
        group: column of names; rows of one group never part at a split.

    Raises:
        UserError: no such file or column, rows whose file is missing or lies out of `root`, the same file in two rows,
            cells that hold no label, weight or split. All rows of one kind are reported together.
    """
    names = [label] if isinstance(label, str) else list(label)
    _check_arguments(path, frame, root, names, task)
    where = "the DataFrame" if path is None else path
    optional = {"weight": weight, "repeat": repeat, "split": split, "group": group}
    wanted = {"image": [image], "label": names} | {key: [name] for key, name in optional.items() if name is not None}
    used = list(dict.fromkeys(name for listed in wanted.values() for name in listed))

    if frame is None:
        path = os.path.abspath(os.path.expanduser(path))
        frame, there = _read(path, used)
    else:
        there = list(frame.columns)
    for argument, listed in wanted.items():
        odd = [name for name in listed if there.count(name) != 1]
        if odd:
            raise UserError(
                f"no column, or more than one, called {', '.join(map(repr, odd))} in {where}",
                where=f"gin binding table.{argument}",
                expected=f"one of the columns {', '.join(map(repr, there)) or '(none)'}",
                do=f"table.{argument} = 'COLUMN'",
            )
    frame = frame[used].reset_index(drop=True)
    if not len(frame):
        raise UserError("no rows", where=where, expected="a row for each image", do="fill the table")
    root = os.path.abspath(os.path.expanduser(os.path.dirname(path) if root is None else root))
    paths = _paths(frame[image], root, where)
    values, class_names = columns.labels(
        frame[names], task=task, class_names=class_names, separator=separator, where=f"{where}, table.label = {label!r}"
    )
    _check_repeated(paths, values, where)

    def read(column: str | None, reader: Callable[..., np.ndarray], **limits: float) -> np.ndarray | None:
        return None if column is None else reader(frame[column], where=f"{where}, column {column!r}", **limits)

    return Examples.of(
        names=np.array([os.fsencode(name) for name in paths]),
        labels=values,
        class_names=class_names,
        task=task,
        weights=read(weight, columns.numbers, least=0),
        repeats=read(repeat, columns.numbers, above=0),
        stated_split=read(split, columns.splits),
        groups=read(group, columns.groups),
        root=root,
    )


def _check_arguments(
    path: str | None, frame: pd.DataFrame | None, root: str | None, label: list[str], task: str
) -> None:
    if (path is None) == (frame is None):
        raise UserError(
            "no table is named" if path is None else "both a path and a DataFrame",
            where="gin binding table.path",
            expected=f"a file ending in one of {', '.join(SUFFIXES)}, or frame= in Python",
            do="table.path = 'photos/labels.csv'",
        )
    if path is None and root is None:
        raise UserError(
            "a DataFrame without the folder that its paths start from",
            where="table.root",
            expected="a folder",
            do="table(frame=..., root='photos')",
        )
    if task not in TASKS:
        raise UserError(
            f"task = {task!r}",
            where="gin binding table.task",
            expected=f"one of {', '.join(TASKS)}",
            do="correct it",
        )
    if not label or (task in ("single_label", "binary") and len(label) > 1):
        raise UserError(
            f"{len(label)} label columns with task = {task!r}",
            where="gin binding table.label",
            expected="one column; several for multi_label or regression",
            do="name one column, or set table.task",
        )


def _read(path: str, used: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Those of the columns `used` that are there, and the names of all that are there; cells of CSV and TSV as text.

    Raises:
        UserError: it is missing, of an unknown kind, or broken.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"a table of an unknown kind: {path}",
            where="gin binding table.path",
            expected=f"a file ending in one of {', '.join(SUFFIXES)}",
            do="convert it, or pass a DataFrame in Python",
        )
    try:
        if suffix in DELIMITERS:
            return _read_text(path, DELIMITERS[suffix])
        if suffix in JSON_SUFFIXES:
            return _read_json(path, used)
        import pyarrow.parquet

        there = pyarrow.parquet.read_schema(path).names
        columns_used = [name for name in used if name in there]
        return pyarrow.parquet.read_table(path, columns=columns_used).to_pandas(ignore_metadata=True), there
    except ImportError as error:
        raise UserError(
            f"{error.name or 'pyarrow'} is not installed, which reads Parquet",
            where=f"table.path = {path!r}",
            expected="the package pyarrow, or another kind of table",
            do="pip install 'onward[parquet]'",
        ) from error
    # ValueError: what pandas and Arrow raise for a broken file, ParserError and ArrowInvalid among them.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"cannot read {path}: {reason}",
            where="gin binding table.path",
            expected=f"a whole {suffix} file, UTF-8 text",
            do="correct the path or the file",
        ) from error


def _read_text(path: str, delimiter: str) -> tuple[pd.DataFrame, list[str]]:
    frame = pd.read_csv(
        path,
        sep=delimiter,
        # Names of files need not be UTF-8; text in Arrow, the default, must be.
        dtype=object,
        encoding="utf-8-sig",
        encoding_errors="surrogateescape",
        # A class may be called NA.
        keep_default_na=False,
        na_values=[""],
    )
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas takes the first cells for an index.
        raise ValueError("its rows have more cells than the header has names")
    return frame, list(frame.columns)


def _read_json(path: str, used: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Piece by piece: read at once, a million lines take 1.4 GiB."""
    there: dict[str, None] = {}
    pieces = []
    with pd.read_json(path, lines=True, dtype=False, chunksize=JSON_ROWS) as reader:
        for piece in reader:
            there |= dict.fromkeys(piece.columns)
            pieces.append(piece[[name for name in used if name in piece]])
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(), list(there)


def _paths(column: pd.Series, root: str, where: str) -> list[str]:
    """The paths below `root`; every folder is listed once. A file that is missing is an image that does not decode.

    Raises:
        UserError: names all rows that point out of `root` or at no file; or all rows point nowhere.
    """
    wrong: dict[int, str] = {}
    missing: dict[int, str] = {}
    paths = column.tolist()
    real_root = os.path.realpath(root)
    rows_in: dict[str, array.array] = {}
    for row, path in enumerate(paths):
        if not isinstance(path, str) or not path or "\0" in path:
            wrong[row] = f"{path!r} is no path"
            continue
        # Most paths are plain; normpath costs more than all the rest.
        if path[0] in "/." or "/." in path or "//" in path or path[-1] == "/":
            path = paths[row] = _below(path, root, real_root)
        folder = path.rpartition("/")[0]
        if folder not in rows_in:
            rows_in[folder] = array.array("q")
        rows_in[folder].append(row)
    for folder, rows in rows_in.items():
        # One listing at a time: those of a million files take 100 MiB.
        entries = _entries(root, real_root, folder)
        start = len(folder) + 1 if folder else 0
        for row in rows:
            reason = entries.get(paths[row][start:], entries.get("", MISSING))
            if reason is not None:
                (missing if reason == MISSING else wrong)[row] = f"{column.iloc[row]!r} {reason}"
    if wrong or len(missing) == len(paths):
        wrong |= missing
        raise columns.bad_rows(
            f"of {len(paths)} point to no image below {root}",
            np.array(sorted(wrong)),
            lambda row: wrong[row],
            where=f"{where}, column {column.name!r}",
            expected="paths of files, relative to table.root or absolute below it",
            do="correct the paths, or set table.root to the folder they start from",
        )
    return paths


def _below(path: str, root: str, real_root: str) -> str:
    """The path relative to `root`, without detours; it starts with `..` if it leads out."""
    if not os.path.isabs(path):
        return os.path.normpath(path)
    path = os.path.normpath(path)
    return os.path.relpath(path, root if _within(path, root) else real_root)


def _entries(root: str, real_root: str, folder: str) -> dict[str, str | None]:
    """What is in a folder below `root`: for each name why it is not taken, or None; "" stands for all other names."""
    path = os.path.join(root, folder)
    if folder.split("/")[0] == ".." or not _within(os.path.realpath(path), real_root):
        return {"": "leads out of it"}
    try:
        with os.scandir(path) as entries:
            return {entry.name: _reason(entry, real_root) for entry in entries}
    except FileNotFoundError:
        return {}
    except OSError as error:
        return {"": f"cannot be looked up: {error.strerror}"}


def _reason(entry: os.DirEntry, real_root: str) -> str | None:
    if entry.is_file(follow_symlinks=False):
        return None
    if entry.is_symlink() and not _within(os.path.realpath(entry.path), real_root):
        return "is a link that leads out of it"
    # Not the methods of the entry: they raise for a link that leads to itself.
    return None if os.path.isfile(entry.path) else "is a folder" if os.path.isdir(entry.path) else "is no file"


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _check_repeated(paths: list[str], labels: np.ndarray, where: str) -> None:
    names = pd.Series(paths, dtype=object)
    again = names.duplicated().to_numpy()
    if not again.any():
        return
    first = {path: row for row, path in reversed(list(enumerate(paths)))}

    def show(row: int) -> str:
        before = first[paths[row]]
        agree = "same label" if np.array_equal(labels[row], labels[before]) else "ANOTHER LABEL"
        return f"{paths[row]!r} is that of row {before + 1}, {agree}"

    conflicts = sum(not np.array_equal(labels[row], labels[first[paths[row]]]) for row in np.flatnonzero(again))
    raise columns.bad_rows(
        f"({conflicts} with conflicting labels) list a file that an earlier row lists",
        again,
        show,
        where=where,
        expected="each file once; table.repeat names a column that shows it more often",
        do="remove the rows, or put several classes into one row (table.task = 'multi_label')",
    )
