"""Geometric operations as 3x3 matrices that take a pixel of the output to where it comes from in the input.

Coordinates are (x, y, 1) in pixels, (0, 0) the centre of the upper left one. Matrices multiply from the input to the
output in the order in which a policy lists its operations, as Keras' `apply_affine_transform` composes them.
"""

import dataclasses
from collections.abc import Callable

import gin
import numpy as np
import tensorflow as tf

from data.errors import UserError

FITS = ("stretch", "cover", "contain", "native")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One geometric operation of a policy.

    Attributes:
        name: keys its random numbers.
        count: random numbers wanted per example.
        matrix: (uniform [B, count] float64 in [0, 1), image size) -> [B, 3, 3] float64.
    """

    name: str
    count: int
    matrix: Callable[[tf.Tensor, int], tf.Tensor]


def rows(*entries) -> tf.Tensor:
    """[B, 3, 3] float64 from nine entries, each [B] or a number, row by row."""
    batch = next(tf.shape(entry) for entry in entries if isinstance(entry, tf.Tensor))
    columns = [tf.broadcast_to(tf.cast(entry, tf.float64), batch) for entry in entries]
    return tf.reshape(tf.stack(columns, axis=-1), [-1, 3, 3])


def about_centre(matrix: tf.Tensor, size: int) -> tf.Tensor:
    """Makes a matrix act about the centre of a square image instead of its first pixel."""
    centre = (size - 1) / 2
    there = tf.constant([[1.0, 0.0, centre], [0.0, 1.0, centre], [0.0, 0.0, 1.0]], tf.float64)
    back = tf.constant([[1.0, 0.0, -centre], [0.0, 1.0, -centre], [0.0, 0.0, 1.0]], tf.float64)
    return there @ matrix @ back


def _between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + uniform * (high - low)


def _check_numbers(operation: str, **values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(
                f"{name} = {value!r}",
                where=f"gin binding {operation}.{name}",
                expected="a number",
                do=f"for example {operation}.{name} = 0.5",
            )


@gin.configurable
def rotation(*, degrees: float) -> Operation:
    """Turns by an angle out of [-degrees, degrees], the same for x and y."""
    _check_numbers("rotation", degrees=degrees)

    def matrix(uniform, size):
        angle = _between(uniform[:, 0], -np.pi / 180 * degrees, np.pi / 180 * degrees)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return about_centre(rows(cos, sin, 0.0, -sin, cos, 0.0, 0.0, 0.0, 1.0), size)

    return Operation(name="rotation", count=1, matrix=matrix)


@gin.configurable
def shift(*, width: float = 0.0, height: float = 0.0) -> Operation:
    """Moves by fractions of the image out of [-width, width] and [-height, height]."""
    _check_numbers("shift", width=width, height=height)

    def matrix(uniform, size):
        x = _between(uniform[:, 0], -width, width) * size
        y = _between(uniform[:, 1], -height, height) * size
        return rows(1.0, 0.0, x, 0.0, 1.0, y, 0.0, 0.0, 1.0)

    return Operation(name="shift", count=2, matrix=matrix)


@gin.configurable
def zoom(*, low: float, high: float, joint: bool = False) -> Operation:
    """Scales what is seen by factors out of [low, high]: below 1 enlarges. `joint` keeps the aspect."""
    _check_numbers("zoom", low=low, high=high)
    if not 0 < low <= high:
        raise UserError(
            f"zoom from {low} to {high}",
            where="gin bindings zoom.low, zoom.high",
            expected="0 < low <= high",
            do="for example zoom.low = 0.9, zoom.high = 1.1",
        )

    def matrix(uniform, size):
        x = _between(uniform[:, 0], low, high)
        y = x if joint else _between(uniform[:, 1], low, high)
        return about_centre(rows(x, 0.0, 0.0, 0.0, y, 0.0, 0.0, 0.0, 1.0), size)

    return Operation(name="zoom", count=2, matrix=matrix)


@gin.configurable
def flip(*, horizontal: float = 0.5, vertical: float = 0.0) -> Operation:
    """Mirrors with these probabilities."""
    _check_numbers("flip", horizontal=horizontal, vertical=vertical)

    def matrix(uniform, size):
        x = tf.where(uniform[:, 0] < horizontal, -1.0, 1.0)
        y = tf.where(uniform[:, 1] < vertical, -1.0, 1.0)
        return about_centre(rows(x, 0.0, 0.0, 0.0, y, 0.0, 0.0, 0.0, 1.0), size)

    return Operation(name="flip", count=2, matrix=matrix)


# EXIF orientation -> (a, b, c, d): column a x + b y, row c x + d y of the stored pixel that is shown at (x, y), up to
# the shift that brings both back into the image (CIPA DC-008, tag Orientation).
ORIENTATIONS = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def upright(size: tf.Tensor, orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns images as their EXIF orientation says.

    Args:
        size: [B, 2] int32, height and width as stored.
        orientation: [B] int8, 1 to 8.

    Returns:
        [B, 2] int32, height and width as shown; [B, 3, 3] float64, pixel as shown -> pixel as stored.
    """
    table = tf.constant([(0, 0, 0, 0), *ORIENTATIONS.values()], tf.float64)
    a, b, c, d = tf.unstack(tf.gather(table, tf.cast(orientation, tf.int32)), axis=-1)
    height, width = tf.unstack(tf.cast(size, tf.float64), axis=-1)
    x = tf.where(a + b < 0, width - 1, tf.zeros_like(width))
    y = tf.where(c + d < 0, height - 1, tf.zeros_like(height))
    shown = tf.where((a == 0)[:, None], size[:, ::-1], size)
    return shown, rows(a, b, x, c, d, y, 0.0, 0.0, 1.0)


def fit(size: tf.Tensor, *, image_size: int, rule: str, crop: float) -> tf.Tensor:
    """Matrices that lay canvases of any shape over a square output.

    Args:
        size: [B, 2] int32, height and width of the images in their canvases.
        rule: `stretch` (both sides to the output), `cover` (centre square of the short side), `contain` (all of it),
            `native` (the centre, pixel for pixel).
        crop: share of that square that is seen, in (0, 1]; `native` has no use for it.

    Returns:
        [B, 3, 3] float64; the centre of the output is the centre of the image.
    """
    height, width = tf.unstack(tf.cast(size, tf.float64), axis=-1)
    if rule == "native":
        seen_height = seen_width = tf.fill(tf.shape(height), tf.constant(image_size / crop, tf.float64))
    elif rule == "stretch":
        seen_height, seen_width = height, width
    else:
        seen_height = seen_width = tf.minimum(height, width) if rule == "cover" else tf.maximum(height, width)
    scale_x, scale_y = seen_width * crop / image_size, seen_height * crop / image_size
    x = (width - 1) / 2 - scale_x * (image_size - 1) / 2
    y = (height - 1) / 2 - scale_y * (image_size - 1) / 2
    return rows(scale_x, 0.0, x, 0.0, scale_y, y, 0.0, 0.0, 1.0)
