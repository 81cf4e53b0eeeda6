"""What `ImageDataGenerator` draws for an image, and the slots that do it to images of any number of channels."""

import dataclasses

import numpy as np
import tensorflow as tf

from data.augment.geometry import Offsets, rows
from data.augment.operation import Numbers, Operation, Size, between
from data.augment.slots import Geometry, Slot, where
from data.augment.statistics import EPSILON, normalised

# Values so little below a whole number count as that number: what float32 leaves of a flat area that was interpolated.
TIE = 2.0**-12


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An array that can be compared and hashed."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> "Fixed":
        """The array in float32."""
        return cls(values.astype(np.float32).tobytes(), values.shape)

    @property
    def array(self) -> np.ndarray:
        """float32, read-only."""
        return np.frombuffer(self.data, np.float32).reshape(self.shape)

    def tensor(self) -> tf.Tensor:
        """float32, an argument of the compiled program and not a part of it: a whitening matrix is large."""
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.array)


@dataclasses.dataclass(frozen=True)
class ChannelShift(Slot):
    """[1]: added to all channels, the result held between the least and the largest number of the image."""

    def identity(self, size):
        return np.zeros(1)

    def apply(self, images, array):
        return tf.clip_by_value(images + array[:, :, None, None], *_ends(images))


@dataclasses.dataclass(frozen=True)
class Brightness(Slot):
    """[2]: a factor, and 1 where it applies. As Pillow's, on whole levels; a fourth channel is alpha and stays.

    An image with numbers outside 0..255 is stretched to 0..255 before and back after.
    """

    def identity(self, size):
        return np.array([1.0, 0.0])

    def apply(self, images, array):
        factor, applied = array[:, 0, None, None, None], array[:, 1] > 0
        low, high = _ends(images)
        span = high - low
        outside = (low < 0) | (high > 255)
        stretched = (images - low) / tf.where(span > 0, span, 1.0) * 255
        levels = tf.clip_by_value(tf.floor(tf.where(outside, stretched, images) + TIE), 0.0, 255.0)
        changed = tf.clip_by_value(tf.floor(levels * factor), 0.0, 255.0)
        if images.shape[-1] == 4:
            changed = tf.concat([changed[..., :3], levels[..., 3:]], axis=-1)
        return where(applied, tf.where(outside, changed / 255 * span + low, changed), images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standardise(Slot):
    """[0], nothing is drawn: `ImageDataGenerator.standardize` after the user's function.

    Attributes:
        rescale: factor, or None.
        centre: whether the image's own mean is taken away.
        scale: whether it is, and then divided by the image's own standard deviation.
        mean, deviation: of the whole set, anything that broadcasts to [H, W, C].
        whitening: [D, D] with D = H * W * C.
    """

    rescale: float | None = None
    centre: bool = False
    scale: bool = False
    mean: Fixed | None = None
    deviation: Fixed | None = None
    whitening: Fixed | None = None

    def identity(self, size):
        return np.zeros(0)

    def apply(self, images, array):
        if self.rescale:
            images *= self.rescale
        if self.centre or self.scale:
            images = normalised(images, scaled=self.scale)
        if self.mean is not None:
            images -= self.mean.tensor()
        if self.deviation is not None:
            images /= self.deviation.tensor() + EPSILON
        if self.whitening is not None:
            matrix, flat = self.whitening.tensor(), tf.reshape(images, [images.shape[0], -1])
            # One by one: in a larger product the sums of an image would depend on where in the batch it is.
            whitened = tf.map_fn(lambda image: tf.linalg.matvec(matrix, image, transpose_a=True), flat)
            images = tf.reshape(whitened, images.shape)
        return images


def _ends(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, 1, 1, 1], the least and the largest number of each image."""
    return tuple(end(images, axis=[1, 2, 3], keepdims=True) for end in (tf.reduce_min, tf.reduce_max))


def affine(
    *,
    rotation: float,
    height_shift: Offsets,
    width_shift: Offsets,
    shear: float,
    zoom: tuple[float, float],
    horizontal: bool,
    vertical: bool,
) -> Operation:
    """All geometry of `ImageDataGenerator`: the numbers that Keras' `get_random_transform` gives, and their matrix."""

    def numbers(uniform, size):
        theta, tx, ty, sheared, zx, zy, flip_x, flip_y = tf.unstack(uniform, num=8, axis=1)
        return {
            "theta": between(theta, -rotation, rotation),
            "tx": height_shift(tx, size[0]),
            "ty": width_shift(ty, size[1]),
            "shear": between(sheared, -shear, shear),
            "zx": between(zx, *zoom),
            "zy": between(zy, *zoom),
            "flip_horizontal": tf.cast((flip_x < 0.5) & horizontal, tf.float64),
            "flip_vertical": tf.cast((flip_y < 0.5) & vertical, tf.float64),
        }

    def arrays(numbers, size):
        return (affine_matrix(numbers, size),)

    return Operation(name="affine", count=8, slots=(Geometry(),), numbers=numbers, arrays=arrays)


def affine_matrix(numbers: Numbers, size: Size) -> tf.Tensor:
    """[B, 3, 3] float64, pixel (x, y, 1) of the output -> pixel of the input.

    Keras' `apply_affine_transform` multiplies rotation, shift, shear and zoom in this order and swaps rows and columns
    of the product. So `tx` moves along the width although `height_shift_range` is what it is drawn from, and on an
    image that is not square the centre that it turns about is (height - 1) / 2 from the left.
    """
    height, width = size
    theta, shear = (numbers[name] * (np.pi / 180) for name in ("theta", "shear"))
    cos, sin = tf.cos(theta), tf.sin(theta)
    product = rows(cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0)
    product @= rows(1.0, 0.0, numbers["tx"], 0.0, 1.0, numbers["ty"], 0.0, 0.0, 1.0)
    product @= rows(1.0, -tf.sin(shear), 0.0, 0.0, tf.cos(shear), 0.0, 0.0, 0.0, 1.0)
    product @= rows(numbers["zx"], 0.0, 0.0, 0.0, numbers["zy"], 0.0, 0.0, 0.0, 1.0)
    centre = np.array([[1, 0, (height - 1) / 2], [0, 1, (width - 1) / 2], [0, 0, 1]])
    product = tf.constant(centre) @ product @ tf.constant(np.linalg.inv(centre))
    x, y = numbers["flip_horizontal"], numbers["flip_vertical"]
    flips = rows(1 - 2 * x, 0.0, x * (width - 1), 0.0, 1 - 2 * y, y * (height - 1), 0.0, 0.0, 1.0)
    return product @ flips


def drawing(name: str, *, low: float, high: float, slot: Slot) -> Operation:
    """One number, evenly from [low, high), that fills a slot, and a 1 behind it where the slot has room for that."""

    def arrays(numbers, size):
        entries = [numbers[name], tf.ones_like(numbers[name])]
        return (tf.stack(entries[: len(slot.identity(size))], axis=-1),)

    return Operation(
        name=name,
        count=1,
        slots=(slot,),
        numbers=lambda uniform, size: {name: between(uniform[:, 0], low, high)},
        arrays=arrays,
    )
