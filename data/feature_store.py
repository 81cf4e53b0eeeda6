"""Stores of features: what a frozen part of a network says of each image, in flat files that are mapped into memory.

FOLDER/manifest.json     what was computed, and from what; it is there only when all the rest is
FOLDER/computing.json    likewise while that is going on, with how far each file has come
FOLDER/features-NAME.bin little-endian numbers, row after row
FOLDER/features-NAME.crc the checksum of each row, little-endian uint32; 0 of one that nobody has computed
FOLDER/rows.npz          of scripts/extract.py only: names, labels and the like of the rows
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.errors import DISK_FULL, RunFailure, UserError
from data.names import STORE_LOCK, printable
from data.packing import owned, say_bytes, write_json

FORMAT = 2
DTYPES = ("float16", "float32")
MANIFEST = "manifest.json"
# There while a store is unfinished.
PROGRESS = "computing.json"
# What scripts/extract.py says of the rows.
ROWS = "rows.npz"
OWN = r"features-\w+\.(bin|crc(\.part)?)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One file of features.

    Attributes:
        path: of the file.
        rows: how many there are.
        shape: of one of them.
        dtype: one of DTYPES.
        broken: rows whose image could not be read: their numbers mean nothing.
    """

    path: Path
    rows: int
    shape: tuple[int, ...]
    dtype: str
    broken: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def checksums(self) -> np.ndarray:
        """[rows] uint32, what each row was written with; 0 where it was not.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is of another length, or a row is not what was written.
        """
        known = np.frombuffer(_beside(self.path).read_bytes(), "<u4")
        if len(known) != self.rows:
            raise ValueError(f"{_beside(self.path).name} has {len(known)} rows, not {self.rows}")
        with open(self.path, "rb") as file:
            for row, checksum in enumerate(known.tolist()):
                content = file.read(self.row_bytes)
                if checksum and zlib.crc32(content) != checksum:
                    raise ValueError(f"row {row} of {self.path.name} is not what was written")
        return known.copy()

    def reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Maps the file into memory.

        Returns:
            function for graphs: rows [M] int64 -> [M, ...] float32.
        """
        half = self.dtype == "float16"
        with tf.device("CPU:0"):
            mapped = tf.raw_ops.ImmutableConst(
                dtype=tf.uint16 if half else tf.float32,
                shape=[self.rows, *self.shape],
                memory_region_name=str(self.path),
            )
        return lambda rows: _from_half(tf.gather(mapped, rows)) if half else tf.gather(mapped, rows)

    def stand_ins(self, period: int) -> np.ndarray | None:
        """[rows] int64, the row that stands in for each; None where no image is broken.

        For a broken one that is the next which is not, among the `period` rows of the same view, like the next image
        of the table stands in for one that breaks while it is being decoded.

        Raises:
            RunFailure: all of a view are broken.
        """
        if not self.broken:
            return None
        good = np.ones(self.rows, bool)
        good[list(self.broken)] = False
        found = np.arange(self.rows)
        for row in self.broken:
            start = row - row % period
            ring = start + (row - start + np.arange(period)) % period
            whole = ring[good[ring]]
            if not len(whole):
                raise RunFailure(
                    f"none of {period} images could be read",
                    where=str(self.path),
                    expected="images that decode",
                    do="put them back and remove the folder of the features",
                )
            found[row] = whole[0]
        return found


def _from_half(bits: tf.Tensor) -> tf.Tensor:
    """The finite float16 numbers of these bits as float32, exactly.

    Without a tensor of float16: at its sight oneDNN prints an error on processors that have no arithmetic for it.
    """
    bits = tf.cast(bits, tf.uint32)
    sign, rest = tf.bitwise.bitwise_and(bits, 0x8000), tf.bitwise.bitwise_and(bits, 0x7FFF)
    # Exponent and mantissa at the places of float32, whose exponent counts from 112 lower.
    normal = tf.bitcast(tf.bitwise.left_shift(rest, tf.constant(13, tf.uint32)) + (112 << 23), tf.float32)
    size = tf.where(rest < 0x400, tf.cast(rest, tf.float32) * 2.0**-24, normal)
    return tf.where(sign > 0, -size, size)


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """A store that is complete.

    Attributes:
        folder: where it lies.
        identity: what it was computed from, by name.
        parts: its files by name.
    """

    folder: Path
    identity: dict
    parts: dict[str, Part]


def _beside(path: Path) -> Path:
    return path.with_suffix(".crc")


class Writer:
    """Fills the files of a store; what is saved stays, whatever happens."""

    def __init__(self, folder: Path, plan: dict, checksums: dict[str, np.ndarray]):
        self._folder, self._plan, self._checksums = folder, plan, checksums
        self._files = {name: os.open(self._path(name), os.O_RDWR | os.O_CREAT, 0o666) for name in plan["parts"]}

    def _path(self, name: str) -> Path:
        return self._folder / self._plan["parts"][name]["file"]

    def done(self, name: str) -> int:
        """How far this file has come, as `save` was told."""
        return self._plan["parts"][name]["done"]

    def write(self, name: str, rows: np.ndarray, values: np.ndarray, *, broken: np.ndarray) -> None:
        """Writes [M, ...] float32 values to these rows, [M] int64; broken, [M] bool, have none.

        Raises:
            UserError: values that are not finite, which float16 makes of large ones.
        """
        part = self._plan["parts"][name]
        with np.errstate(over="ignore"):
            values = values.astype(part["dtype"])
        fine = np.isfinite(values).reshape(len(values), -1).all(axis=1) | broken
        if not fine.all():
            raise UserError(
                f"features that are not finite as {part['dtype']}",
                where="gin bindings features.dtype, features.layer, model.weights",
                expected="finite numbers" + (" below 65,504" if part["dtype"] == "float16" else ""),
                do="features.dtype = 'float32'" if part["dtype"] == "float16" else "correct the weights",
            )
        values[broken] = 0
        size = math.prod(part["shape"]) * values.itemsize
        for row, value in zip(rows.tolist(), values, strict=True):
            # Rather than into the map: a full disk is an error here, not the end of the process.
            content = value.tobytes()
            if os.pwrite(self._files[name], content, row * size) < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._checksums[name][row] = zlib.crc32(content)
        part["broken"] = sorted({*part["broken"], *rows[broken].tolist()})

    def save(self, name: str, done: int) -> None:
        """Notes that a file has come so far."""
        os.fsync(self._files[name])
        beside = _beside(self._path(name))
        part = beside.with_name(f"{beside.name}.part")
        part.write_bytes(self._checksums[name].astype("<u4").tobytes())
        os.replace(part, beside)
        self._plan["parts"][name]["done"] = done
        _write_plan(self._folder / PROGRESS, self._plan)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            os.close(file)

    def finish(self) -> FeatureStore:
        """Declares the store complete."""
        _write_plan(self._folder / MANIFEST, self._plan)
        (self._folder / PROGRESS).unlink(missing_ok=True)
        return _store(self._folder, self._plan)


def open_features(folder: Path) -> FeatureStore:
    """Opens a complete store.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        plan = _read_plan(folder / MANIFEST)
        store = _store(folder, plan)
        for part in store.parts.values():
            size = part.path.stat().st_size
            if size != part.rows * part.row_bytes:
                raise ValueError(f"{part.path.name} has {size} bytes, not {part.rows * part.row_bytes}")
            part.checksums()
        return store
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"no features can be opened: {error}",
            where=str(folder),
            expected="a folder that scripts/extract.py, or a training, has filled to its end",
            do="compute them again; remove the folder first if it is damaged",
        ) from error


