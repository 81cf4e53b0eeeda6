"""Packs a source into a store, file by file: atomically, resumable, and only where there is room."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from data.decode import Decoding, shrink_factor
from data.errors import DISK_FULL, RunFailure, UserError
from data.examples import Examples, Record, Stream, record_columns
from data.inspection import Inspection, Looker, Sight, in_order, look_at
from data.names import STORE_LOCK, printable
from data.store import FORMAT, MANIFEST, Store, changed_files, identity, open_store, read_rows, sha256

# A file of canvases is closed when it has this many bytes, or a SHARDS-th of the whole store if that is more.
SHARD_BYTES = 2**30
SHARDS = 64
# Images whose headers are read to foretell the size of a store.
SAMPLE = 512
# There while a packing is unfinished: what is being packed.
PLAN = "packing.json"
OWN = r"canvases-\d{5}\.(bin|npz)(\.part)?"


def expected_bytes(source: Examples | Stream, *, decoding: Decoding) -> int | None:
    """About how large a store will be, from the headers of a sample; None where nobody knows how many images come."""
    if isinstance(source, Stream):
        count, images = source.count, (record.image for record in itertools.islice(source.records(), SAMPLE))
    elif source.pixels is not None:
        return source.pixels.nbytes
    else:
        count = len(source)
        rows = np.linspace(0, count - 1, min(count, SAMPLE)).astype(int) if count else []
        images = (_beginning(os.path.join(os.fsencode(source.root), bytes(source.names[row]))) for row in rows)
    shapes = np.array([_shape(image) for image in images], np.int32).reshape(-1, 2)
    if count is None or not len(shapes):
        return None if count is None else 0
    factor = shrink_factor(*tf.constant(shapes.T), short_side=decoding.short_side).numpy()
    return int((-(-shapes // factor[:, None])).astype(np.int64).prod(axis=1).mean() * 3 * count)


def pack(
    source: Examples | Stream,
    folder: Path,
    *,
    decoding: Decoding,
    start_over: bool = False,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[int], None] = lambda done: None,
) -> Store:
    """Packs a source into a folder, or goes on where a killed packing stood; a complete store is opened and compared.

    Args:
        start_over: whether an unfinished or unfitting store of something else may be thrown away.
        say: is told the size before anything is written.
        report: is told how many images are done.

    Raises:
        UserError: the folder holds a store of something else, or of what the source no longer is.
        RunFailure: the disk is full; what was whole stays, and the same call goes on from there.
    """
    if isinstance(source, Examples) and (source.names[1:] < source.names[:-1]).any():
        # As a session sorts its table, so that either goes on with what the other began.
        source = source.take(np.argsort(source.names, kind="stable"))
    if (folder / MANIFEST).exists():
        # Whoever only reads needs no permission to write.
        with contextlib.suppress(UserError):
            return open_store(folder, source, decoding=decoding)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        with owned(folder, say, doing="packing"):
            if (folder / MANIFEST).exists():
                try:
                    return open_store(folder, source, decoding=decoding)
                except UserError as error:
                    if not start_over:
                        raise
                    say(f"packing anew: {error.found}")
                    _clear(folder)
            _write(source, folder, decoding=decoding, start_over=start_over, say=say, report=report)
        return open_store(folder, source, decoding=decoding)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _full(folder, str(error.strerror)) from error
        raise UserError(
            f"the store cannot be written: {error.strerror}",
            where=str(error.filename or folder),
            expected="a folder that this user can make and write",
            do="name another one: train.store, or --store of scripts/pack.py",
        ) from error


def _write(
    source: Examples | Stream,
    folder: Path,
    *,
    decoding: Decoding,
    start_over: bool,
    say: Callable[[str], None],
    report: Callable[[int], None],
) -> None:
    expected = expected_bytes(source, decoding=decoding)
    plan = {
        "format": FORMAT,
        "decoding": {"short_side": decoding.short_side, "background": list(decoding.background)},
        "source": identity(source),
        "shard_bytes": max(SHARD_BYTES, (expected or 0) // SHARDS),
    }
    _settle(folder, plan, start_over=start_over)
    shards = _whole_shards(folder, source)
    done = sum(shard["rows"] for shard in shards)
    free = shutil.disk_usage(folder).free
    needed = (expected or 0) - sum(shard["bytes"] for shard in shards)
    size = "nobody knows how much" if expected is None else f"about {say_bytes(expected)}"
    say(f"packing decoded images into {folder}: {size}, {say_bytes(free)} are free")
    if needed > free:
        raise _full(folder, f"{say_bytes(needed)} are needed, {say_bytes(free)} are free")
    seen = _look(source, decoding, folder, shards)
    try:
        while shard := _write_shard(folder / f"canvases-{len(shards):05}.bin", seen, plan["shard_bytes"], done, report):
            shards.append(shard)
            done += shard["rows"]
    finally:
        for left_over in (path for path in _own_files(folder) if path.suffix == ".part"):
            left_over.unlink()
    if not done:
        raise UserError(
            "there is nothing to pack",
            where=source.title if isinstance(source, Stream) else "train.source",
            expected="at least one image",
            do="correct the source",
        )
    total = sum(shard["bytes"] for shard in shards)
    write_json(
        folder / MANIFEST,
        {
            **plan,
            "examples": done,
            "bytes": total,
            "shards": shards,
            "tensorflow": tf.__version__,
        },
    )
    (folder / PLAN).unlink()


def _settle(folder: Path, plan: dict, *, start_over: bool) -> None:
    """Makes the folder one that this plan is being packed into."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if json.loads((folder / PLAN).read_text()) == plan:
            return
    unfinished = (folder / PLAN).exists()
    if unfinished and not start_over:
        raise UserError(
            "an unfinished store of other images, or of other settings, is in the folder",
            where=str(folder),
            expected="an empty folder, or one that the same images were being packed into",
            do="name another folder, or remove this one",
        )
    _clear(folder)
    write_json(folder / PLAN, plan)


