"""Metrics as sums over examples that add up in any order, and the figures computed from the totals.

Each task of `data.examples.TASKS` has its own:

single_label: accuracy, top-5 accuracy, balanced accuracy, macro F1, log loss, calibration error, confusion matrix.
binary: accuracy, recall, precision and F1 of class 1, balanced accuracy, log loss, calibration error, confusion matrix;
    a logit above 0 predicts class 1.
multi_label: share of right decisions (accuracy), of examples that are right in every class (exact match), macro F1, log
    loss, calibration error.
regression: mean absolute error, mean squared error, its root and R2, each the mean over the outputs.

What needs the order of all scores, ROC-AUC and average precision, is no sum: see `trainer.outcomes`.
"""

import numpy as np
import tensorflow as tf

from data.errors import UserError
from trainer.task_metrics import OF, Sums, Totals, ratio, weighted
from trainer.thresholds import OF_SCORES

LOWER_IS_BETTER = (
    *("loss", "log_loss", "calibration_error"),
    *("mean_absolute_error", "mean_squared_error", "root_mean_squared_error"),
)


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
        single_label: correct: scalar; ranks: [K], of the examples whose label is the most probable class, the second
            and so on; true_positives, false_positives, false_negatives: [K]; confusion: [K, K] int64, counts with the
            true class in the row and the predicted one in the column.
        binary: correct, true_positives, false_positives, false_negatives: scalars; confusion: [2, 2].
        multi_label: correct, exact_match: scalars; true_positives, false_positives, false_negatives: [K].
        regression: target, squared_target, squared_error, absolute_error: [K].
        All but regression: log_loss: scalar, and those of `trainer.calibration`.
        All but counts are float64, weighted.
    """
    weights = tf.cast(weights, tf.float64)
    replaced = tf.zeros_like(weights, tf.bool) if replaced is None else replaced
    return {
        "loss": weighted(losses, weights),
        "weight": tf.reduce_sum(weights),
        "examples": tf.reduce_sum(tf.cast(weights > 0, tf.int64)),
        "replaced": tf.reduce_sum(tf.cast(replaced, tf.int64)),
        **OF[task].sums(labels, weights, logits),
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

    Accuracies, recall, precision, F1 and calibration error are in 0..1, losses in nats. As scikit-learn has it, recall,
    precision and F1 of the tasks binary and multi_label are 0 where nothing was there to be found; of a single label,
    balanced accuracy leaves out classes without examples, macro F1 those that are neither there nor predicted. R2 is at
    most 1; of a constant target it is 1 if every prediction is right, else 0.
    """
    named = {"loss": ratio(totals["loss"], totals["weight"]), **OF[task].figures(totals)}
    return {name: float(value) for name, value in named.items()} | {"examples": int(totals["examples"])}


def per_output(totals: Totals, *, task: str) -> dict[str, np.ndarray]:
    """Figures of each class or number by name, [K] each (two of a binary task); NaN where the divisor is 0.

    `examples` are counted; all else is weighted.
    """
    return OF[task].per_output(totals)


def top_k_accuracy(totals: Totals) -> np.ndarray:
    """[K] float64: share of the examples of one class out of many whose label is among the 1, 2, ... most probable.

    Of equally probable classes the first counts as more probable, as it does for accuracy.
    """
    return ratio(np.cumsum(totals["ranks"]), np.full(totals["ranks"].shape, totals["weight"]))


def running(task: str) -> str:
    """Name of the figure that training shows beside the loss: the weighted mean of `score`."""
    return OF[task].running


def score(labels: tf.Tensor, logits: tf.Tensor, *, task: str) -> tf.Tensor:
    """[B] float32: the share of right decisions of each example; of a regression its mean absolute error."""
    return OF[task].score(labels, logits)


def decisive(task: str, by: str | None = None) -> str:
    """Name of the figure that decides which of two evaluations is better; the usual one of the task without `by`.

    Raises:
        UserError: the task has no such figure.
    """
    known = ["loss", *OF[task].figures(zeros(2, task=task)), *(() if task == "regression" else OF_SCORES)]
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
