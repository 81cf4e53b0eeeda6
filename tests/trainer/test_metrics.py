"""Metrics add up in any order; what they add up to is in test_against_scikit_learn.py."""

import json

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from data.examples import TASKS
from trainer import calibration, losses, metrics

BATCH = 8


def drawn(task, *, count, outputs, seed, even):
    """Labels, weights and logits of so many examples."""
    random = np.random.default_rng(seed)
    labels = {
        "single_label": lambda: random.integers(0, outputs, count).astype(np.int32),
        "binary": lambda: random.integers(0, 2, count).astype(np.int32),
        "multi_label": lambda: random.integers(0, 2, (count, outputs)).astype(np.float32),
        "regression": lambda: random.normal(100, 3, (count, outputs)).astype(np.float32),
    }[task]()
    logits = random.normal(0, 3, (count, 1 if task == "binary" else outputs)).astype(np.float32)
    if task == "regression":
        logits = labels + logits
    return labels, np.ones(count, np.float32) if even else random.uniform(0.1, 4, count).astype(np.float32), logits


def summed(task, labels, weights, logits, *, order=range(5), batch=BATCH):
    """Totals over batches of full shape, padded with weight 0, added in the given order."""
    loss = losses.chosen(None, task)
    totals = metrics.zeros(logits.shape[1], task=task)
    starts = np.arange(0, len(labels), batch)
    for start in starts[np.argsort(list(order)[: len(starts)])]:
        part = slice(start, start + batch)
        spare = batch - len(labels[part])
        # What pads may be anything: another class, any weights' product with it.
        padded = (
            np.pad(labels[part], [(0, spare)] + [(0, 0)] * (labels.ndim - 1)), np.pad(weights[part], (0, spare)),
            np.pad(logits[part], ((0, spare), (0, 0)), constant_values=7.0),
        )  # fmt: skip
        tensors = [tf.constant(array) for array in padded]
        sums = metrics.batch_sums(*tensors, loss(tensors[0], tensors[2]), task=task)
        totals = metrics.add(totals, sums)
    return totals


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.5, -1e6])
def test_r2_of_constant_targets_is_that_of_scikit_learn(right, value):
    labels = np.full((37, 1), value, np.float32)
    predictions = labels if right else labels + np.float32(1)
    weights = np.linspace(0.1, 3, 37).astype(np.float32)
    figures = metrics.figures(summed("regression", labels, weights, predictions), task="regression")
    # Without weights: theirs take the rounding of a weighted mean for spread.
    assert figures["r2"] == sklearn.metrics.r2_score(labels, predictions) == float(right)


@pytest.mark.parametrize("task", TASKS)
def test_figures_are_json_and_totals_do_not_depend_on_the_batch(task):
    arrays = drawn(task, count=37, outputs=3, seed=0, even=False)
    totals = [summed(task, *arrays, order=range(40), batch=batch) for batch in (1, 8, 37, 64)]
    assert metrics.zeros(arrays[2].shape[1], task=task).keys() == totals[0].keys()
    for others in totals[1:]:
        for name, value in others.items():
            # Sums of 37 float64 numbers in another order; losses are float32, rounded by other kernels.
            np.testing.assert_allclose(value, totals[0][name], rtol=2**-22 if name == "loss" else 37 * 2**-52)
    figures = metrics.figures(totals[0], task=task)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert {metrics.decisive(task), "loss", "examples"} <= figures.keys()


@pytest.mark.parametrize("task", TASKS)
def test_the_running_figure_of_training_is_that_of_evaluation(task):
    labels, weights, logits = drawn(task, count=30, outputs=5, seed=1, even=False)
    scores = metrics.score(tf.constant(labels), tf.constant(logits), task=task)
    assert scores.shape == (30,) and scores.dtype == tf.float32
    figures = metrics.figures(summed(task, labels, weights, logits), task=task)
    # Scores of a regression are float32 of differences of numbers around 100.
    expected = np.average(scores, weights=weights)
    assert figures[metrics.running(task)] == pytest.approx(expected, rel=1e-6, abs=100 * 2**-22)


def test_of_equally_probable_classes_the_first_is_taken_for_the_most_probable():
    """A head of zeros is right as often as its first class is there, not always."""
    labels, weights = np.int32([0, 1, 1, 2]), np.ones(4, np.float32)
    totals = summed("single_label", labels, weights, np.zeros((4, 3), np.float32))
    np.testing.assert_array_equal(metrics.top_k_accuracy(totals), [0.25, 0.75, 1.0])
    assert metrics.figures(totals, task="single_label")["accuracy"] == 0.25


