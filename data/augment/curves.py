"""Tone operations: a new level for each of the 256 levels, the same in every channel."""

import dataclasses

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import (
    Operation,
    Range,
    between,
    check_ends,
    check_numbers,
    constant,
    tone,
)
from data.augment.slots import LEVELS, WAYS, Levels
from data.errors import UserError

LEVEL = np.arange(float(LEVELS))


@gin.configurable
def posterize(*, bits: float | Range = (4, 8)) -> Operation:
    """Keeps the highest `bits` of each level, as Pillow's ImageOps.posterize.

    Args:
        bits: a whole number in 0..8, or out of (lowest, highest), all alike.

    Raises:
        UserError: not one or two numbers in 0..8.
    """
    low, high = check_numbers("bits", bits, where="gin binding posterize.bits", low=0, high=8)

    def curve(size, bits):
        step = tf.pow(tf.constant(2.0, tf.float64), 8 - tf.floor(bits))[:, None]
        return tf.floor(LEVEL / step) * step

    least, most = np.ceil(low), np.floor(high)
    if least > most:
        raise UserError(
            f"bits = {bits!r}", where="gin binding posterize.bits", expected="a whole number among them", do="(4, 8)"
        )
    drawn = tone("posterize", ranges={"bits": (low, high)}, curve=curve)
    return dataclasses.replace(
        drawn, numbers=lambda uniform, size: {"bits": tf.floor(between(uniform[:, 0], least, most + 1))}
    )


@gin.configurable
def solarize(*, threshold: float | Range = 128) -> Operation:
    """Inverts levels at and above a `threshold`, as Pillow's ImageOps.solarize.

    Args:
        threshold: a level in 0..256, or out of (lowest, highest).

    Raises:
        UserError: not one or two numbers in 0..256.
    """
    ends = check_numbers("threshold", threshold, where="gin binding solarize.threshold", low=0, high=LEVELS)
    return tone(
        "solarize",
        ranges={"threshold": ends},
        curve=lambda size, threshold: tf.where(threshold[:, None] > LEVEL, LEVEL, LEVELS - 1 - LEVEL),
    )


@gin.configurable
def invert() -> Operation:
    """The negative, 255 less each level."""
    row = np.append(WAYS.index("curve"), LEVELS - 1 - LEVEL)
    return constant("invert", slot=Levels(), row=row)


@gin.configurable
def gamma(*, low: float = 0.8, high: float = 1.25) -> Operation:
    """255 (level / 255) ** `gamma` out of [low, high], as skimage.exposure.adjust_gamma; above 1 is darker.

    Raises:
        UserError: not 0 <= low <= high.
    """
    return tone(
        "gamma",
        ranges={"gamma": check_ends("gamma", low, high)},
        curve=lambda size, gamma: (LEVELS - 1) * tf.pow(tf.constant(LEVEL / (LEVELS - 1)), gamma[:, None]),
    )
