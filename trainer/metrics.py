"""Metrics as sums over examples that add up in any order, and the figures computed from the totals.

Each task of `data.examples.TASKS` has its own:

single_label: accuracy, top-5 accuracy, confusion matrix.
binary: accuracy, recall, precision and F1 of class 1, confusion matrix; a logit above 0 predicts class 1.
multi_label: share of right decisions (accuracy), of examples that are right in every class (exact match), macro F1.
regression: mean absolute error, mean squared error and R2, each the mean over the outputs.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data.errors import UserError

Sums = dict[str, tf.Tensor]
Totals = dict[str, np.ndarray]

# Targets that vary by less than a millionth of their size are constant: R2 would be rounding.
CONSTANT = 1e-6
LOWER_IS_BETTER = ("loss", "mean_absolute_error", "mean_squared_error")


def batch_sums(
    labels: tf.Tensor,
    weights: tf.Tensor,
    logits: tf.Tensor,
    losses: tf.Tensor,
    *,
    task: str,
    replaced: tf.Tensor | None = None,
) -> Sums:
    """Sums of one batch. An example of weight 0 is padding or replaced and does not count.

    Args:
        labels: as the task has them: [B] int32, or [B, K] float32.
        weights: [B] float32.
        logits: [B, K] float32; [B, 1] of a binary task.
        losses: [B] float32.
        task: one of `data.examples.TASKS`.
        replaced: [B] bool, where a broken image was left out; None: nowhere.

    Returns:
        loss, weight: scalars float64, weighted; examples, replaced: scalars int64; and of
        single_label: correct, top5: scalars float64, weighted; confusion: [K, K] int64, counts with the true class in
            the row and the predicted one in the column.
        binary: correct, true_positives, false_positives, false_negatives: scalars float64, weighted; confusion: [2, 2].
        multi_label: correct, exact_match: scalars; true_positives, false_positives, false_negatives: [K]; all float64,
            weighted.
        regression: target, squared_target, squared_error, absolute_error: [K] float64, weighted.
    """
    weights = tf.cast(weights, tf.float64)
    replaced = tf.zeros_like(weights, tf.bool) if replaced is None else replaced
    return {
        "loss": _weighted(losses, weights),
        "weight": tf.reduce_sum(weights),
        "examples": tf.reduce_sum(tf.cast(weights > 0, tf.int64)),
        "replaced": tf.reduce_sum(tf.cast(replaced, tf.int64)),
        **_OF[task].sums(labels, weights, logits),
    }


def mean_prediction(logits: tf.Tensor, *, task: str) -> tf.Tensor:
    """The mean of several predictions of each example: of probabilities, or of a regression's values.

    Args:
        logits: [V, B, K] float32.

    Returns:
        [B, K] float32, the logits of the mean probabilities (log probabilities of a single label).
    """
    if task == "regression":
        return tf.reduce_mean(logits, axis=0)

    def log_mean(log_probabilities):
        return tf.reduce_logsumexp(log_probabilities, axis=0) - np.log(logits.shape[0])

    if task == "single_label":
        return log_mean(tf.nn.log_softmax(logits))
    return log_mean(tf.math.log_sigmoid(logits)) - log_mean(tf.math.log_sigmoid(-logits))


def zeros(outputs: int, *, task: str) -> Totals:
    """Totals of no example at all, in the shapes of `batch_sums`.

    Args:
        outputs: of the network.
    """
    none = tf.zeros([0])
    labels = tf.zeros([0, outputs]) if task in ("multi_label", "regression") else tf.zeros([0], tf.int32)
    sums = batch_sums(labels, none, tf.zeros([0, outputs]), none, task=task)
    return {name: value.numpy() for name, value in sums.items()}


def add(totals: Totals, sums: Sums) -> Totals:
    """The totals with further sums in them."""
    return {name: totals[name] + np.asarray(sums[name]) for name in totals}


def figures(totals: Totals, *, task: str) -> dict[str, float | int]:
    """Mean loss, the figures of the task and the number of examples that count, ready for JSON if that is not 0.

    Accuracies, recall, precision and F1 are in 0..1; the latter three are 0 where nothing was there to be found, as
    scikit-learn has it. R2 is at most 1; of a constant target it is 1 if every prediction is right, else 0.
    """
    named = {"loss": _ratio(totals["loss"], totals["weight"]), **_OF[task].figures(totals)}
    return {name: float(value) for name, value in named.items()} | {"examples": int(totals["examples"])}


def per_output(totals: Totals, *, task: str) -> dict[str, np.ndarray]:
    """Figures of each class or number by name, [K] each (two of a binary task); NaN where the divisor is 0."""
    return _OF[task].per_output(totals)


def running(task: str) -> str:
    """Name of the figure that training shows beside the loss: the weighted mean of `score`."""
    return _OF[task].running


def score(labels: tf.Tensor, logits: tf.Tensor, *, task: str) -> tf.Tensor:
    """[B] float32: the share of right decisions of each example; of a regression its mean absolute error."""
    return _OF[task].score(labels, logits)


def decisive(task: str, by: str | None = None) -> str:
    """Name of the figure that decides which of two evaluations is better; the usual one of the task without `by`.

    Raises:
        UserError: the task has no such figure.
    """
    known = ["loss", *_OF[task].figures(zeros(2, task=task))]
    if by is not None and by not in known:
        raise UserError(
            f"train.best_by = {by!r}",
            where="gin binding train.best_by",
            expected=f"None, or a figure of a {task} task: {', '.join(known)}",
            do="correct it",
        )
    return by or ("loss" if task == "regression" else "accuracy")


def merit(figures: dict, *, task: str, by: str | None = None) -> float:
    """The decisive figure, its sign such that more is better."""
    name = decisive(task, by)
    return -figures[name] if name in LOWER_IS_BETTER else figures[name]


def _weighted(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum over the batch of values [B, ...] times weights [B] float64; what has weight 0 may be NaN."""
    values = tf.cast(values, tf.float64)
    weights = tf.reshape(weights, [-1] + [1] * (values.shape.rank - 1))
    return tf.reduce_sum(tf.where(weights > 0, values * weights, 0.0), axis=0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) != 0)


