"""What people write into the columns of a table -> columns of `Examples`, or one complaint that names the rows."""

import os
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

from data.errors import UserError
from data.examples import SPLITS
from data.names import natural
from data.sources.folder import SPLIT_FOLDERS

LISTED = 10


def bad_rows(
    what: str, rows: np.ndarray, show: Callable[[int], str], *, where: str, expected: str, do: str
) -> UserError:
    """The error that counts all bad rows and shows the first ten. Rows count from 1, without the header.

    Args:
        rows: indexes or a mask.
        show: what to print of the row with this index.
    """
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    listed = "; ".join(f"row {row + 1}: {show(row)}" for row in rows[:LISTED].tolist())
    more = f"; and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return UserError(f"{len(rows)} rows {what}: {listed}{more}", where=where, expected=expected, do=do)


def text(column: pd.Series) -> pd.Series:
    """As text, with None or nan where a cell is empty; whole numbers without a decimal point."""
    if pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    column = column.astype(object if column.dtype == object else "str")
    return column.where(column != "")


def numbers(column: pd.Series, *, above: float | None = None, least: float | None = None, where: str) -> np.ndarray:
    """[N] float32, finite.

    Raises:
        UserError: cells that are no such number.
    """
    with np.errstate(over="ignore"):
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    good = np.isfinite(values)
    expected = "finite numbers"
    if above is not None:
        good, expected = good & (values > above), f"numbers above {above:g}"
    if least is not None:
        good, expected = good & (values >= least), f"numbers, at least {least:g}"
    if not good.all():
        raise bad_rows("hold no such number", ~good, _cell(column), where=where, expected=expected, do="correct them")
    return values


def splits(column: pd.Series, *, where: str) -> np.ndarray:
    """[N] int8 indexes into SPLITS, -1 where the cell is empty.

    Raises:
        UserError: cells that name no split.
    """
    codes, found = pd.factorize(text(column))
    indexes = [SPLITS.index(SPLIT_FOLDERS[name]) if name in SPLIT_FOLDERS else -2 for name in map(str, found)]
    stated = np.array([*indexes, -1], np.int8)[codes]
    if (stated == -2).any():
        raise bad_rows(
            "name no split",
            stated == -2,
            _cell(column),
            where=where,
            expected=f"one of {', '.join(SPLIT_FOLDERS)}, or an empty cell where train.split may choose",
            do="correct them",
        )
    return stated


def groups(column: pd.Series, *, where: str) -> np.ndarray:
    """[N] bytes.

    Raises:
        UserError: empty cells.
    """
    cells = text(column)
    if cells.isna().any():
        raise bad_rows(
            "have no group",
            cells.isna().to_numpy(),
            lambda row: "empty",
            where=where,
            expected="a group in each row",
            do="fill them in: a name of its own for an image that stands alone",
        )
    return np.array([os.fsencode(str(cell)) for cell in cells])


def stated_names(class_names: Sequence[str] | None, *, task: str, where: str) -> tuple[str, ...] | None:
    """The class names that the user states, None if none.

    Raises:
        UserError: not a list, a name twice, other than two of a binary task.
    """
    if class_names is None:
        return None
    names = tuple(map(str, class_names))
    wrong = isinstance(class_names, str) or len(set(names)) < len(names) or not names
    if wrong or (task == "binary" and len(names) != 2):
        raise UserError(
            f"class_names = {class_names!r}",
            where=where,
            expected="two names, for 0 and for 1" if task == "binary" else "a list of names, each once",
            do="correct class_names",
        )
    return names


