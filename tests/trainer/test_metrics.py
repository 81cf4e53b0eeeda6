"""Metrics add up in any order to what scikit-learn says of the whole."""

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import metrics
from trainer.losses import cross_entropy

BATCH = 8


def summed(labels, weights, logits, *, order):
    """Totals over batches of full shape, padded with weight 0, added in the given order."""
    losses = cross_entropy()
    totals = metrics.zeros(logits.shape[1])
    starts = np.arange(0, len(labels), BATCH)
    for start in starts[np.argsort(order[: len(starts)])]:
        part = slice(start, start + BATCH)
        spare = BATCH - len(labels[part])
        # What pads may be anything: another class, any weights' product with it.
        padded = (
            np.pad(labels[part], (0, spare)), np.pad(weights[part], (0, spare)),
            np.pad(logits[part], ((0, spare), (0, 0)), constant_values=7.0),
        )  # fmt: skip
        tensors = [tf.constant(array) for array in padded]
        totals = metrics.add(totals, metrics.batch_sums(*tensors, losses(tensors[0], tensors[2])))
    return totals


@settings(max_examples=20)
@given(
    count=st.integers(1, 40), classes=st.integers(2, 12), seed=st.integers(0, 10**6), even=st.booleans(),
    order=st.permutations(range(5)),
)  # fmt: skip
def test_totals_are_those_of_scikit_learn(count, classes, seed, even, order):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.int32)
    logits = random.normal(0, 3, (count, classes)).astype(np.float32)
    weights = np.ones(count, np.float32) if even else random.uniform(0.1, 4, count).astype(np.float32)
    totals = summed(labels, weights, logits, order=np.array(order))
    figures = metrics.figures(totals)

    known = range(classes)
    predicted = logits.argmax(axis=1)
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    assert figures["examples"] == count
    np.testing.assert_array_equal(
        totals["confusion"], sklearn.metrics.confusion_matrix(labels, predicted, labels=known)
    )
    # Weights are float32, their sums float64.
    accuracy = sklearn.metrics.accuracy_score(labels, predicted, sample_weight=weights)
    assert figures["accuracy"] == pytest.approx(accuracy, rel=1e-6, abs=1e-12)
    # Losses are float32, of size up to 30.
    loss = sklearn.metrics.log_loss(labels, shares, sample_weight=weights, labels=known)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5, abs=30 * 2**-22)
    if classes > 5:
        top5 = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, sample_weight=weights, labels=known)
        assert figures["top5_accuracy"] == pytest.approx(top5, rel=1e-6, abs=1e-12)
    else:
        assert figures["top5_accuracy"] == pytest.approx(1)


def test_weights_count_in_shares_but_not_in_the_number_of_examples():
    logits = tf.constant([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels, weights = tf.constant([0, 1, 1]), tf.constant([3.0, 1.0, 0.0])
    sums = metrics.batch_sums(labels, weights, logits, tf.constant([0.5, 2.0, 100.0]))
    figures = metrics.figures(metrics.add(metrics.zeros(2), sums))
    assert figures == {"loss": (3 * 0.5 + 2.0) / 4, "accuracy": 0.75, "top5_accuracy": 1.0, "examples": 2}
    np.testing.assert_array_equal(sums["confusion"], [[1, 0], [1, 0]])


def test_padding_does_not_count_even_where_its_loss_is_not_finite():
    logits = tf.constant([[9.0, 0.0], [np.nan, np.nan]])
    sums = metrics.batch_sums(tf.constant([0, 0]), tf.constant([1.0, 0.0]), logits, tf.constant([0.5, np.nan]))
    assert metrics.figures(sums) == {"loss": 0.5, "accuracy": 1.0, "top5_accuracy": 1.0, "examples": 1}


def test_sums_of_many_examples_lose_none():
    """Sums of 2**24 and more ones would stand still in float32."""
    totals = metrics.zeros(2) | {"weight": np.float64(2**25), "correct": np.float64(2**25), "examples": np.int64(2**25)}
    sums = metrics.batch_sums(tf.constant([0]), tf.constant([1.0]), tf.constant([[1.0, 0.0]]), tf.constant([0.0]))
    added = metrics.add(totals, sums)
    assert added["weight"] == added["correct"] == added["examples"] == 2**25 + 1