def _confusion(labels: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, *, classes: int) -> tf.Tensor:
    cells = tf.boolean_mask(labels * classes + predicted, weights > 0)
    counts = tf.math.bincount(cells, minlength=classes**2, maxlength=classes**2, dtype=tf.int64)
    return tf.reshape(counts, [classes, classes])


def _recall_and_precision(totals: Totals) -> dict[str, np.ndarray]:
    confusion = totals["confusion"]
    right, count = np.diagonal(confusion), confusion.sum(axis=1)
    return {"examples": count, "recall": _ratio(right, count), "precision": _ratio(right, confusion.sum(axis=0))}


def _positives(truth: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor) -> Sums:
    return {
        "true_positives": _weighted(truth & predicted, weights),
        "false_positives": _weighted(~truth & predicted, weights),
        "false_negatives": _weighted(truth & ~predicted, weights),
    }


def _found(totals: Totals) -> dict[str, np.ndarray]:
    """Recall, precision and F1 of the positives; NaN where there is nothing to divide by."""
    right, wrong, missed = (totals[name] for name in ("true_positives", "false_positives", "false_negatives"))
    return {
        "recall": _ratio(right, right + missed),
        "precision": _ratio(right, right + wrong),
        "f1": _ratio(2 * right, 2 * right + wrong + missed),
    }


def _single_label_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)


def _single_label_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    classes = logits.shape[-1]
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return {
        "correct": _weighted(_single_label_score(labels, logits), weights),
        "top5": _weighted(tf.math.in_top_k(labels, logits, min(5, classes)), weights),
        "confusion": _confusion(labels, predicted, weights, classes=classes),
    }


