"""The sums and figures of each task, see `trainer.metrics`."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer import calibration

Sums = dict[str, tf.Tensor]
Totals = dict[str, np.ndarray]

# Targets that vary by less than a millionth of their size are constant: R2 would be rounding.
CONSTANT = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """What is summed up of a task and what comes of it.

    Attributes:
        sums: (labels, weights [B] float64, logits) -> sums.
        figures: totals -> figures by name.
        per_output: totals -> [K] by name.
        score: (labels, logits) -> [B] float32.
        running: name of the mean of the scores.
    """

    sums: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Sums]
    figures: Callable[[Totals], dict[str, np.ndarray]]
    per_output: Callable[[Totals], dict[str, np.ndarray]]
    score: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    running: str = "accuracy"


def weighted(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum over the batch of values [B, ...] times weights [B] float64; what has weight 0 may be NaN."""
    values = tf.cast(values, tf.float64)
    weights = tf.reshape(weights, [-1] + [1] * (values.shape.rank - 1))
    return tf.reduce_sum(tf.where(weights > 0, values * weights, 0.0), axis=0)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) != 0)


def mean(values: np.ndarray) -> np.ndarray:
    """Of those that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return known.mean() if known.size else np.float64(np.nan)


def _confusion(labels: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, *, classes: int) -> tf.Tensor:
    cells = tf.boolean_mask(labels * classes + predicted, weights > 0)
    counts = tf.math.bincount(cells, minlength=classes**2, maxlength=classes**2, dtype=tf.int64)
    return tf.reshape(counts, [classes, classes])


def _positives(truth: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor) -> Sums:
    return {
        "true_positives": weighted(truth & predicted, weights),
        "false_positives": weighted(~truth & predicted, weights),
        "false_negatives": weighted(truth & ~predicted, weights),
    }


def _found(right: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> dict[str, np.ndarray]:
    """Recall, precision and F1 of true and false positives and false negatives; NaN where the divisor is 0."""
    return {
        "recall": ratio(right, right + missed),
        "precision": ratio(right, right + wrong),
        "f1": ratio(2 * right, 2 * right + wrong + missed),
    }


def _of(totals: Totals) -> dict[str, np.ndarray]:
    return _found(*(totals[name] for name in ("true_positives", "false_positives", "false_negatives")))


def _of_probabilities(totals: Totals) -> dict[str, np.ndarray]:
    return {"log_loss": ratio(totals["log_loss"], totals["weight"]), "calibration_error": calibration.error(totals)}


# -- one class of many ------------------------------------------------------------------------------------------


def _single_label_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)


def _single_label_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    classes = logits.shape[-1]
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    right = predicted == labels
    own = tf.gather(logits, labels, batch_dims=1)[:, None]
    # As `argmax` has it: of equal ones the first comes first.
    ahead = (logits > own) | ((logits == own) & (tf.range(classes) < labels[:, None]))
    log_shares = tf.nn.log_softmax(tf.cast(logits, tf.float64))

    def by_class(which, indexes):
        return tf.math.unsorted_segment_sum(tf.where(which, weights, 0.0), indexes, classes)

    return {
        "correct": weighted(right, weights),
        "ranks": by_class(weights > 0, tf.reduce_sum(tf.cast(ahead, tf.int32), axis=-1)),
        "confusion": _confusion(labels, predicted, weights, classes=classes),
        "true_positives": by_class(right, labels),
        "false_positives": by_class(~right, predicted),
        "false_negatives": by_class(~right, labels),
        "log_loss": weighted(-tf.gather(log_shares, labels, batch_dims=1), weights),
        **calibration.sums(tf.reduce_max(tf.nn.softmax(tf.cast(logits, tf.float64)), axis=-1), right, weights),
    }


def _single_label_figures(totals: Totals) -> dict[str, np.ndarray]:
    found = _of(totals)
    return {
        "accuracy": ratio(totals["correct"], totals["weight"]),
        "top5_accuracy": ratio(totals["ranks"][:5].sum(), totals["weight"]),
        "balanced_accuracy": mean(found["recall"]),
        "macro_f1": mean(found["f1"]),
        **_of_probabilities(totals),
    }


def _single_label_per_output(totals: Totals) -> dict[str, np.ndarray]:
    return {"examples": totals["confusion"].sum(axis=1), **_of(totals)}


# -- yes or no --------------------------------------------------------------------------------------------------


def _binary_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast((logits[:, 0] > 0) == (labels == 1), tf.float32)


def _binary_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    truth, predicted, logits = labels == 1, logits[:, 0] > 0, tf.cast(logits[:, 0], tf.float64)
    return {
        "correct": weighted(truth == predicted, weights),
        "confusion": _confusion(labels, tf.cast(predicted, tf.int32), weights, classes=2),
        **_positives(truth, predicted, weights),
        "log_loss": weighted(tf.nn.softplus(tf.where(truth, -logits, logits)), weights),
        **calibration.sums(tf.sigmoid(logits), truth, weights),
    }


def _binary_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        "accuracy": ratio(totals["correct"], totals["weight"]),
        **{name: np.nan_to_num(value) for name, value in _of(totals).items()},
        "balanced_accuracy": mean(_binary_per_output(totals)["recall"]),
        **_of_probabilities(totals),
    }


def _binary_per_output(totals: Totals) -> dict[str, np.ndarray]:
    right, wrong, missed = (totals[name] for name in ("true_positives", "false_positives", "false_negatives"))
    # Of the class 0 a false positive of class 1 is one that was missed.
    others = totals["correct"] - right
    columns = np.stack([others, right]), np.stack([missed, wrong]), np.stack([wrong, missed])
    return {"examples": totals["confusion"].sum(axis=1), **_found(*columns)}


# -- any number of classes --------------------------------------------------------------------------------------


def _multi_label_score(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0.5), tf.float32), axis=-1)


def _multi_label_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor) -> Sums:
    truth, predicted = labels > 0.5, logits > 0
    right, logits = truth == predicted, tf.cast(logits, tf.float64)
    each = tf.repeat(weights, logits.shape[-1])
    return {
        # Float64: thirds and sevenths would be rounded.
        "correct": weighted(tf.reduce_mean(tf.cast(right, tf.float64), axis=-1), weights),
        "exact_match": weighted(tf.reduce_all(right, axis=-1), weights),
        **_positives(truth, predicted, weights),
        "log_loss": weighted(tf.reduce_mean(tf.nn.softplus(tf.where(truth, -logits, logits)), axis=-1), weights),
        **calibration.sums(tf.reshape(tf.sigmoid(logits), [-1]), tf.reshape(truth, [-1]), each),
    }


def _multi_label_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        "accuracy": ratio(totals["correct"], totals["weight"]),
        "exact_match": ratio(totals["exact_match"], totals["weight"]),
        "macro_f1": np.nan_to_num(_of(totals)["f1"]).mean(),
        **_of_probabilities(totals),
    }


def _multi_label_per_output(totals: Totals) -> dict[str, np.ndarray]:
    return {"positives": totals["true_positives"] + totals["false_negatives"], **_of(totals)}


# -- numbers ----------------------------------------------------------------------------------------------------


def _regression_score(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.abs(labels - predictions), axis=-1)


def _regression_sums(labels: tf.Tensor, weights: tf.Tensor, predictions: tf.Tensor) -> Sums:
    labels, predictions = tf.cast(labels, tf.float64), tf.cast(predictions, tf.float64)
    return {
        "target": weighted(labels, weights),
        "squared_target": weighted(labels**2, weights),
        "squared_error": weighted((labels - predictions) ** 2, weights),
        "absolute_error": weighted(tf.abs(labels - predictions), weights),
    }


def _regression_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {name: values.mean() for name, values in _regression_per_output(totals).items()}


def _regression_per_output(totals: Totals) -> dict[str, np.ndarray]:
    weight, error = np.full(totals["target"].shape, totals["weight"]), totals["squared_error"]
    spread = totals["squared_target"] - ratio(totals["target"] ** 2, weight)
    constant = spread <= CONSTANT**2 * totals["squared_target"]
    squared = ratio(error, weight)
    return {
        "mean_absolute_error": ratio(totals["absolute_error"], weight),
        "mean_squared_error": squared,
        "root_mean_squared_error": np.sqrt(squared),
        "r2": np.where(constant, np.where(error == 0, 1.0, 0.0), 1 - ratio(error, spread)),
    }


OF = {
    "single_label": TaskMetrics(
        sums=_single_label_sums,
        figures=_single_label_figures,
        per_output=_single_label_per_output,
        score=_single_label_score,
    ),
    "binary": TaskMetrics(
        sums=_binary_sums, figures=_binary_figures, per_output=_binary_per_output, score=_binary_score
    ),
    "multi_label": TaskMetrics(
        sums=_multi_label_sums,
        figures=_multi_label_figures,
        per_output=_multi_label_per_output,
        score=_multi_label_score,
    ),
    "regression": TaskMetrics(
        sums=_regression_sums,
        figures=_regression_figures,
        per_output=_regression_per_output,
        score=_regression_score,
        running="mean_absolute_error",
    ),
}
