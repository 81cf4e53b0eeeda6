"""Bytes -> canvas: uint8 pixels at the file's own shape, shrunk by a power of two, in a flat row of fixed length."""

import concurrent.futures
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from data.examples import Examples

# libjpeg shrinks by these factors inside the inverse DCT, at no cost.
DCT_RATIOS = (1, 2, 4, 8)
# A canvas holds at most this many times the pixels of a square of the wanted short side.
LARGEST = 12


def shrink_factor(height: tf.Tensor, width: tf.Tensor, *, short_side: int) -> tf.Tensor:
    """Power of two by which a decoded image is shrunk: its short side stays at least `short_side` where it was.

    Images too long for a canvas of LARGEST * short_side ** 2 pixels are shrunk further.

    Args:
        height, width: int32, any equal shape.

    Returns:
        int32 of that shape, at least 1.
    """
    factor = tf.ones_like(height)
    for exponent in range(1, 16):
        candidate = 2**exponent
        fits_short = tf.minimum(height, width) >= short_side * candidate
        pixels = tf.cast(-(-height // factor), tf.int64) * tf.cast(-(-width // factor), tf.int64)
        too_large = pixels > LARGEST * short_side**2
        factor = tf.where(fits_short | too_large, candidate, factor)
    return factor


def decode(encoded: tf.Tensor, *, short_side: int) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame); the content decides, not the name.

    Returns:
        [h, w, 3] uint8 with h = ceil(height / factor), w likewise, factor as `shrink_factor` gives it.

    Raises:
        tf.errors.InvalidArgumentError: not an image, or a truncated one.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    return tf.cond(is_jpeg, lambda: _jpeg(encoded, short_side), lambda: _other(encoded, short_side))


def _jpeg(encoded: tf.Tensor, short_side: int) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(encoded)
    factor = shrink_factor(shape[0], shape[1], short_side=short_side)
    ratio = tf.minimum(factor, DCT_RATIOS[-1])

    def at(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    branches = [at(ratio) for ratio in DCT_RATIOS]
    pixels = tf.switch_case(tf.cast(tf.math.log(tf.cast(ratio, tf.float32)) / np.log(2.0) + 0.5, tf.int32), branches)
    return _shrink(pixels, factor // ratio)


def _other(encoded: tf.Tensor, short_side: int) -> tf.Tensor:
    with tf.control_dependencies([_refuse_palette(encoded)]):
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    shape = tf.shape(pixels)
    return _shrink(pixels, shrink_factor(shape[0], shape[1], short_side=short_side))


def shrink_array(pixels: np.ndarray, *, short_side: int) -> np.ndarray:
    """Images in memory, shrunk as files are when they are decoded.

    Args:
        pixels: [N, H, W, 3] uint8.

    Returns:
        [N, h, w, 3] uint8, the same array where nothing is to be shrunk.
    """
    height, width = pixels.shape[1:3]
    factor = shrink_factor(tf.constant(height), tf.constant(width), short_side=short_side)
    if factor == 1:
        return pixels
    return np.stack([_shrink(tf.constant(image), factor).numpy() for image in pixels])


def _refuse_palette(encoded: tf.Tensor) -> tf.Operation:
    """Fails on a BMP whose bytes are indexes into colours; TensorFlow would take them for grey levels."""

    def number(start: int, dtype: tf.DType) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, start, dtype.size), dtype)[0], tf.int32)

    def check() -> tf.Operation:
        entries = tf.strings.substr(encoded, 14 + number(14, tf.int32), 4 * 256)
        palette = tf.cast(tf.reshape(tf.io.decode_raw(entries, tf.uint8), [-1, 4])[:, :3], tf.int32)
        grey = tf.reduce_all(palette == tf.range(256)[:, None])
        return tf.debugging.Assert(grey, ["BMP with a colour palette; save it as PNG"])

    is_bmp = (tf.strings.substr(encoded, 0, 2) == b"BM") & (tf.strings.length(encoded) >= 54 + 4 * 256)
    with_palette = tf.cond(is_bmp, lambda: number(28, tf.uint16) <= 8, lambda: False)
    return tf.cond(with_palette, check, tf.no_op)


def _shrink(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Mean over what each pixel of the smaller image covers: factor x factor pixels where it divides both sides."""

    def mean() -> tf.Tensor:
        shape = tf.shape(pixels)
        size = -(-shape[:2] // factor)
        resized = tf.image.resize(tf.cast(pixels, tf.float32), size, method="area")
        return tf.cast(tf.round(resized), tf.uint8)

    return tf.cond(factor > 1, mean, lambda: pixels)


def read_canvas(path: tf.Tensor, *, short_side: int, capacity: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads one file into a canvas.

    Args:
        path: scalar string.
        capacity: pixels of the canvas.

    Returns:
        canvas [capacity * 3] uint8, the rows of the image one after the other, then zeros;
        size [2] int32, height and width of the image in it.

    Raises:
        tf.errors.OpError: the file cannot be read or decoded, or does not fit the canvas.
    """
    pixels = decode(tf.io.read_file(path), short_side=short_side)
    flat = tf.reshape(pixels, [-1])
    spare = capacity * 3 - tf.size(flat)
    with tf.control_dependencies([tf.debugging.assert_non_negative(spare, "image grew since the session started")]):
        canvas = tf.pad(flat, [[0, spare]])
    canvas.set_shape([capacity * 3])
    return canvas, tf.shape(pixels)[:2]


def inspect(
    examples: Examples, *, short_side: int, report: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, dict[int, str]]:
    """Decodes every file once, on all cores.

    Args:
        report: is told how many images are done.

    Returns:
        sizes [N, 2] int32, height and width of each canvas, 0 where the image is bad;
        the reason for each bad row.
    """
    decode_file = tf.function(
        lambda path: tf.shape(decode(tf.io.read_file(path), short_side=short_side))[:2],
        input_signature=[tf.TensorSpec([], tf.string)],
    )
    sizes = np.zeros((len(examples), 2), np.int32)
    bad: dict[int, str] = {}

    def look(row: int) -> None:
        path = os.path.join(os.fsencode(examples.root), bytes(examples.names[row]))
        try:
            sizes[row] = decode_file(tf.constant(path)).numpy()
        except tf.errors.OpError as error:
            bad[row] = reason(error)

    with concurrent.futures.ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(look, range(len(examples)), chunksize=16), start=1):
            report(done)
    return sizes, dict(sorted(bad.items()))


def orientations(examples: Examples) -> np.ndarray:
    """How each file says it is to be turned: [N] int8, EXIF orientations 1 to 8, 1 where it says nothing."""

    def read(row: int) -> int:
        try:
            with Image.open(os.path.join(os.fsencode(examples.root), bytes(examples.names[row]))) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        # Whatever is wrong with metadata, the pixels are fine: `inspect` has decoded them.
        except Exception:
            return 1
        return orientation if orientation in range(1, 9) else 1

    with concurrent.futures.ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        return np.fromiter(pool.map(read, range(len(examples)), chunksize=16), np.int8, len(examples))


def reason(error: tf.errors.OpError) -> str:
    """The first line of what TensorFlow says, without the names of its nodes."""
    text = str(error.message or error).replace("{{function_node", "\n")
    lines = [line.split("}}")[-1].strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).split(" [Op:")[0]
