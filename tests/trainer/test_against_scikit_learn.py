"""Figures of random sets are those of scikit-learn to 1e-6.

METRIC_CASES=1000 draws so many of each task.
"""

import functools
import os
import warnings

import numpy as np
import pytest
import scipy.special
import sklearn.calibration
import sklearn.metrics
import tensorflow as tf

from data.examples import TASKS, Examples
from trainer import calibration, losses, metrics
from trainer.outcomes import Outcomes

CASES = int(os.environ.get("METRIC_CASES", "20"))
BATCH = 8
CLOSE = {"rel": 1e-6, "abs": 1e-6}


@pytest.fixture(autouse=True)
def silent():
    """Theirs warn of what is undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Case:
    """Random labels, weights and logits, some of which do not count; `truth`, `weight`, `said` are of those that do."""

    def __init__(self, task: str, seed: int):
        random = np.random.default_rng(seed)
        count, outputs = int(random.integers(2, 41)), int(random.choice([2, 3, 7]))
        labels = {
            # Some classes are absent.
            "single_label": lambda: random.integers(0, random.integers(1, outputs + 1), count).astype(np.int32),
            "binary": lambda: (random.uniform(size=count) < random.choice([0, 0.1, 0.5, 1])).astype(np.int32),
            "multi_label": lambda: (random.uniform(size=(count, outputs)) < random.choice([0.1, 0.5])).astype("f4"),
            "regression": lambda: random.normal(random.choice([0, 100]), 3, (count, outputs)).astype(np.float32),
        }[task]()
        # Up to differences of 36: theirs takes no probability below 2**-52 for the log loss.
        logits = random.normal(0, random.choice([0.3, 1, 4]), (count, 1 if task == "binary" else outputs))
        if random.integers(2):
            logits = np.round(logits)  # Ties.
        if task == "regression":
            logits = labels + logits
        # In quarters, so that an example can stand there that often.
        weights = random.integers(1, 9, count) / 4 if random.integers(2) else np.ones(count)
        self.replaced = random.uniform(size=count) < 0.05
        weights[(random.uniform(size=count) < 0.1) | self.replaced] = 0
        weights[int(random.integers(count))] = 1.0
        self.replaced &= weights == 0
        self.task, self.outputs = task, outputs
        self.labels, self.weights, self.logits = labels, weights.astype(np.float32), logits.astype(np.float32)
        counts = weights > 0
        self.truth, self.weight, self.said = labels[counts], weights[counts], self.logits[counts].astype(np.float64)
        self.order = random.permutation(-(-count // BATCH))

    def evaluated(self):
        """Figures and those of each class, out of padded batches in any order."""
        examples = Examples.of(
            names=[b"%d" % row for row in range(len(self.labels))], labels=self.labels, task=self.task,
            class_names=[f"class {index}" for index in range(2 if self.task == "binary" else self.outputs)],
            weights=self.weights, pixels=np.zeros((len(self.labels), 1, 1, 3), np.uint8),
        )  # fmt: skip
        sums_of, outcomes = traced(self.task), Outcomes(examples)
        totals = metrics.zeros(self.logits.shape[1], task=self.task)
        for batch in self.order:
            rows = np.arange(batch * BATCH, (batch + 1) * BATCH)
            inside = np.minimum(rows, len(self.labels) - 1)
            weights = np.where(rows < len(self.labels), self.weights[inside], 0).astype(np.float32)
            replaced = self.replaced[inside] & (rows < len(self.labels))
            sums, each = sums_of(self.labels[inside], weights, self.logits[inside], replaced)
            totals = metrics.add(totals, sums)
            told = {"position": rows, "replaced": replaced.astype(np.int32), "logits": self.logits[inside]}
            outcomes.take(told | {"losses": each.numpy()})
        figures = metrics.figures(totals, task=self.task) | outcomes.figures()
        assert figures.pop("examples") == len(self.truth)
        return figures, metrics.per_output(totals, task=self.task) | outcomes.per_output, totals


@functools.cache
def traced(task):
    loss = losses.chosen(None, task)

    @tf.function(autograph=False)
    def sums(labels, weights, logits, replaced):
        each = loss(labels, logits)
        return metrics.batch_sums(labels, weights, logits, each, task=task, replaced=replaced), each

    return lambda *arrays: sums(*map(tf.constant, arrays))


def check(found, expected, name):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def expected_areas(case, each, columns):
    """Compares both areas of each class with theirs, and gives them back."""
    for figure, theirs, defined in (
        ("roc_auc", sklearn.metrics.roc_auc_score, lambda truth: 0 < truth.mean() < 1),
        ("average_precision", sklearn.metrics.average_precision_score, lambda truth: truth.any()),
    ):
        expected = [
            theirs(truth, scores, sample_weight=case.weight) if defined(truth) else np.nan for truth, scores in columns
        ]
        check(each[figure], expected, figure)


def expected_error(confidences, right, weights):
    """The calibration error out of scikit-learn's curve, each example as often as it weighs."""
    often = (weights * 4).astype(int)
    confidences, right = np.repeat(confidences, often), np.repeat(right, often)
    shares, means = sklearn.calibration.calibration_curve(right, confidences, n_bins=calibration.BINS)
    counts = np.histogram(np.searchsorted(calibration.EDGES, confidences), np.arange(calibration.BINS + 1))[0]
    return (np.abs(shares - means) * counts[counts > 0]).sum() / counts.sum()


