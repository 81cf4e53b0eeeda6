"""Crops: of each image by its own size, and of what the recipe's fit shows."""

import gin
import numpy as np
import tensorflow as tf

from data.augment.geometry import moved, moving, rows, scaled, whole
from data.augment.operation import Operation, Range, Size, between, check_number, check_range, check_whole
from data.augment.slots import Crop
from data.errors import UserError

# Where a crop takes its pixels: from what is decoded or stored of the whole image, or from the file.
PIXELS = ("canvas", "decode")
ATTEMPTS = 10
SHARES = [f"share_{attempt}" for attempt in range(ATTEMPTS)]
ASPECTS = [f"aspect_{attempt}" for attempt in range(ATTEMPTS)]


@gin.configurable
def random_resized_crop(
    *, scale: Range = (0.08, 1.0), ratio: Range = (3 / 4, 4 / 3), pixels: str = "canvas"
) -> Operation:
    """A box of random area and aspect, anywhere in the image, over the whole output: torchvision's `RandomResizedCrop`.

    Draws `share_0` ... `share_9` of the area of the image; `aspect_0` ... `aspect_9`, width over height, evenly in the
    logarithm; `x` and `y` in 0..1, where the box lies in the room that it leaves. The first of these shapes that fits
    is taken, or else the largest box in the centre that `ratio` allows. It replaces the fit of the recipe, and is made
    of whole pixels of the upright image. Unlike torchvision, what resampling needs from beyond the box is taken from
    the image.

    Args:
        scale: lowest and highest share of the area, in 0.0001..1.
        ratio: lowest and highest aspect, in 0.01..100.
        pixels: where they come from. `canvas`: the image as it is decoded or stored for its whole to be seen, so that
            small boxes are enlarged. `decode`: the file at full resolution; each position decodes the part that it
            shows. What other operations then bring in from beyond the box is filled, as outside an image.

    Raises:
        UserError: no such ranges, or pixels from elsewhere.
    """
    scale = check_range("scale", scale, where="gin binding random_resized_crop.scale", low=1e-4, high=1)
    ratio = check_range("ratio", ratio, where="gin binding random_resized_crop.ratio", low=0.01, high=100)
    if pixels not in PIXELS:
        raise UserError(
            f"pixels = {pixels!r}",
            where="gin binding random_resized_crop.pixels",
            expected=f"one of {', '.join(PIXELS)}",
            do="correct it",
        )
    logarithms = [float(np.log(end)) for end in ratio]
    slot = Crop(pixels=pixels, aspect=max(ratio[1], 1 / ratio[0])) if pixels == "decode" else Crop()

    def numbers(uniform, size):
        columns = tf.unstack(uniform, axis=1)
        shares = [between(column, *scale) for column in columns[:ATTEMPTS]]
        aspects = [tf.exp(between(column, *logarithms)) for column in columns[ATTEMPTS:-2]]
        return dict(zip([*SHARES, *ASPECTS, "x", "y"], [*shares, *aspects, *columns[-2:]], strict=True))

    def arrays(numbers, size):
        drawn = [numbers[name] for name in (*SHARES, *ASPECTS, "x", "y")]
        return (tf.stack([*drawn, *(end * tf.ones_like(drawn[0]) for end in ratio)], axis=-1),)

    return Operation(name="random_resized_crop", count=2 * ATTEMPTS + 2, slots=(slot,), numbers=numbers, arrays=arrays)


def is_crop(crop: tf.Tensor) -> tf.Tensor:
    """[B] bool, whether a row of a `Crop` is one; without, the recipe's fit holds."""
    return crop[:, 0] > 0


