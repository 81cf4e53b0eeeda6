"""A recipe ready to be measured: a sample of its images, its network, and one of its stages."""

import copy
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data import packing, pipeline
from data.errors import RunFailure, UserError
from data.examples import Examples, Stream
from data.frozen import Frozen
from data.pipeline import View
from trainer import choosing, data_setup, launch, losses, probing
from trainer.batches import share_of
from trainer.benchmarks.windows import Contestant, Round, timed
from trainer.optimization.stages import Stage, plan
from trainer.recipe import ALWAYS, Recipe
from trainer.rendering import evaluation_policy, rendering, training_policy
from trainer.reports import environment
from trainer.state import TrainingState

# So small that random weights stay where they are, whatever the recipe would do with them.
RATE = 1e-6


def sample(recipe: Recipe, *, count: int, folder: Path) -> Frozen:
    """Images spread evenly over those of a recipe, all of them to train on; out of a store where the recipe has one.

    Args:
        count: how many, if there are as many.
        folder: for a store of them.

    Raises:
        UserError: the source, the rules of the recipe or all of the images are wrong.
    """
    found = launch.call(recipe.source)
    if isinstance(found, Stream):
        records = found.records
        few = dataclasses.replace(found, records=lambda: itertools.islice(records(), count), count=None)
        found = packing.pack(few, folder, decoding=data_setup.decoding(recipe)).examples(few)
    data_setup.split_of(recipe, found)
    frozen = probing.sample(recipe, found, count=count)
    in_files = frozen.examples.root is not None and frozen.examples.store is None
    if in_files and recipe.store is not None and not crops_files(recipe):
        return packed(frozen, folder)
    return frozen


def packed(frozen: Frozen, folder: Path) -> Frozen:
    """The same images out of a store that is packed for that."""
    store = packing.pack(frozen.examples, folder, decoding=frozen.decoding)
    return dataclasses.replace(frozen, examples=store.attach(frozen.examples))


def crops_files(recipe: Recipe) -> bool:
    """Whether a policy takes its crops from the files, which allows no store."""
    return any(training_policy(recipe, stage).file_crop for stage in recipe.stages)


def chosen_stage(recipe: Recipe, name: str | None, *, examples: int) -> Stage:
    """The stage of that name; None: the one that takes most steps.

    Raises:
        UserError: there is none of that name.
    """
    planned = plan(recipe.stages, examples=examples, batch=recipe.batch_size).stages
    if name is None:
        return max(planned, key=lambda each: each.stop - each.start).stage
    for each in planned:
        if each.stage.name == name:
            return each.stage
    raise UserError(
        f"--stage={name}",
        where="command line",
        expected=f"one of {', '.join(each.stage.name for each in planned)}",
        do="correct it, or leave it out for the longest",
    )


class Cached:
    """An iterator that gives one batch, which lies on the devices, again and again; for compiled loops.

    As from an input pipeline, no step has it before the one before has come to its end: what a step does with it cannot
    be done once for all of them.
    """

    def __init__(self, batch, strategy: tf.distribute.Strategy):
        self._batch, self._strategy = batch, strategy

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        # Waits for what the caller makes its operations wait for.
        now = tf.zeros([])
        return self._strategy.run(_behind, args=(self._batch, now))


