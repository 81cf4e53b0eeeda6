"""Losses against other people's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data.examples import TASKS
from trainer import losses
from trainer.losses import binary_cross_entropy, binary_focal, cross_entropy, focal, huber, squared_error

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


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_binary_cross_entropy_is_keras_one_for_one_logit_and_for_many(smoothing):
    ours = binary_cross_entropy(label_smoothing=smoothing)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    labels, logits = batch(2, 2)
    one = logits[:, :1]
    for computed, expected in (
        (ours(tf.constant(labels), tf.constant(one)), theirs(labels[:, None], one)),
        (ours(tf.constant(np.float32(logits > 1)), tf.constant(-logits)), theirs(np.float32(logits > 1), -logits)),
    ):
        assert computed.shape == (16,) and computed.dtype == tf.float32
        np.testing.assert_allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_binary_cross_entropy_of_huge_logits_stays_finite():
    computed = binary_cross_entropy(label_smoothing=0.1)(tf.constant([0, 1]), tf.constant([[1e30], [-1e30]]))
    assert np.isfinite(computed.numpy()).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_losses_are_those_of_keras(gamma):
    labels, logits = batch(3, 5)
    logits = logits / 2
    # Beyond probabilities of 1 - 1e-7 Keras cuts them off, which changes a loss by less than that.
    theirs = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma, from_logits=True, reduction=None)
    computed = focal(gamma=gamma)(tf.constant(labels), tf.constant(logits))
    assert computed.shape == (16,) and computed.dtype == tf.float32
    np.testing.assert_allclose(computed, theirs(np.eye(5)[labels], logits), rtol=TOLERANCE, atol=TOLERANCE)
    for alpha in (None, 0.25):
        arguments = {} if alpha is None else {"apply_class_balancing": True, "alpha": alpha}
        theirs = keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True, reduction=None, **arguments)
        ours = binary_focal(gamma=gamma, alpha=alpha)
        for targets, outputs in ((np.float32(logits > 1), -logits), (labels[:, None] % 2, logits[:, :1])):
            computed = ours(tf.constant(targets[:, 0] if outputs.shape[1] == 1 else targets), tf.constant(outputs))
            expected = theirs(targets.astype(np.float32), outputs)
            np.testing.assert_allclose(computed, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_of_huge_logits_and_their_gradients_are_finite(gamma):
    logits = tf.constant([[1e30, -1e30], [-1e30, 1e30], [200.0, -200.0], [0.0, 0.0]])
    for loss, labels in ((focal(gamma=gamma), tf.zeros(4, tf.int32)), (binary_focal(gamma=gamma), tf.ones([4, 2]))):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            computed = loss(labels, logits)
        assert np.isfinite(computed.numpy()).all() and np.isfinite(tape.gradient(computed, logits).numpy()).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), outputs=st.integers(1, 5), delta=st.floats(0.01, 20))
def test_squared_error_and_huber_are_keras_ones(seed, outputs, delta):
    random = np.random.default_rng(seed)
    labels, predictions = (random.normal(0, 5, (16, outputs)).astype(np.float32) for _ in range(2))
    for ours, theirs in (
        (squared_error(), keras.losses.MeanSquaredError(reduction=None)),
        (huber(delta=delta), keras.losses.Huber(delta=delta, reduction=None)),
    ):
        computed = ours(tf.constant(labels), tf.constant(predictions))
        assert computed.shape == (16,) and computed.dtype == tf.float32
        # Terms of up to 30**2 (a square) or 20 * 30 (delta times a difference), each rounded a few times.
        np.testing.assert_allclose(computed, theirs(labels, predictions), rtol=TOLERANCE, atol=900 * 2**-21)


class TestWhichLossATaskGets:
    @pytest.mark.parametrize(
        ("task", "labels", "outputs"),
        [
            ("single_label", np.int32([0, 1]), 3), ("binary", np.int32([0, 1]), 1),
            ("multi_label", np.float32([[0, 1], [1, 1]]), 2), ("regression", np.float32([[3, 1], [2, 1]]), 2),
        ],
    )  # fmt: skip
    def test_without_one_in_the_recipe_is_one_that_takes_its_labels(self, task, labels, outputs):
        loss = losses.chosen(None, task)
        assert task in loss.tasks
        assert loss(tf.constant(labels), tf.zeros([2, outputs])).shape == (2,)

    @pytest.mark.parametrize(
        ("loss", "task"),
        [
            (cross_entropy(), "binary"), (cross_entropy(), "multi_label"), (cross_entropy(), "regression"),
            (binary_cross_entropy(), "single_label"), (binary_cross_entropy(), "regression"),
            (squared_error(), "single_label"), (huber(), "multi_label"),
            (focal(), "binary"), (binary_focal(), "single_label"),
        ],
    )  # fmt: skip
    def test_is_never_one_for_other_labels(self, complaint, loss, task):
        name = loss.__qualname__.split(".")[0]
        with complaint(name, task, "train.loss"):
            losses.chosen(loss, task)

    @pytest.mark.parametrize("task", TASKS)
    def test_may_be_a_function_of_the_user(self, task):
        def own(labels, logits):
            return labels

        assert losses.chosen(own, task) is own

    @pytest.mark.parametrize(
        ("own", "told"),
        [
            (lambda labels, logits: tf.reduce_mean(logits, axis=1, keepdims=True), "shape (3, 1)"),
            (lambda labels, logits: tf.reduce_mean(logits), "shape ()"),
            (lambda labels, logits: tf.cast(labels, tf.float64), "float64"),
            (lambda labels, logits: labels @ logits, "fails"),
        ],
    )
    def test_is_refused_where_it_gives_no_number_for_each_example(self, complaint, own, told):
        with complaint("train.loss", told, "float32"):
            losses.chosen(own, "single_label", outputs=4)

    def test_may_have_an_if_over_tensors_when_it_is_tried(self):
        def own(labels, logits):
            if tf.reduce_sum(logits) > 0:
                logits = logits * 2
            return tf.reduce_sum(logits, axis=1)

        assert losses.chosen(own, "binary", outputs=1) is own


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: cross_entropy(label_smoothing=1.5), "cross_entropy.label_smoothing"),
        (lambda: binary_cross_entropy(label_smoothing="much"), "binary_cross_entropy.label_smoothing"),
        (lambda: huber(delta=0), "huber.delta"),
        (lambda: focal(gamma=-1), "focal.gamma"),
        (lambda: binary_focal(alpha=2), "binary_focal.alpha"),
    ],
)
def test_an_argument_that_makes_no_loss_is_refused(complaint, make, culprit):
    with complaint(culprit):
        make()
