"""Random layers, dropout and its kind, that draw otherwise on each replica."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# From the seeds of one replica to those of the next: far from what people choose as seeds, and no divisor of the
# 2**31 - 2 seeds that Keras makes of them.
STRIDE = 1_640_531_527


def draw_by_replica(model: keras.Model) -> None:
    """Has every random layer of a model draw by the number of the replica; on the first as if it were alone.

    Keras keeps the state of a seed generator equal on all replicas, so that all would drop the same units. It stays
    equal, and is all that a checkpoint needs: what a replica draws follows from it and from the replica's number.
    """
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            generator.next = _by_replica(generator.next)


def _by_replica(draw: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def drawn(*arguments, **named) -> tf.Tensor:
        """[2] seed of the next random operation."""
        seed, replica = draw(*arguments, **named), tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        number = tf.cast(replica.replica_id_in_sync_group, seed.dtype)
        return seed + number * tf.constant(np.array([STRIDE, 0]), seed.dtype)

    return drawn
