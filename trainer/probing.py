"""Measures what a prediction of scaling begins with: steps, the input of a host, reductions."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import packing, sampling
from data.decode import shrink_array
from data.errors import UserError
from data.examples import Examples
from data.frozen import Frozen
from data.inspection import Inspection, inspect
from data.pipeline import ordered
from trainer import data_setup, devices
from trainer import reduction as reductions
from trainer.batches import share_of
from trainer.recipe import Recipe
from trainer.state import TrainingState

# Images that stand for all, spread evenly over the table.
IMAGES = 256
# Of steps and reductions: calls that are measured behind the first ones, and how many steps, at most, a call has.
CALLS, LEAD, STEPS = 5, 2, 10
# Of input: seconds in which it comes to its pace, and in which it is measured, and batches at least.
WARM, WATCHED, BATCHES = 1.0, 3.0, 8


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of all cores together."""

    wall: float
    processor: float


def alone(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """A strategy over the first device of this one."""
    if strategy.num_replicas_in_sync == 1:
        return strategy
    return first_devices(strategy, 1)


def first_devices(strategy: tf.distribute.Strategy, count: int) -> tf.distribute.Strategy:
    """A strategy over so many devices of this one, which reduces on one of them."""
    names = list(strategy.extended.worker_devices[:count])
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())


def sample(recipe: Recipe, examples: Examples, *, count: int = IMAGES) -> Frozen:
    """So many examples of a table, spread evenly over it, looked at.

    Raises:
        UserError: none of them decodes.
    """
    decoding = data_setup.decoding(recipe)
    examples = examples.take(np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)))
    if examples.store is not None:
        seen = examples.store.inspection.take(examples.store_rows)
    elif examples.pixels is not None:
        examples = dataclasses.replace(examples, pixels=shrink_array(examples.pixels, decoding=decoding))
        seen = Inspection.of_arrays(examples)
    else:
        seen = inspect(examples, decoding=decoding)
        if len(seen.bad) == len(examples):
            raise data_setup.bad_images(examples, seen.bad)
        good = np.setdiff1d(np.arange(len(examples)), list(seen.bad))
        examples, seen = examples.take(good), seen.take(good)
        examples = dataclasses.replace(examples, orientations=seen.orientations, kinds=seen.kinds)
    return Frozen(examples, np.zeros(len(examples), np.int8), seen, decoding)


def step(state: TrainingState, recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy) -> Spent:
    """A step of the last stage at the batch size of the recipe, on one batch that is there already.

    Args:
        state: built in the scope of the strategy. Its weights stay as they are, apart from moving statistics.
    """
    recipe = dataclasses.replace(recipe, window=min(recipe.window, STEPS))
    share_of(recipe, strategy.num_replicas_in_sync)
    window = state.window(recipe, recipe.stages[-1], strategy=strategy)
    first = next(_stream(recipe, frozen, strategy=strategy))
    batch = tf.nest.map_structure(lambda column: strategy.experimental_local_results(column)[0], first)
    again = tf.data.Dataset.from_tensors(batch).repeat().with_options(ordered())
    held = devices.batches(strategy, lambda _: again)
    rates = tf.zeros([recipe.window])
    return timed(lambda: window(held, rates, tf.constant(recipe.window))["loss"].numpy(), steps=recipe.window)


def timed(call: Callable[[], object], *, steps: int = 1) -> Spent:
    """A step of a call that has so many: the median of several calls behind the first ones.

    As many calls wherever it runs: they may wait for those of other processes.
    """
    for _ in range(LEAD):
        call()
    spent = []
    for _ in range(CALLS):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        spent.append((time.perf_counter() - wall, time.process_time() - processor))
    return Spent(*(statistics.median(each) / steps for each in zip(*spent, strict=True)))


def input_rate(recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy) -> float:
    """Images a second that this host makes ready for the last stage while nothing trains."""
    stream = _stream(recipe, frozen, strategy=strategy)
    _batches_within(stream, WARM)
    began = time.perf_counter()
    count = _batches_within(stream, WATCHED)
    return count * recipe.batch_size / (time.perf_counter() - began)


