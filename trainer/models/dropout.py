"""Keras' dropout as one multiplication by a mask that is made aside."""

import keras
import tensorflow as tf


class Dropout(keras.layers.Dropout):
    """Same arguments, seeds and results as Keras' layer.

    Keras scales, and then chooses between each number and 0; both is done once more for the gradient. Here a mask of 0
    and 1 / (1 - rate), which needs no inputs and with `noise_shape` is as small as that, multiplies both. So a number,
    or a gradient, that is dropped becomes -0 where it was negative and NaN where it was infinite; Keras makes both 0.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        """[B, ...] -> the same shape and dtype."""
        if not training or self.rate in (0, 1):
            return super().call(inputs, training=training)
        shape = tf.shape(inputs)
        if self.noise_shape is not None:
            shape = tf.stack([shape[axis] if side is None else side for axis, side in enumerate(self.noise_shape)])
        keep = keras.random.uniform(shape, dtype=inputs.dtype, seed=self.seed_generator) >= self.rate
        return inputs * (tf.cast(keep, inputs.dtype) * (1 / (1 - self.rate)))
