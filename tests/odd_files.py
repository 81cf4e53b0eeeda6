"""A folder of broken and odd files, each with the verdict that a user has a right to expect.

An image is good when it holds a picture whose colours can be told, whatever its name says; bad when it is no picture,
not whole, or of a kind whose colours would come out wrong. No verdict says more than its format can: JPEG has no
checksum, so that a damaged byte between its markers is noticed by nobody.
"""

import dataclasses
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

# Bytes of `TABLE` are written below this class folder; the other class has PLAIN ordinary images.
ODD, PLAIN = "odd", 12
HEIGHT, WIDTH = 24, 32
SHORT_SIDE = 16
WHITE = (255, 255, 255)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Good:
    """Is trained on.

    Attributes:
        canvas: height and width of the decoded image as stored, for a short side of SHORT_SIDE.
        orientation: EXIF orientation.
        shows: [h, w, 3], the picture the right way up over a white background; None where nobody can know.
        within: levels by which a pixel may differ.
    """

    canvas: tuple[int, int] = (HEIGHT, WIDTH)
    orientation: int = 1
    shows: np.ndarray | None = None
    within: float = 0


class Bad(tuple):
    """Does not decode; the words, in lower or upper case, are part of the reason."""


class Refused(Bad):
    """The source itself will not open it."""


class LeftOut:
    """No image by its name: nobody opens it."""


Verdict = Good | Bad | LeftOut
Make = Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Odd:
    """One kind of file: its name below the class folder, its content or how it is made, and the verdict."""

    name: bytes
    content: bytes | Make
    verdict: Verdict


