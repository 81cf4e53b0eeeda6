"""What a run says when its numerics or its memory give out."""

import re
from collections.abc import Sequence

import tensorflow as tf

from data.errors import RunFailure
from trainer.batches import mixes, share_of
from trainer.guard import NOT_FINITE, SPIKE, WEIGHTS, Fault
from trainer.recipe import Recipe

# Images of a batch that a message names; the events of metrics.jsonl name all.
NAMED = 8
# What the driver, cuDNN, cuBLAS, and copies to a GPU say where its memory ends, in errors of other kinds.
_NO_MEMORY = re.compile(
    r"OOM when|out.of.memory|ALLOC_FAILED|failed to allocate|Dst tensor is not initialized", re.IGNORECASE
)


def of_step(
    fault: Fault,
    stage: str,
    *,
    positions: Sequence[int],
    images: Sequence[str],
    last: str,
    suspects: Sequence[str] = (),
) -> RunFailure:
    """A step that went bad and ends the run.

    Args:
        positions: first position of its batch in the training stream, and the one after its last.
        images: of the batch, by place.
        last: the last good checkpoint.
        suspects: those that were in all batches that went bad.
    """
    start, stop = positions
    tried = f"; {fault.tried}" if fault.tried else ""
    if fault.tried:
        go_on = "look at those images; then go on here with a larger guard.tries, or save sooner in a new --workdir"
    else:
        setting = "on_spike" if fault.reason == SPIKE else "not_finite"
        go_on = f"look at those images; or go on here without them: --allow_change=guard.{setting} "
        go_on += f"--gin_param=\"guard.{setting} = 'roll_back'\""
    return RunFailure(
        f"{_what(fault)} at step {fault.step}, in the stage {stage}{tried}",
        where=named(f"positions {start} to {stop - 1} of the training stream", images)
        + named("; in all batches that went bad", suspects)
        + f"; last good checkpoint: {last}",
        expected="finite numbers" if fault.reason != SPIKE else "a loss near its running mean, see guard.spike",
        do=f"lower the learning rate, set train.clip_norm, or {go_on}",
    )


def named(title: str, images: Sequence[str]) -> str:
    """`title: a.png, b.png, ...`; nothing where there are no images."""
    more = f", ... and {len(images) - NAMED} more" if len(images) > NAMED else ""
    return f"{title}: {', '.join(images[:NAMED])}{more}" if images else ""


def _what(fault: Fault) -> str:
    return {
        NOT_FINITE: "loss or gradients are NaN or infinite",
        SPIKE: f"the loss jumps to {fault.loss:.4g}",
        WEIGHTS: "the update makes weights NaN or infinite",
    }[fault.reason]


def of_roll_back(fault: Fault, stage: str, *, step: int, last: str) -> RunFailure:
    """A step that went bad, and no checkpoint to roll back to.

    Args:
        step: up to which one was wanted.
        last: the last good checkpoint.
    """
    return RunFailure(
        f"{_what(fault)} at step {fault.step}, in the stage {stage}, and no checkpoint of step {step} or before",
        where=f"gin bindings guard.batches, train.checkpoint_every; last good checkpoint: {last}",
        expected="a checkpoint to roll back to",
        do="save sooner (train.checkpoint_every) or keep more (train.keep_checkpoints), in a new --workdir",
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
        do="lower the learning rate or set train.clip_norm, or correct the labels of that split; then start a new "
        "--workdir",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of TensorFlow says that the memory of a device or of the host gave out."""
    text = str(error)
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return "No space left" not in text
    return isinstance(error, tf.errors.OpError) and _NO_MEMORY.search(text) is not None


def of_memory(error: tf.errors.OpError) -> RunFailure:
    """Memory that gave out in a command that trains nothing."""
    return RunFailure(
        f"out of memory: {_what_did_not_fit(error)}",
        where="the images that are looked at in one go",
        expected="a batch that fits the devices",
        do="fewer of them: --gin_param='train.evaluation_batch_size = 8', or half of what the recipe has",
    )


def of_tensorflow(
    error: tf.errors.OpError, *, where: str, recipe: Recipe, replicas: int, last: str, evaluates: bool = False
) -> Exception:
    """What to raise for an error of TensorFlow: memory that gave out is told, with a batch to try; all else is a bug.

    Args:
        replicas: over all workers.
        last: the last good checkpoint.
        evaluates: whether batches of an evaluation did not fit.
    """
    if not is_out_of_memory(error):
        return error
    batch = (recipe.evaluation_batch_size or recipe.batch_size) if evaluates else recipe.batch_size
    share = share_of(recipe, replicas)
    least = 1 if evaluates else recipe.batch_size // share.examples * (2 if mixes(recipe) else 1)
    half = batch // 2 // least * least
    ways = []
    if half and evaluates:
        ways.append(f"run it again with --gin_param='train.evaluation_batch_size = {half}'")
    elif half:
        ways.append(f"in a new --workdir: --gin_param='batch_size = {half}'")
    if not evaluates and share.parts < share.examples:
        ways.append(
            "or go on here, each batch in more parts: --allow_change=train.accumulation "
            f"--gin_param='train.accumulation = {2 * share.parts}'"
        )
    kind = "evaluation batch" if evaluates else "global batch"
    return RunFailure(
        f"out of memory: {_what_did_not_fit(error)}",
        where=f"{where}, {kind} {batch} on {replicas} replica{'s' * (replicas > 1)}; last good checkpoint: {last}",
        expected="a batch that fits the devices",
        do="; ".join(ways) or "use smaller images (image_size), a smaller backbone, or devices with more memory",
    )


def _what_did_not_fit(error: tf.errors.OpError) -> str:
    """The line that says so: errors of a compiled function begin with where it was called."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if _NO_MEMORY.search(line)), lines[0] if lines else type(error).__name__)
