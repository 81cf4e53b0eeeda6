"""How the global batch comes apart: over the replicas, and over the parts in which each of them accumulates."""

import dataclasses
import math

from data.errors import UserError
from trainer.recipe import Recipe
from trainer.rendering import training_policy


@dataclasses.dataclass(frozen=True)
class Share:
    """What one replica does of each global batch.

    Attributes:
        examples: how many are its own.
        parts: equal parts in which they pass through the network; they divide `examples`.
    """

    examples: int
    parts: int

    def __str__(self) -> str:
        return f"{self.examples} examples a replica in {self.parts} part{'s' * (self.parts > 1)}"


def share(batch: int, replicas: int, *, accumulation: int = 1, pairs: bool = False) -> Share:
    """The share of each replica, in as few parts as come out even and are not fewer than wanted.

    Args:
        batch: global.
        accumulation: wanted parts; more than there are examples, or pairs, count as that many.
        pairs: whether neighbours are mixed, so that no part may tear a pair apart.

    Raises:
        UserError: the batch does not divide over the replicas, or leaves half a pair on each.
    """
    least = 2 if pairs else 1
    if batch % (replicas * least):
        whole = math.ceil(batch / (replicas * least)) * replicas * least
        mixes = ", and a policy that mixes pairs of examples (mixup, cutmix)" if pairs else ""
        raise UserError(
            f"a global batch of {batch} does not divide over {replicas} replicas{mixes}",
            where="gin binding train.batch_size (batch_size), with --devices",
            expected=f"{'an even number for each replica: ' * pairs}a multiple of {replicas * least}",
            do=f"--gin_param='batch_size = {whole}' in a new --workdir, or other --devices",
        )
    examples = batch // replicas
    most = examples // least
    return Share(examples, next(parts for parts in range(min(accumulation, most), most + 1) if most % parts == 0))


def share_of(recipe: Recipe, replicas: int) -> Share:
    """That of a recipe, see `share`."""
    return share(recipe.batch_size, replicas, accumulation=recipe.accumulation, pairs=mixes(recipe))


def mixes(recipe: Recipe) -> bool:
    """Whether a stage mixes pairs of examples."""
    return any(training_policy(recipe, stage).mixes for stage in recipe.stages)