def store_rate(recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy) -> float:
    """The same from a packed store, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="onward-store-") as folder:
        store = packing.pack(frozen.examples, Path(folder) / "store", decoding=frozen.decoding)
        stored = dataclasses.replace(frozen, examples=store.attach(frozen.examples))
        return input_rate(recipe, stored, strategy=strategy)


def _batches_within(stream: Iterator, seconds: float) -> int:
    began, count = time.perf_counter(), 0
    while count < BATCHES or time.perf_counter() - began < seconds:
        next(stream)
        count += 1
    return count


def _stream(recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy) -> Iterator:
    plain = dataclasses.replace(recipe, sampling=sampling.natural, class_weights=None, data_service=None)
    examples, order = data_setup.training_part(plain, frozen.examples)
    view = data_setup.view(plain, frozen)
    endless = {"stage": plain.stages[-1], "step": 0, "steps": 2**31}
    return data_setup.stream(plain, examples, order, view, strategy=strategy, **endless)


def reduction(state: TrainingState, recipe: Recipe, *, strategy: tf.distribute.Strategy) -> tuple[float, float]:
    """Seconds in which the gradients of the last stage, and in which one number, are added up over the replicas."""
    values, number = gradients_of(state, recipe), [tf.zeros([])]
    return tuple(_reduced(each, strategy=strategy, most=recipe.reduction_bytes) for each in (values, number))


def gradients_of(state: TrainingState, recipe: Recipe) -> list[tf.Variable]:
    """The variables of the last stage: a gradient is as large as each of them."""
    return [state.network.variables[name].value for name in state.trainable[recipe.stages[-1].name].names]


def gradient_bytes(state: TrainingState, recipe: Recipe) -> int:
    """Of all gradients of the last stage."""
    return sum(value.shape.num_elements() * value.dtype.size for value in gradients_of(state, recipe))


def packs(state: TrainingState, recipe: Recipe) -> int:
    """In how many parts the recipe has gradients added up."""
    sizes = [value.shape.num_elements() * value.dtype.size for value in gradients_of(state, recipe)]
    return 1 if recipe.reduction_bytes is None else len(reductions.packs(sizes, recipe.reduction_bytes))


def _reduced(values: list, *, strategy: tf.distribute.Strategy, most: int | None) -> float:
    with strategy.scope():
        last = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def calls(*, reduces: bool) -> Callable[[], object]:
        def of_replica():
            # A reduction begins when the one before has come to its end.
            factor = 1 + 0 * last.read_value()
            own = [value * factor for value in values]
            return reductions.add_up(own, most=most) if reduces else own

        @tf.function
        def run(count):
            for _ in tf.range(count):
                sums = strategy.run(of_replica)
                ends = [tf.reshape(strategy.experimental_local_results(each)[0], [-1])[0] for each in sums]
                last.assign(tf.add_n(ends))
            return last.read_value()

        return lambda: run(tf.constant(STEPS)).numpy()

    with_it, without = (timed(calls(reduces=reduces), steps=STEPS).wall for reduces in (True, False))
    return max(with_it - without, 0.0)


def within_bandwidth(state: TrainingState, recipe: Recipe, *, strategy: tf.distribute.Strategy) -> float:
    """Bytes a second that a GPU sends to the others of this host, by the formula of a ring.

    Raises:
        UserError: there are no two GPUs.
    """
    gpus = [name for name in strategy.extended.worker_devices if "GPU" in name]
    if len(gpus) < 2:
        raise UserError(
            f"scaling.within_bandwidth = 'probe' on {len(gpus)} GPUs",
            where="gin binding scaling.within_bandwidth, with --devices",
            expected="at least two GPUs to measure between, or the bytes a second",
            do="look it up: nvidia-smi nvlink -s, or 2.5e10 for PCIe 4.0 x16",
        )
    gradients, number = reduction(state, recipe, strategy=strategy)
    size = gradient_bytes(state, recipe)
    return 2 * (len(gpus) - 1) / len(gpus) * size / max(gradients - number, 1e-9)