def _clear(folder: Path) -> None:
    """Removes what a store consists of, the manifest first, and nothing else."""
    for path in (folder / MANIFEST, folder / PLAN, *_own_files(folder)):
        path.unlink(missing_ok=True)


def _own_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("canvases-*") if re.fullmatch(OWN, path.name)]


def _refuse_foreign(folder: Path) -> None:
    """A folder is empty, or a store, or becoming one."""
    # Looked at once: another process may be about to pack here.
    others = sorted(os.fsencode(path.name) for path in folder.iterdir())
    if others and not {os.fsencode(name) for name in (MANIFEST, PLAN, STORE_LOCK)}.intersection(others):
        raise UserError(
            f"the folder for the store holds other files: {', '.join(map(printable, others[:5]))}",
            where=str(folder),
            expected="a new or empty folder, or a store",
            do="name another folder: train.store, or --store of scripts/pack.py",
        )


def _whole_shards(folder: Path, source: Examples | Stream) -> list[dict]:
    """The files that an earlier packing has closed, as far as they still say what the source says."""
    shards: list[dict] = []
    done = 0
    while True:
        path = folder / f"canvases-{len(shards):05}.bin"
        try:
            rows, size = read_rows(path), path.stat().st_size
            seen = Inspection(**{name: rows[name] for name in Inspection.names()})
            checksum = sha256(path)
        except (OSError, ValueError, LookupError, TypeError):
            break
        count = len(rows["names"])
        if checksum != rows["sha256"] or size != seen.sizes.astype(np.int64).prod(axis=1).sum() * 3:
            break
        if isinstance(source, Examples):
            part = source.take(np.arange(done, min(done + count, len(source))))
            if not np.array_equal(part.names, rows["names"]) or (part.root and changed_files(part, seen)):
                break
        shards.append({"file": path.name, "rows": count, "bytes": size, "sha256": checksum})
        done += count
    for path in _own_files(folder):
        if int(path.name[9:14]) >= len(shards):
            path.unlink()
    return shards


