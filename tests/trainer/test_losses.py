"""Losses against other people's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.losses import cross_entropy

# A few float32 operations on numbers of size 30: 30 * 2**-23 each.
TOLERANCE = 1e-5


def batch(seed, classes):
    random = np.random.default_rng(seed)
    return random.integers(0, classes, 16).astype(np.int32), random.normal(0, 5, (16, classes)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_cross_entropy_is_keras_one_per_example(smoothing, classes):
    labels, logits = batch(0, classes)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    expected = theirs(keras.ops.one_hot(labels, classes), logits)
    computed = cross_entropy(label_smoothing=smoothing)(labels, tf.constant(logits))
    assert computed.shape == (16,) and computed.dtype == tf.float32
    np.testing.assert_allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_cross_entropy_is_minus_the_logarithm_of_the_softmax():
    labels, logits = batch(1, 5)
    wide = logits.astype(np.float64)
    expected = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(16), labels]
    np.testing.assert_allclose(cross_entropy()(labels, tf.constant(logits)), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_cross_entropy_of_huge_logits_stays_finite():
    losses = cross_entropy(label_smoothing=0.1)(tf.constant([0, 1]), tf.constant([[1e30, -1e30], [1e30, -1e30]]))
    assert np.isfinite(losses.numpy()).all()