def matching(folder: Path, identity: dict, parts: Mapping[str, Part]) -> tuple[FeatureStore | None, list[str]]:
    """The complete store in a folder if it is of this identity and these parts; else what differs."""
    try:
        store = open_features(folder)
    except UserError as error:
        return None, [error.found] if (folder / MANIFEST).exists() else []
    names = sorted(identity.keys() | store.identity.keys())
    changed = [name for name in names if identity.get(name) != store.identity.get(name)]
    planned = {name: dataclasses.replace(part, broken=()) for name, part in parts.items()}
    there = {name: dataclasses.replace(part, broken=()) for name, part in store.parts.items()}
    if not changed and planned != there:
        changed = ["their shape or number"]
    return (None, changed) if changed else (store, [])


def parts_of(folder: Path, rows: Mapping[str, int], *, shape: tuple[int, ...], dtype: str) -> dict[str, Part]:
    """The files of a store to be: name of a part, letters only -> how many rows it has."""
    return {
        name: Part(path=folder / f"features-{name}.bin", rows=count, shape=tuple(shape), dtype=dtype)
        for name, count in rows.items()
    }


@contextlib.contextmanager
def writing(
    folder: Path, identity: dict, parts: Mapping[str, Part], *, say: Callable[[str], None]
) -> Iterator[Writer | FeatureStore]:
    """Makes the folder one that this store is being written into, and goes on with what is there of it.

    A store of something else in the folder is thrown away. One process at a time writes: another that waited finds the
    store complete.

    Raises:
        UserError: the folder cannot be written, or holds other files.
        RunFailure: the disk is full, or too small; what was saved stays.
    """
    plan = {
        "format": FORMAT,
        "identity": identity,
        "parts": {
            name: {
                "file": part.path.name,
                "rows": part.rows,
                "shape": list(part.shape),
                "dtype": part.dtype,
                "done": 0,
                "broken": [],
            }
            for name, part in parts.items()
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        with owned(folder, say, doing="computing"):
            found, _ = matching(folder, identity, parts)
            if found is not None:
                yield found
                return
            plan, checksums = _settled(folder, plan)
            total = sum(part.rows * part.row_bytes for part in parts.values())
            # What is there already takes its blocks of the disk.
            there = sum(path.stat().st_blocks * 512 for path in _own_files(folder))
            free = shutil.disk_usage(folder).free
            if total - there > free:
                raise _full(folder, f"{say_bytes(total - there)} are needed, {say_bytes(free)} are free")
            writer = Writer(folder, plan, checksums)
            try:
                yield writer
            finally:
                writer.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _full(folder, str(error.strerror)) from error
        raise UserError(
            f"the features cannot be written: {error.strerror}",
            where=str(error.filename or folder),
            expected="a folder that this user can make and write",
            do="name another one: features.folder, or --output of scripts/extract.py",
        ) from error


def _settled(folder: Path, plan: dict) -> tuple[dict, dict[str, np.ndarray]]:
    """The plan as far as it has been carried out, and the checksums of the rows of each part."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        there = _read_plan(folder / PROGRESS)
        fresh = {name: {**part, "done": 0, "broken": []} for name, part in there["parts"].items()}
        if {**there, "parts": fresh} == json.loads(json.dumps(plan)):
            begun = {name: part for name, part in _store(folder, there).parts.items() if there["parts"][name]["done"]}
            found = {name: part.checksums() for name, part in begun.items()}
            return there, _unwritten(plan) | found
    # Unlinked, not overwritten: another run may have the files mapped.
    for path in (folder / MANIFEST, folder / PROGRESS, *_own_files(folder)):
        path.unlink(missing_ok=True)
    _write_plan(folder / PROGRESS, plan)
    return plan, _unwritten(plan)


def _unwritten(plan: dict) -> dict[str, np.ndarray]:
    return {name: np.zeros(part["rows"], np.uint32) for name, part in plan["parts"].items()}


def _write_plan(path: Path, plan: dict) -> None:
    write_json(path, {**plan, "sha256": _digest(plan)})


def _read_plan(path: Path) -> dict:
    plan = json.loads(path.read_text())
    if plan["format"] != FORMAT:
        raise ValueError(f"format {plan['format']}, this version reads {FORMAT}")
    if plan.pop("sha256") != _digest(plan):
        raise ValueError(f"{path.name} is not what was written")
    return plan


def _digest(plan: dict) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _store(folder: Path, plan: dict) -> FeatureStore:
    parts = {
        name: Part(
            path=folder / _plain(part["file"]),
            rows=int(part["rows"]),
            shape=tuple(part["shape"]),
            dtype=part["dtype"],
            broken=tuple(part["broken"]),
        )
        for name, part in plan["parts"].items()
    }
    return FeatureStore(folder, plan["identity"], parts)


def _plain(name: str) -> str:
    if not (re.fullmatch(OWN, name) and name.endswith(".bin")):
        raise ValueError(f"no file of a store: {name}")
    return name


def _own_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("features-*") if re.fullmatch(OWN, path.name)]


def _refuse_foreign(folder: Path) -> None:
    ours = {MANIFEST, PROGRESS, ROWS, STORE_LOCK}
    ours |= {f"{name}.part" for name in ours}
    others = sorted(path.name for path in folder.iterdir() if not (path.name in ours or re.fullmatch(OWN, path.name)))
    if others:
        raise UserError(
            f"the folder for the features holds other files: {', '.join(map(printable, others[:5]))}",
            where=str(folder),
            expected="a new or empty folder, or one of features",
            do="name another folder: features.folder, or --output of scripts/extract.py",
        )


def _full(folder: Path, what: str) -> RunFailure:
    return RunFailure(
        f"the disk is too full for the features: {what}",
        where=str(folder),
        expected="space for all of them",
        do="make room and run the same command again, or name another folder: features.folder",
    )
