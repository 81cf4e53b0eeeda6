"""What a recipe would do, told before it does anything: the rows and the table of `scripts/train.py --plan`."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from data.examples import SPLITS, Examples
from data.splits import TRAIN, VALIDATION
from trainer import choosing, data_setup, devices, features, launch, listing, losses, rendering, scaling_plan
from trainer.batches import Share, share_of
from trainer.models import freeze
from trainer.models.freeze import Trainable
from trainer.models.network import Network
from trainer.optimization.stages import Plan, Planned, Stage, plan
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.state import TrainingState, batchnorm_mode, rhythm

LEGEND = (
    "A row for each variable: weight decay, then by stage the factor of its learning",
    "rate where it trains, a dot where it stays as it is, and `batch` for moving",
    "statistics that follow the batches.",
)
STAYS, FOLLOWS = ".", "batch"
# Steps whose learning rates are computed at a time.
CHUNK = 2**20
# Class names that are listed.
MOST_NAMES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explained:
    """What is printed.

    Attributes:
        rows: name and value, of the whole run and then of each stage.
        table: lines of equal columns, the heading first.
        scaling: lines of the tables of `plan.scaling`; none where it is None.
    """

    rows: list[tuple[str, str]]
    table: list[str]
    scaling: list[str] = dataclasses.field(default_factory=list)


def explain(recipe: Recipe, console: Console, *, device_spec: str, init_from: str | None = None) -> Explained:
    """Lists the source and builds the model with random weights. Writes nothing.

    It looks into images, and measures steps, only where `plan.scaling` leaves something to be probed.

    Args:
        device_spec: as `--devices` gives it.
        init_from: whose weights a session would begin with, to be named; None: those of the recipe.

    Raises:
        UserError: what a start would refuse of recipe, source and model; images and weights are not looked at. What
            is to be probed and cannot be.
    """
    asked = launch.call(scaling_plan.wanted)
    strategy = devices.set_up(device_spec, reduce_by=recipe.reduction, threads=recipe.threads)
    recipe, open_choices = choosing.assumed(recipe, strategy)
    share = share_of(recipe, strategy.num_replicas_in_sync)
    features.check(recipe)
    launch.call(rendering.check, recipe, recipe.stages)
    examples, split, stream = listing.table(recipe, console)
    _, order = data_setup.training_part(recipe, examples.take(split == TRAIN))
    size = {"examples": order.epoch_length, "batch": recipe.batch_size}
    run = plan(recipe.stages, **size, rate_factor=recipe.rate_factor)
    rhythm(recipe, run, validates=bool((split == VALIDATION).any()))
    launch.call(recipe.optimizer.make)
    loss = launch.call(partial(losses.chosen, outputs=examples.outputs), recipe.loss, examples.task)
    launch.check_consumed()
    aim = {"task": examples.task, "loss": loss, "outputs": examples.outputs, "load": False}
    state = TrainingState(recipe, run, strategy=strategy, **aim)
    about = {"share": share, "weights": init_from or recipe.model.pretrained}
    rows = _of_run(recipe, examples, split, run, state.network, **about) + open_choices
    for number, planned in enumerate(run.stages, 1):
        rows += _of_stage(recipe, run, planned, number, state)
    trainables = [state.trainable[planned.stage.name] for planned in run.stages]
    lines: list[str] = []
    if asked is not None:
        blank = stream is not None and examples.store is None
        images = None if blank else examples.take(split == TRAIN)
        how = {"strategy": strategy, "build": lambda other: TrainingState(recipe, run, strategy=other, **aim)}
        told, lines = scaling_plan.told(asked, recipe, state, images, say=console.say, **how)
        rows += told
    return Explained(rows=rows, table=_table(recipe, state.network, trainables), scaling=lines)


def _of_run(
    recipe: Recipe,
    examples: Examples,
    split: np.ndarray,
    run: Plan,
    network: Network,
    *,
    share: Share,
    weights: str | None,
) -> list[tuple[str, str]]:
    counts = [f"{(split == part).sum():,} {name}" for part, name in enumerate(SPLITS) if (split == part).any()]
    names = examples.class_names
    listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    parameters = sum(_size(network, name) for name in _weights(network))
    replicas = recipe.batch_size // share.examples
    rule, vectors = recipe.optimizer, "" if recipe.optimizer.decay_vectors else ", of kernels only"
    decay = f", weight decay {rule.weight_decay:g}{vectors}" if rule.weight_decay else ""
    return [
        ("data", f"{examples.root or recipe.source.__name__}: {', '.join(counts)}"),
        ("", "as listed; images that do not decode will be told at the start"),
        ("outputs" if examples.task == "regression" else "classes", f"{len(names)}: {listed}"),
        ("model", f"{recipe.model.backbone.name}, {len(_weights(network))} variables, {parameters:,} parameters"),
        ("weights", "random" if weights is None else f"{weights} (not loaded here)"),
        ("optimizer", f"{type(rule.make()).__name__}{decay}"),
        ("batch", f"{recipe.batch_size} on {replicas} replica{'s' * (replicas > 1)}, {recipe.precision}"),
        *([("", str(share))] if share.parts > 1 else []),
        ("length", f"{run.steps:,} steps, {run.epoch(run.steps):.4g} epochs of {run.examples:,} examples"),
    ]


def _of_stage(recipe: Recipe, run: Plan, planned: Planned, number: int, state: TrainingState) -> list[tuple[str, str]]:
    stage, steps, network = planned.stage, planned.stop - planned.start, state.network
    trainable = state.trainable[stage.name]
    trained = sum(_size(network, name) for name in trainable.names)
    moved = {*trainable.names, *freeze.moving_names(network, trainable)}
    others = [name for name in _weights(network) if name not in moved]
    frozen = sum(_size(network, name) for name in others)
    first, peak, last = _rates(run, planned)
    factors = set(trainable.factors.values())
    changes = [f"times {min(factors):.3g} to {max(factors):.3g} by variable"] if factors != {1.0} else []
    changes += ["lower once evaluations stop getting better"] if recipe.plateau is not None else []
    operations = [operation.name for operation in (stage.policy or recipe.policy).operations]
    height, width = recipe.size(stage)
    stored = f"features behind {state.cut.prefix.layer}, stored, of " if state.cut is not None else ""
    return [
        (f"stage {number}", stage.name),
        ("  steps", f"{planned.start:,} to {planned.stop:,}: {steps:,} steps, {run.epoch(steps):.4g} epochs"),
        ("  trains", ", ".join(stage.trains)),
        ("", f"{len(trainable.names)} variables, {trained:,} parameters; {len(others)} with {frozen:,} stay"),
        ("  rate", f"{first:.3g} at the start, {peak:.3g} at its peak, {last:.3g} at the end"),
        *([("", "; ".join(changes))] if changes else []),
        ("  BatchNorm", _normalisation(recipe, stage, network, trainable)),
        ("  input", f"{stored}images {height} x {width}, {recipe.fit}, rendered on the {recipe.placement}"),
        ("", f"augmented by {', '.join(operations)}" if operations else "not augmented"),
    ]


def _normalisation(recipe: Recipe, stage: Stage, network: Network, trainable: Trainable) -> str:
    layers = {name.split("/")[1] for name in network.variables if name.endswith("/moving_mean")}
    if not layers:
        return "none"
    mode, count = batchnorm_mode(recipe, stage), len(trainable.normalising)
    return f"{mode}: {count} of {len(layers)} layers use batch statistics"


def _rates(run: Plan, planned: Planned) -> tuple[float, float, float]:
    """The learning rate of the first step, the highest, and that of the last step."""
    highest = 0.0
    for first in range(planned.start, planned.stop, CHUNK):
        highest = max(highest, run.learning_rates(first, min(first + CHUNK, planned.stop)).max())
    ends = (run.learning_rates(step, step + 1)[0] for step in (planned.start, planned.stop - 1))
    return next(ends), highest, next(ends)


def _table(recipe: Recipe, network: Network, trainables: Sequence[Trainable]) -> list[str]:
    following = [set(freeze.moving_names(network, trainable)) for trainable in trainables]
    ever = {name for trainable in trainables for name in trainable.names}
    lines = [("variable", "shape", "decay", *map(str, range(1, len(trainables) + 1)))]
    for name in _weights(network):
        shape = tuple(network.variables[name].shape)
        decay = f"{recipe.optimizer.decay_of(name, shape):g}" if name in ever else STAYS
        cells = (
            f"{trainable.factors[name]:.3g}" if name in trainable.factors else FOLLOWS if name in moving else STAYS
            for trainable, moving in zip(trainables, following, strict=True)
        )
        lines.append((name, "x".join(map(str, shape)) or "scalar", decay, *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def _weights(network: Network) -> list[str]:
    """All variables but the states of random seeds."""
    return [name for name in network.variables if not name.endswith("/seed_generator_state")]


def _size(network: Network, name: str) -> int:
    return math.prod(network.variables[name].shape)
