"""Linear colour operations as 3x4 matrices on (red, green, blue, 1) in 0..255."""

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import (
    Operation,
    Range,
    check_channels,
    check_ends,
    check_number,
    check_numbers,
    check_share,
    constant,
    drawn_from,
    linear,
)
from data.augment.slots import LUMA, Matrix
from data.augment.statistics import Contrast
from data.errors import UserError

# Every channel the luma of all.
GREY = np.column_stack([np.tile(LUMA, (3, 1)), np.zeros(3)])
# NTSC's luma and two chroma axes at right angles (FCC 1953), with the digits of skimage.color.rgb2yiq.
YIQ = np.array([[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])
# Turning the chroma by an angle a: the identity + (cos(a) - 1) ALONG + sin(a) ACROSS.
ALONG, ACROSS = (
    np.column_stack([np.linalg.inv(YIQ) @ np.array(turn) @ YIQ, np.zeros(3)])
    for turn in ([[0, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 1], [0, -1, 0]])
)


def normalisation(*, mean: float | tuple[float, float, float], scale: float | tuple[float, float, float]) -> np.ndarray:
    """[3, 4] float32 matrix of (x - mean) / scale per channel."""
    mean, scale = np.broadcast_to(mean, 3), np.broadcast_to(scale, 3)
    return np.column_stack([np.diag(1 / scale), -mean / scale]).astype(np.float32)


def mixed(*parts: tuple[tf.Tensor, np.ndarray]) -> tf.Tensor:
    """[B, 3, 4] float64: the sum of matrices [3, 4], each by its weights [B]."""
    return sum(tf.tensordot(weights, tf.constant(matrix, tf.float64), axes=0) for weights, matrix in parts)


def scaled(factor: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 3, 4], times a factor."""
    return mixed((factor, np.eye(3, 4)))


def saturated(factor: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 3, 4], a blend with the grey image."""
    return mixed((factor, np.eye(3, 4)), (1 - factor, GREY))


def turned(degrees: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 3, 4], the chroma turned."""
    angle = degrees * (np.pi / 180)
    return np.eye(3, 4) + mixed((tf.cos(angle) - 1, ALONG), (tf.sin(angle), ACROSS))


@gin.configurable
def brightness(*, low: float = 0.8, high: float = 1.2) -> Operation:
    """Multiplies by a `factor` out of [low, high], as Pillow's ImageEnhance.Brightness.

    Raises:
        UserError: not 0 <= low <= high.
    """
    ends = check_ends("brightness", low, high)
    return linear("brightness", ranges={"factor": ends}, matrix=lambda size, factor: scaled(factor))


@gin.configurable
def saturation(*, low: float = 0.8, high: float = 1.2) -> Operation:
    """Blends with the grey image, Pillow's ImageEnhance.Color: a `factor` out of [low, high], 0 is grey, 1 the image.

    Grey is ITU-R BT.601 luma, not rounded here.

    Raises:
        UserError: not 0 <= low <= high.
    """
    ends = check_ends("saturation", low, high)
    return linear("saturation", ranges={"factor": ends}, matrix=lambda size, factor: saturated(factor))


@gin.configurable
def hue(*, degrees: float = 18) -> Operation:
    """Turns colours about the grey axis by `degrees` out of [-degrees, degrees]; positive takes red towards yellow.

    The turn is in NTSC's YIQ, inverse(YIQ) R(angle) YIQ, and so linear: it keeps luma and grey pixels. Hue in HSV
    (Pillow, torchvision) keeps the greatest and the least channel instead, and moves each colour in its own way.

    Raises:
        UserError: degrees is not in 0..180.
    """
    check_number("degrees", degrees, where="gin binding hue.degrees", low=0, high=180)
    return linear("hue", ranges={"degrees": (-degrees, degrees)}, matrix=lambda size, degrees: turned(degrees))


@gin.configurable
def channel_shift(*, intensity: float = 20.0, joint: bool = True) -> Operation:
    """Adds a number out of [-intensity, intensity] to the channels, in levels, held in 0..255.

    Args:
        intensity: in levels, 0..255.
        joint: one `shift` for all channels, as Keras' `apply_channel_shift`; else `red`, `green` and `blue` apart.

    Raises:
        UserError: intensity is not in 0..255, joint no bool.
    """
    check_number("intensity", intensity, where="gin binding channel_shift.intensity", low=0, high=255)
    if not isinstance(joint, bool):
        raise UserError(
            f"joint = {joint!r}", where="gin binding channel_shift.joint", expected="True or False", do="correct it"
        )
    places = {name: np.outer(np.eye(3)[row], np.eye(4)[3]) for row, name in enumerate(("red", "green", "blue"))}
    if joint:
        places = {"shift": sum(places.values())}

    def matrix(size, **shifts):
        parts = [(shift, places[name]) for name, shift in shifts.items()]
        return np.eye(3, 4) + mixed(*parts)

    return linear("channel_shift", ranges=dict.fromkeys(places, (-intensity, intensity)), matrix=matrix)


@gin.configurable
def grey(*, probability: float = 1.0) -> Operation:
    """Makes an image grey (ITU-R BT.601 luma in every channel) where `draw`, out of [0, 1), is below the probability.

    With probability 1 it draws nothing, and may be part of a normalisation.

    Raises:
        UserError: the probability is not in 0..1.
    """
    check_share("probability", probability, where="gin binding grey.probability")
    if probability == 1:
        return constant("grey", slot=Matrix(), row=GREY)
    return linear(
        "grey",
        ranges={"draw": (0.0, 1.0)},
        matrix=lambda size, draw: tf.where((draw < probability)[:, None, None], GREY, np.eye(3, 4)),
    )


@gin.configurable
def rescale(*, factor: float = 1 / 255) -> Operation:
    """Multiplies by one factor, and holds nothing in 0..255: what follows sees other numbers.

    Raises:
        UserError: factor is no number.
    """
    check_number("factor", factor, where="gin binding rescale.factor")
    return constant("rescale", slot=Matrix(clip=False), row=normalisation(mean=0, scale=1) * factor)


@gin.configurable
def standardise(*, mean: float | tuple[float, ...] = 0.0, std: float | tuple[float, ...] = 1.0) -> Operation:
    """(x - mean) / std, each one number or one for each channel; holds nothing in 0..255.

    Raises:
        UserError: not one or three numbers, or a std that is not above 0.
    """
    means = check_channels("mean", mean, where="gin binding standardise.mean")
    least = float(np.finfo(np.float32).tiny)
    scales = check_channels("std", std, where="gin binding standardise.std", low=least)
    return constant("standardise", slot=Matrix(clip=False), row=normalisation(mean=means, scale=scales))


@gin.configurable
def colour_jitter(
    *,
    brightness: float | Range = 0.4,
    contrast: float | Range = 0.4,
    saturation: float | Range = 0.4,
    hue: float = 0.1,
) -> Operation:
    """Brightness, contrast, saturation, hue, in this order, with the arguments of torchvision's ColorJitter.

    Its hue is linear, see `hue`, and colours are held in 0..255 before contrast and at the end.

    Args:
        brightness: factor out of [max(0, 1 - x), 1 + x], or out of (low, high).
        contrast: likewise.
        saturation: likewise.
        hue: in turns, out of [-hue, hue], at most 0.5.

    Raises:
        UserError: a number below 0, a range that is none, or hue above 0.5.
    """
    ranges = {}
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        low, high = check_numbers(name, value, where=f"gin binding colour_jitter.{name}", low=0)
        ranges[name] = (low, high) if isinstance(value, list | tuple) else (max(0.0, 1 - value), 1 + value)
    check_number("hue", hue, where="gin binding colour_jitter.hue", low=0, high=0.5)
    ranges["degrees"] = (-360 * hue, 360 * hue)

    def arrays(numbers, size):
        colours = turned(numbers["degrees"])[:, :, :3] @ saturated(numbers["saturation"])
        return scaled(numbers["brightness"]), numbers["contrast"][:, None], colours

    return Operation(
        name="colour_jitter",
        count=len(ranges),
        slots=(Matrix(clip=False), Contrast(), Matrix()),
        numbers=drawn_from(ranges),
        arrays=arrays,
    )
