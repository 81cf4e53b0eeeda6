"""Operations that need statistics of the whole image.

Statistics are sums of whole numbers, or extremes: the order in which they are taken changes no bit.
"""

import dataclasses

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import Operation, check_ends, constant, operation
from data.augment.slots import LEVELS, WAYS, Levels, Slot, clipped, grey, where

# Parts of the largest value in which `mean` counts.
PARTS = 2.0**22
# What Keras adds to the standard deviation.
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Contrast(Slot):
    """[1]: the factor by which levels are moved away from the mean of the grey image. Holds in 0..255 before and after.

    As Pillow's ImageEnhance.Contrast: the mean of the rounded ITU-R BT.601 luma, rounded. Up to 8 million pixels.
    """

    def identity(self, size):
        return np.ones(1)

    def apply(self, images, array):
        _, height, width, _ = images.shape
        images = clipped(images)
        total = tf.reduce_sum(tf.cast(tf.floor(grey(images) + 0.5), tf.int32), axis=[1, 2])
        pixels = height * width
        mean = tf.cast((total + pixels // 2) // pixels, tf.float32)[:, None, None, None]
        factor = array[:, :, None, None]
        return clipped(images * factor + mean * (1 - factor))


@dataclasses.dataclass(frozen=True)
class Samplewise(Slot):
    """[1]: 1 where the mean of all values of an image is taken off and, if `scaled`, their deviation divided by."""

    scaled: bool

    def identity(self, size):
        return np.zeros(1)

    def apply(self, images, array):
        return where(array[:, 0] > 0, normalised(images, scaled=self.scaled), images)


def normalised(images: tf.Tensor, *, scaled: bool) -> tf.Tensor:
    """[B, H, W, C] without the mean of each image and, if `scaled`, divided by its deviation plus EPSILON."""
    images = images - mean(images)
    return images / (tf.sqrt(mean(tf.square(images))) + EPSILON) if scaled else images


def mean(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] float32 -> [B, 1, 1, 1]: each counted in whole parts of the largest, 2**-23 of it at most amiss."""
    largest = tf.reduce_max(tf.abs(values), axis=[1, 2, 3], keepdims=True)
    parts = tf.cast(tf.round(tf.math.divide_no_nan(values, largest) * PARTS), tf.int64)
    total = tf.reduce_sum(parts, axis=[1, 2, 3], keepdims=True)
    # In this order exactly the value itself where all are the same.
    return tf.cast(total, tf.float32) / (np.prod(values.shape[1:]) * PARTS) * largest


@gin.configurable
def contrast(*, low: float = 0.8, high: float = 1.2) -> Operation:
    """Blends with the mean of the grey image by a `factor` out of [low, high]: Pillow's ImageEnhance.Contrast.

    Raises:
        UserError: not 0 <= low <= high.
    """
    ends = check_ends("contrast", low, high)
    return operation("contrast", ranges={"factor": ends}, slot=Contrast(), array=lambda size, factor: factor[:, None])


@gin.configurable
def autocontrast() -> Operation:
    """Spreads each channel's levels over 0..255, as Pillow's ImageOps.autocontrast without a cutoff."""
    return constant("autocontrast", slot=Levels(), row=_way("autocontrast"))


@gin.configurable
def equalize() -> Operation:
    """Makes each channel's levels about equally frequent, exactly as Pillow's ImageOps.equalize."""
    return constant("equalize", slot=Levels(), row=_way("equalize"))


@gin.configurable
def samplewise_centre() -> Operation:
    """Takes the mean of the whole image off each value: `samplewise_center` of Keras' ImageDataGenerator."""
    return constant("samplewise_centre", slot=Samplewise(scaled=False), row=np.ones(1))


@gin.configurable
def samplewise_standardise() -> Operation:
    """The same, then divides by the standard deviation plus 1e-6: its `samplewise_std_normalization`, which centres."""
    return constant("samplewise_standardise", slot=Samplewise(scaled=True), row=np.ones(1))


def _way(name: str) -> np.ndarray:
    """[1 + 256], the row of the slot Levels for a way that needs no curve."""
    return np.append(WAYS.index(name), np.zeros(LEVELS))