def boxes(crop: tf.Tensor, shown_size: tf.Tensor) -> tf.Tensor:
    """The boxes that crops take out of their images.

    Args:
        crop: [B, 24] float64: ten shares of the area, ten aspects, x, y, lowest and highest aspect.
        shown_size: [B, 2] int32, height and width of the upright images.

    Returns:
        [B, 4] float64: left, top, width and height in whole pixels. A pixel in a corner where there is no crop.
    """
    height, width = tf.unstack(tf.cast(shown_size, tf.float64), axis=-1)
    area, aspect = crop[:, :ATTEMPTS] * (height * width)[:, None], crop[:, ATTEMPTS : 2 * ATTEMPTS]
    x, y, low, high = tf.unstack(crop[:, 2 * ATTEMPTS :], axis=-1)
    # Rows without a crop have no aspect.
    widths = tf.round(tf.sqrt(area * aspect))
    heights = tf.round(tf.sqrt(tf.math.divide_no_nan(area, aspect)))
    fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
    first = tf.reduce_min(tf.where(fits, tf.range(ATTEMPTS), ATTEMPTS), axis=1)

    def of_first(lengths):
        return tf.gather(lengths, tf.minimum(first, ATTEMPTS - 1), batch_dims=1)

    narrow, wide = width / height < low, width / height > high
    most_width = tf.where(wide, tf.maximum(tf.round(height * high), 1), width)
    most_height = tf.where(narrow, tf.maximum(tf.round(tf.math.divide_no_nan(width, low)), 1), height)
    found = first < ATTEMPTS
    box_width = tf.where(found, of_first(widths), most_width)
    box_height = tf.where(found, of_first(heights), most_height)
    room_x, room_y = width - box_width, height - box_height
    left = tf.where(found, whole(x, room_x + 1), tf.floor(room_x / 2))
    top = tf.where(found, whole(y, room_y + 1), tf.floor(room_y / 2))
    return tf.stack([left, top, box_width, box_height], axis=-1)


def crop_matrix(crop: tf.Tensor, shown_size: tf.Tensor, image_size: Size) -> tf.Tensor:
    """Lays the boxes of crops over the output, edge on edge.

    Args:
        crop, shown_size: see `boxes`.
        image_size: height and width of the output.

    Returns:
        [B, 3, 3] float64, pixel of the output -> pixel of the upright image; of no use where `is_crop` does not hold.
    """
    return box_matrix(boxes(crop, shown_size), image_size)


def box_matrix(box: tf.Tensor, image_size: Size) -> tf.Tensor:
    """`crop_matrix` of boxes that are known.

    Args:
        box: [B, 4] float64: left, top, width and height.
    """
    left, top, width, height = tf.unstack(box, axis=-1)
    scale_x, scale_y = width / image_size[1], height / image_size[0]
    x, y = left + (scale_x - 1) / 2, top + (scale_y - 1) / 2
    return rows(scale_x, 0.0, x, 0.0, scale_y, y, 0.0, 0.0, 1.0)


@gin.configurable
def centre_crop(*, share: float = 0.875) -> Operation:
    """The centre of what the fit shows, over the whole output. Draws nothing.

    Args:
        share: of its height and width that is seen, in 0.01..1.

    Raises:
        UserError: no such share.
    """
    check_number("share", share, where="gin binding centre_crop.share", low=0.01, high=1)

    def numbers(uniform, size):
        return {"share": tf.fill(tf.shape(uniform)[:1], tf.constant(share, tf.float64))}

    return moving("centre_crop", 0, numbers=numbers, matrix=lambda size, share: scaled(size, share, share))


@gin.configurable
def random_crop(*, padding: int) -> Operation:
    """Moves by whole pixels of the output: a crop out of the image padded by the recipe's fill, as used on CIFAR.

    Draws `x` and `y`, each one of -padding ... padding, all alike.

    Args:
        padding: pixels on every side, in 0..65536.

    Raises:
        UserError: no such number.
    """
    where = "gin binding random_crop.padding"
    check_whole("padding", padding, where=where, low=0, high=2**16)

    def numbers(uniform, size):
        return {name: whole(uniform[:, at], 2 * padding + 1) - padding for at, name in enumerate("xy")}

    return moving("random_crop", 2, numbers=numbers, matrix=moved)