def single_label(case):
    figures, each, totals = case.evaluated()
    known, given = range(case.outputs), {"sample_weight": case.weight}
    truth, predicted = case.truth, case.said.argmax(axis=1)
    shares = scipy.special.softmax(case.said, axis=1)
    theirs = {
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted, **given),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted, **given),
        "macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro", **given),
        "log_loss": sklearn.metrics.log_loss(truth, shares, labels=known, **given),
        "calibration_error": expected_error(shares.max(axis=1), truth == predicted, case.weight),
    }
    for name, expected in theirs.items():
        assert figures[name] == pytest.approx(expected, **CLOSE), name
    np.testing.assert_array_equal(totals["confusion"], sklearn.metrics.confusion_matrix(truth, predicted, labels=known))
    found = sklearn.metrics.precision_recall_fscore_support(truth, predicted, labels=known, zero_division=0, **given)
    for name, expected in zip(("precision", "recall", "f1"), found, strict=False):
        check(np.nan_to_num(each[name]), expected, name)
    top = metrics.top_k_accuracy(totals)
    assert top[0] == pytest.approx(figures["accuracy"], **CLOSE) and top[-1] == 1
    assert figures["top5_accuracy"] == top[min(5, case.outputs) - 1]
    for k in range(1, case.outputs if case.outputs > 2 else 1):
        # Theirs takes the last of equally probable classes first.
        turned = case.outputs - 1 - truth, case.said[:, ::-1]
        expected = sklearn.metrics.top_k_accuracy_score(*turned, k=k, labels=known, **given)
        assert top[k - 1] == pytest.approx(expected, **CLOSE)
    expected_areas(case, each, [(truth == label, shares[:, label]) for label in known])
    if case.outputs > 2 and len(np.unique(truth)) == case.outputs:
        expected = sklearn.metrics.roc_auc_score(truth, shares, multi_class="ovr", labels=known, **given)
        assert figures["roc_auc"] == pytest.approx(expected, **CLOSE)


