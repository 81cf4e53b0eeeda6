"""Packed stores: decoded canvases in flat files that are mapped into memory, beside a table of what they hold.

FOLDER/manifest.json          what was packed, how, and a checksum per file; it is there only when all the rest is
FOLDER/canvases-00000.bin     uint8 canvases one after the other
FOLDER/canvases-00000.npz     the rows of that file: names, places, sizes, labels ...

`data.packing` writes them.
"""

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import npz
from data.decode import Decoding
from data.errors import UserError
from data.examples import Examples, Stream, table_of
from data.inspection import Inspection, in_order
from data.names import printable

FORMAT = 2
LISTED = 5
MANIFEST = "manifest.json"
# Rows that one thread compares at a time.
CHUNK = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """A store that is complete.

    Attributes:
        folder: where it lies.
        manifest: content of `manifest.json`.
        names: [N] bytes.
        inspection: of the N images, among them bad ones, which have no canvas.
        shard: [N] int32, index of the file that holds each canvas.
        offset: [N] int64, byte in that file at which it starts.
        columns: what a stream said of the examples; empty where the source is a table of its own.
    """

    folder: Path
    manifest: dict
    names: np.ndarray
    inspection: Inspection
    shard: np.ndarray
    offset: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def decoding(self) -> Decoding:
        """How its canvases were decoded."""
        return _decoding(self.manifest["decoding"])

    @property
    def length(self) -> int | None:
        """Bytes of a canvas, where all have the same number."""
        lengths = np.unique(self.inspection.sizes.astype(np.int64).prod(axis=1))
        lengths = lengths[lengths > 0]
        return int(lengths[0]) * 3 if len(lengths) == 1 else None

    def name(self, row: int) -> str:
        """What to call this row in a message."""
        return printable(bytes(self.names[row]))

    def examples(self, stream: Stream) -> Examples:
        """The table of the stream that was packed."""
        return table_of(
            stream,
            self.names,
            self.columns,
            store=self,
            store_rows=np.arange(len(self.names)),
            orientations=self.inspection.orientations,
        )

    def attach(self, examples: Examples) -> Examples:
        """A table of files with its canvases taken from here.

        Raises:
            KeyError: an example is not in the store.
        """
        return dataclasses.replace(examples, store=self, store_rows=rows_of(examples.names, self.names))

    def canvases(self, *, served: bool = False) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Maps the files into memory, for canvases of any size.

        Args:
            served: whoever runs the function maps them, on whatever host that is.

        Returns:
            function for graphs: row of the store, scalar int64 -> canvas [h * w * 3] uint8 and size [2] int32, as
            `data.decode.read_canvas` gives them.
        """
        size = self.inspection.sizes
        mapped = self._mapping(served)
        places = tf.constant(np.column_stack([self.shard, self.offset, size, size.astype(np.int64).prod(axis=1) * 3]))

        def read(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            place = tf.gather(places, row)
            branches = [lambda shard=shard: tf.slice(shard, place[1:2], place[4:5]) for shard in mapped()]
            pixels = branches[0]() if len(branches) == 1 else tf.switch_case(tf.cast(place[0], tf.int32), branches)
            return pixels, tf.cast(place[2:4], tf.int32)

        return read

    def equal_canvases(
        self, length: int, *, served: bool = False
    ) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Maps the files into memory, for canvases that all have the same number of bytes: copied once, not twice.

        Args:
            served: as in `canvases`.

        Returns:
            function for graphs: rows of the store, [B] int64 -> canvases [B, length] uint8 and sizes [B, 2] int32.
        """
        mapped = self._mapping(served)
        sizes, shards = tf.constant(self.inspection.sizes), tf.constant(self.shard)
        places = tf.constant(self.offset // length)

        def read(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            place = tf.gather(places, rows)
            matrices = [tf.reshape(shard, [-1, length]) for shard in mapped()]
            if len(matrices) == 1:
                return tf.gather(matrices[0], place), tf.gather(sizes, rows)
            shard = tf.gather(shards, rows)
            members = tf.dynamic_partition(tf.range(tf.size(rows)), shard, len(matrices))
            found = tf.dynamic_partition(place, shard, len(matrices))
            pixels = [tf.gather(matrix, part) for matrix, part in zip(matrices, found, strict=True)]
            return tf.dynamic_stitch(members, pixels), tf.gather(sizes, rows)

        return read

    def _mapping(self, served: bool) -> Callable[[], list[tf.Tensor]]:
        """What gives the files, mapped here once, or by whoever calls it."""
        if served:
            return self._mapped
        mapped = self._mapped()
        return lambda: mapped

    def _mapped(self) -> list[tf.Tensor]:
        with tf.device("CPU:0"):
            return [
                tf.raw_ops.ImmutableConst(
                    dtype=tf.uint8, shape=[shard["bytes"]], memory_region_name=str(self.folder / shard["file"])
                )
                if shard["bytes"]
                else tf.zeros([0], tf.uint8)  # Of nothing there is no map.
                for shard in self.manifest["shards"]
            ]

    def damage(self) -> list[str]:
        """Names of the files whose content is not what was written; reads all of them."""
        shards = self.manifest["shards"]
        found = in_order(lambda shard: sha256(self.folder / shard["file"]), shards)
        return [shard["file"] for shard, checksum in zip(shards, found, strict=True) if checksum != shard["sha256"]]


def rows_of(names: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[N] int64, where each of the names stands among others.

    Raises:
        KeyError: one is not there.
    """
    order = np.argsort(among)
    rows = order[np.searchsorted(among, names, sorter=order).clip(max=max(len(among) - 1, 0))] if len(among) else None
    if len(names) and (rows is None or (among[rows] != names).any()):
        raise KeyError("a name is not there")
    return np.zeros(0, np.int64) if rows is None else rows.astype(np.int64)


def open_store(folder: Path, source: Examples | Stream, *, decoding: Decoding) -> Store:
    """Opens a complete store and compares it with the source as it is now.

    Raises:
        UserError: there is none, it is damaged, or it was packed from something else; says what differs.
    """
    store = _load(folder, decoding)
    changes = _changes(store, source)
    if changes:
        raise UserError(
            f"the source changed since it was packed: {'; '.join(changes)}",
            where=str(folder),
            expected="the images as they were",
            do="put them back, or remove the folder and pack again",
        )
    return store


def open_for(folder: Path, examples: Examples, inspection: Inspection, *, decoding: Decoding) -> Store:
    """Opens the store that a table was frozen with, whatever has become of the files since.

    Args:
        inspection: what was seen of the examples when the table was frozen.

    Raises:
        UserError: there is none, it is damaged, or it does not hold these very images.
    """
    store = _load(folder, decoding)
    missing = np.setdiff1d(examples.names, store.names[store.inspection.reasons == b""])
    if len(missing):
        raise UserError(
            f"{len(missing)} images are not in the store, first: {printable(bytes(missing[0]))}",
            where=str(folder),
            expected="the store that the session was started with",
            do="put it back, or remove it",
        )
    others = other_images(inspection, store.inspection.take(rows_of(examples.names, store.names)))
    if len(others):
        raise UserError(
            f"{len(others)} images in the store are others of the same name, first: {examples.where(others[0])}",
            where=str(folder),
            expected="the store that the session was started with",
            do="put it back, or remove it",
        )
    return store


def other_images(before: Inspection, now: Inspection) -> np.ndarray:
    """Rows at which content or canvas differ from what they were."""
    other = (before.digests != now.digests).any(axis=1) | (before.sizes != now.sizes).any(axis=1)
    return np.flatnonzero(other)


def _load(folder: Path, decoding: Decoding) -> Store:
    store = _opened(folder)
    if store.decoding != decoding:
        raise UserError(
            f"the store holds canvases of {_said(store.decoding)}, the recipe wants {_said(decoding)}",
            where=str(folder),
            expected="a store that was packed with the same image_size, crop, fit and background",
            do="name another folder as train.store, or remove this one and pack again",
        )
    return store


def _opened(folder: Path) -> Store:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
        parts = []
        for shard in manifest["shards"]:
            size = (folder / _plain(shard["file"])).stat().st_size
            if size != shard["bytes"]:
                raise ValueError(f"{shard['file']} has {size} bytes, not {shard['bytes']}")
            parts.append(read_rows(folder / shard["file"]))
            if str(parts[-1].pop("sha256")) != shard["sha256"]:
                raise ValueError(f"the table beside {shard['file']} is that of other canvases")
            if len(parts[-1]["names"]) != shard["rows"]:
                raise ValueError(
                    f"the table of {shard['file']} has {len(parts[-1]['names'])} rows, not {shard['rows']}"
                )
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        store = Store(
            folder=folder,
            manifest=manifest,
            names=columns.pop("names"),
            offset=columns.pop("offset"),
            inspection=Inspection(**{name: columns.pop(name) for name in Inspection.names()}),
            shard=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part["names"]) for part in parts]),
            columns=columns,
        )
        ends = store.offset + store.inspection.sizes.astype(np.int64).prod(axis=1) * 3
        if (store.offset < 0).any() or (
            ends > np.array([shard["bytes"] for shard in manifest["shards"]])[store.shard]
        ).any():
            raise ValueError("its table points outside its files")
        _decoding(manifest["decoding"])
        return store
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"no store can be opened: {error}",
            where=str(folder),
            expected="a folder that scripts/pack.py, or a training, has packed to its end",
            do="pack it again; remove it first if it is damaged",
        ) from error


def _plain(name: str) -> str:
    if os.path.basename(name) != name:
        raise ValueError(f"a file outside the store: {name}")
    return name


def _changes(store: Store, source: Examples | Stream) -> list[str]:
    """What differs between the source as it was packed and as it is, one phrase each."""
    if isinstance(source, Stream):
        before, now = store.manifest["source"], source.fingerprint
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        return [f"{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in names[:LISTED]]
    unknown = np.setdiff1d(source.names, store.names)
    if source.pixels is not None and store.manifest["source"] != identity(source):
        return ["the images in memory are others"]
    changed = []
    if source.root is not None:
        known = source.take(np.isin(source.names, store.names))
        changed = changed_files(known, store.inspection.take(rows_of(known.names, store.names)))
    return [
        f"{len(names)} images {what}: {', '.join(printable(name) for name in names[:LISTED])}"
        for what, names in (("added", unknown.tolist()), ("changed or gone", changed))
        if len(names)
    ]


def identity(source: Examples | Stream) -> dict[str, str]:
    """What the manifest keeps of a source: all that a stream says of itself, names of files, pixels in memory."""
    if isinstance(source, Stream):
        return source.fingerprint
    names = hashlib.sha256(repr(source.names.dtype).encode() + source.names.tobytes()).hexdigest()
    return {"names": names} | ({} if source.pixels is None else {"pixels": source.fingerprint()})


def changed_files(examples: Examples, before: Inspection) -> list[bytes]:
    """Names of the files whose content is not what was seen; only those of another size or time are read."""

    def changed(row: int) -> bool:
        path = os.path.join(os.fsencode(examples.root), bytes(examples.names[row]))
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):
                return not before.reasons[row]
            if (facts.st_size, facts.st_mtime_ns) == (before.file_sizes[row], before.file_times[row]):
                return False
            if facts.st_size != before.file_sizes[row]:
                return True
            content = Path(os.fsdecode(path)).read_bytes()
        except OSError:
            return not before.reasons[row]
        return hashlib.blake2b(content, digest_size=len(before.digests[row])).digest() != before.digests[row].tobytes()

    # A row alone is too little work for a thread.
    some = (range(start, min(start + CHUNK, len(examples))) for start in range(0, len(examples), CHUNK))
    found = in_order(lambda rows: [row for row in rows if changed(row)], some)
    return [bytes(examples.names[row]) for rows in found for row in rows]


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """The rows of one file of canvases, by the name of the column."""
    return npz.read(path.with_suffix(".npz"))


def _decoding(stored: dict) -> Decoding:
    return Decoding(short_side=stored["short_side"], background=tuple(stored["background"]))


def _said(decoding: Decoding) -> str:
    side = "full resolution" if decoding.short_side is None else f"a short side of {decoding.short_side} and more"
    return f"{side} over background {decoding.background}"


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
