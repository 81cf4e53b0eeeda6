"""Metrics as sums over examples that add up in any order, and the figures computed from the totals."""

import numpy as np
import tensorflow as tf

Sums = dict[str, tf.Tensor]


def batch_sums(labels: tf.Tensor, weights: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor) -> Sums:
    """Sums of one batch. An example of weight 0 is padding and does not count.

    Args:
        labels: [B] int32.
        weights: [B] float32.
        logits: [B, K] float32.
        losses: [B] float32.

    Returns:
        loss, weight, correct, top5: scalars float64, weighted; examples: scalar int64; confusion [K, K] int64, counts
        with the true class in the row and the predicted one in the column.
    """
    classes = logits.shape[-1]
    weights = tf.cast(weights, tf.float64)
    counted = weights > 0
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    in_top5 = tf.math.in_top_k(labels, logits, min(5, classes))
    cells = tf.boolean_mask(labels * classes + predicted, counted)
    return {
        "loss": tf.reduce_sum(tf.where(counted, tf.cast(losses, tf.float64) * weights, 0.0)),
        "weight": tf.reduce_sum(weights),
        "correct": tf.reduce_sum(tf.where(predicted == labels, weights, 0.0)),
        "top5": tf.reduce_sum(tf.where(in_top5, weights, 0.0)),
        "examples": tf.reduce_sum(tf.cast(counted, tf.int64)),
        "confusion": tf.reshape(
            tf.math.bincount(cells, minlength=classes**2, maxlength=classes**2, dtype=tf.int64), [classes, classes]
        ),
    }


def zeros(classes: int) -> dict[str, np.ndarray]:
    """Totals of no example at all, in the shapes of `batch_sums`."""
    scalars = {name: np.float64(0) for name in ("loss", "weight", "correct", "top5")}
    return {**scalars, "examples": np.int64(0), "confusion": np.zeros((classes, classes), np.int64)}


def add(totals: dict[str, np.ndarray], sums: Sums) -> dict[str, np.ndarray]:
    """The totals with further sums in them."""
    return {name: totals[name] + np.asarray(sums[name]) for name in totals}


def figures(totals: dict[str, np.ndarray]) -> dict[str, float | int]:
    """Mean loss (nats), accuracy and top-5 accuracy (0..1) and the number of examples."""
    weight = float(totals["weight"])
    return {
        "loss": float(totals["loss"]) / weight,
        "accuracy": float(totals["correct"]) / weight,
        "top5_accuracy": float(totals["top5"]) / weight,
        "examples": int(totals["examples"]),
    }
