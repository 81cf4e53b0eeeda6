"""Boxes of an image filled with noise or a colour."""

import dataclasses
from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import (
    Numbers,
    Operation,
    Range,
    between,
    check_channels,
    check_numbers,
    check_range,
)
from data.augment.slots import LEVELS, Slot, in_box
from data.errors import UserError

# Boxes tried until one fits into the image, as torchvision and timm do.
TRIES = 10
# Of ImageNet, in levels (Zhong et al. 2020, section "Random Erasing").
IMAGENET_MEAN = (125.0, 122.0, 114.0)
# Keys of noise are whole numbers that float32 holds.
KEYS = 2.0**24
EDGES = ("top", "left", "bottom", "right")
COLOURS = ("red", "green", "blue")


@dataclasses.dataclass(frozen=True)
class Erase(Slot):
    """Top, left, bottom and right of a box in pixels, then [5] the key of its noise or [7] its three channels.

    Noise is a whole level out of 0..255 for each pixel and channel, a hash of the key and of its place in the image.
    """

    noise: bool

    def identity(self, size):
        return np.zeros(5 if self.noise else 7)

    def apply(self, images, array):
        _, height, width, channels = images.shape
        if self.noise:
            places = tf.reshape(tf.range(height * width * channels, dtype=tf.int32), [1, height, width, channels])
            keys = scattered(tf.cast(array[:, 4, None, None, None], tf.uint32))
            bits = scattered(keys + tf.cast(places, tf.uint32))
            filling = tf.cast(tf.cast(tf.bitwise.right_shift(bits, tf.constant(24, tf.uint32)), tf.int32), tf.float32)
        else:
            filling = array[:, None, None, 4 : 4 + channels]
        return tf.where(in_box(images, *tf.unstack(array[:, :4], axis=1)), filling, images)


def scattered(bits: tf.Tensor) -> tf.Tensor:
    """The finaliser of MurmurHash3 (Appleby 2011): uint32 -> uint32, a bijection that scatters every bit."""

    def constant(value):
        return tf.constant(value, tf.uint32)

    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, constant(shift))) * constant(factor)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, constant(16)))


@gin.configurable
def random_erasing(
    *, scale: Range = (0.02, 0.33), ratio: Range = (0.3, 3.3), fill: str | float | Sequence[float] = "noise"
) -> Operation:
    """Fills one box of every image (Zhong et al. 2020, arXiv:1708.04896); give it a probability in the policy.

    Up to ten boxes are tried, as torchvision and timm do: the first that is lower and narrower than the image is taken,
    at a place where all of it lies inside. An image for which none is stays as it is.

    Args:
        scale: the share of the image's area, out of (lowest, highest).
        ratio: height by width of the box, out of (lowest, highest), evenly in its logarithm.
        fill: `noise`, a level for each pixel and channel; `colour`, one for each channel; `mean`, that of ImageNet;
            or a level 0..255, or three.

    Raises:
        UserError: ranges or a filling other than these.
    """
    scale = check_range("scale", scale, where="gin binding random_erasing.scale", low=0, high=1)
    ratio = check_range("ratio", ratio, where="gin binding random_erasing.ratio", low=0.001, high=1000)
    name = "random_erasing"
    if fill not in ("noise", "colour"):
        fill = _colour(fill, name, others=("noise", "colour", "mean"))
    extra = {"noise": ("key",), "colour": COLOURS}.get(fill, ()) if isinstance(fill, str) else ()

    def numbers(uniform, size):
        height, width = size
        tries = tf.reshape(uniform[:, : 2 * TRIES], [-1, 2, TRIES])
        area = between(tries[:, 0], *scale) * (height * width)
        aspect = tf.exp(between(tries[:, 1], *np.log(ratio)))
        rows, columns = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
        fits = (rows < height) & (columns < width)
        first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
        any_fits = tf.reduce_any(fits, axis=1)
        lengths = [tf.where(any_fits, tf.gather(sides, first, batch_dims=1), 0) for sides in (rows, columns)]
        starts = [
            tf.floor(uniform[:, 2 * TRIES + index] * (side - length + 1))
            for index, (side, length) in enumerate(zip(size, lengths, strict=True))
        ]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        found = dict(zip(EDGES, (*starts, *ends), strict=True))
        for index, name in enumerate(extra, start=2 * TRIES + 2):
            found[name] = tf.floor(uniform[:, index] * (KEYS if name == "key" else LEVELS))
        return found

    return _erasing(name, 2 * TRIES + 2 + len(extra), numbers, extra, fill)


@gin.configurable
def cutout(*, side: float | Range = 0.5, fill: str | float | Sequence[float] = 127.5) -> Operation:
    """Fills a square whose centre is any pixel, and which may hang over the border (DeVries & Taylor 2017, 1708.04552).

    Args:
        side: of the square, below 1 in shares of the image's shorter side, else in pixels; or out of (lowest, highest).
        fill: a level 0..255, or three, or `mean`, that of ImageNet.

    Raises:
        UserError: a side below 0, shares beside pixels, or a filling other than these.
    """
    low, high = check_numbers("side", side, where="gin binding cutout.side", low=0)
    if low < 1 <= high:
        raise UserError(
            f"side = {side!r}",
            where="gin binding cutout.side",
            expected="two shares below 1, or pixels",
            do="correct it",
        )
    colour = _colour(fill, "cutout", others=("mean",))

    def numbers(uniform, size):
        length = tf.round(between(uniform[:, 0], low, high) * (min(size) if high < 1 else 1))
        starts = [tf.floor(uniform[:, 1 + index] * side) - length // 2 for index, side in enumerate(size)]
        ends = [tf.minimum(start + length, side) for start, side in zip(starts, size, strict=True)]
        return dict(zip(EDGES, (*(tf.maximum(start, 0) for start in starts), *ends), strict=True))

    return _erasing("cutout", 3, numbers, (), colour)


def _erasing(name: str, count: int, numbers, extra: Sequence[str], fill) -> Operation:
    """An operation that draws a box, and what the names in `extra` say, else fills with a colour."""

    def arrays(numbers: Numbers, size):
        filling = [numbers[key] for key in extra] or [tf.ones_like(numbers["top"]) * level for level in fill]
        return (tf.stack([*(numbers[edge] for edge in EDGES), *filling], axis=-1),)

    return Operation(name=name, count=count, slots=(Erase(noise=fill == "noise"),), numbers=numbers, arrays=arrays)


def _colour(fill, operation: str, *, others: Sequence[str]) -> tuple[float, float, float]:
    """Three levels."""
    where = f"gin binding {operation}.fill"
    if fill == "mean":
        return IMAGENET_MEAN
    if isinstance(fill, str):
        raise UserError(
            f"fill = {fill!r}", where=where, expected=f"{', '.join(others)}, a level or three", do="correct the name"
        )
    return check_channels("fill", fill, where=where, low=0, high=LEVELS - 1)
