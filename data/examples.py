"""The `Examples` table: where the pixels are and what is known of them. Every source ends in one."""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """N labelled images, as files below a root or as an array in memory.

    Attributes:
        names: [N] bytes, the identity of each example: its path relative to `root`, or a made-up one.
        labels: [N] int32 in [0, len(class_names)).
        class_names: in the order of the model's outputs.
        weights: [N] float32, at least 0; factor of the example in loss and metrics.
        root: folder of the files, or None when `pixels` holds the images.
        pixels: [N, H, W, 3] uint8 or None.
        stated_split: [N] int8, index into SPLITS where the source states one, else -1.
        orientations: [N] int8, EXIF orientations 1 to 8 of files whose pixels are to be turned; 1 is upright.
        notes: what the source wants the user to know, one sentence each.
    """

    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    weights: np.ndarray
    root: str | None = None
    pixels: np.ndarray | None = None
    stated_split: np.ndarray
    orientations: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        names: Sequence[bytes] | np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        weights: np.ndarray | None = None,
        root: str | None = None,
        pixels: np.ndarray | None = None,
        stated_split: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> "Examples":
        """Builds a table with the defaults filled in (weight 1, no stated split) and its shapes checked.

        Raises:
            ValueError: the columns do not fit each other; a bug in the source, not the user's mistake.
        """
        names = np.asarray(names, dtype=np.bytes_)
        count = len(names)
        table = cls(
            names=names,
            labels=np.asarray(labels, np.int32),
            class_names=tuple(class_names),
            weights=np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32),
            root=root,
            pixels=pixels,
            stated_split=np.full(count, -1, np.int8) if stated_split is None else np.asarray(stated_split, np.int8),
            orientations=np.ones(count, np.int8),
            notes=tuple(notes),
        )
        columns = {"labels": table.labels, "weights": table.weights, "stated_split": table.stated_split}
        for column, values in columns.items():
            if values.shape != (count,):
                raise ValueError(f"Received: {column} of shape {values.shape}  Expected: ({count},)")
        if (root is None) == (pixels is None):
            raise ValueError("Received: root and pixels both set or both None  Expected: exactly one of them")
        if pixels is not None and (pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[::3] != (count, 3)):
            raise ValueError(f"Received: pixels {pixels.dtype} {pixels.shape}  Expected: uint8 [{count}, H, W, 3]")
        different, times = np.unique(table.names, return_counts=True)
        if len(different) < count:
            twice = ", ".join(os.fsdecode(bytes(name)) for name in different[times > 1][:5])
            raise UserError(
                f"{count - len(different)} names of examples are there again: {twice}",
                where="the table that train.source returns",
                expected="a name of its own for each example: the split and a resumed run find it by that",
                do="make the names different",
            )
        if count and not (table.labels.min() >= 0 and table.labels.max() < len(table.class_names)):
            raise ValueError(f"Received: labels outside 0..{len(table.class_names) - 1}")
        return table

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> "Examples":
        """The table of these rows (indexes or a mask), in their order."""
        return dataclasses.replace(
            self,
            names=self.names[rows],
            labels=self.labels[rows],
            weights=self.weights[rows],
            stated_split=self.stated_split[rows],
            orientations=self.orientations[rows],
            pixels=None if self.pixels is None else self.pixels[rows],
        )

    def where(self, row: int) -> str:
        """What to call this example in a message: the path of its file, or its made-up name."""
        name = os.fsdecode(bytes(self.names[row]))
        return name if self.root is None else os.path.join(self.root, name)

    def fingerprint(self) -> str:
        """SHA-256 over names, labels, weights, classes and pixels in memory; the content of files is not read."""
        digest = hashlib.sha256(repr((len(self), self.class_names)).encode())
        for column in (self.names, self.labels, self.weights, self.stated_split):
            digest.update(repr((column.dtype.str, column.shape)).encode() + column.tobytes())
        if self.pixels is not None:
            digest.update(np.ascontiguousarray(self.pixels))
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a session keeps of its data from its first start on.

    Attributes:
        examples: the table, bad images already out.
        split: [N] int8, index into SPLITS.
        sizes: [N, 2] int32, height and width of each decoded canvas.
        short_side: the one the images were decoded for, see `data.decode.shrink_factor`.
    """

    examples: Examples
    split: np.ndarray
    sizes: np.ndarray
    short_side: int

    def parts(self) -> dict[str, Examples]:
        """The table of each split that is not empty."""
        parts = {name: self.examples.take(self.split == index) for index, name in enumerate(SPLITS)}
        return {name: part for name, part in parts.items() if len(part)}


def save(path: Path, frozen: Frozen) -> None:
    """Writes all but pixels in memory, atomically, as an `.npz` without pickles."""
    examples = frozen.examples
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        np.savez(
            file,
            names=examples.names,
            labels=examples.labels,
            weights=examples.weights,
            stated_split=examples.stated_split,
            orientations=examples.orientations,
            class_names=np.asarray(examples.class_names, np.str_),
            split=frozen.split,
            sizes=frozen.sizes,
            short_side=frozen.short_side,
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def restore(path: Path, found: Examples) -> Frozen:
    """Goes on with the table that the session froze at its first start.

    Args:
        path: file that `save` wrote.
        found: what the source gives today; supplies root and pixels.

    Raises:
        UserError: the file is damaged, or an example of it is gone or has another label.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        names, split, sizes = columns["names"], columns["split"], columns["sizes"]
        class_names = tuple(str(name) for name in columns["class_names"])
        labels, weights, stated_split = columns["labels"], columns["weights"], columns["stated_split"]
        orientations, short_side = columns["orientations"], int(columns["short_side"])
        each = (labels, weights, stated_split, orientations, split, sizes[:, 0])
        whole = all(column.shape == names.shape for column in each)
    except (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    if not whole:
        raise _damaged(path, "its columns differ in length")
    order = np.argsort(found.names)
    places = np.searchsorted(found.names, names, sorter=order).clip(max=max(len(found) - 1, 0))
    rows = order[places]
    gone = found.names[rows] != names
    if gone.any() or found.class_names != class_names or (found.labels[rows] != labels).any():
        changed = np.flatnonzero(gone | (found.labels[rows] != labels))
        listed = ", ".join(os.fsdecode(bytes(name)) for name in names[changed[:5]])
        what = f"{len(changed)} of {len(names)} examples are gone or have another label ({listed})"
        raise UserError(
            f"the data set is not the one this session was started with: {what if len(changed) else 'other classes'}",
            where=f"{found.root or 'the source'} with the classes {', '.join(found.class_names)}, against {path}",
            expected=f"{len(names)} examples of the classes {', '.join(class_names)}",
            do="put the files back, or start a new --workdir",
        )
    if found.pixels is not None and not np.array_equal(rows, np.arange(len(found))):
        found = found.take(rows)
    restored = dataclasses.replace(
        found,
        names=names,
        labels=labels,
        weights=weights,
        stated_split=stated_split,
        orientations=orientations,
        class_names=class_names,
    )
    return Frozen(restored, split, sizes, short_side)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the frozen table of the data set cannot be read: {reason}",
        where=str(path),
        expected="the file as the session wrote it at its first start",
        do="put it back from a copy, or start a new --workdir",
    )
