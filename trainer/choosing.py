"""What a session chooses by measuring steps of its own: the precision, and whether XLA compiles them."""

import dataclasses
import gc
import re
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from data.errors import UserError
from data.frozen import Frozen
from trainer import launch, probing
from trainer.cluster import ALONE, Cluster
from trainer.losses import Loss
from trainer.models.network import PRECISIONS
from trainer.optimization.stages import Plan
from trainer.recipe import ALWAYS, AUTO, NEVER, Recipe
from trainer.state import TrainingState

# Half precision and XLA round otherwise: they have to be so many times as fast as what they would replace.
GAIN = 1.1
# Steps of one call: a GPU's are too short to be timed one by one.
STEPS = {"CPU": 1, "GPU": 10}
# From this compute capability on, NVIDIA's GPUs have units for float16, and for bfloat16.
HALF, BRAIN = (7, 0), (8, 0)
SETTINGS = {"precision": PRECISIONS, "xla": (NEVER, ALWAYS)}


def is_open(recipe: Recipe) -> bool:
    """Whether something is to be chosen."""
    return AUTO in (recipe.precision, recipe.xla)


def precisions(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Those that the devices of this process have units for, the exact one first. CPUs: float32 and bfloat16."""
    if _kind(strategy) == "CPU":
        return "float32", "mixed_bfloat16"
    details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
    least = min(found.get("compute_capability", (0, 0)) for found in details)
    units = {"float32": (0, 0), "mixed_bfloat16": BRAIN, "mixed_float16": HALF}
    return tuple(name for name, needed in units.items() if least >= needed)


def why_without_xla(strategy: tf.distribute.Strategy) -> str | None:
    """Why `auto` does not measure XLA; None: it does."""
    if _kind(strategy) == "CPU":
        return "convolutions train slower under XLA on CPUs; not measured"
    return "XLA is measured on one replica only" if strategy.num_replicas_in_sync > 1 else None


def assumed(recipe: Recipe, strategy: tf.distribute.Strategy) -> tuple[Recipe, list[tuple[str, str]]]:
    """A recipe whose network can be built without measuring, and a row for each choice that a session would make."""
    values, rows = {}, []
    if recipe.precision == AUTO:
        values["precision"] = "float32"
        names = precisions(strategy)
        told = f"{', '.join(names)} will be measured at the first start" if len(names) > 1 else f"{names[0]} alone"
        rows.append(("precision", f"auto: {told}; told here for float32"))
    if recipe.xla == AUTO:
        values["xla"] = NEVER
        told = why_without_xla(strategy) or "will be measured at the first start"
        rows.append(("xla", f"auto: {told}"))
    return dataclasses.replace(recipe, **values), rows


def choose(
    recipe: Recipe,
    data: Frozen,
    plan: Plan,
    *,
    strategy: tf.distribute.Strategy,
    task: str,
    loss: Loss,
    cluster: Cluster = ALONE,
    say: Callable[[str], object] = print,
) -> tuple[Recipe, dict[str, str]]:
    """Measures steps of the last stage with random weights, without teacher, anchor and stored features.

    Workers do so together and take what the chief finds. What random numbers there are has to be seeded afterwards.

    Args:
        say: gets a sentence before anything is measured.

    Returns:
        the recipe with a choice in place of each `auto`; and why, by setting.

    Raises:
        tf.errors.OpError: not even the exact numbers can be trained with.
    """
    plain = dataclasses.replace(recipe, features=None, distillation=None, anchor=None)
    found: dict[tuple[str, str], float | tf.errors.OpError] = {}

    def rates(candidates: Mapping[str, Recipe]) -> dict[str, float | tf.errors.OpError]:
        for each in candidates.values():
            key = each.precision, each.xla
            if key not in found:
                say(f"measuring steps with {each.precision}{' under XLA' * (each.xla == ALWAYS)}")
                found[key] = _rate(each, data, plan, strategy=strategy, task=task, loss=loss, cluster=cluster)
        return {name: found[each.precision, each.xla] for name, each in candidates.items()}

    chosen, why = {}, {}
    if recipe.precision == AUTO:
        first = ALWAYS if recipe.xla == ALWAYS else NEVER
        names = precisions(strategy)
        if len(names) == 1:
            chosen["precision"], why["precision"] = names[0], "the devices have no units for another"
        else:
            rated = rates({name: dataclasses.replace(plain, precision=name, xla=first) for name in names})
            chosen["precision"], why["precision"] = best(rated)
    if recipe.xla == AUTO:
        plain, refused = dataclasses.replace(plain, **chosen), why_without_xla(strategy)
        if refused is not None:
            chosen["xla"], why["xla"] = NEVER, refused
        else:
            rated = rates({name: dataclasses.replace(plain, xla=name) for name in (NEVER, ALWAYS)})
            chosen["xla"], why["xla"] = best(rated)
    return dataclasses.replace(recipe, **chosen), why


def best(rates: Mapping[str, float | tf.errors.OpError]) -> tuple[str, str]:
    """The name to choose, and why.

    Args:
        rates: images a second by name, or what came instead; an earlier name is only given up for one that is GAIN
            times as fast.

    Raises:
        tf.errors.OpError: none of them works.
    """
    working = {name: rate for name, rate in rates.items() if not isinstance(rate, Exception)}
    if not working:
        raise next(iter(rates.values()))
    chosen = next(iter(working))
    for name, rate in working.items():
        chosen = name if rate > GAIN * working[chosen] else chosen
    told = [f"{name} {working[name]:.4g}" if name in working else f"{name} does not work" for name in rates]
    return chosen, f"images a second: {', '.join(told)}; a later one has to be {GAIN:g} times as fast"


def _rate(
    recipe: Recipe,
    data: Frozen,
    plan: Plan,
    *,
    strategy: tf.distribute.Strategy,
    task: str,
    loss: Loss,
    cluster: Cluster,
) -> float | tf.errors.OpError:
    keras.utils.set_random_seed(recipe.seed)
    recipe = dataclasses.replace(recipe, window=STEPS[_kind(strategy)])
    try:
        outputs = data.examples.outputs
        state = TrainingState(recipe, plan, strategy=strategy, outputs=outputs, task=task, loss=loss, load=False)
        seconds = probing.step(state, recipe, data, strategy=strategy).wall
    except tf.errors.OpError as error:
        if cluster.workers > 1:
            raise
        return error
    finally:
        state = None
        gc.collect()
    return recipe.batch_size / cluster.told(seconds)


def _kind(strategy: tf.distribute.Strategy) -> str:
    return "GPU" if "GPU" in strategy.extended.worker_devices[0] else "CPU"


def remembered(recipe: Recipe, config: str) -> Recipe:
    """The recipe of a start that goes on: what was chosen, or named, at the first one in place of each `auto`.

    Args:
        config: operative configuration of the session, gin text.

    Raises:
        UserError: it names no choice.
    """
    settings, chosen = launch.settings(config), {}
    for name, known in SETTINGS.items():
        if getattr(recipe, name) == AUTO:
            written = settings.get(_place(settings, f"train.{name}"))
            value = next((each for each in known if repr(each) == written), None)
            if value is None:
                raise UserError(
                    f"train.{name} = {written}, where a choice was to be found",
                    where="config.gin of the session",
                    expected=f"one of {', '.join(known)}",
                    do=f"name the one that the session was started with: --gin_param=\"train.{name} = '...'\"",
                )
            chosen[name] = value
    return dataclasses.replace(recipe, **chosen)


def written(config: str, recipe: Recipe) -> str:
    """An operative configuration that says what was chosen where it says `auto`.

    Args:
        config: gin text.
        recipe: with the choices.
    """
    settings = launch.settings(config)
    for name in SETTINGS:
        place = _place(settings, f"train.{name}")
        if settings.get(place) == repr(AUTO):
            line = rf"^{re.escape(place)} = .*$"
            config = re.sub(line, f"{place} = {getattr(recipe, name)!r}", config, flags=re.MULTILINE)
    return config


def _place(settings: Mapping[str, str], name: str) -> str:
    """Where the value of a setting stands: in itself or, by way of `%`, in a macro."""
    while (value := settings.get(name, "")).startswith("%"):
        name = value[1:]
    return name
