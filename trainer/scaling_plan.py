"""What `scripts/train.py --plan` tells of 1 to 512 GPUs, where `plan.scaling` asks for it."""

import dataclasses
import io
import math
import os
from collections.abc import Callable, Collection

import gin
import tensorflow as tf
from rich.console import Console as RichConsole
from rich.table import Table

from data.errors import UserError
from data.examples import Examples
from trainer import probing, scaling
from trainer.batches import share_of
from trainer.recipe import Recipe
from trainer.rendering import training_policy
from trainer.scaling import PROBE, STRONG, WEAK, Hosts, Link, Load, Scaling, StepTime
from trainer.state import TrainingState

WIDTH = 120
# A step is measured with the batch of one GPU and with a quarter of it: the line through both is the model.
PART = 4
GIGA, MEGA, MILLI = 1e9, 1e6, 1e-3
RULES = {
    WEAK: "weak scaling: {batch} examples a GPU, however many GPUs",
    STRONG: "strong scaling: {batch} examples on all GPUs together",
}


@gin.configurable("plan")
def wanted(*, scaling: Scaling | None = None) -> Scaling | None:
    """What gin says of a plan.

    Args:
        scaling: `@scaling()`: how fast 1 to 512 GPUs would train; None: nobody asks.
    """
    if not isinstance(scaling, Scaling | None):
        raise UserError(
            f"plan.scaling = {scaling!r}",
            where="gin binding plan.scaling",
            expected="None or @scaling()",
            do="--gin_file=configs/scaling.gin behind the recipe",
        )
    return scaling


def told(
    asked: Scaling,
    recipe: Recipe,
    state: TrainingState,
    images: Examples | None,
    *,
    strategy: tf.distribute.Strategy,
    build: Callable[[tf.distribute.Strategy], TrainingState],
    say: Callable[[str], object],
) -> tuple[list[tuple[str, str]], list[str]]:
    """Measures what is to be probed, and predicts.

    Args:
        state: built in the scope of the strategy.
        images: to train on; None: they cannot be read without writing anything.
        build: makes another state, in the scope of another strategy.
        say: is told what is being measured.

    Returns:
        name and value of what the prediction begins with; the lines of two tables, of weak and of strong scaling.

    Raises:
        UserError: what is to be probed and cannot be.
    """
    _refuse(asked, recipe, images)
    share, one = share_of(recipe, strategy.num_replicas_in_sync).examples, probing.alone(strategy)
    found = {}
    if asked.within_bandwidth == PROBE:
        say("measuring the bandwidth between GPUs")
        found["within_bandwidth"] = probing.within_bandwidth(state, recipe, strategy=strategy)
    of_one = dataclasses.replace(recipe, batch_size=share)
    if asked.step_seconds == PROBE:
        say(f"measuring steps on {_name(one)}")
        alone, frozen = state if one is strategy else build(one), probing.sample(recipe, images)
        alone.remember(alone.network.arrays(), old=range(images.outputs))
        found["step_seconds"] = {
            size: probing.step(alone, dataclasses.replace(recipe, batch_size=size), frozen, strategy=one).wall
            for size in _sizes(recipe, share)
        }
    found |= _rates(asked, of_one, images, strategy=one, say=say)
    numbers = dataclasses.replace(asked, **found)
    load = Load(
        step=StepTime.of(numbers.step_seconds),
        gradient_bytes=probing.gradient_bytes(state, recipe),
        packs=probing.packs(state, recipe),
        overlap=numbers.overlap,
    )
    hosts = _hosts(numbers, recipe)
    lines = []
    for kind, batch in ((WEAK, share), (STRONG, recipe.batch_size)):
        lines += ["", *_lines(_table(load, hosts, kind=kind, batch=batch))]
    return _rows(numbers, recipe, load, hosts, measured=found, device=_name(one)), lines


def _refuse(asked: Scaling, recipe: Recipe, images: Examples | None) -> None:
    names = [name for name in ("step_seconds", "decode_rate", "store_rate") if getattr(asked, name) == PROBE]
    if names and (recipe.features is not None or images is None):
        what = "images that can only be read in sequence" if images is None else "stored features"
        raise UserError(
            f"{', '.join(f'scaling.{name}' for name in names)} to be measured with {what}",
            where="gin binding plan.scaling",
            expected="numbers: what a step is fed with is not there before a session has begun",
            do="--gin_param='scaling.step_seconds = {32: 0.11}', scaling.decode_rate and scaling.store_rate likewise",
        )


def _name(strategy: tf.distribute.Strategy) -> str:
    return strategy.extended.worker_devices[0].rsplit("device:", 1)[-1]


