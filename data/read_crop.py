"""A crop out of a file, at the resolution that the output asks for."""

import math
from collections.abc import Callable

import tensorflow as tf

from data import decode
from data.augment import crops, geometry
from data.augment.operation import Size
from data.decode import LARGEST, Decoding
from data.errors import UserError

# Pixels beyond the box that resampling takes in: two of bicubic interpolation.
MARGIN = 2


def read_crop(
    path: tf.Tensor,
    crop: tf.Tensor,
    orientation: tf.Tensor,
    *,
    whole: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    image_size: Size,
    decoding: Decoding,
    capacity: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads what a crop shows of one file, shrunk by a power of two as long as it fills the output without enlarging.

    Args:
        path: scalar string.
        crop: [24] float64, see `data.augment.crops.boxes`.
        orientation: scalar int8, EXIF orientation.
        whole: gives canvas and size where the row is no crop, see `data.decode.read_canvas`.
        image_size: height and width of the output.
        capacity: pixels that a canvas has room for, see `capacity_for`.

    Returns:
        canvas [h * w * 3] uint8, the rows of the part one after the other, as stored;
        size [2] int32, its height and width;
        matrix [3, 3] float64, pixel of the output -> pixel of the canvas; the identity where the row is no crop.

    Raises:
        tf.errors.OpError: the file cannot be read or decoded, or the part does not fit the canvas.
    """

    def part() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        encoded = tf.io.read_file(path)
        size, opened = decode.open_image(encoded, decoding=decoding)
        factor, start, count, matrix = parts(crop[None], size[None], orientation[None], image_size)
        pixels = decode.decode_part(encoded, size, opened, factor=factor[0], start=start[0], count=count[0])
        fits = tf.debugging.assert_less_equal(tf.size(pixels), capacity * 3, "a crop larger than a canvas")
        with tf.control_dependencies([fits]):
            return tf.reshape(pixels, [-1]), count[0], matrix[0]

    return tf.cond(crops.is_crop(crop[None])[0], part, lambda: (*whole(), tf.eye(3, dtype=tf.float64)))


def parts(
    crop: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor, image_size: Size
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The parts of images that hold the boxes of crops, and MARGIN pixels beyond.

    Args:
        crop: [B, 24] float64.
        size: [B, 2] int32, height and width as stored.
        orientation: [B] int8.

    Returns:
        factor [B] int32, start [B, 2] int32 and count [B, 2] int32, see `data.decode.decode_part`;
        matrix [B, 3, 3] float64, pixel of the output -> pixel of the part.
    """
    shown_size, turned = geometry.upright(size, orientation)
    box = crops.boxes(crop, shown_size)
    height, width = (tf.cast(box[:, side], tf.int32) for side in (3, 2))
    factor = decode.shrink_factor(height, width, short_side=max(image_size))
    # From pixel edges as shown, half a pixel outside of their centres, to cell edges as stored.
    ends = tf.stack([box[:, :2], box[:, :2] + box[:, 2:]], axis=-1) - 0.5
    ends = tf.concat([ends, tf.ones_like(ends[:, :1])], axis=1)
    divisor = tf.cast(factor, tf.float64)[:, None]
    edges = (turned @ ends)[:, 1::-1] + 0.5
    first = tf.cast(tf.floor(tf.reduce_min(edges, axis=-1) / divisor), tf.int32)
    last = tf.cast(tf.math.ceil(tf.reduce_max(edges, axis=-1) / divisor), tf.int32)
    start = tf.maximum(first - MARGIN, 0)
    stop = tf.minimum(last + MARGIN, -(-size // factor[:, None]))
    scale = 1 / divisor[:, 0]
    y, x = tf.unstack((scale[:, None] - 1) / 2 - tf.cast(start, tf.float64), axis=-1)
    into_part = geometry.rows(scale, 0.0, x, 0.0, scale, y, 0.0, 0.0, 1.0)
    return factor, start, stop - start, into_part @ turned @ crops.box_matrix(box, image_size)


def capacity_for(image_size: Size, *, aspect: float) -> int:
    """Pixels of the largest part that `parts` can ask for.

    Args:
        aspect: of the longer to the shorter side of a box, at most, before both are rounded to whole pixels.
    """
    # The short side of a box is less than twice what is wanted, or else it would be shrunk more.
    short = 2 * max(image_size)
    long = math.ceil(aspect * (short + 0.5) + 0.5)
    # A box may begin and end within a cell.
    around = 2 * MARGIN + 1
    most = LARGEST * max(image_size) ** 2
    return min((short + around) * (long + around), most + around * (short + long + around))


def needs_files(found: str, *, where: str) -> UserError:
    """The error of crops that should come from files where there are none."""
    return UserError(
        f"{found}, and a policy with random_resized_crop.pixels = 'decode'",
        where=where,
        expected="files, which crops can be decoded from at full resolution",
        do="random_resized_crop.pixels = 'canvas'",
    )