def labels(
    columns: pd.DataFrame, *, task: str, class_names: Sequence[str] | None, separator: str | None = None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names out of the label columns.

    Args:
        columns: single_label, binary: one column of names or whole numbers; multi_label: one column of lists, or of
            text with a separator, or K columns of 0 and 1; regression: K columns of numbers.
        task: as in `Examples`.
        class_names: their order; None takes the natural order of what is there, or the names of the K columns. If they
            are stated and the column holds nothing but whole numbers, these are indexes into them.
        separator: what stands between the names of one cell.

    Returns:
        as `Examples.labels` and `Examples.class_names`.

    Raises:
        UserError: empty cells, unknown names, numbers that are none.
    """
    names = stated_names(class_names, task=task, where=where)
    if task in ("single_label", "binary"):
        return _classes(columns.iloc[:, 0], task=task, names=names, where=where)
    if task == "multi_label" and columns.shape[1] == 1:
        return _sets(columns.iloc[:, 0], names=names, separator=separator, where=where)
    if names is not None and len(names) != columns.shape[1]:
        raise UserError(
            f"{len(names)} class names for {columns.shape[1]} label columns",
            where=where,
            expected="a name for each column, in their order",
            do="correct class_names, or leave it out",
        )
    values = np.stack([numbers(columns.iloc[:, k], where=f"{where}[{k}]") for k in range(columns.shape[1])], axis=1)
    if task == "multi_label":
        wrong = ((values != 0) & (values != 1)).any(axis=1)
        if wrong.any():
            raise bad_rows(
                "have labels other than 0 and 1",
                wrong,
                lambda row: str(values[row].tolist()),
                where=where,
                expected="0 or 1 in each label column",
                do="correct them, or set task = 'regression'",
            )
    return values, names or tuple(map(str, columns.columns))


def _classes(
    column: pd.Series, *, task: str, names: tuple[str, ...] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    cells = text(column)
    if cells.isna().any():
        raise bad_rows(
            "have no label",
            cells.isna().to_numpy(),
            lambda row: "empty",
            where=where,
            expected="a class in each row",
            do="fill them in, or remove the rows",
        )
    codes, found = _factorize(cells, column, where)
    found = [str(name) for name in found]
    if task == "binary" and {name.lower() for name in found} <= {"true", "false"}:
        found = [str(int(name.lower() == "true")) for name in found]
        names = names or ("false", "true")
    if task == "binary" and names is None and set(found) <= {"0", "1"}:
        names = ("0", "1")
    names = names or tuple(sorted(found, key=natural))
    if task == "binary" and len(names) != 2:
        raise UserError(
            f"{len(names)} classes of a binary task: {', '.join(map(repr, names[:LISTED]))}",
            where=where,
            expected="two: 0 and 1, false and true, or two names",
            do="correct the labels, or set task = 'single_label'",
        )
    indexes = _indexes(found, names)[codes]
    if (indexes < 0).any():
        raise _unknown(indexes < 0, column, names, where)
    return indexes, names


def _sets(
    column: pd.Series, *, names: tuple[str, ...] | None, separator: str | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each distinct cell is taken apart once."""
    if separator is None:
        cells = pd.Series([_members(cell) for cell in column], dtype=object)
        wrong = cells.isna().to_numpy()
        if wrong.any():
            raise bad_rows(
                "hold no list",
                wrong,
                _cell(column),
                where=where,
                expected="lists of classes, or text with a separator",
                do="state table.separator, for example ';', or name several 0/1 columns in table.label",
            )
    else:
        cells = (
            text(column)
            .fillna("")
            .map(lambda cell: tuple(part.strip() for part in str(cell).split(separator) if part.strip()))
        )
    codes, found = _factorize(cells, column, where)
    distinct = list(dict.fromkeys(name for members in found for name in members))
    names = names or tuple(sorted(distinct, key=natural))
    index = dict(zip(distinct, _indexes(distinct, names).tolist(), strict=True))
    targets = np.zeros((len(found), len(names)), np.float32)
    unknown = np.zeros(len(found), bool)
    for row, members in enumerate(found):
        targets[row, [index[name] for name in members]] = 1
        unknown[row] = any(index[name] < 0 for name in members)
    if unknown.any():
        raise _unknown(unknown[codes], column, names, where)
    return targets[codes], names


def _members(cell: object) -> tuple[str, ...] | None:
    """The names in a list; an empty cell has none. None: not a list."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return tuple(map(str, cell))
    return () if cell is None or cell is pd.NA or cell != cell else None


def _factorize(cells: pd.Series, column: pd.Series, where: str) -> tuple[np.ndarray, Iterable[Hashable]]:
    try:
        return pd.factorize(cells)
    except TypeError as error:
        wrong = np.array([not isinstance(cell, Hashable) for cell in cells])
        raise bad_rows(
            "hold more than one label",
            wrong,
            _cell(column),
            where=where,
            expected="one class in each row",
            do="set task = 'multi_label', or correct them",
        ) from error


def _indexes(found: Sequence[str], names: tuple[str, ...]) -> np.ndarray:
    """Index into `names` of each name found, -1 where it is unknown; whole numbers may be indexes themselves."""
    places = {name: place for place, name in enumerate(names)}
    if found and not set(found) & set(names) and all(name.isdecimal() for name in found):
        return np.array([int(name) if int(name) < len(names) else -1 for name in found], np.int32)
    return np.array([places.get(name, -1) for name in found], np.int32)


def _unknown(rows: np.ndarray, column: pd.Series, names: tuple[str, ...], where: str) -> UserError:
    return bad_rows(
        "have a class that class_names does not list",
        rows,
        _cell(column),
        where=where,
        expected=f"{', '.join(map(repr, names[:20]))}{' ...' if len(names) > 20 else ''}",
        do="correct the rows, or class_names",
    )


def _cell(column: pd.Series) -> Callable[[int], str]:
    def show(row: int) -> str:
        cell = column.iloc[row]
        return "empty" if np.ndim(cell) == 0 and pd.isna(cell) else repr(cell)

    return show
