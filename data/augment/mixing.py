"""Two examples of a batch mixed: positions 2k and 2k + 1 are partners, and draw the same numbers.

Their pixels are mixed in the kernel; the loss counts both labels by the share of each that is left.
"""

import dataclasses

import gin
import numpy as np
import scipy.special
import tensorflow as tf

from data.augment.operation import Operation, check_number
from data.augment.slots import Slot, in_box

# Cells of the table through which uniform numbers become Beta distributed ones: no more than 1 / QUANTILES of the
# probability is ever misplaced.
QUANTILES = 4096


@dataclasses.dataclass(frozen=True)
class Mix(Slot):
    """[5]: share of the own pixels outside a box; its top, left, bottom, right in pixels. The partner fills the box."""

    def identity(self, size):
        return np.array([1.0, 0, 0, 0, 0])

    def apply(self, images, array):
        batch, height, width, channels = images.shape
        if batch % 2:
            raise ValueError(f"Received: a batch of {batch} to be mixed in pairs  Expected: an even one")
        pairs = tf.reshape(images, [batch // 2, 2, height, width, channels])
        partners = tf.reshape(pairs[:, ::-1], images.shape)
        share, *box = tf.unstack(array, axis=1)
        share = tf.where(in_box(images, *box), 0.0, share[:, None, None, None])
        # Exactly the own pixels where the share is 1.
        return share * images + (1 - share) * partners

    def share(self, array: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        """[B, 5] -> [B], the share of the own label."""
        pasted = (array[:, 3] - array[:, 1]) * (array[:, 4] - array[:, 2]) / (size[0] * size[1])
        return array[:, 0] * (1 - pasted)


def beta_quantiles(alpha: float) -> np.ndarray:
    """[QUANTILES + 1] float64: values of Beta(alpha, alpha) at even steps of probability."""
    return scipy.special.betaincinv(alpha, alpha, np.linspace(0, 1, QUANTILES + 1))


def _beta(uniform: tf.Tensor, table: np.ndarray) -> tf.Tensor:
    """[B] uniform -> [B] distributed as the quantiles of `table`, straight between them."""
    place = uniform * QUANTILES
    cell = tf.cast(place, tf.int32)
    low, high = (tf.gather(tf.constant(table), cell + step) for step in (0, 1))
    return low + (high - low) * (place - tf.cast(cell, tf.float64))


@gin.configurable
def mixup(*, alpha: float = 0.2) -> Operation:
    """Weighted mean of two images and of their labels (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        alpha: the share of the own image is drawn from Beta(alpha, alpha).

    Raises:
        UserError: alpha is not in 0.01..100.
    """
    check_number("alpha", alpha, where="gin binding mixup.alpha", low=0.01, high=100)
    table = beta_quantiles(alpha)

    def arrays(numbers, size):
        nothing = tf.zeros_like(numbers["lambda"])
        return (tf.stack([numbers["lambda"], nothing, nothing, nothing, nothing], axis=-1),)

    return Operation(
        name="mixup",
        count=1,
        slots=(Mix(),),
        numbers=lambda uniform, size: {"lambda": _beta(uniform[:, 0], table)},
        arrays=arrays,
        paired=True,
    )


@gin.configurable
def cutmix(*, alpha: float = 1.0) -> Operation:
    """A box out of the partner pasted in, labels by the area that is left (Yun et al. 2019, arXiv:1905.04899).

    The box has the aspect of the image, its centre anywhere, and is cut off at the border.

    Args:
        alpha: 1 less the wanted share of the box is drawn from Beta(alpha, alpha).

    Raises:
        UserError: alpha is not in 0.01..100.
    """
    check_number("alpha", alpha, where="gin binding cutmix.alpha", low=0.01, high=100)
    table = beta_quantiles(alpha)

    def numbers(uniform, size):
        side = tf.sqrt(1 - _beta(uniform[:, 0], table))
        found = {}
        for index, (length, names) in enumerate(zip(size, (("top", "bottom"), ("left", "right")), strict=True)):
            half = tf.floor(side * length) / 2
            centre = uniform[:, 1 + index] * length
            for name, edge in zip(names, (centre - half, centre + half), strict=True):
                found[name] = tf.clip_by_value(tf.round(edge), 0, length)
        return found

    def arrays(numbers, size):
        box = [numbers[name] for name in ("top", "left", "bottom", "right")]
        return (tf.stack([tf.ones_like(box[0]), *box], axis=-1),)

    return Operation(name="cutmix", count=3, slots=(Mix(),), numbers=numbers, arrays=arrays, paired=True)
