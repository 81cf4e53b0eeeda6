"""Looks at every image once: does it decode, how large is its canvas, how is it turned, what is its content's hash."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from data import decode
from data.decode import Decoding
from data.examples import Examples

DIGEST_BYTES = 16
# Rows that are kept as objects before they become columns.
CHUNK = 4096
# A column of text is as wide as its longest entry.
LONGEST_REASON = 200
PNG = b"\x89PNG"
Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """One image, as it was found.

    Attributes:
        size: height and width of its canvas; 0, 0 where the image is bad.
        kind: see `data.decode.decode`.
        orientation: EXIF orientation, 1 to 8.
        digest: 16 bytes, BLAKE2b of the file's bytes, or of shape and pixels of an array.
        file_size, file_time: bytes, and nanoseconds since 1970 of the last change; 0 for what is no file. The time of
            a file whose content nobody could read is 0: it may be readable later without having changed.
        reason: why the image is bad; empty where it is good.
        canvas: [h, w, 3] uint8; None where the image is bad.
    """

    size: tuple[int, int] = (0, 0)
    kind: int = decode.ANY
    orientation: int = 1
    digest: bytes = bytes(DIGEST_BYTES)
    file_size: int = 0
    file_time: int = 0
    reason: str = ""
    canvas: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found of N images: the fields of `Sight` as columns.

    Attributes:
        sizes: [N, 2] int32.
        kinds, orientations: [N] int8.
        digests: [N, 16] uint8.
        file_sizes, file_times: [N] int64.
        reasons: [N] bytes, UTF-8; empty where the image is good.
    """

    sizes: np.ndarray
    kinds: np.ndarray
    orientations: np.ndarray
    digests: np.ndarray
    file_sizes: np.ndarray
    file_times: np.ndarray
    reasons: np.ndarray

    @classmethod
    def of(cls, sights: Sequence[Sight]) -> "Inspection":
        """The columns of sights in the order of the table."""
        return cls(
            sizes=np.array([sight.size for sight in sights], np.int32).reshape(-1, 2),
            kinds=np.array([sight.kind for sight in sights], np.int8),
            orientations=np.array([sight.orientation for sight in sights], np.int8),
            digests=np.frombuffer(b"".join(sight.digest for sight in sights), np.uint8).reshape(-1, DIGEST_BYTES),
            file_sizes=np.array([sight.file_size for sight in sights], np.int64),
            file_times=np.array([sight.file_time for sight in sights], np.int64),
            reasons=np.array([sight.reason.encode()[:LONGEST_REASON] for sight in sights], np.bytes_),
        )

    @classmethod
    def of_arrays(cls, examples: Examples) -> "Inspection":
        """What there is to say of images in memory, which are canvases already."""
        whole = cls.of([Sight(size=examples.pixels.shape[1:3])]).take(np.zeros(len(examples), int))
        digests = b"".join(
            hashlib.blake2b(np.ascontiguousarray(image), digest_size=DIGEST_BYTES).digest() for image in examples.pixels
        )
        return dataclasses.replace(whole, digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES))

    @classmethod
    def joined(cls, parts: Sequence["Inspection"]) -> "Inspection":
        """Parts of a table, one below the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.names()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def take(self, rows: np.ndarray) -> "Inspection":
        """These rows (indexes or a mask), in their order."""
        return Inspection(**{name: getattr(self, name)[rows] for name in self.names()})

    @property
    def bad(self) -> dict[int, str]:
        """Row -> reason, of the images that are bad."""
        return {int(row): self.reasons[row].decode(errors="replace") for row in np.flatnonzero(self.reasons != b"")}


def inspect(examples: Examples, *, decoding: Decoding, report: Callable[[int], None] = lambda done: None) -> Inspection:
    """Decodes every image once, on all cores.

    Args:
        report: is told how many images are done.
    """
    parts, sights = [Inspection.of([])], []
    for done, sight in enumerate(look_at(examples, decoding=decoding), start=1):
        sights.append(dataclasses.replace(sight, canvas=None))
        report(done)
        if len(sights) == CHUNK:
            parts.append(Inspection.of(sights))
            sights = []
    return Inspection.joined([*parts, Inspection.of(sights)])


def look_at(examples: Examples, *, decoding: Decoding, start: int = 0) -> Iterator[Sight]:
    """The images of a table of files or arrays from row `start` on, in order, decoded on all cores."""
    looker = Looker(decoding)

    def look(row: int) -> Sight:
        if examples.pixels is not None:
            return looker.image(examples.pixels[row])
        return looker.file(os.path.join(os.fsencode(examples.root), bytes(examples.names[row])))

    return in_order(look, range(start, len(examples)))


class Looker:
    """Looks at single images; one instance may be used from several threads."""

    def __init__(self, decoding: Decoding):
        self._decoding = decoding

    def file(self, path: bytes) -> Sight:
        """A file. What is no regular file is not opened."""
        try:
            facts = os.stat(path)
        except OSError as error:
            return Sight(reason=f"cannot be read: {error.strerror}")
        size, time = facts.st_size, facts.st_mtime_ns
        if not stat.S_ISREG(facts.st_mode):
            return Sight(file_size=size, file_time=time, reason="not a regular file")
        try:
            with open(path, "rb") as file:
                encoded = file.read()
        except OSError as error:
            return Sight(file_size=size, reason=f"cannot be read: {error.strerror}")
        return dataclasses.replace(self.image(encoded), file_size=size, file_time=time)

    def image(self, image: bytes | np.ndarray) -> Sight:
        """The bytes of a file, or uint8 pixels [H, W, 1 or 3]."""
        if isinstance(image, np.ndarray):
            return self._array(image)
        digest = hashlib.blake2b(image, digest_size=DIGEST_BYTES).digest()
        if not image:
            return Sight(digest=digest, reason="an empty file")
        try:
            canvas, kind = (value.numpy() for value in decode.decode(tf.constant(image), decoding=self._decoding))
        except tf.errors.OpError as error:
            return Sight(digest=digest, reason=decode.reason(error))
        return Sight(
            size=canvas.shape[:2], kind=int(kind), orientation=orientation(image), digest=digest, canvas=canvas
        )

    def _array(self, image: np.ndarray) -> Sight:
        digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=DIGEST_BYTES).digest()
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
            return Sight(digest=digest, reason=f"an array of {image.dtype} {image.shape}, not uint8 [H, W, 1 or 3]")
        rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        canvas = decode.shrink_array(rgb[None], decoding=self._decoding)[0]
        return Sight(size=canvas.shape[:2], digest=digest, canvas=canvas)


def orientation(encoded: bytes) -> int:
    """How a file says it is to be turned: EXIF orientation 1 to 8, 1 where it says nothing."""
    if encoded.startswith(PNG) and b"eXIf" not in encoded and b"Raw profile" not in encoded:
        return 1  # Pillow would decode all of it to find out.
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Whatever is wrong with metadata, the pixels are fine: they have been decoded.
    except Exception:
        return 1
    return stated if stated in range(1, 9) else 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items, computed on all cores a little ahead of whoever takes them."""
    workers = 2 * (os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        ahead: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
