"""B-splines of order 2 to 5, as scipy.ndimage interpolates with them: coefficients of an image, and weights of taps.

Unser, Aldroubi, Eden 1991. Coefficients depend on all pixels of a row or column, but linearly: one matrix for rows
and one for columns gives those of every image of one size.
"""

import functools

import numpy as np
import tensorflow as tf

SPLINES = {f"spline{order}": order for order in range(2, 6)}
# What scipy.ndimage puts around an image in `nearest` mode, for which it has no exact coefficients.
PADDING = 12


def padding(fill: str) -> int:
    """Pixels by which the coefficients of an image reach over each side of it."""
    return PADDING if fill == "nearest" else 0


@functools.lru_cache(maxsize=64)
def prefilter(length: int, order: int, fill: str) -> np.ndarray:
    """[length + 2 * padding, length] float32: pixels of a line -> its coefficients."""
    # Elsewhere it is not needed, and importing it takes a while.
    from scipy import ndimage

    around = padding(fill)
    lines = np.pad(np.eye(length), ((around, around), (0, 0)), mode="edge")
    # scipy leaves a line of one pixel as it is.
    return ndimage.spline_filter1d(lines, order, axis=0, mode=fill).astype(np.float32)


def coefficients(images: tf.Tensor, *, order: int, fill: str) -> tf.Tensor:
    """[B, H, W, C] float32 -> [B, H + 2 * padding, W + 2 * padding, C]."""
    _, height, width, channels = images.shape
    down, across = (tf.constant(prefilter(side, order, fill)) for side in (height, width))
    tall, wide = down.shape[0], across.shape[0]

    def of_one(image):
        columns = tf.matmul(down, tf.reshape(image, [height, width * channels]))
        lines = tf.reshape(columns, [tall, width, channels])
        return tf.reshape(tf.einsum("xw,hwc->hxc", across, lines), [tall, wide, channels])

    # One by one: in a larger product the sums of an image would depend on where in the batch it is.
    return tf.map_fn(of_one, images)


def taps(at: tf.Tensor, *, order: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """The order + 1 coefficients around a coordinate, and their weights.

    Args:
        at: [B, P] float32.
    """
    first = tf.floor(at if order % 2 else at + 0.5)
    share = at - first
    start = tf.cast(first, tf.int32) - order // 2
    return [(start + tap, basis(share - (tap - order // 2), order)) for tap in range(order + 1)]


def basis(distance: tf.Tensor, order: int) -> tf.Tensor:
    """The centred B-spline of this order, by its sum of truncated powers taken piece by piece."""
    x = tf.abs(distance)
    if order == 2:
        return tf.where(x < 0.5, 0.75 - x * x, 0.5 * (1.5 - x) ** 2)
    if order == 3:
        return tf.where(x < 1, (x * x * (x - 2) * 3 + 4) / 6, (2 - x) ** 3 / 6)
    if order == 4:
        square = x * x
        inner = square * (square * 0.25 - 0.625) + 115 / 192
        middle = x * (x * (x * (5 / 6 - x / 6) - 1.25) + 5 / 24) + 55 / 96
        return tf.where(x < 0.5, inner, tf.where(x < 1.5, middle, (x - 2.5) ** 4 / 24))
    square = x * x
    inner = square * (square * (0.25 - x / 12) - 0.5) + 0.55
    middle = x * (x * (x * (x * (x / 24 - 0.375) + 1.25) - 1.75) + 0.625) + 0.425
    return tf.where(x < 1, inner, tf.where(x < 2, middle, (3 - x) ** 5 / 120))
