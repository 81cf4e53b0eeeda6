"""The data of a session as it was at its first start: the table, its split, what was seen of the images."""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from data import npz
from data.decode import Decoding
from data.errors import UserError
from data.examples import SPLITS, Examples
from data.inspection import Inspection
from data.names import printable

# Columns that shape the weights, and the images, as --allow_change calls them.
COLUMNS = {f"data.{column}": column for column in ("labels", "weights", "repeats")}
IMAGES = "data.images"
LISTED = 5


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a session keeps of its data from its first start on.

    Attributes:
        examples: the table, sorted by name, bad images already out.
        split: [N] int8, index into SPLITS.
        inspection: what was seen of each image.
        decoding: how the images were decoded.
    """

    examples: Examples
    split: np.ndarray
    inspection: Inspection
    decoding: Decoding

    def parts(self) -> dict[str, Examples]:
        """The table of each split that is not empty."""
        parts = {name: self.examples.take(self.split == index) for index, name in enumerate(SPLITS)}
        return {name: part for name, part in parts.items() if len(part)}


def save(path: Path, frozen: Frozen, *, session: str | None = None) -> None:
    """Writes all but pixels, atomically, as an `.npz` without pickles.

    Args:
        session: whose it is; None: nobody's.
    """
    examples, decoding = frozen.examples, frozen.decoding
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                **{name: column for name, column in examples.columns().items() if name != "store_rows"},
                **{f"seen_{name}": getattr(frozen.inspection, name) for name in Inspection.names()},
                class_names=np.asarray(examples.class_names, np.str_),
                task=examples.task,
                shares=np.asarray(examples.shares, np.float64),
                split=frozen.split,
                short_side=decoding.short_side or 0,
                background=np.asarray(decoding.background),
                session=session or "",
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(
    path: Path, found: Examples, *, session: str | None = None, allow: Collection[str] | None = None
) -> tuple[Frozen, np.ndarray]:
    """Goes on with the table that the session froze at its first start.

    Args:
        path: file that `save` wrote.
        found: what the source gives today; supplies root, pixels or store.
        session: whose the file has to be; None: anybody's.
        allow: those of COLUMNS that may differ from the first start and then are those of today, in a session that goes
            on; None: who only reads takes all columns from the file and wants the same labels.

    Returns:
        the frozen data, and [M] int64, the rows whose files the source no longer has.

    Raises:
        UserError: the file is damaged or of another session, an example has another label, or the image of one is gone
            from memory or store.
    """
    try:
        columns = npz.read(path)
        split, names = columns.pop("split"), columns["names"]
        inspection = Inspection(**{name: columns.pop(f"seen_{name}") for name in Inspection.names()})
        class_names = tuple(str(name) for name in columns.pop("class_names"))
        task, shares = str(columns.pop("task")), tuple(columns.pop("shares").tolist())
        owner = str(columns.pop("session", ""))
        decoding = Decoding(int(columns.pop("short_side")) or None, tuple(columns.pop("background").tolist()))
        whole = all(len(column) == len(names) for column in (split, inspection.sizes, *columns.values()))
        table = Examples(**columns, class_names=class_names, task=task, shares=shares)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, str(error)) from error
    if not whole:
        raise _damaged(path, "its columns differ in length")
    if session is not None and owner not in ("", session):
        raise _damaged(path, f"it is of another session, {owner}, not {session}")
    order = np.argsort(found.names)
    places = np.searchsorted(found.names, names, sorter=order).clip(max=max(len(found) - 1, 0))
    rows = order[places]
    gone = found.names[rows] != names
    lost = gone & (found.root is None)
    today = dataclasses.replace(found, pixels=None).take(rows)
    differing = {name: _differ(table, today, column) & ~gone for name, column in COLUMNS.items()}
    if allow is None:
        differing = {"data.labels": differing["data.labels"]}
    refused = {name: where for name, where in differing.items() if where.any() and name not in (allow or ())}
    if (found.class_names, found.task) != (class_names, task) or lost.any() or refused:
        raise _other_data(table, today, path=path, lost=lost, refused=refused, allow=allow)
    for name, changed in differing.items():
        column = COLUMNS[name]
        both = getattr(table, column).copy()
        both[changed] = getattr(today, column)[changed]
        table = dataclasses.replace(table, **{column: both})
    pixels = found.pixels
    if pixels is not None and not np.array_equal(rows, np.arange(len(found))):
        pixels = pixels[rows]
    store_rows = None if found.store_rows is None else found.store_rows[rows]
    places = {"root": found.root, "pixels": pixels, "store": found.store, "store_rows": store_rows}
    notes = (*found.notes, *_unused(table, found, today, gone))
    restored = dataclasses.replace(table, **places, notes=notes)
    return Frozen(restored, split, inspection, decoding), np.flatnonzero(gone)


def _unused(table: Examples, found: Examples, today: Examples, gone: np.ndarray) -> list[str]:
    """Sentences on what the source has today and a session that goes on makes no use of."""
    new = np.setdiff1d(found.names, table.names)
    others = (table.stated_split != today.stated_split) & ~gone
    sentences = []
    if len(new):
        sentences.append(f"{len(new)} images are not of this session and are not used: {_listed(new)}")
    if others.any():
        sentences.append(
            f"{others.sum()} images are now said to be of another split; the session keeps its own: "
            f"{_listed(table.names[others])}"
        )
    return sentences


def _listed(names: np.ndarray) -> str:
    return ", ".join(printable(bytes(name)) for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _differ(table: Examples, today: Examples, column: str) -> np.ndarray:
    """[N] bool; label vectors of another length are told by the classes."""
    ours, theirs = getattr(table, column), getattr(today, column)
    if column == "labels" and ours.ndim == theirs.ndim == 1 and table.class_names != today.class_names:
        ours, theirs = (np.asarray(side.class_names, np.str_)[side.labels] for side in (table, today))
    if ours.shape != theirs.shape:
        return np.zeros(len(table), bool)
    return (ours != theirs).reshape(len(table), -1).any(axis=1)


def _other_data(
    table: Examples,
    today: Examples,
    *,
    path: Path,
    lost: np.ndarray,
    refused: dict[str, np.ndarray],
    allow: Collection[str] | None,
) -> UserError:
    told = [f"{lost.sum()} of {len(table)} examples are gone: {_listed(table.names[lost])}"] if lost.any() else []
    for name, rows in refused.items():
        first = np.flatnonzero(rows)[:LISTED]
        some = [f"{printable(bytes(table.names[row]))}: {_change(table, today, COLUMNS[name], row)}" for row in first]
        told.append(f"{rows.sum()} of {len(table)} examples have other {COLUMNS[name]} ({'; '.join(some)})")
    do = "put the files back, or start a new --workdir"
    if table.task != today.task:
        told.append(f"the task {today.task} in place of {table.task}")
    elif table.class_names != today.class_names:
        sides = (("new", today.class_names, table.class_names), ("gone", table.class_names, today.class_names))
        listed = {what: [name for name in ones if name not in others] for what, ones, others in sides}
        changes = [f"{what}: {', '.join(names)}" for what, names in listed.items() if names]
        told.append(f"other classes ({'; '.join(changes) or 'in another order'})")
        do += " with --init_from=THIS WORKDIR, which goes on with other classes"
    elif allow is not None and not lost.any():
        do += f", or go on with those of today: --allow_change={','.join([*allow, *refused])}"
    return UserError(
        f"the data set is not the one this session was started with: {'; '.join(told)}",
        where=f"{today.root or 'the source'} with the classes {', '.join(today.class_names)}, against {path}",
        expected=f"{len(table)} examples of the classes {', '.join(table.class_names)}",
        do=do,
    )


def _change(table: Examples, today: Examples, column: str, row: int) -> str:
    """Old and new value of a cell."""
    cells = [getattr(examples, column)[row].tolist() for examples in (table, today)]
    if column == "labels" and table.task in ("single_label", "binary"):
        cells = [examples.class_names[cell] for examples, cell in zip((table, today), cells, strict=True)]
    return " -> ".join(map(str, cells))


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the frozen table of the data set cannot be read: {reason}",
        where=str(path),
        expected="the file as the session wrote it at its first start",
        do="put it back from a copy, or start a new --workdir",
    )
