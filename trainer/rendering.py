"""What a recipe says of pixels: the policy of each stage, the normalisation, and how the kernel renders both."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from data.augment.apply import Rendering, as_rows, developed
from data.augment.operation import Operation
from data.augment.policy import Policy
from data.augment.slots import Matrix, Pixels
from data.errors import UserError
from trainer.optimization.stages import Stage
from trainer.recipe import Recipe


def training_policy(recipe: Recipe, stage: Stage | None = None) -> Policy:
    """What augments and normalises the training images of a stage; None: of a stage without a policy of its own."""
    own = stage.policy if stage and stage.policy is not None else recipe.policy
    return Policy((*own.operations, *_normalising(recipe)), own.during)


def evaluation_policy(recipe: Recipe) -> Policy:
    """What normalises images that are not augmented."""
    return Policy(_normalising(recipe))


def _normalising(recipe: Recipe) -> tuple[Operation, ...]:
    """Under names of their own: what switches an operation of the policy leaves them on."""
    named = (dataclasses.replace(each, name=f"normalisation/{each.name}") for each in recipe.normalisation or ())
    return tuple(named)


def colour_matrix(recipe: Recipe) -> np.ndarray | None:
    """[3, 4] float64, (red, green, blue, 1) in 0..255 -> the network's input; None if it is no such matrix."""
    if recipe.normalisation is None:
        return np.asarray(recipe.model.backbone.colour, np.float64)
    matrix = np.eye(4)[:3]
    for operation in recipe.normalisation:
        arrays = operation.draw(tf.zeros([1, 0], tf.float64), recipe.size())
        for slot, array in zip(operation.slots, arrays, strict=True):
            if not isinstance(slot, Matrix):
                return None
            row = array.numpy()[0]
            matrix = row[:, :3] @ matrix + np.column_stack([np.zeros((3, 3)), row[:, 3]])
            # The least and the greatest of each channel, over all colours there are.
            ends = [255 * np.sum(end(matrix[:, :3], 0), axis=1) + matrix[:, 3] for end in (np.minimum, np.maximum)]
            if slot.clip and (np.min(ends[0]) < -1e-3 or np.max(ends[1]) > 255 + 1e-3):
                return None
    return matrix


def rendering(recipe: Recipe, policy: Policy, *, samples: int, stage: Stage | None = None) -> Rendering:
    """How the kernel renders batches of this policy in a stage, or in an evaluation."""
    return Rendering(
        size=recipe.size(stage),
        program=policy.program,
        colour=None if recipe.normalisation is not None else as_rows(recipe.model.backbone.colour),
        samples=samples,
        fill=recipe.fill,
        fill_value=tuple(map(float, recipe.fill_value)),
        interpolation=recipe.interpolation,
        # An image ends at the edges of its outermost pixels: enlarged or not, it fills its output.
        margin=0.5,
    )


def check(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Draws once from every policy and traces its kernel, before anything is written: one's own may be wrong.

    Raises:
        UserError: an operation that cannot be.
    """
    for stage in stages:
        policy, size = training_policy(recipe, stage), recipe.size(stage)
        # In a graph, as the input pipeline draws.
        draw = tf.function(partial(policy.draw, seed=recipe.seed, size=size), autograph=False)
        _try(rendering(recipe, policy, samples=1, stage=stage), draw(tf.range(2, dtype=tf.int64)).arrays)


def _try(rendering: Rendering, arrays: Sequence[tf.Tensor]) -> None:
    """Compiles what has functions of one's own; the project's are known to work."""
    if not any(isinstance(slot, Pixels) for slot in rendering.program):
        return

    @tf.function(jit_compile=True, autograph=False)
    def develop(images, arrays):
        return developed(images, arrays, rendering)

    try:
        develop(tf.zeros([2, *rendering.size, 3]), arrays)
    except UserError:
        raise
    except Exception as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
        names = ", ".join(slot.function.__qualname__ for slot in rendering.program if isinstance(slot, Pixels))
        raise UserError(
            f"the policy fails on images of {rendering.size[0]} x {rendering.size[1]}: {type(error).__name__}: {told}",
            where=f"gin binding policy.operations{f', perhaps in {names}' if names else ''}",
            expected="functions of pixels that return images of the shape they get, [B, H, W, 3] float32",
            do="correct the operation",
        ) from error