@tf.autograph.experimental.do_not_convert
def _behind(batch, moment):
    with tf.control_dependencies([moment]):
        return tf.nest.map_structure(tf.identity, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced:
    """A compiled window and what it took to get there, in seconds.

    Attributes:
        run: one window.
        fed: a window of the same function, fed by other batches of the same kind.
        traces: how often the function has been traced so far.
    """

    run: Round
    fed: Callable[[Iterator], Round]
    traces: Callable[[], int]
    trace: float
    first: float


class Subject:
    """One stage of a recipe, with random weights, in this process.

    Args:
        recipe: what it would train.
        frozen: the images, all of which are trained on.
        stage: one of the recipe's.
    """

    def __init__(self, recipe: Recipe, frozen: Frozen, *, strategy: tf.distribute.Strategy, stage: Stage):
        if recipe.features is not None:
            raise UserError(
                "the recipe trains on stored features",
                where="gin binding train.features",
                expected="a recipe whose steps begin with images",
                do="--part=features, or --gin_param='train.features = None'",
            )
        share_of(recipe, strategy.num_replicas_in_sync)
        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(recipe.seed)
        # One stage stands for all, wherever it stood.
        self.recipe = recipe = dataclasses.replace(recipe, stages=(stage,))
        self.frozen, self.strategy, self.stage = frozen, strategy, stage
        self.examples, self.order = data_setup.training_part(recipe, frozen.examples)
        self.plan = plan(recipe.stages, examples=self.order.epoch_length, batch=recipe.batch_size)
        aim = {"task": self.examples.task, "loss": losses.chosen(recipe.loss, self.examples.task)}
        if choosing.is_open(recipe):
            self.recipe = recipe = choosing.choose(recipe, frozen, self.plan, strategy=strategy, **aim)[0]
        outputs = self.examples.outputs
        self.state = TrainingState(recipe, self.plan, strategy=strategy, outputs=outputs, load=False, **aim)
        if self.state.teacher is not None or self.state.anchored is not None:
            self.state.remember(self.state.network.arrays(), old=range(self.examples.outputs))
        self.view = data_setup.view(recipe, frozen)

    def fed_by(self, frozen: Frozen) -> "Subject":
        """The same with these images in place of its own."""
        other = copy.copy(self)
        other.frozen, other.view = frozen, data_setup.view(self.recipe, frozen)
        other.examples, other.order = data_setup.training_part(self.recipe, frozen.examples)
        return other

    def with_recipe(self, *, anew: bool = False, **changes) -> "Subject":
        """The same with other fields of the recipe; `anew`: with a network of its own."""
        recipe = dataclasses.replace(self.recipe, **changes)
        if anew:
            return Subject(recipe, self.frozen, strategy=self.strategy, stage=self.stage)
        other = copy.copy(self)
        other.recipe = recipe
        return other

    def environment(self) -> dict:
        """Versions, machine and devices, as a session keeps them."""
        recipe = self.recipe
        told = {"precision": recipe.precision, "xla": recipe.xla == ALWAYS, "deterministic": recipe.deterministic}
        return environment.describe(self.strategy, project=launch.PROJECT, **told)

    @property
    def images(self) -> int:
        """Images of a window."""
        return self.recipe.window * self.recipe.batch_size

    def view_of_stage(self) -> View:
        """How the pipeline shows the canvases to the network."""
        return dataclasses.replace(self.view, image_size=self.recipe.size(self.stage))

    def stream(self, **changes) -> Iterator:
        """The training batches of every replica, as the session gets them; `changes` are fields of the recipe."""
        return data_setup.stream(
            dataclasses.replace(self.recipe, **changes),
            self.examples,
            self.order,
            self.view,
            stage=self.stage,
            strategy=self.strategy,
            step=0,
            steps=self.plan.steps,
        )

    def input(self) -> Contestant:
        """Input alone: the batches of a window arrive on every device, and nothing is done with them."""
        stream, replicas = self.stream(), self.strategy.experimental_local_results

        @tf.function
        def take(stream, steps):
            taken = tf.constant(0)
            while taken < steps:
                with tf.control_dependencies(tf.nest.flatten(replicas(next(stream)))):
                    taken += 1
            return taken

        def run() -> None:
            take(stream, tf.constant(self.recipe.window)).numpy()

        run()
        return Contestant(run=run, images=self.images, batches=self.recipe.window)

    def step(self, **changes) -> tuple[Contestant, Traced]:
        """Step alone, on one batch that lies on the devices; `changes` are fields of the recipe."""
        recipe = dataclasses.replace(self.recipe, **changes)
        traced = self._traced(recipe, Cached(next(self.stream(**changes)), self.strategy))
        return Contestant(run=traced.run, images=recipe.window * recipe.batch_size), traced

    def both(self, waits: list[float] | None = None) -> tuple[Contestant, Traced]:
        """The loop of scripts/train.py: batches as they come, augmentation, step, figures.

        Args:
            waits: gets the share of each window in which the step waited for its batch.
        """
        traced = self._traced(self.recipe, self.stream(), waits)
        return Contestant(run=traced.run, images=self.images, batches=self.recipe.window), traced

    def _traced(self, recipe: Recipe, batches: Iterator, waits: list[float] | None = None) -> Traced:
        window = self.state.window(recipe, self.stage, strategy=self.strategy)
        rates, length = tf.fill([recipe.window], RATE), tf.constant(recipe.window)

        def fed(batches: Iterator) -> Round:
            return lambda: run(batches)

        def run(batches: Iterator) -> None:
            began = time.perf_counter()
            try:
                records = window(batches, rates, length)
                loss = records["loss"].numpy()
            except tf.errors.ResourceExhaustedError as error:
                raise out_of_memory(error, recipe) from error
            if recipe.precision == "float32" and not np.isfinite(loss).all():
                raise RuntimeError("the benchmark's loss is not finite")
            if waits is not None:
                waits.append(float(records["wait"].numpy().sum()) / (time.perf_counter() - began))

        trace = timed(lambda: window.get_concrete_function(batches, rates, length))
        first = timed(fed(batches))
        return Traced(run=fed(batches), fed=fed, traces=window.experimental_get_tracing_count, trace=trace, first=first)

    def rendered(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first so many images of the table as the network sees them without augmentation, and their labels.

        Returns:
            [N, S, S, 3] float32, and labels as the table has them.
        """
        few = self.examples.take(np.arange(min(count, len(self.examples))))
        return network_images(self.recipe, few, self.view, stage=self.stage), few.labels


def network_images(recipe: Recipe, examples: Examples, view: View, *, stage: Stage | None = None) -> np.ndarray:
    """[N, S, S, 3] float32, the images of a table as the network sees them in an evaluation, of the size of a stage."""
    policy, view = evaluation_policy(recipe), dataclasses.replace(view, image_size=recipe.size(stage))
    kernel = rendering(recipe, policy, samples=recipe.evaluation_samples, stage=stage)
    batches = pipeline.evaluation_batches(examples, batch=recipe.batch_size, view=view, policy=policy)
    return np.concatenate([kernel.images(batch).numpy() for batch in batches])[: len(examples)]


def out_of_memory(error: tf.errors.ResourceExhaustedError, recipe: Recipe) -> RunFailure:
    """What a measurement says whose batch does not fit."""
    return RunFailure(
        f"out of memory: {str(error).splitlines()[0]}",
        where=f"global batch {recipe.batch_size}, {recipe.precision}",
        expected="a batch that fits the devices",
        do=f"--gin_param='train.batch_size = {max(1, recipe.batch_size // 2)}'",
    )


def memory_of(strategy: tf.distribute.Strategy) -> dict[str, int | None]:
    """Most bytes that were held so far: `host_peak` by this process, `device_peak` on the fullest GPU; None: no GPU."""
    status = Path("/proc/self/status").read_text()
    devices = [name for name in strategy.extended.worker_devices if "GPU" in name]
    peaks = [tf.config.experimental.get_memory_info("GPU:" + name.split(":")[-1])["peak"] for name in devices]
    return {"host_peak": 1024 * int(status.split("VmHWM:")[1].split()[0]), "device_peak": max(peaks, default=None)}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