RANDOM = np.random.default_rng(3)
COLOURS = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
# Twelve plain colours in squares of 8 x 8, which JPEG keeps; black is not among them.
BLOCKS = np.kron(RANDOM.integers(1, 256, (3, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
GREYS = RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP"}
# Decoders that meet IEEE 1180 differ by at most 1 in Y, Cb and Cr; 1 + 1.772 more in blue, rounded: 3.
JPEG_ROUNDING = 3
# Plain colours at quality 100: rounded Y, Cb and Cr (half a level each) and their quantisation, then the conversion.
PLAIN_ROUNDING = 5


# -- how they are made ----------------------------------------------------------------------------------------------


def saved(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """The bytes of a file of that kind."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, FORMATS.get(kind, kind), **options)
    return buffer.getvalue()


def as_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def over(colours: np.ndarray, alpha: np.ndarray, background: Sequence[int] = WHITE) -> np.ndarray:
    """What shows of colours of 0..255 with an alpha of 0..1 over a background."""
    return colours * alpha + np.array(background) * (1 - alpha)


def chunk(kind: bytes, content: bytes, *, right: bool = True) -> bytes:
    """A chunk of a PNG, with its checksum or a wrong one."""
    checksum = zlib.crc32(kind + content) ^ (0 if right else 1)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
    before: bytes = b"",
    right: bool = True,
) -> bytes:
    """A PNG from its unfiltered rows; `colour` 0 is grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], depth, colour, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(rows), right=right)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def rows(pixels: np.ndarray) -> bytes:
    """Rows of a PNG, each without a filter: uint8 or uint16 levels."""
    return b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Rows of a PNG with several pixels a byte."""
    digits = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return rows(np.packbits(digits.reshape(len(levels), -1).astype(np.uint8), axis=1))


def interlaced_rows(pixels: np.ndarray) -> bytes:
    """Adam7: seven images, from coarse to fine."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(rows(pixels[top::down, left::right]) for top, left, down, right in starts)


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def segment(content: bytes, marker: bytes) -> int:
    """Where the segment of a JPEG that begins with FF and this byte starts."""
    at = 2
    while content[at + 1 : at + 2] != marker:
        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    return at


def without(content: bytes, marker: bytes) -> bytes:
    at = segment(content, marker)
    return content[:at] + content[at + 2 + struct.unpack(">H", content[at + 2 : at + 4])[0] :]


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def stored_for(shown: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels to store so that a viewer that heeds the orientation shows these."""
    return {3: shown[::-1, ::-1], 6: np.rot90(shown), 8: np.rot90(shown, -1)}[orientation]


def palette_gif(pixels: np.ndarray = BLOCKS, *, transparent: bool = False, frames: int = 1) -> bytes:
    """A GIF of up to 16 colours; the first of them transparent, further frames in other colours."""
    image = Image.fromarray(pixels).quantize(16)
    options = {"transparency": image.getpixel((0, 0))} if transparent else {}
    if frames > 1:
        others = [Image.fromarray(255 - BLOCKS).quantize(16)] * (frames - 1)
        options |= {"save_all": True, "append_images": others, "duration": 50}
    return saved(image, "gif", **options)


def own_table(content: bytes) -> bytes:
    """A still GIF whose global colour table has become that of its frame."""
    length, frame = 3 * 2 << (content[10] & 7), content.index(b"\x2c\0\0\0\0")
    flags = bytes([content[frame + 9] | 0x80 | content[10] & 7])
    head = patched(content[:13], 10, b"\0") + content[13 + length : frame + 9]
    return head + flags + content[13 : 13 + length] + content[frame + 10 :]


def bmp(bits: int, rows: bytes, *, palette: bytes = b"", compression: int = 0, height: int = HEIGHT) -> bytes:
    """A BMP with a BITMAPINFOHEADER; masks of colours stand where a palette would."""
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", saved(COLOURS, "jpg"))
    return buffer.getvalue()


def unreadable(path: Path) -> None:
    path.write_bytes(saved(COLOURS, "png"))
    path.chmod(0)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def hard_link(path: Path) -> None:
    target = path.parent / "a file with a second name.png"
    target.write_bytes(saved(COLOURS, "png"))
    os.link(target, path)


def folder_with(path: Path) -> None:
    path.mkdir()


# -- the table ------------------------------------------------------------------------------------------------------


@functools.cache
def table() -> tuple[Odd, ...]:
    """All kinds; names are unique."""
    return (*_jpeg(), *_png(), *_gif(), *_bmp(), *_webp(), *_shapes(), *_impostors(), *_places(), *_names())


def _jpeg() -> list[Odd]:
    options = {"quality": 95, "subsampling": 0}
    whole = saved(COLOURS, "jpg", **options)
    progressive = saved(COLOURS, "jpg", progressive=True, **options)
    smooth = np.asarray(Image.fromarray(BLOCKS).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    subsampled = saved(smooth, "jpg", quality=95)
    grey = saved(GREYS, "jpg", quality=95)
    plain = {"quality": 100, "subsampling": 0}
    cmyk = Image.fromarray(BLOCKS).convert("CMYK")
    inks = saved(cmyk, "jpg", **plain)
    # Pillow stores 255 - ink, as Adobe does. Without Adobe's mark the ink itself is stored.
    plain_inks = without(saved(Image.fromarray(255 - np.asarray(cmyk), "CMYK"), "jpg", **plain), b"\xee")
    ycc = np.asarray(Image.fromarray(255 - BLOCKS).convert("YCbCr"))
    # Y, Cb, Cr and black as stored; Pillow would turn them round, Adobe's mark says that they are no inks.
    stored = Image.fromarray(255 - np.dstack([ycc, np.full((HEIGHT, WIDTH), 255, np.uint8)]), "CMYK")
    ycck = saved(stored, "jpg", **plain)
    ycck = patched(ycck, segment(ycck, b"\xee") + 15, b"\x02")
    turned = saved(stored_for(BLOCKS, 6), "jpg", exif=with_exif(6), **plain)
    exif = segment(turned, b"\xe1")
    large = with_exif(8)
    large[ExifTags.Base.ImageDescription] = "x" * 60_000
    frame, scan = segment(whole, b"\xc0"), segment(whole, b"\xda")
    middle = (scan + len(whole)) // 2
    good = Good(shows=as_pillow(whole), within=JPEG_ROUNDING)
    bad, enormous = Bad(["JPEG"]), Bad(["pixels"])
    return [
        Odd(b"jpeg.jpg", whole, good),
        Odd(b"jpeg subsampled.jpg", subsampled, Good(shows=as_pillow(subsampled), within=JPEG_ROUNDING)),
        Odd(b"jpeg grey.jpg", grey, Good(shows=as_pillow(grey), within=1)),
        Odd(b"jpeg progressive.jpg", progressive, Good(shows=as_pillow(progressive), within=JPEG_ROUNDING)),
        Odd(b"jpeg restart markers.jpg", saved(COLOURS, "jpg", restart_marker_blocks=2, **options), good),
        Odd(b"jpeg cmyk of adobe.jpg", inks, Good(shows=BLOCKS, within=PLAIN_ROUNDING)),
        Odd(b"jpeg cmyk.jpg", plain_inks, Good(shows=BLOCKS, within=PLAIN_ROUNDING)),
        Odd(b"jpeg ycck of adobe.jpg", ycck, Good(shows=BLOCKS, within=PLAIN_ROUNDING)),
        Odd(
            b"jpeg turned.jpg",
            turned,
            Good(canvas=(WIDTH, HEIGHT), orientation=6, shows=BLOCKS, within=PLAIN_ROUNDING),
        ),
        Odd(
            b"jpeg metadata large.jpg",
            saved(stored_for(BLOCKS, 8), "jpg", exif=large, icc_profile=b"i" * 500_000, **plain),
            Good(canvas=(WIDTH, HEIGHT), orientation=8, shows=BLOCKS, within=PLAIN_ROUNDING),
        ),
        Odd(
            b"jpeg exif broken.jpg",
            patched(saved(COLOURS, "jpg", exif=with_exif(6), **options), exif + 14, b"\xff" * 8),
            good,
        ),
        Odd(b"jpeg orientation 9.jpg", saved(COLOURS, "jpg", exif=with_exif(9), **options), good),
        Odd(b"jpeg more behind its end.jpg", whole + b"garbage" * 50, good),
        Odd(b"jpeg twice.jpg", whole + saved(GREYS, "jpg"), good),
        Odd(b"jpeg without its end.jpg", whole[:-2], bad),
        Odd(b"jpeg cut in the scan.jpg", whole[:middle], bad),
        Odd(b"jpeg cut behind the header.jpg", whole[: scan + 2], bad),
        Odd(b"jpeg cut in the header.jpg", whole[: frame + 6], bad),
        Odd(b"jpeg progressive cut.jpg", progressive[: len(progressive) // 2], bad),
        Odd(b"jpeg damaged scan.jpg", patched(whole, middle, bytes([whole[middle] ^ 0x55 or 1])), Good()),
        Odd(b"jpeg end in the scan.jpg", patched(whole, middle, b"\xff\xd9"), Good()),
        Odd(b"jpeg of 12 bits.jpg", patched(whole, frame + 4, b"\x0c"), bad),
        Odd(b"jpeg of no height.jpg", patched(whole, frame + 5, b"\0\0"), bad),
        Odd(b"jpeg lossless.jpg", patched(whole, frame + 1, b"\xc3"), bad),
        Odd(b"jpeg magic.jpg", b"\xff\xd8\xff", bad),
        Odd(b"jpeg claims much.jpg", patched(whole, frame + 5, struct.pack(">HH", 65_500, 65_500)), enormous),
        Odd(
            b"jpeg progressive claims much.jpg",
            patched(progressive, segment(progressive, b"\xc2") + 5, struct.pack(">HH", 65_500, 65_500)),
            enormous,
        ),
        Odd(b"jpeg named png.png", whole, good),
    ]


def _png() -> list[Odd]:
    whole = saved(COLOURS, "png")
    data = whole.index(b"IDAT")
    exact = Good(shows=COLOURS)
    few = GREYS // 64
    palette = Image.fromarray(BLOCKS).quantize(16)
    places = np.asarray(palette)
    many = saved(Image.fromarray(COLOURS).convert("P"), "png")
    shares = np.arange(16) * 17
    seen = shares[places][..., None] / 255
    deep = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH, 4)).astype(np.uint16)
    to_eight = deep[..., :3] / 257
    key = COLOURS[0, 0]
    keyed = np.where((key == COLOURS).all(axis=-1, keepdims=True), 255, COLOURS)
    grey_key = int(GREYS[0, 0])
    grey_keyed = np.where(grey_key == GREYS, 255, GREYS)
    deep_key = deep[0, 0, :3]
    deep_keyed = np.where((deep[..., :3] == deep_key).all(axis=-1, keepdims=True), 255, to_eight)
    frames = [Image.fromarray(255 - COLOURS)]
    text = chunk(b"tEXt", b"Comment\0hello", right=False)
    bad = Bad(["PNG"])
    return [
        Odd(b"png.png", whole, exact),
        Odd(b"png grey.png", saved(GREYS, "png"), Good(shows=rgb(GREYS))),
        Odd(
            b"png grey and alpha.png",
            saved(np.dstack([GREYS, ALPHA]), "png"),
            Good(shows=over(rgb(GREYS), ALPHA / 255), within=0.5),
        ),
        Odd(
            b"png alpha.png",
            saved(np.dstack([COLOURS, ALPHA]), "png"),
            Good(shows=over(COLOURS, ALPHA / 255), within=0.5),
        ),
        Odd(
            b"png invisible.png", saved(np.dstack([COLOURS, 0 * ALPHA]), "png"), Good(shows=np.full_like(COLOURS, 255))
        ),
        Odd(b"png palette.png", saved(palette, "png"), Good(shows=BLOCKS)),
        Odd(b"png palette of 8 bits.png", many, Good(shows=as_pillow(many))),
        Odd(
            b"png palette transparent.png",
            saved(palette, "png", transparency=bytes(shares.tolist())),
            Good(shows=over(BLOCKS, seen), within=0.5),
        ),
        Odd(b"png 1 bit.png", png(packed(GREYS // 128, 1), depth=1, colour=0), Good(shows=rgb(GREYS // 128 * 255))),
        Odd(b"png 2 bits.png", png(packed(few, 2), depth=2, colour=0), Good(shows=rgb(few * 85))),
        Odd(b"png 4 bits.png", png(packed(GREYS // 16, 4), depth=4, colour=0), Good(shows=rgb(GREYS // 16 * 17))),
        Odd(
            b"png palette of 2 bits.png",
            png(packed(few, 2), depth=2, colour=3, before=chunk(b"PLTE", bytes(range(100, 112)))),
            Good(shows=np.arange(100, 112, dtype=np.uint8).reshape(4, 3)[few]),
        ),
        Odd(
            b"png 16 bits grey.png",
            png(rows(deep[..., 0]), depth=16, colour=0),
            Good(shows=rgb(to_eight[..., 0]), within=0.5),
        ),
        Odd(b"png 16 bits.png", png(rows(deep[..., :3]), depth=16), Good(shows=to_eight, within=0.5)),
        # Colour and alpha are rounded to 8 bits first, then what shows through.
        Odd(
            b"png 16 bits alpha.png",
            png(rows(deep), depth=16, colour=6),
            Good(shows=over(to_eight, deep[..., 3:] / 65535), within=1.5),
        ),
        Odd(
            b"png key.png",
            png(rows(COLOURS), before=chunk(b"tRNS", struct.pack(">3H", *key.tolist()))),
            Good(shows=keyed),
        ),
        Odd(
            b"png grey key.png",
            png(rows(GREYS), colour=0, before=chunk(b"tRNS", struct.pack(">H", grey_key))),
            Good(shows=rgb(grey_keyed)),
        ),
        Odd(
            b"png grey key of 2 bits.png",
            png(packed(few, 2), depth=2, colour=0, before=chunk(b"tRNS", b"\0\0")),
            Good(shows=rgb(np.where(few == 0, 255, few * 85))),
        ),
        Odd(
            b"png 16 bits key.png",
            png(rows(deep[..., :3]), depth=16, before=chunk(b"tRNS", struct.pack(">3H", *deep_key.tolist()))),
            Good(shows=deep_keyed, within=0.5),
        ),
        Odd(b"png interlaced.png", png(interlaced_rows(COLOURS), interlaced=True), exact),
        Odd(b"png gamma.png", png(rows(COLOURS), before=chunk(b"gAMA", struct.pack(">I", 100_000))), exact),
        Odd(
            b"png turned.png",
            saved(stored_for(COLOURS, 6), "png", exif=with_exif(6)),
            Good(canvas=(WIDTH, HEIGHT), orientation=6, shows=COLOURS),
        ),
        Odd(b"png animated.png", saved(COLOURS, "png", save_all=True, append_images=frames), exact),
        Odd(b"png comment damaged.png", png(rows(COLOURS), before=text), exact),
        Odd(b"png more behind its end.png", whole + b"garbage" * 50, exact),
        Odd(b"png checksum.png", png(rows(COLOURS), right=False), bad),
        Odd(b"png without its end.png", whole[:-12], bad),
        Odd(b"png cut.png", whole[: len(whole) // 2], bad),
        Odd(b"png cut in the header.png", whole[:20], bad),
        Odd(b"png rows missing.png", png(rows(COLOURS[:10])), bad),
        Odd(b"png no pixels.png", whole[: data - 4] + chunk(b"IEND", b""), bad),
        Odd(b"png magic.png", b"\x89PNG\r\n\x1a\n", bad),
        Odd(b"png claims much.png", png(rows(COLOURS), shape=(60_000, 60_000)), Bad(["pixels"])),
        Odd(b"png claims less.png", png(rows(COLOURS[:2]), shape=(13_000, 13_000)), bad),
        Odd(b"png of no width.png", png(b"\0" * HEIGHT, shape=(HEIGHT, 0)), bad),
        Odd(b"png named jpg.jpg", whole, exact),
    ]


def _gif() -> list[Odd]:
    clear = BLOCKS.copy()
    clear[:8, :8] = 255
    dark = np.where(BLOCKS[0, 0] == BLOCKS, 0, BLOCKS).astype(np.uint8)
    still, animated = palette_gif(), palette_gif(frames=3)
    bad = Bad(["GIF"])
    return [
        Odd(b"gif.gif", still, Good(shows=BLOCKS)),
        Odd(b"gif animated.gif", animated, Good(shows=BLOCKS)),
        Odd(b"gif transparent.gif", palette_gif(transparent=True), Good(shows=clear)),
        Odd(b"gif black.gif", palette_gif(dark), Good(shows=dark)),
        Odd(b"gif own table.gif", own_table(still), Good(shows=BLOCKS)),
        # TensorFlow gives transparent pixels as black, and does not say where on its canvas a frame lies.
        Odd(b"gif own table transparent.gif", own_table(palette_gif(transparent=True)), Bad(["GIF", "transparent"])),
        Odd(b"gif of part of its canvas.gif", patched(still, 6, struct.pack("<HH", 40, 30)), Bad(["GIF", "part"])),
        Odd(b"gif claims much.gif", patched(still, 6, b"\xff" * 4), Bad(["pixels"])),
        Odd(b"gif frame claims much.gif", patched(still, still.index(b"\x2c\0\0\0\0") + 5, b"\xff" * 4), bad),
        Odd(b"gif cut.gif", still[: len(still) // 2], bad),
        Odd(b"gif cut in the header.gif", still[:12], bad),
        Odd(b"gif magic.gif", b"GIF89a", bad),
        Odd(b"gif named jpg.jpg", still, Good(shows=BLOCKS)),
    ]


def _bmp() -> list[Odd]:
    whole = saved(COLOURS, "bmp")
    bgr = COLOURS[..., ::-1]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    grey[:, 3] = 0
    palette = RANDOM.integers(0, 256, 1024, dtype=np.uint8).tobytes()
    fourth = np.dstack([bgr, ALPHA])
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF), struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    old = b"BM" + struct.pack("<IHHI", 26 + 3 * HEIGHT * WIDTH, 0, 0, 26) + core + bgr[::-1].tobytes()
    bad, colours = Bad(["BMP"]), Bad(["BMP", "palette"])
    return [
        Odd(b"bmp.bmp", whole, Good(shows=COLOURS)),
        Odd(b"bmp top down.bmp", bmp(24, bgr.tobytes(), height=-HEIGHT), Good(shows=COLOURS)),
        Odd(b"bmp 32 bits.bmp", bmp(32, fourth[::-1].tobytes()), Good(shows=COLOURS)),
        Odd(b"bmp masks.bmp", bmp(32, fourth[::-1].tobytes(), palette=masks[0], compression=3), Good(shows=COLOURS)),
        # TensorFlow would swap red and blue.
        Odd(b"bmp other masks.bmp", bmp(32, fourth[::-1].tobytes(), palette=masks[1], compression=3), bad),
        Odd(b"bmp os2.bmp", old, bad),
        Odd(b"bmp grey.bmp", bmp(8, GREYS[::-1].tobytes(), palette=grey.tobytes()), Good(shows=rgb(GREYS))),
        Odd(b"bmp palette.bmp", bmp(8, GREYS[::-1].tobytes(), palette=palette), colours),
        Odd(b"bmp short palette.bmp", bmp(8, (GREYS[::-1] // 128).tobytes(), palette=palette[:8]), colours),
        Odd(b"bmp 1 bit.bmp", bmp(1, bytes(HEIGHT * 4), palette=palette[:8]), bad),
        Odd(b"bmp 4 bits.bmp", bmp(4, bytes(HEIGHT * 16), palette=palette[:64]), bad),
        Odd(b"bmp 16 bits.bmp", bmp(16, bytes(HEIGHT * WIDTH * 2)), bad),
        Odd(b"bmp run lengths.bmp", bmp(8, b"\x20\x05\0\0" * HEIGHT + b"\0\1", palette=palette, compression=1), bad),
        Odd(b"bmp cut.bmp", whole[: len(whole) // 2], Bad(["size"])),
        Odd(b"bmp cut in the header.bmp", whole[:30], bad),
        Odd(b"bmp magic.bmp", b"BM", bad),
        Odd(b"bmp claims much.bmp", patched(whole, 18, struct.pack("<ii", 60_000, 60_000)), Bad(["pixel"])),
        Odd(b"bmp least height.bmp", patched(whole, 22, struct.pack("<i", -(2**31))), Bad(["pixel"])),
        Odd(b"bmp pixels elsewhere.bmp", patched(whole, 10, struct.pack("<I", 2**31 + 10)), Bad(["header"])),
    ]


def _webp() -> list[Odd]:
    lossless = saved(COLOURS, "webp", lossless=True)
    lossy = saved(BLOCKS, "webp", quality=95)
    clear = np.dstack([COLOURS, ALPHA])
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - COLOURS)], "lossless": True}
    soft = saved(np.dstack([BLOCKS, ALPHA]), "webp", quality=95, exact=True)
    shown = np.asarray(Image.open(io.BytesIO(soft)))
    bad = Bad(["WebP"])
    return [
        Odd(b"webp lossless.webp", lossless, Good(shows=COLOURS)),
        Odd(b"webp lossy.webp", lossy, Good(shows=as_pillow(lossy), within=JPEG_ROUNDING)),
        Odd(
            b"webp alpha.webp",
            saved(clear, "webp", lossless=True, exact=True),
            Good(shows=over(COLOURS, ALPHA / 255), within=0.5),
        ),
        Odd(
            b"webp lossy alpha.webp", soft, Good(shows=over(shown[..., :3], shown[..., 3:] / 255), within=JPEG_ROUNDING)
        ),
        Odd(
            b"webp turned.webp",
            saved(stored_for(COLOURS, 3), "webp", lossless=True, exif=with_exif(3)),
            Good(orientation=3, shows=COLOURS),
        ),
        Odd(b"webp animated.webp", saved(COLOURS, "webp", **frames), Bad(["WebP", "animated"])),
        Odd(b"webp cut.webp", lossless[: len(lossless) // 2], bad),
        Odd(b"webp cut in the header.webp", lossless[:18], bad),
        Odd(b"webp magic.webp", b"RIFF\x10\0\0\0WEBP", bad),
        Odd(b"webp named png.png", lossless, Good(shows=COLOURS)),
    ]


def _shapes() -> list[Odd]:
    """Sizes: a canvas has at most 12 * SHORT_SIDE ** 2 = 3,072 pixels, sides are divided by powers of two."""
    one, black = np.uint8([[[10, 200, 90]]]), np.zeros((8000, 8000, 3), np.uint8)
    line = np.zeros((1, 20_000, 3), np.uint8)
    return [
        Odd(b"1 pixel.png", saved(one, "png"), Good(canvas=(1, 1), shows=one)),
        Odd(b"1 pixel.jpg", saved(one, "jpg", quality=100), Good(canvas=(1, 1), shows=one, within=PLAIN_ROUNDING)),
        Odd(b"1 pixel.gif", saved(Image.fromarray(one).quantize(2), "gif"), Good(canvas=(1, 1), shows=one)),
        Odd(b"1 pixel.bmp", saved(one, "bmp"), Good(canvas=(1, 1), shows=one)),
        Odd(b"1 pixel.webp", saved(one, "webp", lossless=True), Good(canvas=(1, 1), shows=one)),
        Odd(b"wide.png", saved(line, "png"), Good(canvas=(1, 2500))),
        Odd(b"wide.jpg", saved(line, "jpg"), Good(canvas=(1, 2500))),
        Odd(b"high.png", saved(line.transpose(1, 0, 2), "png"), Good(canvas=(2500, 1))),
        Odd(b"high.jpg", saved(line.transpose(1, 0, 2), "jpg"), Good(canvas=(2500, 1))),
        Odd(b"large.jpg", saved(black, "jpg"), Good(canvas=(32, 32), shows=black[:32, :32], within=1)),
        Odd(b"large.png", saved(Image.fromarray(black[..., 0]), "png"), Good(canvas=(32, 32), shows=black[:32, :32])),
    ]


def _impostors() -> list[Odd]:
    unknown = Bad(["format"])
    return [
        Odd(b"nothing.jpg", b"", Bad(["empty"])),
        Odd(b"nothing.png", b"", Bad(["empty"])),
        Odd(b"1 byte.jpg", b"\xff", unknown),
        Odd(b"text.jpg", b"This is a caption.\n", unknown),
        Odd(b"page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", unknown),
        Odd(b"drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', unknown),
        Odd(b"tiff.jpg", saved(COLOURS, "TIFF"), unknown),
        Odd(b"heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), unknown),
        Odd(b"archive.png", zipped(), unknown),
        Odd(b"zeros.jpg", bytes(5000), unknown),
        Odd(b"array.png", b"\x93NUMPY\x01\0v\0" + bytes(118), unknown),
        Odd(b"pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", unknown),
    ]


def _places() -> list[Odd]:
    """What is no file, or lies somewhere else; paths of links start at the class folder."""
    return [
        Odd(b"unreadable.png", unreadable, Bad(["read", "ermission"])),
        Odd(b"empty folder.jpg", folder_with, LeftOut()),
        Odd(b"folder.jpg/inside.png", saved(COLOURS, "png"), Good(shows=COLOURS)),
        Odd(b"pipe.jpg", os.mkfifo, Refused(["pipe"])),
        Odd(b"link to nothing.jpg", link("nowhere.jpg"), Refused(["link", "nothing"])),
        Odd(b"link to itself.jpg", link("link to itself.jpg"), Refused(["link"])),
        Odd(b"link out.png", link("../../outside.png"), Refused(["link", "out"])),
        Odd(b"link to a device.png", link("/dev/zero"), Refused(["link", "out"])),
        Odd(b"link to a pipe.jpg", link("pipe.jpg"), Refused(["pipe"])),
        Odd(b"link to a folder", link("folder.jpg"), Refused(["link", "folder"])),
        Odd(b"link inside.png", link("../plain/0.png"), Good()),
        Odd(b"a second name.png", hard_link, Good(shows=COLOURS)),
    ]


def _names() -> list[Odd]:
    content, good = saved(COLOURS, "png"), Good(shows=COLOURS)
    kept = [
        b"new\nline.png",
        b"tab\tand return\r.png",
        b"no utf-8 \xff\xfe.png",
        b"escape \x1b[31m\x1b]0;title\x07.png",
        "right to left \u202egnp.png".encode(),
        b'it\'s "quoted" `whoami` $HOME.png',
        b"100% %s %(name)s {0} {braces} {{x}}.png",
        b"back\\slash \\x41.png",
        b"[red]markup[/red] [/].png",
        "\N{GRINNING FACE} \u00e9 e\u0301.png".encode(),
        b"-rf.png",
        b" blank .png",
        b"*?.png",
        b"a" * 251 + b".png",
        b"UPPER.PNG",
        b"two.dots.png",
    ]
    left_out = [
        b"no suffix",
        b"text.jpeg.txt",
        b".hidden.png",
        b".png",
        b"blank behind.png ",
        b"scan.tif",
        b"Thumbs.db",
    ]
    return [
        *(Odd(name, content, good) for name in kept),
        *(Odd(name, content, LeftOut()) for name in left_out),
        # Bad ones, for what a message does with their names.
        Odd(b"bad \n\x1b[2J\xff [bold].png", b"no picture", Bad(["format"])),
    ]


# -- the folder -----------------------------------------------------------------------------------------------------


def write(root: Path) -> None:
    """The folder: `plain` with ordinary images, `odd` with one file of each kind, and a file beside it."""
    (root / "plain").mkdir(parents=True)
    for index in range(PLAIN):
        pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        (root / "plain" / f"{index}.png").write_bytes(saved(pixels, "png"))
    (root.parent / "outside.png").write_bytes(saved(COLOURS, "png"))
    for odd in table():
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), ODD.encode(), odd.name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(odd.content):
            odd.content(path)
        else:
            path.write_bytes(odd.content)


def verdicts() -> dict[bytes, Verdict]:
    """Name relative to the root -> verdict, of all files in the folder."""
    found = {ODD.encode() + b"/" + odd.name: odd.verdict for odd in table()}
    found[ODD.encode() + b"/a file with a second name.png"] = Good(shows=COLOURS)
    return found | {b"plain/%d.png" % index: Good() for index in range(PLAIN)}
