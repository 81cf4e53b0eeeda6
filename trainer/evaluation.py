"""Exact evaluation of one table: each example counts once, whatever the batch, the tail and the replicas."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from data import pipeline
from data.augment.views import Views
from data.errors import UserError
from data.examples import Examples
from data.pipeline import View
from trainer import devices, metrics
from trainer.cluster import lane
from trainer.losses import Loss
from trainer.models.network import Network
from trainer.outcomes import Outcomes
from trainer.recipe import Recipe
from trainer.rendering import evaluation_policy, rendering
from trainer.step import evaluation_window

# Batches between two looks at whether somebody wants the run to stop.
WINDOW = 10


class Evaluator:
    """Evaluates a network as it stands; traced once for all tables.

    Args:
        task: one of `data.examples.TASKS`, of the labels of every table.
        loss: for that task.
        model: what of the network is evaluated; None: all of it.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        view: View,
        *,
        strategy: tf.distribute.Strategy,
        task: str,
        loss: Loss,
        model: keras.Model | None = None,
    ):
        self._recipe, self._strategy, self._view = recipe, strategy, view
        self._nothing = metrics.zeros(network.model.output_shape[-1], task=task)
        rendered = rendering(recipe, evaluation_policy(recipe), samples=recipe.evaluation_samples)
        self._window = evaluation_window(
            strategy=strategy, model=model or network.model, task=task, loss=loss, rendering=rendered
        )

    def evaluate(
        self,
        examples: Examples,
        *,
        found: tuple[Iterator, int] | None = None,
        into: Outcomes | None = None,
        stopping: Callable[[], object] = lambda: None,
        report: Callable[[int], None] = lambda done: None,
    ) -> dict[str, np.ndarray] | None:
        """Sums over the whole table, see `trainer.metrics`; None if `stopping` said so before the end.

        Args:
            found: the batches of every replica and how many steps they are; None: of the images.
            into: takes what is said of each example.

        Raises:
            UserError: no example counts.
        """
        found, steps = found or batches(self._recipe, examples, self._view, strategy=self._strategy)
        totals = self._nothing
        for done in range(0, steps, WINDOW):
            if stopping():
                return None
            sums, told = self._window(found, tf.constant(min(WINDOW, steps - done)))
            totals = metrics.add(totals, sums)
            if into is not None:
                into.take({name: column.numpy() for name, column in told.items()})
            report(len(examples) * min(steps, done + WINDOW) // steps)
        if not totals["weight"] > 0:
            raise UserError(
                f"none of {len(examples)} examples counts: {totals['replaced']} do not decode, the rest have weight 0",
                where=f"the evaluation of {examples.where(0)}{' and others' if len(examples) > 1 else ''}",
                expected="at least one image that decodes and has a weight above 0",
                do="put the images back, or correct the weights",
            )
        return totals


def batches(
    recipe: Recipe, examples: Examples, view: View, *, strategy: tf.distribute.Strategy
) -> tuple[Iterator, int]:
    """The batches of every replica in which an evaluation sees each example once, and how many steps these are."""
    replicas = strategy.num_replicas_in_sync
    batch = max(1, (recipe.evaluation_batch_size or recipe.batch_size) // replicas)
    # The plain image alone needs no average.
    views = None if recipe.evaluation_views == Views() else recipe.evaluation_views.matrices(view.image_size)
    found = devices.batches(
        strategy,
        lambda context: pipeline.evaluation_batches(
            examples,
            batch=batch,
            replicas=replicas,
            view=view,
            policy=evaluation_policy(recipe),
            views=views,
            lane=lane(context),
        ),
    )
    return found, pipeline.evaluation_elements(len(examples), batch=batch, replicas=replicas) // replicas
