"""Losses per example."""

from collections.abc import Callable

import gin
import tensorflow as tf

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@gin.configurable
def cross_entropy(*, label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy in nats: labels [B] int32, logits [B, K] float32 -> [B] float32.

    Args:
        label_smoothing: share of the target that is spread evenly over all K classes (Szegedy et al. 2016).
    """

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if not label_smoothing:
            return losses
        even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        return (1 - label_smoothing) * losses + label_smoothing * even

    return loss