def binary(case):
    figures, each, totals = case.evaluated()
    given, logit = {"sample_weight": case.weight}, case.said[:, 0]
    truth, predicted, shares = case.truth, (logit > 0).astype(int), 1 / (1 + np.exp(-logit))
    one = {"pos_label": 1, "zero_division": 0, **given}
    theirs = {
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted, **given),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted, **given),
        "precision": sklearn.metrics.precision_score(truth, predicted, **one),
        "recall": sklearn.metrics.recall_score(truth, predicted, **one),
        "f1": sklearn.metrics.f1_score(truth, predicted, **one),
        "log_loss": sklearn.metrics.log_loss(truth, shares, labels=[0, 1], **given),
        "calibration_error": expected_error(shares, truth == 1, case.weight),
    }
    if 0 < truth.mean() < 1:
        theirs["roc_auc"] = sklearn.metrics.roc_auc_score(truth, shares, **given)
    if truth.any():
        theirs["average_precision"] = sklearn.metrics.average_precision_score(truth, shares, **given)
    assert theirs.keys() == figures.keys() - {"loss"}
    for name, expected in theirs.items():
        assert figures[name] == pytest.approx(expected, **CLOSE), name
    np.testing.assert_array_equal(
        totals["confusion"], sklearn.metrics.confusion_matrix(truth, predicted, labels=[0, 1])
    )
    found = sklearn.metrics.precision_recall_fscore_support(truth, predicted, labels=[0, 1], zero_division=0, **given)
    for name, expected in zip(("precision", "recall", "f1"), found, strict=False):
        check(np.nan_to_num(each[name]), expected, name)
    expected_areas(case, each, [(truth == 0, -logit), (truth == 1, logit)])


def multi_label(case):
    figures, each, _ = case.evaluated()
    given = {"sample_weight": case.weight}
    truth, predicted, shares = case.truth.astype(int), (case.said > 0).astype(int), 1 / (1 + np.exp(-case.said))
    columns = range(case.outputs)
    every = np.repeat(case.weight, case.outputs)
    theirs = {
        "accuracy": 1 - sklearn.metrics.hamming_loss(truth, predicted, **given),
        "exact_match": sklearn.metrics.accuracy_score(truth, predicted, **given),
        "macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro", zero_division=0, **given),
        "log_loss": np.mean(
            [sklearn.metrics.log_loss(truth[:, k], shares[:, k], labels=[0, 1], **given) for k in columns]
        ),
        "calibration_error": expected_error(shares.ravel(), truth.ravel() == 1, every),
    }
    for name, expected in theirs.items():
        assert figures[name] == pytest.approx(expected, **CLOSE), name
    found = sklearn.metrics.precision_recall_fscore_support(truth, predicted, zero_division=0, **given)
    for name, expected in zip(("precision", "recall", "f1"), found, strict=False):
        check(np.nan_to_num(each[name]), expected, name)
    expected_areas(case, each, [(truth[:, k] == 1, case.said[:, k]) for k in columns])
    if (truth.any(axis=0) & ~truth.all(axis=0)).all():
        for name, score in (
            ("roc_auc", sklearn.metrics.roc_auc_score),
            ("average_precision", sklearn.metrics.average_precision_score),
        ):
            assert figures[name] == pytest.approx(score(truth, case.said, average="macro", **given), **CLOSE), name


def regression(case):
    figures, each, _ = case.evaluated()
    truth, weights = case.truth.astype(np.float64), case.weight[:, None]
    for name in ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error"):
        expected = getattr(sklearn.metrics, name)(truth, case.said, sample_weight=case.weight, multioutput="raw_values")
        check(each[name], expected, name)
    if len(truth) > 1:
        expected = sklearn.metrics.r2_score(truth, case.said, sample_weight=case.weight, multioutput="raw_values")
        # The spread of the targets is a difference of sums of squares, each of up to 40 rounded to 2**-53 of it.
        spread = (weights * (truth - np.average(truth, axis=0, weights=case.weight)) ** 2).sum(axis=0)
        lost = 40 * 2**-53 * (weights * truth**2).sum(axis=0) / spread
        np.testing.assert_allclose(each["r2"], expected, rtol=1e-6 + lost.max(), atol=1e-6 + lost.max())
        assert (lost < 1e-7).all() or len(truth) < 5
    for name in ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2"):
        assert figures[name] == pytest.approx(each[name].mean(), rel=1e-12)
    assert not {"roc_auc", "average_precision"} & figures.keys()


OF = {"single_label": single_label, "binary": binary, "multi_label": multi_label, "regression": regression}


@pytest.mark.parametrize("task", TASKS)
def test_figures_of_random_sets_are_those_of_scikit_learn(task):
    for seed in range(CASES):
        case = Case(task, seed)
        try:
            OF[task](case)
        except AssertionError as error:
            raise AssertionError(f"{task}, set {seed} of {len(case.labels)}: {error}") from error