def _sizes(recipe: Recipe, share: int) -> list[int]:
    """The batch of one GPU and a part of it, both even where pairs of images are mixed."""
    least = 2 if any(training_policy(recipe, stage).mixes for stage in recipe.stages) else 1
    return sorted({max(least, share // PART // least * least), share})


def _rates(
    asked: Scaling,
    recipe: Recipe,
    images: Examples | None,
    *,
    strategy: tf.distribute.Strategy,
    say: Callable[[str], object],
) -> dict[str, float | None]:
    """Those that are to be measured, for as many cores as a host has."""
    found = {}
    if PROBE not in (asked.decode_rate, asked.store_rate):
        return found
    frozen = probing.sample(recipe, images)
    factor = 1.0 if asked.cores_per_host is None else asked.cores_per_host / os.cpu_count()
    if asked.decode_rate == PROBE:
        say(f"measuring the input of {len(frozen.examples)} images")
        found["decode_rate"] = factor * probing.input_rate(recipe, frozen, strategy=strategy)
    if asked.store_rate == PROBE:
        say("measuring the same from a packed store")
        packs = frozen.examples.root is not None and frozen.examples.store is None and not _crops(recipe)
        found["store_rate"] = factor * probing.store_rate(recipe, frozen, strategy=strategy) if packs else None
    return found


def _crops(recipe: Recipe) -> bool:
    return any(training_policy(recipe, stage).file_crop for stage in recipe.stages)


def _hosts(numbers: Scaling, recipe: Recipe) -> Hosts:
    """A recipe that keeps a store is fed from it; of any other a store would be a change."""
    files = math.inf if numbers.decode_rate is None else numbers.decode_rate
    stored = recipe.store is not None and numbers.store_rate is not None
    return Hosts(
        gpus=numbers.gpus_per_host,
        within=Link(numbers.within_bandwidth, numbers.within_latency),
        between=Link(numbers.between_bandwidth, numbers.between_latency),
        input_rate=numbers.store_rate if stored else files,
        store_rate=None if stored else numbers.store_rate,
    )


def _rows(
    numbers: Scaling, recipe: Recipe, load: Load, hosts: Hosts, *, measured: Collection[str], device: str
) -> list[tuple[str, str]]:
    def origin(name: str, where: str) -> str:
        return f"measured {where}" if name in measured else "given"

    rates = [(numbers.decode_rate, "decode_rate", "from files"), (numbers.store_rate, "store_rate", "from a store")]
    inputs = [f"{rate:,.0f} {what} ({origin(name, 'here')})" for rate, name, what in rates if rate is not None]
    cores = "" if numbers.cores_per_host is None else f", {numbers.cores_per_host} cores"
    within, between = (f"{link.bandwidth / GIGA:g} GB/s" for link in (hosts.within, hosts.between))
    hidden = f"{100 * load.overlap:g} % behind the backward pass" if load.overlap else "nothing computes meanwhile"
    parts = "one part" if load.packs == 1 else f"{load.packs} parts"
    fixed, per_example = load.step.fixed / MILLI, load.step.per_example / MILLI
    return [
        ("many GPUs", f"stage {recipe.stages[-1].name}; a prediction, not validated on GPUs: docs/scaling.md"),
        ("  step", f"{fixed:.3g} ms + {per_example:.3g} ms an example ({origin('step_seconds', f'on {device}')})"),
        ("  reduction", f"{load.gradient_bytes / MEGA:.3g} MB a step in {parts}, {hidden}"),
        ("  a host", f"{hosts.gpus} GPUs, {within} each within, {between} to other hosts{cores}"),
        ("  its input", f"images/s: {', '.join(inputs)}" if inputs else "not looked at"),
    ]


def _table(load: Load, hosts: Hosts, *, kind: str, batch: int) -> Table:
    found = Table(title=RULES[kind].format(batch=batch), title_justify="left")
    for column in ("GPUs", "hosts", "batch", "ms a step", "images/s", "efficiency"):
        found.add_column(column, justify="right")
    found.add_column("bottleneck")
    found.add_column("what would help: images/s")
    for each in scaling.table(load, hosts, kind=kind, batch=batch):
        share = scaling.efficiency(each, load, hosts, kind=kind)
        figures = (f"{each.batch:,}", f"{each.step / MILLI:,.1f}", f"{each.images_per_second:,.0f}", f"{share:.0%}")
        told = "\n".join(
            f"{change.what}: {change.images_per_second:,.0f}" for change in scaling.changes(each, load, hosts)
        )
        waits = f"{each.bottleneck} {getattr(each, each.bottleneck) / each.step:.0%}"
        found.add_row(str(each.gpus), str(each.hosts), *figures, waits, told)
    return found


def _lines(table: Table) -> list[str]:
    text = io.StringIO()
    RichConsole(file=text, width=WIDTH).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]
