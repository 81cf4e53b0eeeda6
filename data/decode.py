"""Bytes -> canvas: uint8 pixels at the file's own shape, shrunk by a power of two, in a flat row of fixed length."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

# libjpeg shrinks by these factors inside the inverse DCT, at no cost.
DCT_RATIOS = (1, 2, 4, 8)
# How a file becomes a canvas: 0 to 3, a JPEG shrunk by DCT_RATIOS[kind] and no further; ANY, as its bytes ask for;
# PLAIN_PNG, one of eight bits, grey or coloured, without transparency and not shrunk.
ANY = len(DCT_RATIOS)
PLAIN_PNG = ANY + 1
# Rows and columns decoded beside a part: libjpeg interpolates the colour of the outermost columns with less, and that
# of narrow images not at all.
BESIDE = (0, 8)
# Bytes that tell the format, and those that a BMP can have before its pixels.
HEAD, BMP_HEAD = 32, 2048
# A colour that no picture consists of.
DYE = (1, 2, 3)
# A canvas holds at most this many times the pixels of a square of the wanted short side ...
LARGEST = 12
# ... and at most this many pixels where images keep their full resolution.
LARGEST_UNSHRUNK = 2**24
# A file may state at most this many pixels, as Pillow has it: a few bytes can claim any number, and the decoders
# make room for them before they look at the rest.
LARGEST_STATED = 2**29 // 3


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How images become canvases: equal files and equal settings give equal pixels.

    Attributes:
        short_side: pixels that the short side of a canvas has at least, where the image has them; None: never shrunk.
        background: red, green, blue in 0..255, what shows through where an image is transparent.
    """

    short_side: int | None
    background: tuple[int, int, int] = (255, 255, 255)


