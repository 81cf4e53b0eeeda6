"""The `Examples` table: where the pixels are and what is known of them. Every source ends in one."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError
from data.names import natural, printable

if TYPE_CHECKING:
    from data.store import Store

SPLITS = ("train", "validation", "test")
# What a label is: one class out of K; yes or no; any number of K classes; K numbers.
TASKS = ("single_label", "binary", "multi_label", "regression")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """N labelled images, as files below a root, as an array in memory or as canvases in a store.

    Attributes:
        names: [N] bytes, the identity of each example: its path relative to `root`, or a made-up one.
        labels: single_label: [N] int32 in [0, K); binary: [N] int32, 0 or 1; multi_label: [N, K] float32, each 0 or 1;
            regression: [N, K] float32, any finite number.
        class_names: K names in the order of the model's outputs; of a binary task two, for 0 and for 1.
        task: one of TASKS.
        weights: [N] float32, at least 0; factor of the example in loss and metrics.
        repeats: [N] float32, above 0; how often an epoch shows the example, see `data.sampling`.
        groups: [N] bytes; examples of one group never part at a split. None: each example stands alone.
        origins: [N] int16, index into `shares` of the source that a mixture took the example from; 0 elsewhere.
        shares: share of the stream that each source of a mixture gets, summing to 1; empty elsewhere.
        root: folder of the files, or None.
        pixels: [N, H, W, 3] uint8, or None.
        store: the store that holds the canvases, or None.
        store_rows: [N] int64, row of each example in the store; None without one.
        stated_split: [N] int8, index into SPLITS where the source states one, else -1.
        orientations: [N] int8, EXIF orientations 1 to 8 of files whose pixels are to be turned; 1 is upright.
        kinds: [N] int8, how each file is decoded, see `data.decode.decode`; None before anybody has looked.
        refused: names that the source found and will not read (a link out of the root), each with the reason. They
            count as images that do not decode.
        notes: what the source wants the user to know, one sentence each.
    """

    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    task: str = "single_label"
    weights: np.ndarray
    repeats: np.ndarray
    groups: np.ndarray | None = None
    origins: np.ndarray
    shares: tuple[float, ...] = ()
    root: str | None = None
    pixels: np.ndarray | None = None
    store: "Store | None" = None
    store_rows: np.ndarray | None = None
    stated_split: np.ndarray
    orientations: np.ndarray
    kinds: np.ndarray | None = None
    refused: tuple[tuple[bytes, str], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        names: Sequence[bytes] | np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        task: str = "single_label",
        weights: np.ndarray | None = None,
        repeats: np.ndarray | None = None,
        groups: Sequence[bytes] | np.ndarray | None = None,
        root: str | None = None,
        pixels: np.ndarray | None = None,
        store: "Store | None" = None,
        store_rows: np.ndarray | None = None,
        stated_split: np.ndarray | None = None,
        orientations: np.ndarray | None = None,
        refused: Sequence[tuple[bytes, str]] = (),
        notes: Sequence[str] = (),
    ) -> "Examples":
        """Builds a table with the defaults filled in (weight 1, shown once, no stated split) and its shapes checked.

        Raises:
            UserError: a name is there twice.
            ValueError: the columns do not fit each other; a bug in the source, not the user's mistake.
        """
        names = np.asarray(names, dtype=np.bytes_)
        count = len(names)
        vectors = task in ("multi_label", "regression")
        table = cls(
            names=names,
            labels=np.asarray(labels, np.float32 if vectors else np.int32),
            class_names=tuple(class_names),
            task=task,
            weights=np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32),
            repeats=np.ones(count, np.float32) if repeats is None else np.asarray(repeats, np.float32),
            groups=None if groups is None else np.asarray(groups, np.bytes_),
            origins=np.zeros(count, np.int16),
            root=root,
            pixels=pixels,
            store=store,
            store_rows=None if store_rows is None else np.asarray(store_rows, np.int64),
            stated_split=np.full(count, -1, np.int8) if stated_split is None else np.asarray(stated_split, np.int8),
            orientations=np.ones(count, np.int8) if orientations is None else np.asarray(orientations, np.int8),
            refused=tuple(refused),
            notes=tuple(notes),
        )
        table._check()
        return table

    def _check(self) -> None:
        count, classes = len(self), len(self.class_names)
        if self.task not in TASKS:
            raise ValueError(f"Received: task {self.task!r}  Expected: one of {', '.join(TASKS)}")
        vectors = self.task in ("multi_label", "regression")
        for column, values in self.columns().items():
            shape = (count, classes) if column == "labels" and vectors else (count,)
            if values.shape != shape:
                raise ValueError(f"Received: {column} of shape {values.shape}  Expected: {shape}")
        missing = [source is None for source in (self.root, self.pixels, self.store)]
        if missing[:2] == [False, False] or all(missing):
            raise ValueError("Received: both or none of root and pixels  Expected: one of them, or a store")
        if (self.store is None) != (self.store_rows is None):
            raise ValueError("Received: one of store and store_rows  Expected: both or none")
        pixels = self.pixels
        if pixels is not None and (pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[::3] != (count, 3)):
            raise ValueError(f"Received: pixels {pixels.dtype} {pixels.shape}  Expected: uint8 [{count}, H, W, 3]")
        ordered = np.sort(self.names)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if len(twice):
            listed = ", ".join(os.fsdecode(bytes(name)) for name in twice[:5])
            raise UserError(
                f"{len(twice)} names of examples are there again: {listed}",
                where="the table that train.source returns",
                expected="a name of its own for each example: the split and a resumed run find it by that",
                do="make the names different",
            )
        if self.task == "binary" and classes != 2:
            raise ValueError(f"Received: {classes} class names of a binary task  Expected: two, for 0 and for 1")
        if count and not vectors and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(f"Received: labels outside 0..{classes - 1}")
        if self.task == "multi_label" and not ((self.labels == 0) | (self.labels == 1)).all():
            raise ValueError("Received: multi-label targets other than 0 and 1")
        for column in (self.weights, self.repeats, *([self.labels] if self.task == "regression" else [])):
            if not np.isfinite(column).all():
                raise ValueError("Received: weights, repeats or targets that are not finite")

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are there, by name; all are as long as the table."""
        names = ("names", "labels", "weights", "repeats", "groups", "origins", "stated_split", "orientations", "kinds")
        columns = {name: getattr(self, name) for name in (*names, "store_rows")}
        return {name: column for name, column in columns.items() if column is not None}

    @property
    def outputs(self) -> int:
        """Outputs of the network: one a class or number, a single one for a binary task."""
        return 1 if self.task == "binary" else len(self.class_names)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> "Examples":
        """The table of these rows (indexes or a mask), in their order."""
        columns = {name: column[rows] for name, column in self.columns().items()}
        return dataclasses.replace(self, **columns, pixels=None if self.pixels is None else self.pixels[rows])

    def where(self, row: int) -> str:
        """What to call this example in a message: the path of its file, or its made-up name; printable."""
        name = os.fsdecode(bytes(self.names[row]))
        return printable(name if self.root is None else os.path.join(self.root, name))

    def fingerprint(self) -> str:
        """SHA-256 over all that is known of the examples and pixels in memory; the content of files is not read."""
        digest = hashlib.sha256(repr((len(self), self.class_names, self.task, self.shares)).encode())
        for name, column in self.columns().items():
            if name not in ("orientations", "kinds", "store_rows"):
                digest.update(repr((name, column.dtype.str, column.shape)).encode() + column.tobytes())
        if self.pixels is not None:
            digest.update(np.ascontiguousarray(self.pixels))
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One example of a `Stream`.

    Attributes:
        name: its identity, its own in the stream.
        image: the bytes of an image file, or uint8 [H, W, 1 or 3].
        label: as `Stream.task` says: class index or name of the class; 0 or 1; [K] float32.
        weight, repeat, split, group, origin: as the columns of `Examples`.
    """

    name: bytes
    image: bytes | np.ndarray
    label: int | str | np.ndarray
    weight: float = 1.0
    repeat: float = 1.0
    split: int = -1
    group: bytes | None = None
    origin: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Examples that can only be read one after the other. `data.store.pack` makes a table of them, once.

    Attributes:
        records: starts from the beginning, always in the same order.
        title: what to call the source in messages.
        count: how many there are, None if nobody knows before the end.
        class_names: as in `Examples`; None takes the names, or numbers from 0, that the labels show.
        task: one of TASKS.
        fingerprint: facts that change when the source does, by name, for example file -> size and time. Cheap to get.
        shares, refused, notes: as in `Examples`.
    """

    records: Callable[[], Iterator[Record]]
    title: str
    count: int | None = None
    class_names: tuple[str, ...] | None = None
    task: str = "single_label"
    fingerprint: dict[str, str]
    shares: tuple[float, ...] = ()
    refused: tuple[tuple[bytes, str], ...] = ()
    notes: tuple[str, ...] = ()


