"""Figures over all thresholds of a score, exact: area under the ROC curve and average precision."""

from collections.abc import Iterable

import numpy as np

OF_SCORES = ("roc_auc", "average_precision")


def areas(classes: Iterable[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Both figures of each of K classes, in 0..1, as scikit-learn's `roc_auc_score` and `average_precision_score`.

    Args:
        classes: of each class [N] bool, whether an example is of it, and [N] scores, finite: more is more likely. Equal
            scores pass a threshold together.
        weights: [N], above 0.

    Returns:
        roc_auc: [K] float64, NaN where all or no examples are of the class; average_precision: likewise, NaN where none
        is.
    """
    found = [_of_class(truth, scores, weights) for truth, scores in classes]
    return dict(zip(OF_SCORES, np.array(found, np.float64).reshape(-1, 2).T, strict=True))


def _of_class(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    if not truth.any():
        return np.nan, np.nan
    # Importing it takes a second that a training need not wait for before its first step.
    from sklearn.metrics import confusion_matrix_at_thresholds

    _, wrong, _, right, _ = confusion_matrix_at_thresholds(truth, scores, sample_weight=weights)
    above = np.concatenate([[0.0], right])
    average = np.sum(np.diff(above) * right / (right + wrong)) / right[-1]
    if truth.all():
        return np.nan, average
    return np.trapezoid(above, np.concatenate([[0.0], wrong])) / (right[-1] * wrong[-1]), average
