"""Whether probabilities are kept: sums in equal bins of 0..1, and the expected calibration error.

Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo et al. 2017, "On calibration
of modern neural networks", whose 15 bins these are.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

BINS = 15
# A probability on an edge belongs to the bin below, as in `sklearn.calibration.calibration_curve`.
EDGES = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
NAMES = ("calibration_weight", "calibration_confidence", "calibration_right")


def sums(confidences: tf.Tensor, right: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
    """Sums in each bin: of the weights, of weight x confidence, of weight x whether it came true.

    Args:
        confidences: [M] float64 in 0..1; anything where the weight is 0.
        right: [M] bool.
        weights: [M] float64.

    Returns:
        calibration_weight, calibration_confidence, calibration_right: [BINS] float64.
    """
    counts = weights > 0
    confidences = tf.where(counts, confidences, 0.0)
    bins = tf.searchsorted(tf.constant(EDGES), confidences, side="left")
    columns = (weights, weights * confidences, weights * tf.cast(right, tf.float64))
    added = (tf.math.unsorted_segment_sum(tf.where(counts, column, 0.0), bins, BINS) for column in columns)
    return dict(zip(NAMES, added, strict=True))


def error(totals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Expected calibration error in 0..1: mean over the examples of |confidence - share that is right| of their bin.

    NaN without any weight.
    """
    weight, confidence, right = (totals[name] for name in NAMES)
    whole = weight.sum()
    return np.abs(confidence - right).sum() / whole if whole > 0 else np.float64(np.nan)
