"""Trains a copy of a network with a learning rate that rises from step to step, until the loss blows up."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError
from data.frozen import Frozen
from trainer import checkpoints, data_setup, failures, init_from
from trainer.losses import Loss
from trainer.models.growing import Outputs
from trainer.optimization.stages import Planned, plan
from trainer.rate_curve import Curve, curve
from trainer.recipe import Recipe
from trainer.state import TrainingState

# A loss above so many times the lowest one has blown up: mean of a window.
BLOWN = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What the network begins with; by default with what the recipe says.

    Attributes:
        prefix, group: a checkpoint of a session, and the group in it.
        source: as `--init_from` names it.
    """

    prefix: Path | None = None
    group: str = "model"
    source: str | None = None


def find(
    recipe: Recipe,
    data: Frozen,
    *,
    strategy: tf.distribute.Strategy,
    loss: Loss,
    stage: str | None,
    weights: Weights,
    rates: np.ndarray,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[Curve, Planned]:
    """Shows the network what a stage of the recipe would begin with, a step at each rate, and writes nothing.

    Args:
        stage: its name; None: the first.
        rates: [N] float64, rising.
        report: is told how many steps are done.

    Returns:
        the curve up to where the loss blew up, and the stage.

    Raises:
        UserError: no such stage, weights that do not fit, or a loss that is not finite from the beginning.
        RunFailure: memory gave out.
    """
    # Nothing is stored: each step runs the whole network.
    recipe = dataclasses.replace(recipe, features=None)
    task, outputs = data.examples.task, data.examples.outputs
    train, order = data_setup.training_part(recipe, data.parts()["train"])
    run = plan(recipe.stages, examples=order.epoch_length, batch=recipe.batch_size)
    planned = _stage(run.stages, stage)
    keras.utils.set_random_seed(recipe.seed)
    load = weights.prefix is None and weights.source is None
    state = TrainingState(recipe, run, strategy=strategy, outputs=outputs, task=task, loss=loss, load=load)
    if weights.prefix is not None:
        checkpoints.restore_group(weights.prefix, weights.group, state.network.values())
    elif weights.source is not None:
        ours = Outputs(task, data.examples.class_names)
        init_from.load(state.network, weights.source, ours=ours, recipe=recipe)
    # Teacher and anchor are the network as it stands here.
    state.remember(state.network.arrays(), old=range(len(data.examples.class_names)))
    window = state.window(recipe, planned.stage, strategy=strategy)
    batches = data_setup.stream(
        recipe,
        train,
        order,
        data_setup.view(recipe, data),
        stage=planned.stage,
        strategy=strategy,
        step=planned.start,
        steps=run.steps,
    )
    losses: list[float] = []
    lowest = np.inf
    for first in range(0, len(rates), recipe.window):
        part = rates[first : first + recipe.window]
        padded = np.zeros(recipe.window, np.float32)
        padded[: len(part)] = part
        try:
            found = window(batches, tf.constant(padded), tf.constant(len(part)))["loss"].numpy()[: len(part)]
        except tf.errors.OpError as error:
            where = f"stage {planned.stage.name}"
            raise failures.of_tensorflow(error, where=where, batch=recipe.batch_size, last="none") from error
        losses += found.tolist()
        report(len(losses))
        if not found.mean() <= BLOWN * lowest:
            break
        lowest = min(lowest, found.mean())
    return curve(rates[: len(losses)], np.array(losses, np.float64)), planned


def _stage(stages: Sequence[Planned], name: str | None) -> Planned:
    by_name = {planned.stage.name: planned for planned in stages}
    if name is not None and name not in by_name:
        raise UserError(
            f"no stage is called {name!r}", where="--stage", expected=f"one of {', '.join(by_name)}", do="choose one"
        )
    return stages[0] if name is None else by_name[name]
