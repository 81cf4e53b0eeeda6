"""Losses per example, each for the tasks that its attribute `tasks` names."""

from collections.abc import Callable

import gin
import tensorflow as tf

from data.errors import UserError

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _for(*tasks: str) -> Callable[[Loss], Loss]:
    def mark(loss: Loss) -> Loss:
        loss.tasks = tasks
        return loss

    return mark


@gin.configurable
def cross_entropy(*, label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy in nats: labels [B] int32, logits [B, K] float32 -> [B] float32.

    Args:
        label_smoothing: share of the target that is spread evenly over all K classes (Szegedy et al. 2016).

    Raises:
        UserError: a share outside 0..1.
    """
    _check_smoothing(label_smoothing, "cross_entropy")

    @_for("single_label")
    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if not label_smoothing:
            return losses
        even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        return (1 - label_smoothing) * losses + label_smoothing * even

    return loss


@gin.configurable
def binary_cross_entropy(*, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the sigmoid in nats, its mean over the K outputs, as Keras' BinaryCrossentropy.

    binary: labels [B] int32, logits [B, 1] float32 -> [B] float32.
    multi_label: labels [B, K] float32, logits [B, K] float32 -> [B] float32.

    Args:
        label_smoothing: share of each target that is replaced by 1/2.

    Raises:
        UserError: a share outside 0..1.
    """
    _check_smoothing(label_smoothing, "binary_cross_entropy")

    @_for("binary", "multi_label")
    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(logits))
        targets = (1 - label_smoothing) * targets + label_smoothing / 2
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)

    return loss


@gin.configurable
def focal(*, gamma: float = 2.0) -> Loss:
    """Cross-entropy times (1 - p) ** gamma, p the probability of the label: what is easy counts less (Lin et al. 2017).

    labels [B] int32, logits [B, K] float32 -> [B] float32, in nats. The paper's alpha is `train.class_weights` here.

    Raises:
        UserError: gamma is below 0.
    """
    _check_gamma(gamma, "focal")

    @_for("single_label")
    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        others = tf.where(
            tf.one_hot(labels, tf.shape(logits)[-1], True, False, dtype=tf.bool), logits.dtype.min, logits
        )
        # By logarithms: a power of a 0 that was rounded has no gradient.
        miss = tf.reduce_logsumexp(others, axis=-1) - tf.reduce_logsumexp(logits, axis=-1)
        return tf.exp(gamma * miss) * entropy

    return loss


@gin.configurable
def binary_focal(*, gamma: float = 2.0, alpha: float | None = None) -> Loss:
    """The focal loss of the sigmoid, its mean over the K outputs, as Keras' BinaryFocalCrossentropy (Lin et al. 2017).

    binary: labels [B] int32, logits [B, 1] float32 -> [B] float32, in nats.
    multi_label: labels [B, K] float32, logits [B, K] float32 -> [B] float32.

    Args:
        gamma: of (1 - p) ** gamma, p the probability of the label.
        alpha: factor of the loss where the label is 1, and 1 - alpha where it is 0; None: 1 for both.

    Raises:
        UserError: gamma is below 0, alpha outside 0..1.
    """
    _check_gamma(gamma, "binary_focal")
    if alpha is not None and not (isinstance(alpha, int | float) and 0 <= alpha <= 1):
        raise UserError(
            f"alpha = {alpha!r}",
            where="gin binding binary_focal.alpha",
            expected="None or a number in 0..1",
            do="correct it",
        )
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    @_for("binary", "multi_label")
    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(logits))
        # -log p and -log (1 - p) of the label 1.
        hit, miss = tf.nn.softplus(-logits), tf.nn.softplus(logits)
        of_ones = positive * tf.exp(-gamma * miss) * hit
        of_zeros = negative * tf.exp(-gamma * hit) * miss
        return tf.reduce_mean(targets * of_ones + (1 - targets) * of_zeros, axis=-1)

    return loss


@gin.configurable
def squared_error() -> Loss:
    """Mean over the K outputs of the squared difference: labels, predictions [B, K] float32 -> [B] float32."""

    @_for("regression")
    def loss(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.math.squared_difference(labels, predictions), axis=-1)

    return loss


@gin.configurable
def huber(*, delta: float = 1.0) -> Loss:
    """Huber's loss, its mean over the K outputs: labels, predictions [B, K] float32 -> [B] float32.

    Half the square of differences up to `delta`, straight beyond (Huber 1964), as Keras' Huber.

    Args:
        delta: in the unit of the targets.

    Raises:
        UserError: delta is not above 0.
    """
    if not isinstance(delta, int | float) or not 0 < delta < float("inf"):
        raise UserError(
            f"delta = {delta!r}", where="gin binding huber.delta", expected="a number above 0", do="correct it"
        )

    @_for("regression")
    def loss(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        size = tf.abs(labels - predictions)
        near = tf.minimum(size, delta)
        return tf.reduce_mean(near * (size - near / 2), axis=-1)

    return loss


DEFAULTS = {
    "single_label": cross_entropy,
    "binary": binary_cross_entropy,
    "multi_label": binary_cross_entropy,
    "regression": squared_error,
}


def chosen(loss: Loss | None, task: str, *, outputs: int | None = None) -> Loss:
    """The loss of a recipe, or the usual one of the task if it names none. A loss without `tasks` suits every task.

    Args:
        outputs: of the network; where it is given, a loss of one's own is tried.

    Raises:
        UserError: the loss is for other tasks, fails, or gives something else than [B] float32.
    """
    if loss is None:
        return DEFAULTS[task]()
    tasks = getattr(loss, "tasks", None)
    if tasks is None:
        if outputs is not None:
            _try(loss, task, outputs)
    elif task not in tasks:
        name = loss.__qualname__.partition(".")[0]
        raise UserError(
            f"the loss {name} is for {' and '.join(tasks)}, the task of the data is {task}",
            where="gin bindings train.loss, train.source",
            expected="a loss for the labels that the source gives",
            do=f"--gin_param='train.loss = @{DEFAULTS[task].__name__}()'",
        )
    return loss


def _try(loss: Loss, task: str, outputs: int) -> None:
    numbers = task in ("multi_label", "regression")
    labels = tf.zeros([3, outputs]) if numbers else tf.zeros([3], tf.int32)
    try:
        losses = tf.function(loss)(labels, tf.zeros([3, outputs]))
        right = losses.shape == (3,) and losses.dtype == tf.float32
        wrong = None if right else f"gives {losses.dtype.name} of shape {tuple(losses.shape)}"
    # The function is the user's: it may fail in any way.
    except Exception as error:
        wrong = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if wrong:
        raise UserError(
            f"for 3 examples and {outputs} outputs the loss {wrong}",
            where="gin binding train.loss",
            expected="a function of labels and logits that returns one float32 for each example, [B]",
            do="correct it: a mean over the batch counts no weights, and a column [B, 1] becomes a square",
        )


def _check_gamma(gamma: float, name: str) -> None:
    if not isinstance(gamma, int | float) or not 0 <= gamma < float("inf"):
        raise UserError(
            f"gamma = {gamma!r}", where=f"gin binding {name}.gamma", expected="a number, at least 0", do="correct it"
        )


def _check_smoothing(share: float, name: str) -> None:
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise UserError(
            f"label_smoothing = {share!r}",
            where=f"gin binding {name}.label_smoothing",
            expected="a share from 0 to 1",
            do="correct it",
        )
