"""Places in the kernel: what an array of each example does to its pixels.

A slot is static, part of the compiled program; its array has one row per example. `identity` is the row that changes
nothing, for examples that an operation passes over.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# ITU-R BT.601, as Pillow's convert("L") rounds them.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
LEVELS = 256
# How the slot Levels finds new levels; see `stretched` and `equalized`.
WAYS = ("none", "curve", "autocontrast", "equalize")


@dataclasses.dataclass(frozen=True)
class Slot:
    """One place in the kernel, compared by its fields."""

    def identity(self, size: tuple[int, int]) -> np.ndarray:
        """The row [*shape] that changes nothing.

        Args:
            size: height and width of the output.
        """
        raise NotImplementedError

    def apply(self, images: tf.Tensor, array: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] float32 in 0..255, array [B, *shape] float32 -> images."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Geometry(Slot):
    """[3, 3], multiplied on the host: part of the one warp."""

    def identity(self, size):
        return np.eye(3)


@dataclasses.dataclass(frozen=True)
class Crop(Slot):
    """[24], made a matrix on the host once the size of the image is known: part of the one warp.

    See `data.augment.crops`. All zeros: no crop, the fit of the recipe.

    Attributes:
        pixels: where they come from: the `canvas`, or for `decode` the file at full resolution.
        aspect: of the longer to the shorter side of a box, at most; what canvases have room for where `pixels` is
            `decode`.
    """

    pixels: str = "canvas"
    aspect: float = 1.0

    def identity(self, size):
        return np.zeros(24)


@dataclasses.dataclass(frozen=True)
class Matrix(Slot):
    """[3, 4] on (red, green, blue, 1). The kernel multiplies neighbours between which nothing is clipped."""

    clip: bool = True

    def identity(self, size):
        return np.eye(3, 4)

    def apply(self, images, array):
        images = multiply(images, array)
        return clipped(images) if self.clip else images


@dataclasses.dataclass(frozen=True)
class Levels(Slot):
    """[1 + 256]: an index of WAYS, and for the way `curve` the new level of each level.

    Pixels between two levels take the new level of the nearer one. Only examples that a way is given for are looked at.
    """

    def identity(self, size):
        return np.zeros(1 + LEVELS)

    def apply(self, images, array):
        def changed(image, row):
            index = levels(image)
            found = tf.switch_case(
                tf.cast(row[0], tf.int32) - 1,
                [
                    lambda: tf.tile(row[None, 1:], [image.shape[-1], 1]),
                    lambda: stretched(index),
                    lambda: equalized(index),
                ],
            )
            return tf.gather(tf.reshape(found, [-1]), index + channel_offsets(image))

        return one_by_one(images, array[:, 0] > 0, changed, array)


@dataclasses.dataclass(frozen=True)
class Pixels(Slot):
    """[len(names) + 1]: the numbers of a user's function, and 1 where it applies."""

    function: Callable[..., tf.Tensor]
    names: tuple[str, ...]

    def identity(self, size):
        return np.zeros(len(self.names) + 1)

    def apply(self, images, array):
        numbers = {name: array[:, index] for index, name in enumerate(self.names)}
        return where(array[:, -1] > 0, tf.ensure_shape(self.function(images, **numbers), images.shape), images)


def multiply(images: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 3] by [B, 3, 4] -> [B, H, W, 3]."""
    matrix = matrix[:, None, None]
    channels = (images[..., channel, None] * matrix[..., channel] for channel in range(3))
    return sum(channels, start=matrix[..., 3])


def clipped(images: tf.Tensor) -> tf.Tensor:
    """Holds pixels in 0..255."""
    return tf.clip_by_value(images, 0.0, 255.0)


def levels(images: tf.Tensor) -> tf.Tensor:
    """The nearest level of each value, int32 in 0..255."""
    return tf.cast(tf.round(clipped(images)), tf.int32)


def channel_offsets(image: tf.Tensor) -> tf.Tensor:
    """[C] int32: where the 256 entries of each channel start in a table of all."""
    return tf.range(image.shape[-1]) * LEVELS


def stretched(index: tf.Tensor) -> tf.Tensor:
    """[H, W, C] int32 levels -> [C, 256] float32 new ones: the least becomes 0, the greatest 255, by channel.

    As Pillow's ImageOps.autocontrast, in whole numbers: where its float64 falls short of one, it is a level below.
    """
    low, high = (reduce(index, axis=[0, 1])[:, None] for reduce in (tf.reduce_min, tf.reduce_max))
    level = tf.range(LEVELS)[None]
    spread = tf.clip_by_value((level - low) * (LEVELS - 1) // tf.maximum(high - low, 1), 0, LEVELS - 1)
    return tf.cast(tf.where(high > low, spread, level), tf.float32)


def equalized(index: tf.Tensor) -> tf.Tensor:
    """[H, W, C] int32 levels -> [C, 256] float32 new ones, about equally frequent: Pillow's ImageOps.equalize."""
    flat = tf.reshape(index + channel_offsets(index), [-1, 1])
    counts = tf.tensor_scatter_nd_add(tf.zeros([index.shape[-1] * LEVELS], tf.int32), flat, tf.ones_like(flat[:, 0]))
    counts = tf.reshape(counts, [-1, LEVELS])
    greatest = tf.reduce_max(index, axis=[0, 1])
    step = (index.shape[0] * index.shape[1] - tf.gather(counts, greatest, batch_dims=1))[:, None] // (LEVELS - 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    even = tf.minimum((step // 2 + below) // tf.maximum(step, 1), LEVELS - 1)
    return tf.cast(tf.where(step > 0, even, tf.range(LEVELS)[None]), tf.float32)


def one_by_one(
    images: tf.Tensor, chosen: tf.Tensor, function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], array: tf.Tensor
) -> tf.Tensor:
    """Changes the chosen examples one after the other: the time goes by their number, and none sees another.

    Args:
        chosen: [B] bool.
        function: ([H, W, C], [*shape] a row of `array`) -> [H, W, C].
        array: [B, *shape].
    """
    order = tf.argsort(tf.cast(~chosen, tf.int32), stable=True)

    def changed(step, images):
        # Not by indexing, which wants constants: every batch would be compiled anew.
        at = tf.gather(order, step)
        image = function(tf.gather(images, at), tf.gather(array, at))
        return step + 1, tf.tensor_scatter_nd_update(images, [[at]], image[None])

    count = tf.reduce_sum(tf.cast(chosen, tf.int32))
    return tf.while_loop(lambda step, _: step < count, changed, (0, images))[1]


def grey(images: tf.Tensor) -> tf.Tensor:
    """[..., 3] -> [...], ITU-R BT.601 luma; exact in float32 for whole levels."""
    return sum(images[..., channel] * share for channel, share in enumerate(LUMA))


def in_box(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, bottom: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 1] bool: which pixels lie in the box of their image, its edges [B] float32 in whole pixels."""
    _, height, width, _ = images.shape
    row, column = tf.range(height, dtype=tf.float32)[None, :, None], tf.range(width, dtype=tf.float32)[None, None]
    top, left, bottom, right = (edge[:, None, None] for edge in (top, left, bottom, right))
    return ((row >= top) & (row < bottom) & (column >= left) & (column < right))[..., None]


def where(chosen: tf.Tensor, images: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """By example: [B] bool, twice [B, H, W, C]."""
    return tf.where(chosen[:, None, None, None], images, otherwise)
