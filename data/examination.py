"""Looks once at every image of a source for an audit, and notes in its journal what was found."""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from data.decode import Decoding
from data.examples import Examples, Record, Stream, record_columns, table_of
from data.findings import FORMATS, Finding, Journal
from data.fingerprints import fingerprint
from data.inspection import Looker, Sight, in_order

# To Pillow, a JPEG that holds further pictures behind the first is a kind of its own.
ALIASES = {"MPO": "JPEG"}
# EXIF orientations that swap height and width.
LYING = (5, 6, 7, 8)


def facts(source: Examples | Stream, *, decoding: Decoding) -> dict:
    """What findings depend on besides the files themselves: decoding and root, or the pixels of what is no file."""
    if isinstance(source, Stream):
        origin = {"stream": source.fingerprint}
    elif source.root is not None:
        origin = {"root": os.path.abspath(source.root)}
    else:
        origin = {"pixels": source.fingerprint()}
    return {"decoding": dataclasses.asdict(decoding), **origin}


def examine(
    source: Examples | Stream,
    journal: Journal,
    *,
    looker: Looker,
    report: Callable[[int], None] = lambda done: None,
) -> Examples:
    """Looks on all cores at the images that are not in the journal as they are today.

    Args:
        source: a table of files or of pixels, or a stream.
        report: is told how many images are done.

    Returns:
        the table; that of a stream has the right columns and blank pixels.
    """
    records: list[Record] = []
    if isinstance(source, Stream):
        found = _of_records(source, looker, journal.good(), records)
    else:
        found = _of_rows(source, looker, journal.good())
    for done, finding in enumerate(found, start=1):
        if finding is not None:
            journal.append(finding)
        report(done)
    if not isinstance(source, Stream):
        return source
    names = np.array([record.name for record in records], np.bytes_)
    blank = np.broadcast_to(np.uint8(0), (len(records), 1, 1, 3))
    return table_of(source, names, record_columns(records), pixels=blank)


def _of_rows(examples: Examples, looker: Looker, known: Mapping[bytes, tuple[int, int]]) -> Iterator[Finding | None]:
    def look(row: int) -> Finding | None:
        name = bytes(examples.names[row])
        if examples.pixels is not None:
            return None if name in known else _of_image(name, examples.pixels[row], looker)
        path = os.path.join(os.fsencode(examples.root), name)
        if name in known and known[name] == _size_and_time(path):
            return None
        return _finding(name, looker.file(path), path)

    return in_order(look, range(len(examples)))


def _of_records(
    stream: Stream, looker: Looker, known: Mapping[bytes, tuple[int, int]], records: list[Record]
) -> Iterator[Finding | None]:
    """Also collects the records, without their images."""

    def kept() -> Iterator[Record]:
        for record in stream.records():
            records.append(dataclasses.replace(record, image=b""))
            yield record

    def look(record: Record) -> Finding | None:
        return None if record.name in known else _of_image(record.name, record.image, looker)

    return in_order(look, kept())


def _of_image(name: bytes, image: bytes | np.ndarray, looker: Looker) -> Finding:
    """Of the bytes of a file, or of pixels."""
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2] if image.ndim == 3 else (0, 0)
        finding = _finding(name, looker.image(image), None)
        return dataclasses.replace(finding, height=height, width=width, format="array")
    return dataclasses.replace(_finding(name, looker.image(image), io.BytesIO(image)), file_size=len(image))


def _finding(name: bytes, sight: Sight, file: bytes | io.BytesIO | None) -> Finding:
    finding = Finding(
        name=name,
        file_size=sight.file_size,
        file_time=sight.file_time,
        reason=sight.reason,
        digest=sight.digest.hex(),
        orientation=sight.orientation,
    )
    if sight.reason:
        return finding
    kind, height, width = ("", 0, 0) if file is None else _header(file)
    if sight.orientation in LYING:
        height, width = width, height
    seen = fingerprint(sight.canvas, orientation=sight.orientation)
    return dataclasses.replace(
        finding,
        height=height,
        width=width,
        format=kind,
        grey=bool((sight.canvas == sight.canvas[..., :1]).all()),
        code=None if seen is None else seen.code,
        coefficients=None if seen is None else seen.coefficients,
    )


def _header(file: bytes | io.BytesIO) -> tuple[str, int, int]:
    """Kind of content, height and width as stored; no pixel is decoded."""
    try:
        with Image.open(file) as image:
            kind = ALIASES.get(image.format, image.format)
            return kind if kind in FORMATS else "", image.height, image.width
    # TensorFlow has decoded it: what Pillow cannot make of it is unknown, not wrong.
    except Exception:
        return "", 0, 0


def _size_and_time(path: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
