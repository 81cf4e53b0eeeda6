"""Operations that see a pixel's neighbours. Only examples they are drawn for are looked at."""

import dataclasses

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import Operation, check_ends, operation
from data.augment.slots import Slot, clipped, one_by_one

# The taps of a blur end at this many standard deviations.
REACH = 3


@dataclasses.dataclass(frozen=True)
class Sharpness(Slot):
    """[1]: the factor of a blend with the smoothed image, held in 0..255. Pixels at the border stay.

    Pillow's ImageEnhance.Sharpness: the mean of 3 x 3 pixels of which the middle one weighs 5 times as much.
    """

    def identity(self, size):
        return np.ones(1)

    def apply(self, images, array):
        _, height, width, _ = images.shape
        if min(height, width) < 3:
            return images

        def changed(image, row):
            lines = image[:-2] + image[1:-1] + image[2:]
            middle = image[1:-1, 1:-1]
            smooth = (lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:] + 4 * middle) / 13
            found = clipped(smooth + (middle - smooth) * row[0])
            across = tf.concat([image[1:-1, :1], found, image[1:-1, -1:]], axis=1)
            return tf.concat([image[:1], across, image[-1:]], axis=0)

        return one_by_one(images, array[:, 0] != 1, changed, array)


@dataclasses.dataclass(frozen=True)
class Blur(Slot):
    """[radius + 1]: the weight of the pixel itself, and of those 1, 2, ... away on either side; across, then down.

    Behind the border the image is mirrored, the edge pixel twice.
    """

    radius: int

    def identity(self, size):
        return np.eye(1, self.radius + 1)[0]

    def apply(self, images, array):
        def changed(image, weights):
            for axis in (1, 0):
                length = image.shape[axis]
                outside = np.pad(np.arange(length), self.radius, mode="symmetric")
                before, after = outside[: self.radius], outside[-self.radius :]
                wide = tf.concat([tf.gather(image, before, axis=axis), image, tf.gather(image, after, axis=axis)], axis)
                shifted = [
                    wide[start : start + length] if axis == 0 else wide[:, start : start + length]
                    for start in range(2 * self.radius + 1)
                ]
                image = weights[0] * shifted[self.radius] + sum(
                    weights[away] * (shifted[self.radius - away] + shifted[self.radius + away])
                    for away in range(1, self.radius + 1)
                )
            return image

        return one_by_one(images, array[:, 0] != 1, changed, array)


@gin.configurable
def sharpness(*, low: float = 0.5, high: float = 1.5) -> Operation:
    """Blends with the smoothed image by a `factor` out of [low, high], as Pillow's ImageEnhance.Sharpness.

    Raises:
        UserError: not 0 <= low <= high.
    """
    ends = check_ends("sharpness", low, high)
    return operation("sharpness", ranges={"factor": ends}, slot=Sharpness(), array=lambda size, factor: factor[:, None])


@gin.configurable
def blur(*, low: float = 0.1, high: float = 2.0) -> Operation:
    """Gaussian blur of a standard deviation `sigma` out of [low, high], in pixels of the output.

    As scipy.ndimage.gaussian_filter with mode `reflect` and a radius of ceil(3 high) for every sigma.

    Raises:
        UserError: not 0.01 <= low <= high <= 20.
    """
    ends = check_ends("blur", low, high, least=0.01, most=20)
    radius = int(np.ceil(REACH * high))
    away = np.arange(radius + 1.0)

    def weights(size, sigma):
        found = tf.exp(-0.5 * tf.square(away / sigma[:, None]))
        return found / (2 * tf.reduce_sum(found, axis=1, keepdims=True) - 1)

    return operation("blur", ranges={"sigma": ends}, slot=Blur(radius), array=weights)