def _look(
    source: Examples | Stream, decoding: Decoding, folder: Path, shards: list[dict]
) -> Iterator[tuple[Record | bytes, Sight]]:
    """What is still to be packed: a record, or the name of a file, and what was seen of its image."""
    done = sum(shard["rows"] for shard in shards)
    if isinstance(source, Examples):
        return zip(source.names[done:].tolist(), look_at(source, decoding=decoding, start=done), strict=True)
    records = source.records()
    packed = [name for shard in shards for name in read_rows(folder / shard["file"])["names"].tolist()]
    for name, record in zip(packed, records, strict=False):
        if name != record.name:
            raise UserError(
                f"{source.title} gives {os.fsdecode(record.name)!r} where it gave {os.fsdecode(name)!r} before",
                where=str(folder),
                expected="the same examples in the same order each time",
                do="remove the folder and pack again",
            )
    looker = Looker(decoding)
    return in_order(lambda record: (record, looker.image(record.image)), records)


def _write_shard(
    path: Path, seen: Iterator[tuple[Record | bytes, Sight]], limit: int, done: int, report: Callable[[int], None]
) -> dict | None:
    """Writes one file of canvases and its rows; None when nothing is left to write."""
    named, sights, offsets = [], [], []
    checksum, size = hashlib.sha256(), 0
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        for name, sight in seen:
            named.append(name)
            sights.append(dataclasses.replace(sight, canvas=None))
            offsets.append(size)
            if sight.canvas is not None:
                pixels = np.ascontiguousarray(sight.canvas).data
                file.write(pixels)
                checksum.update(pixels)
                size += sight.canvas.nbytes
            report(done + len(named))
            if size >= limit:
                break
        file.flush()
        os.fsync(file.fileno())
    if not named:
        return None
    os.replace(part, path)
    columns = {name: getattr(Inspection.of(sights), name) for name in Inspection.names()}
    columns |= {
        "names": np.array([getattr(name, "name", name) for name in named], np.bytes_),
        "offset": np.array(offsets),
    }
    if isinstance(named[0], Record):
        columns |= record_columns(named)
    rows = path.with_suffix(".npz.part")
    with open(rows, "wb") as file:
        np.savez(file, **columns, sha256=checksum.hexdigest())
        file.flush()
        os.fsync(file.fileno())
    os.replace(rows, path.with_suffix(".npz"))
    return {"file": path.name, "rows": len(named), "bytes": size, "sha256": checksum.hexdigest()}


@contextlib.contextmanager
def owned(folder: Path, say: Callable[[str], None], *, doing: str) -> Iterator[None]:
    """One process at a time: another run that wants the same store waits, and then finds it complete."""
    with open(folder / STORE_LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is {doing} {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _beginning(path: bytes) -> bytes:
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(2**16)
    except OSError:
        return b""


def _shape(image: bytes | np.ndarray) -> tuple[int, int]:
    """Height and width that the header of a file states; 0, 0 where it states none."""
    if isinstance(image, np.ndarray):
        return image.shape[:2]
    try:
        with Image.open(io.BytesIO(image)) as header:
            return header.height, header.width
    # Whether the file is an image at all is told when it is decoded.
    except Exception:
        return 0, 0


def say_bytes(count: int) -> str:
    """`1.5 GB`."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}" if size < 100 else f"{size:.0f} {units[0]}"


def write_json(path: Path, value: dict) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _full(folder: Path, what: str) -> RunFailure:
    return RunFailure(
        f"the disk is too full for the store: {what}",
        where=str(folder),
        expected="space for all decoded images",
        do="make room, name another folder as train.store, or train from the files with train.store = None",
    )
