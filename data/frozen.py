"""The data of a session as it was at its first start: the table, its split, what was seen of the images."""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np

from data.decode import Decoding
from data.errors import UserError
from data.examples import SPLITS, Examples
from data.inspection import Inspection
from data.names import printable


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


def save(path: Path, frozen: Frozen) -> None:
    """Writes all but pixels, atomically, as an `.npz` without pickles."""
    examples, decoding = frozen.examples, frozen.decoding
    temporary = path.with_name(path.name + ".part")
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
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def restore(path: Path, found: Examples) -> tuple[Frozen, np.ndarray]:
    """Goes on with the table that the session froze at its first start.

    Args:
        path: file that `save` wrote.
        found: what the source gives today; supplies root, pixels or store.

    Returns:
        the frozen data, and [M] int64, the rows whose files the source no longer has.

    Raises:
        UserError: the file is damaged, an example has another label, or the image of one is gone from memory or store.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        split, names = columns.pop("split"), columns["names"]
        inspection = Inspection(**{name: columns.pop(f"seen_{name}") for name in Inspection.names()})
        class_names = tuple(str(name) for name in columns.pop("class_names"))
        task, shares = str(columns.pop("task")), tuple(columns.pop("shares").tolist())
        decoding = Decoding(int(columns.pop("short_side")) or None, tuple(columns.pop("background").tolist()))
        whole = all(len(column) == len(names) for column in (split, inspection.sizes, *columns.values()))
        table = Examples(**columns, class_names=class_names, task=task, shares=shares)
    except (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    if not whole:
        raise _damaged(path, "its columns differ in length")
    order = np.argsort(found.names)
    places = np.searchsorted(found.names, names, sorter=order).clip(max=max(len(found) - 1, 0))
    rows = order[places]
    gone = found.names[rows] != names
    same_kind = (found.class_names, found.task) == (class_names, task)
    wrong = gone & (found.root is None)
    if found.labels.shape[1:] == table.labels.shape[1:]:
        wrong |= ~gone & (found.labels[rows] != table.labels).reshape(len(rows), -1).any(axis=1)
    if not same_kind or wrong.any():
        listed = ", ".join(printable(bytes(name)) for name in names[np.flatnonzero(wrong)[:5]])
        what = f"{wrong.sum()} of {len(names)} examples are gone or have another label ({listed})"
        raise UserError(
            f"the data set is not the one this session was started with: {what if wrong.any() else 'other classes'}",
            where=f"{found.root or 'the source'} with the classes {', '.join(found.class_names)}, against {path}",
            expected=f"{len(names)} examples of the classes {', '.join(class_names)}",
            do="put the files back, or start a new --workdir",
        )
    pixels = found.pixels
    if pixels is not None and not np.array_equal(rows, np.arange(len(found))):
        pixels = pixels[rows]
    store_rows = None if found.store_rows is None else found.store_rows[rows]
    places = {"root": found.root, "pixels": pixels, "store": found.store, "store_rows": store_rows}
    restored = dataclasses.replace(table, **places, notes=found.notes)
    return Frozen(restored, split, inspection, decoding), np.flatnonzero(gone)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the frozen table of the data set cannot be read: {reason}",
        where=str(path),
        expected="the file as the session wrote it at its first start",
        do="put it back from a copy, or start a new --workdir",
    )