def _single_label_figures(totals: Totals) -> dict[str, np.ndarray]:
    names = {"accuracy": "correct", "top5_accuracy": "top5"}
    return {name: _ratio(totals[part], totals["weight"]) for name, part in names.items()}


def _binary_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast((logits[:, 0] > 0) == (labels == 1), tf.float32)


def _binary_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    predicted = logits[:, 0] > 0
    return {
        "correct": _weighted(_binary_score(labels, logits), weights),
        "confusion": _confusion(labels, tf.cast(predicted, tf.int32), weights, classes=2),
        **_positives(labels == 1, predicted, weights),
    }


def _binary_figures(totals: Totals) -> dict[str, np.ndarray]:
    found = {name: np.nan_to_num(value) for name, value in _found(totals).items()}
    return {"accuracy": _ratio(totals["correct"], totals["weight"]), **found}


def _multi_label_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0.5), tf.float32), axis=-1)


def _multi_label_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    truth, predicted = labels > 0.5, logits > 0
    right = truth == predicted
    return {
        # Float64: thirds and sevenths would be rounded.
        "correct": _weighted(tf.reduce_mean(tf.cast(right, tf.float64), axis=-1), weights),
        "exact_match": _weighted(tf.reduce_all(right, axis=-1), weights),
        **_positives(truth, predicted, weights),
    }


def _multi_label_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        "accuracy": _ratio(totals["correct"], totals["weight"]),
        "exact_match": _ratio(totals["exact_match"], totals["weight"]),
        "macro_f1": np.nan_to_num(_found(totals)["f1"]).mean(),
    }


def _multi_label_per_output(totals: Totals) -> dict[str, np.ndarray]:
    return {"positives": totals["true_positives"] + totals["false_negatives"], **_found(totals)}


def _regression_score(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.abs(labels - predictions), axis=-1)


def _regression_sums(labels: tf.Tensor, weights: tf.Tensor, predictions: tf.Tensor) -> Sums:
    labels, predictions = tf.cast(labels, tf.float64), tf.cast(predictions, tf.float64)
    return {
        "target": _weighted(labels, weights),
        "squared_target": _weighted(labels**2, weights),
        "squared_error": _weighted((labels - predictions) ** 2, weights),
        "absolute_error": _weighted(tf.abs(labels - predictions), weights),
    }


def _regression_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {name: values.mean() for name, values in _regression_per_output(totals).items()}


def _regression_per_output(totals: Totals) -> dict[str, np.ndarray]:
    weight, error = np.full(totals["target"].shape, totals["weight"]), totals["squared_error"]
    spread = totals["squared_target"] - _ratio(totals["target"] ** 2, weight)
    constant = spread <= CONSTANT**2 * totals["squared_target"]
    return {
        "mean_absolute_error": _ratio(totals["absolute_error"], weight),
        "mean_squared_error": _ratio(error, weight),
        "r2": np.where(constant, np.where(error == 0, 1.0, 0.0), 1 - _ratio(error, spread)),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measures:
    sums: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Sums]
    figures: Callable[[Totals], dict[str, np.ndarray]]
    per_output: Callable[[Totals], dict[str, np.ndarray]]
    score: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    running: str = "accuracy"


_OF = {
    "single_label": _Measures(
        sums=_single_label_sums,
        figures=_single_label_figures,
        per_output=_recall_and_precision,
        score=_single_label_score,
    ),
    "binary": _Measures(
        sums=_binary_sums, figures=_binary_figures, per_output=_recall_and_precision, score=_binary_score
    ),
    "multi_label": _Measures(
        sums=_multi_label_sums,
        figures=_multi_label_figures,
        per_output=_multi_label_per_output,
        score=_multi_label_score,
    ),
    "regression": _Measures(
        sums=_regression_sums,
        figures=_regression_figures,
        per_output=_regression_per_output,
        score=_regression_score,
        running="mean_absolute_error",
    ),
}