def shrink_factor(height: tf.Tensor, width: tf.Tensor, *, short_side: int | None) -> tf.Tensor:
    """Power of two by which a decoded image is shrunk: its short side stays at least `short_side` where it was.

    Images too long for a canvas of LARGEST * short_side ** 2 pixels are shrunk further.

    Args:
        height, width: int32, any equal shape.

    Returns:
        int32 of that shape, at least 1.
    """
    if short_side is None:
        return tf.ones_like(height)
    height, width = height[..., None], width[..., None]
    factors = tf.constant([2**exponent for exponent in range(16)])
    fits_short = tf.cast(tf.minimum(height, width), tf.int64) >= short_side * tf.cast(factors[1:], tf.int64)
    pixels = tf.cast(-(-height // factors[:-1]), tf.int64) * tf.cast(-(-width // factors[:-1]), tf.int64)
    # Both hold up to some power of two and not beyond: counting finds it.
    doublings = tf.reduce_sum(tf.cast(fits_short | (pixels > LARGEST * short_side**2), tf.int32), axis=-1)
    return tf.bitwise.left_shift(tf.ones_like(doublings), doublings)


def decode(encoded: tf.Tensor, *, decoding: Decoding) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes JPEG, PNG, WebP, BMP or GIF (first frame); the content decides, not the name.

    Returns:
        [h, w, 3] uint8 with h = ceil(height / factor), w likewise, factor as `shrink_factor` gives it; and the kind,
        scalar int32, by which `decode_kind` gives the same pixels without looking at the bytes first.

    Raises:
        tf.errors.InvalidArgumentError: not an image, or a truncated one, or too large to stay unshrunk.
    """
    return _decoder(decoding)(encoded)


@functools.lru_cache(maxsize=8)
def _decoder(decoding: Decoding) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Traced once for all that decode with the same settings."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: _by_content(encoded, decoding), input_signature=signature, autograph=False)


def _by_content(encoded: tf.Tensor, decoding: Decoding) -> tuple[tf.Tensor, tf.Tensor]:
    pixels, kind = tf.cond(
        _is_jpeg(encoded),
        lambda: _jpeg(encoded, decoding),
        lambda: _no_jpeg(encoded, decoding),
    )
    with tf.control_dependencies([_refuse_too_large(pixels, decoding)]):
        return tf.ensure_shape(tf.identity(pixels), [None, None, 3]), kind


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"


def _is_png(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, 4) == b"\x89PNG"


def _no_jpeg(encoded: tf.Tensor, decoding: Decoding) -> tuple[tf.Tensor, tf.Tensor]:
    pixels = _not_jpeg(encoded, decoding)
    shape = tf.shape(pixels)
    whole = shrink_factor(shape[0], shape[1], short_side=decoding.short_side) == 1
    plain = whole & _is_plain_png(encoded) & _states_no_transparency(encoded)
    return _shrink(pixels, decoding), tf.where(plain, PLAIN_PNG, ANY)


def _is_plain_png(encoded: tf.Tensor) -> tf.Tensor:
    """By its header alone, where bit depth and colour type follow each other."""
    form = tf.strings.substr(_head(encoded), 24, 2)
    return _is_png(encoded) & ((form == b"\x08\x00") | (form == b"\x08\x02"))


def _states_no_transparency(encoded: tf.Tensor) -> tf.Tensor:
    before = tf.strings.split(encoded, b"IDAT", maxsplit=1)[0]
    return tf.size(tf.strings.split(before, b"tRNS")) == 1


def _head(encoded: tf.Tensor) -> tf.Tensor:
    # Long enough to be cut anywhere: TensorFlow's complaint of a string too short is no UTF-8.
    return tf.strings.join([tf.strings.substr(encoded, 0, HEAD), b"\0" * HEAD])


def _not_jpeg(encoded: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """[h, w, 3] uint8, unshrunk."""
    head = _head(encoded)

    def starts_with(magic: bytes, at: int = 0) -> tf.Tensor:
        return tf.strings.substr(head, at, len(magic)) == magic

    is_webp = starts_with(b"RIFF") & starts_with(b"WEBP", at=8)
    formats = [_is_png(encoded), is_webp, starts_with(b"GIF8"), starts_with(b"BM")]
    branches = [
        lambda: _png(encoded, head, decoding),
        lambda: _webp(encoded, head, decoding),
        lambda: _gif(encoded, head, decoding),
        lambda: _bmp(encoded),
        # Complains of the format.
        lambda: _decode_first(encoded),
    ]
    return tf.switch_case(tf.argmax([*formats, True], output_type=tf.int32), branches)


def decode_kind(encoded: tf.Tensor, kind: tf.Tensor, *, kinds: Sequence[int], decoding: Decoding) -> tf.Tensor:
    """What `decode` gives, without the cost of finding out how to decode.

    Args:
        kind: scalar int32, what `decode` said of this file.
        kinds: those that occur in the table, ascending.

    Returns:
        [h, w, 3] uint8.

    Raises:
        tf.errors.InvalidArgumentError: as `decode`, and where a file is no longer of its kind.
    """

    def of(kind: int) -> Callable[[], tf.Tensor]:
        if kind == ANY:
            return lambda: decode(encoded, decoding=decoding)[0]
        if kind == PLAIN_PNG:
            return lambda: _plain_png(encoded, decoding)
        return lambda: _decode_jpeg(encoded, DCT_RATIOS[kind])

    if len(kinds) == 1:
        return of(kinds[0])()
    branch = tf.searchsorted(tf.constant(kinds, tf.int32), kind[None])[0]
    return tf.switch_case(branch, [of(kind) for kind in kinds])


def read_canvas(
    path: tf.Tensor, kind: tf.Tensor, *, kinds: Sequence[int], decoding: Decoding, capacity: int, exactly: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads one file into a canvas.

    Args:
        path: scalar string.
        kind, kinds: see `decode_kind`.
        capacity: pixels that a canvas has room for.
        exactly: whether it must be full.

    Returns:
        canvas [h * w * 3] uint8, the rows of the image one after the other;
        size [2] int32, height and width of the image in it.

    Raises:
        tf.errors.OpError: the file cannot be read or decoded, or does not fit the canvas.
    """
    pixels = decode_kind(tf.io.read_file(path), kind, kinds=kinds, decoding=decoding)
    flat, size = tf.reshape(pixels, [-1]), tf.shape(pixels)[:2]
    fits = tf.debugging.assert_equal if exactly else tf.debugging.assert_less_equal
    with tf.control_dependencies([fits(tf.size(flat), capacity * 3, "the image has another size than at the start")]):
        return tf.identity(flat), size


def open_image(encoded: tf.Tensor, *, decoding: Decoding) -> tuple[tf.Tensor, tf.Tensor]:
    """What has to be known of an image before a part of it can be chosen.

    Returns:
        size [2] int32, height and width as stored;
        pixels [h, w, 3] uint8, all of them; none of a JPEG, which `decode_part` decodes itself.

    Raises:
        tf.errors.InvalidArgumentError: not an image, or a truncated one, or one that claims to be enormous.
    """

    def other() -> tuple[tf.Tensor, tf.Tensor]:
        pixels = _not_jpeg(encoded, decoding)
        return tf.shape(pixels)[:2], pixels

    return tf.cond(_is_jpeg(encoded), lambda: (_jpeg_size(encoded), tf.zeros([0, 0, 3], tf.uint8)), other)


def decode_part(
    encoded: tf.Tensor, size: tf.Tensor, pixels: tf.Tensor, *, factor: tf.Tensor, start: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """A part of an image shrunk by a power of two: each pixel is the mean of a cell of factor x factor stored ones.

    Cells lie side by side from the upper left corner on. Where the image ends within one, its last pixels repeat.

    Args:
        size, pixels: what `open_image` gives.
        factor: scalar int32, a power of two.
        start, count: [2] int32, row and column of the first cell, and how many cells along each.

    Returns:
        [*count, 3] uint8. Of a JPEG the same bits as if the whole were decoded at the scale of DCT_RATIOS first.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG that is truncated before the end of this part.
    """

    def jpeg() -> tf.Tensor:
        ratio = tf.minimum(factor, DCT_RATIOS[-1])
        first, length = start * (factor // ratio), count * (factor // ratio)
        begin = tf.maximum(first - BESIDE, 0)
        window = tf.minimum(first + length + BESIDE, -(-size // ratio)) - begin
        kind = tf.searchsorted(tf.constant(DCT_RATIOS), ratio[None])[0]
        found = tf.switch_case(
            kind, [lambda ratio=ratio: _decode_jpeg_window(encoded, ratio, begin, window) for ratio in DCT_RATIOS]
        )
        return cells(found, first - begin, factor // ratio)

    def cells(pixels: tf.Tensor, first: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        def mean() -> tf.Tensor:
            rows, columns = (
                tf.minimum(first[axis] + tf.range(count[axis] * factor), tf.shape(pixels)[axis] - 1) for axis in (0, 1)
            )
            return _shrink_by(tf.gather(tf.gather(pixels, rows), columns, axis=1), factor)

        return tf.cond(factor > 1, mean, lambda: tf.slice(pixels, [*tf.unstack(first), 0], [*tf.unstack(count), 3]))

    return tf.cond(_is_jpeg(encoded), jpeg, lambda: cells(pixels, start * factor, factor))


def shrink_array(pixels: np.ndarray, *, decoding: Decoding) -> np.ndarray:
    """Images in memory, shrunk as files are when they are decoded.

    Args:
        pixels: [N, H, W, 3] uint8.

    Returns:
        [N, h, w, 3] uint8, the same array where nothing is to be shrunk.
    """
    height, width = pixels.shape[1:3]
    if shrink_factor(tf.constant(height), tf.constant(width), short_side=decoding.short_side) == 1:
        return pixels
    return np.stack([_shrink(tf.constant(image), decoding).numpy() for image in pixels])


def reason(error: tf.errors.OpError) -> str:
    """The first line of what TensorFlow says, without the names of its nodes."""
    text = str(error.message or error).replace("{{function_node", "\n")
    lines = [line.split("}}")[-1].strip() for line in text.splitlines() if line.strip()]
    first = (lines[0] if lines else type(error).__name__).split(" [Op:")[0]
    return first.removeprefix("assertion failed: [").removesuffix("]") if "assertion" in first else first


def _decode_jpeg(encoded: tf.Tensor, ratio: int) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _decode_jpeg_window(encoded: tf.Tensor, ratio: int, start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The window is one of the shrunk image."""
    window = tf.concat([start, count], axis=0)
    return tf.image.decode_and_crop_jpeg(encoded, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(encoded)
    with tf.control_dependencies([_refuse_enormous(shape[0], shape[1])]):
        return tf.ensure_shape(shape[:2], [2])


def _jpeg(encoded: tf.Tensor, decoding: Decoding) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(_jpeg_size(encoded))
    factor = shrink_factor(height, width, short_side=decoding.short_side)
    ratio = tf.minimum(factor, DCT_RATIOS[-1])
    kind = tf.searchsorted(tf.constant(DCT_RATIOS), ratio[None])[0]
    pixels = tf.switch_case(kind, [lambda ratio=ratio: _decode_jpeg(encoded, ratio) for ratio in DCT_RATIOS])
    return _shrink_by(pixels, factor // ratio), tf.where(factor == ratio, kind, ANY)


def _png(encoded: tf.Tensor, head: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    depth = tf.io.decode_raw(tf.strings.substr(head, 24, 1), tf.uint8)[0]
    width, height = tf.unstack(tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False), num=2)

    def rounded() -> tf.Tensor:
        deep = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16)
        return _over_background(tf.cast(tf.round(tf.cast(deep, tf.float32) / 257.0), tf.uint8), decoding)

    def with_alpha() -> tf.Tensor:
        return tf.cond(depth == 16, rounded, lambda: _over_background(tf.io.decode_png(encoded, channels=4), decoding))

    with tf.control_dependencies([_refuse_enormous(height, width)]):
        # TensorFlow 2.21 adds a wrong alpha channel to less than eight bits, unless the file states one.
        shallow = tf.cond(depth < 8, lambda: _states_no_transparency(encoded), lambda: False)
        return tf.cond(shallow, lambda: tf.io.decode_png(encoded, channels=3), with_alpha)


def _plain_png(encoded: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(_is_plain_png(encoded), ["it is no plain PNG any more"])]):
        pixels = tf.io.decode_png(encoded, channels=3)
    with tf.control_dependencies([_refuse_too_large(pixels, decoding)]):
        return tf.identity(pixels)


def _webp(encoded: tf.Tensor, head: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """Still images only: TensorFlow 2.21 writes outside its memory on animated ones with channels left open.

    The header is https://developers.google.com/speed/webp/docs/riff_container; VP8L's has its alpha bit after the
    signature and two numbers of 14 bits.
    """
    chunk = tf.strings.substr(head, 12, 4)
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 20, 5), tf.uint8), tf.int32)
    extended, lossless = chunk == b"VP8X", chunk == b"VP8L"
    animated = extended & (tf.bitwise.bitwise_and(header[0], 0x02) > 0)
    transparent = tf.where(extended, header[0], tf.where(lossless, header[4], 0))
    transparent = tf.bitwise.bitwise_and(transparent, 0x10) > 0

    def with_alpha() -> tf.Tensor:
        return _over_background(tf.image.decode_webp(encoded, channels=4)[0], decoding)

    with tf.control_dependencies([tf.debugging.Assert(~animated, ["animated WebP; save its first frame"])]):
        return tf.cond(transparent, with_alpha, lambda: tf.image.decode_webp(encoded, channels=3)[0])


def _gif(encoded: tf.Tensor, head: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """The first frame. TensorFlow makes black what is transparent in it, and cuts the canvas down to the frame.

    Decoded again with a global table of one colour only, what is still black is transparent. A frame with a table of
    its own does not take part in that: there, black could be either. The header is that of
    https://www.w3.org/Graphics/GIF/spec-gif89a.txt.
    """
    width, height = tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(head, 6, 4), tf.uint16), tf.int32), num=2)
    flags = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 10, 1), tf.uint8)[0], tf.int32)
    colours = tf.where(flags >= 0x80, tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7)), 0)
    with tf.control_dependencies([_refuse_enormous(height, width)]):
        pixels = _decode_first(encoded)
    whole = tf.reduce_all(tf.shape(pixels)[:2] == [height, width])
    with tf.control_dependencies([tf.debugging.Assert(whole, ["GIF that shows part of its canvas; save it as PNG"])]):
        table = tf.strings.substr(bytes(DYE) * 256, 0, 3 * colours)
        rest = tf.strings.substr(encoded, 13 + 3 * colours, tf.strings.length(encoded))
        dyed = _decode_first(tf.strings.join([tf.strings.substr(encoded, 0, 13), table, rest]))
    opaque = tf.reduce_any(dyed > 0, axis=-1, keepdims=True)
    one_colour = tf.reduce_all(dyed == tf.where(opaque, tf.constant(DYE, tf.uint8), tf.zeros([], tf.uint8)))
    clear = tf.reduce_all(opaque) | one_colour
    complaint = "GIF whose first frame has a colour table of its own, and black or transparent pixels; save it as PNG"
    with tf.control_dependencies([tf.debugging.Assert(clear, [complaint])]):
        return tf.where(opaque, pixels, tf.constant(decoding.background, tf.uint8))


def _bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Grey or full colours. TensorFlow takes indexes into a palette for grey levels, and looks at no mask.

    The header is https://learn.microsoft.com/windows/win32/api/wingdi/ns-wingdi-bitmapinfoheader.
    """
    head = tf.strings.join([tf.strings.substr(encoded, 0, BMP_HEAD), b"\0" * BMP_HEAD])

    def number(start: int, dtype: tf.DType = tf.int32) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(head, start, dtype.size), dtype)[0], tf.int32)

    pixels_at, header, bits, compression = number(10), number(14), number(28, tf.uint16), number(30)
    palette_at = tf.clip_by_value(14 + header, 0, BMP_HEAD)
    entries = tf.clip_by_value((pixels_at - palette_at) // 4, 0, 256)
    palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(head, palette_at, 4 * entries), tf.uint8), [-1, 4])
    grey = (entries > 0) & tf.reduce_all(tf.cast(palette[:, :3], tf.int32) == tf.range(entries)[:, None])
    usual = tf.strings.substr(head, 54, 12) == b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
    plain = (compression == 0) | ((compression == 3) & (bits == 32) & usual)
    known = (header >= 40) & ((bits == 8) | (bits == 24) | (bits == 32)) & plain
    checks = [
        tf.debugging.Assert(known, ["BMP that is not plain, of 8, 24 or 32 bits a pixel; save it as PNG"]),
        tf.debugging.Assert((bits != 8) | grey, ["BMP with a colour palette; save it as PNG"]),
    ]
    with tf.control_dependencies(checks):
        return _decode_first(encoded)


def _decode_first(encoded: tf.Tensor) -> tf.Tensor:
    """[h, w, 3] uint8, the only image or the first frame."""
    return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])


def _over_background(pixels: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """[h, w, 4] uint8 -> [h, w, 3] uint8: the `over` operator (Porter and Duff 1984) on an opaque background."""

    def over() -> tf.Tensor:
        # At most 255 * 255 + 127, which 16 bits hold.
        colour, alpha = tf.cast(pixels[..., :3], tf.uint16), tf.cast(pixels[..., 3:], tf.uint16)
        background = tf.constant(decoding.background, tf.uint16)
        # Never a tie, since 255 is odd: the integer division rounds.
        return tf.cast((colour * alpha + background * (255 - alpha) + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_all(pixels[..., 3] == 255), lambda: pixels[..., :3], over)


def _refuse_enormous(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    holds = tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= LARGEST_STATED
    return tf.debugging.Assert(holds, [f"it claims to have more than {LARGEST_STATED} pixels"])


def _refuse_too_large(pixels: tf.Tensor, decoding: Decoding) -> tf.Operation:
    if decoding.short_side is not None:
        return tf.no_op()
    holds = tf.size(pixels) <= LARGEST_UNSHRUNK * 3
    return tf.debugging.Assert(holds, [f"more than {LARGEST_UNSHRUNK} pixels, too large to be seen at native size"])


def _shrink(pixels: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    shape = tf.shape(pixels)
    return _shrink_by(pixels, shrink_factor(shape[0], shape[1], short_side=decoding.short_side))


def _shrink_by(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Mean over what each pixel of the smaller image covers: factor x factor pixels where it divides both sides."""

    def mean() -> tf.Tensor:
        size = -(-tf.shape(pixels)[:2] // factor)
        return tf.cast(tf.round(tf.raw_ops.ResizeArea(images=pixels[None], size=size)[0]), tf.uint8)

    return tf.cond(factor > 1, mean, lambda: pixels)
