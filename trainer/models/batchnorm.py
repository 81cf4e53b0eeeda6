"""Keras' batch normalisation with TensorFlow's fused kernel, which trains convolutional networks faster."""

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.BatchNormalization):
    """Same arguments, variables, name in weight files and results (to float32 rounding) as Keras' layer.

    Keras composes batch statistics and normalisation of elementary operations. Here training over the last axis of
    [B, H, W, C] is one operation; all else is Keras' own.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """[B, H, W, C] -> the same shape and dtype; updates the moving statistics when it trains."""
        last_axis = len(inputs.shape) == 4 and self.axis in (-1, 3)
        plain = mask is None and self.center and self.scale and not self.synchronized
        if not (training and self.trainable and last_axis and plain):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel gives the variance of the population, Keras keeps that of the batch.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= (count - 1) / count
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


def hides_one(layer: keras.layers.Layer) -> bool:
    """Whether there is a batch normalisation inside, where stages do not see it."""
    inner = layer._flatten_layers(include_self=False)
    return any(isinstance(each, keras.layers.BatchNormalization) for each in inner)
