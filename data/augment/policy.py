"""A policy draws, for each position of the stream, the numbers that augment its image."""

import dataclasses
from collections.abc import Sequence

import gin
import tensorflow as tf

from data import draws
from data.augment.geometry import Operation

# The vector code of elementwise functions and the code for the rest of a vector may differ in the last bit. Whole
# vectors only, so that a position gets the same numbers in every batch size.
LANES = 16


@dataclasses.dataclass(frozen=True)
class Policy:
    """Geometric operations, from the input to the output. An empty one changes nothing."""

    operations: tuple[Operation, ...] = ()

    def matrices(self, positions: tf.Tensor, *, seed: int, image_size: int) -> tf.Tensor:
        """Draws and multiplies.

        Args:
            positions: [B] int64.

        Returns:
            [B, 3, 3] float64, pixel of the augmented square -> pixel of the square before augmentation.
        """
        count = tf.shape(positions)[0]
        padded = tf.pad(positions, [[0, -count % LANES]])
        product = tf.eye(3, batch_shape=tf.shape(padded), dtype=tf.float64)
        for index, operation in enumerate(self.operations):
            earlier = sum(other.name == operation.name for other in self.operations[:index])
            drawn = draws.uniform(seed, padded, f"{operation.name}/{earlier}", operation.count)
            product = product @ operation.matrix(tf.cast(drawn, tf.float64), image_size)
        return product[:count]


@gin.configurable
def policy(operations: Sequence[Operation] = ()) -> Policy:
    """A policy out of `@rotation()`, `@shift()`, `@zoom()`, `@flip()` or operations of your own."""
    return Policy(tuple(operations))
