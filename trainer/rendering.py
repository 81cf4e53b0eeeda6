"""What a recipe says of pixels: the policy of each stage, the normalisation, and how the kernel renders both."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import tensorflow as tf

from data.augment.apply import Rendering, as_rows, developed
from data.augment.operation import Operation
from data.augment.policy import Policy
from data.augment.slots import Pixels
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


def rendering(recipe: Recipe, policy: Policy, *, samples: int) -> Rendering:
    """How the kernel renders batches of this policy."""
    return Rendering(
        size=(recipe.image_size, recipe.image_size),
        program=policy.program,
        colour=None if recipe.normalisation is not None else as_rows(recipe.model.backbone.colour),
        samples=samples,
        fill=recipe.fill,
        fill_value=tuple(map(float, recipe.fill_value)),
        interpolation=recipe.interpolation,
        # An image ends at the edges of its outermost pixels: enlarged or not, it fills its output.
        margin=0.5,
    )


def check(recipe: Recipe, stages: Sequence[Stage], *, replicas: int) -> None:
    """Draws once from every policy and traces its kernel, before anything is written: one's own may be wrong.

    Raises:
        UserError: an operation that cannot be; a policy that mixes pairs, and a batch a replica that is odd.
    """
    size = (recipe.image_size, recipe.image_size)
    for stage in stages:
        policy = training_policy(recipe, stage)
        # In a graph, as the input pipeline draws.
        draw = tf.function(partial(policy.draw, seed=recipe.seed, size=size), autograph=False)
        _try(rendering(recipe, policy, samples=1), draw(tf.range(2, dtype=tf.int64)).arrays)
        if policy.mixes and (recipe.batch_size // replicas) % 2:
            raise UserError(
                f"a batch of {recipe.batch_size // replicas} a replica, and a policy that mixes pairs of its examples",
                where=f"gin binding train.batch_size (batch_size), stage {stage.name}",
                expected=f"an even batch for each of {replicas} replicas",
                do=f"--gin_param='batch_size = {recipe.batch_size + replicas}', or no mixup and cutmix",
            )


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