def test_a_probability_on_an_edge_is_in_the_bin_below():
    edges = tf.constant(calibration.EDGES)
    sums = calibration.sums(edges, tf.ones_like(edges, tf.bool), tf.ones_like(edges))
    np.testing.assert_array_equal(sums["calibration_weight"], [1] * (calibration.BINS - 1) + [0])


@pytest.mark.parametrize("by", ["roc_auc", "average_precision", "balanced_accuracy", "log_loss"])
def test_every_figure_of_classes_may_decide(by, complaint):
    assert metrics.decisive("single_label", by) == by
    better, worse = ({by: value} for value in ((0.2, 0.9) if by == "log_loss" else (0.9, 0.2)))
    assert metrics.merit(better, task="single_label", by=by) > metrics.merit(worse, task="single_label", by=by)
    with complaint(by, "r2"):
        metrics.decisive("regression", by)


def test_more_merit_is_a_higher_accuracy_or_a_lower_loss():
    better, worse = {"loss": 1.0, "accuracy": 0.5}, {"loss": 2.0, "accuracy": 0.4}
    for task in TASKS:
        assert metrics.merit(better, task=task) > metrics.merit(worse, task=task)
    assert metrics.merit({"loss": 9.0, "accuracy": 0.5}, task="binary") > metrics.merit(worse, task="binary")


def test_figures_of_each_class_are_nan_where_there_is_nothing_to_divide_by():
    labels, weights = np.int32([0, 0, 1]), np.ones(3, np.float32)
    logits = np.float32([[5, 0, 0], [0, 5, 0], [0, 5, 0]])
    each = metrics.per_output(summed("single_label", labels, weights, logits), task="single_label")
    np.testing.assert_array_equal(each["examples"], [2, 1, 0])
    np.testing.assert_array_equal(each["recall"], [0.5, 1, np.nan])
    np.testing.assert_array_equal(each["precision"], [1, 0.5, np.nan])


def test_weights_count_in_shares_but_not_in_the_number_of_examples():
    logits = tf.constant([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels, weights = tf.constant([0, 1, 1]), tf.constant([3.0, 1.0, 0.0])
    sums = metrics.batch_sums(labels, weights, logits, tf.constant([0.5, 2.0, 100.0]), task="single_label")
    totals = metrics.add(metrics.zeros(2, task="single_label"), sums)
    figures = metrics.figures(totals, task="single_label")
    expected = {"loss": (3 * 0.5 + 2.0) / 4, "accuracy": 0.75, "top5_accuracy": 1.0, "examples": 2}
    assert {name: figures[name] for name in expected} == expected
    each = metrics.per_output(totals, task="single_label")
    np.testing.assert_array_equal(each["examples"], [1, 1])
    np.testing.assert_array_equal(each["precision"], [0.75, np.nan])
    np.testing.assert_array_equal(sums["confusion"], [[1, 0], [1, 0]])


@pytest.mark.parametrize("task", TASKS)
def test_padding_does_not_count_even_where_its_loss_is_not_finite(task):
    labels, weights, logits = drawn(task, count=6, outputs=3, seed=2, even=False)
    labels[4:], weights[4:], logits[4:] = (0, 0, np.nan)
    whole = metrics.figures(summed(task, labels[:4], weights[:4], logits[:4]), task=task)
    assert metrics.figures(summed(task, labels, weights, logits), task=task) == whole


@pytest.mark.parametrize("task", TASKS)
def test_replaced_images_are_counted_apart_from_the_examples(task):
    labels, weights, logits = (tf.constant(a) for a in drawn(task, count=4, outputs=3, seed=3, even=True))
    weights *= [1.0, 0.0, 1.0, 0.0]
    replaced = tf.constant([False, True, False, False])
    totals = metrics.zeros(logits.shape[1], task=task)
    for _ in range(2):
        sums = metrics.batch_sums(labels, weights, logits, tf.ones([4]), task=task, replaced=replaced)
        totals = metrics.add(totals, sums)
    assert (totals["replaced"], totals["examples"]) == (2, 4)


def test_sums_of_many_examples_lose_none():
    """Sums of 2**24 and more ones would stand still in float32."""
    many = {"weight": np.float64(2**25), "correct": np.float64(2**25), "examples": np.int64(2**25)}
    totals = metrics.zeros(2, task="single_label") | many
    sums = metrics.batch_sums(
        tf.constant([0]), tf.constant([1.0]), tf.constant([[1.0, 0.0]]), tf.constant([0.0]), task="single_label"
    )
    added = metrics.add(totals, sums)
    assert added["weight"] == added["correct"] == added["examples"] == 2**25 + 1