def record_columns(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """What records of a stream say besides name and image, as columns that `table_of` takes."""
    return {
        "labels": np.array([record.label for record in records]),
        "weights": np.array([record.weight for record in records], np.float32),
        "repeats": np.array([record.repeat for record in records], np.float32),
        "stated_split": np.array([record.split for record in records], np.int8),
        "groups": np.array([record.group or b"" for record in records], np.bytes_),
        "origins": np.array([record.origin for record in records], np.int16),
    }


def table_of(stream: Stream, names: np.ndarray, columns: dict[str, np.ndarray], **places) -> Examples:
    """The table of a stream that was read to its end.

    Args:
        names: [N] bytes.
        columns: as `record_columns` gives them.
        places: where the pixels are, and what else `Examples.of` takes.

    Raises:
        UserError: a label that is of no class.
    """
    labels, named = columns["labels"], columns["labels"].dtype.kind == "U"
    class_names = stream.class_names
    if class_names is None:
        class_names = (
            tuple(sorted(set(labels.tolist()), key=natural)) if named else tuple(map(str, range(int(labels.max()) + 1)))
        )
    if named:
        indexes = {name: index for index, name in enumerate(class_names)}
        labels = np.array([indexes.get(label, -1) for label in labels.tolist()], np.int32)
    strange = np.flatnonzero((labels < 0) | (labels >= len(class_names))) if labels.ndim == 1 else []
    if len(strange):
        raise UserError(
            f"{len(strange)} labels are of no class, first: {columns['labels'][strange[0]]} of "
            f"{printable(bytes(names[strange[0]]))}",
            where=stream.title,
            expected=f"one of the {len(class_names)} classes {', '.join(class_names[:5])} ...",
            do="correct class_names or the labels",
        )
    given = {name: columns[name] for name in ("weights", "repeats", "stated_split")}
    groups = columns["groups"] if (columns["groups"] != b"").any() else None
    table = Examples.of(
        names=names,
        labels=labels,
        class_names=class_names,
        task=stream.task,
        groups=groups,
        refused=stream.refused,
        notes=stream.notes,
        **given,
        **places,
    )
    return dataclasses.replace(table, origins=columns["origins"], shares=stream.shares)
