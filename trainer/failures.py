"""What a run says when its numerics or its memory give out."""

from collections.abc import Sequence

import tensorflow as tf

from data.errors import RunFailure


def of_step(step: int, stage: str, *, positions: Sequence[int], images: Sequence[str], last: str) -> RunFailure:
    """A step whose loss or gradients are not finite.

    Args:
        positions: first position of its batch in the training stream, and the one after its last.
        images: some of them, by place.
        last: the last good checkpoint.
    """
    start, stop = positions
    return RunFailure(
        f"loss or gradients are NaN or infinite at step {step}, in the stage {stage}",
        where=f"positions {start} to {stop - 1} of the training stream: {', '.join(images)}, ...; "
        f"last good checkpoint: {last}",
        expected="finite numbers",
        do="lower the learning rate, set train.clip_norm, or look at those images; then start a new --workdir, "
        "or go on here with --allow_change",
    )


def of_weights(step: int, broken: Sequence[str], *, last: str) -> RunFailure:
    """Variables that are not finite after a step, found before they were saved."""
    return RunFailure(
        f"{len(broken)} variables are NaN or infinite after step {step}: {', '.join(broken[:4])}",
        where=f"last good checkpoint: {last}",
        expected="finite weights; these were not saved",
        do="lower the learning rate or set train.clip_norm in a new --workdir",
    )


def of_evaluation(step: int, split: str, *, where: str, last: str) -> RunFailure:
    """An evaluation whose loss is not finite."""
    return RunFailure(
        f"the loss is NaN or infinite in the evaluation of {split} at step {step}",
        where=f"{where}; last good checkpoint: {last}",
        expected="finite numbers",
        do="lower the learning rate or set train.clip_norm, and start a new --workdir",
    )


def of_tensorflow(error: tf.errors.OpError, *, where: str, batch: int, last: str) -> Exception:
    """What to raise for an error of TensorFlow: memory that gave out is told, all else is a bug."""
    if not isinstance(error, tf.errors.ResourceExhaustedError):
        return error
    return RunFailure(
        f"out of memory: {str(error).splitlines()[0]}",
        where=f"{where}, global batch {batch}; last good checkpoint: {last}",
        expected="a batch that fits the device",
        do=f"in a new --workdir: --gin_param='batch_size = {max(1, batch // 2)}'",
    )
