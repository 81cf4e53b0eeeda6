"""What the loop costs beside the network: a strategy over one device, and a call for each step."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.augment.apply import Rendering
from data.pipeline import ordered
from trainer import devices
from trainer.benchmarks import fit, rates
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import RATE, Subject
from trainer.benchmarks.windows import Round, range_of, ratio, rounds_of
from trainer.losses import cross_entropy
from trainer.optimization import optimizers
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer
from trainer.rendering import rendering, training_policy
from trainer.reports.console import Console
from trainer.step import train_window

ONWARD, UNDISTRIBUTED, PLAIN = "onward", "onward, no strategy", "hand-written loop"
# Seconds with a strategy for one without, and steps a second of long windows for one of short ones.
MOST, LEAST = 1.03, 1.5
# Windows of each in a round: what is wanted to a hundredth needs many.
WINDOWS = 5
# Of the trivial network: what it sees, a batch of it, steps of a window, and steps that are timed.
SIDE, CLASSES, BATCH, LENGTH, STEPS = 8, 10, 16, 20, 400


def run(settings: Settings, console: Console) -> Result:
    """--part=overhead."""
    with tempfile.TemporaryDirectory(prefix="onward-overhead-") as folder:
        subject = rates.prepared(settings, Path(folder))
        contestants = {ONWARD: subject.step()[1].run, UNDISTRIBUTED: undistributed(subject), PLAIN: plain(subject)}
        repeats = WINDOWS * settings.repeats
        speeds = rounds_of(contestants, images=subject.images, repeats=repeats, report=console.say)
        title = rates.title(subject)
    trivial = steps_per_second(subject.strategy, repeats=settings.repeats, report=console.say)
    rows = compare(speeds)
    calls = ratio(trivial[LENGTH], trivial[1])
    steps = {f"windows of {length}": all_ for length, all_ in trivial.items()}
    figures = {"title": title, "rows": rows, "windows": calls, "steps_per_second": steps, "rates": speeds}
    sentences, faults = judged(rows, calls)
    return Result(
        figures=figures,
        tables=[table(title, rows), windows_table(trivial)],
        sentences=sentences,
        faults=faults,
        environment=subject.environment(),
    )


def undistributed(subject: Subject) -> Round:
    """The same step of the same network outside of any strategy."""
    default = tf.distribute.get_strategy()
    return Subject(subject.recipe, subject.frozen, strategy=default, stage=subject.stage).step()[1].run


def plain(subject: Subject) -> Round:
    """A window of a loop as one writes it by hand for one device: same network, optimizer, batch and kernel.

    It returns the losses and looks at nothing else: neither whether gradients are finite, nor at their norm, nor at the
    accuracy.
    """
    recipe, stage = subject.recipe, subject.stage
    side, outputs = recipe.size(stage)[0], subject.examples.outputs
    network = recipe.model.build(image_size=side, classes=outputs, precision=recipe.precision)
    trains = [network.variables[name] for name in subject.state.trainable[stage.name].names]
    optimizer = recipe.optimizer.make()
    optimizer.learning_rate = RATE
    optimizer.build(trains)
    kernel = rendering(recipe, training_policy(recipe, stage), samples=recipe.samples, stage=stage)
    loss, values = fit.LOSSES[subject.examples.task], [variable.value for variable in trains]
    batch = tf.nest.map_structure(
        lambda column: subject.strategy.experimental_local_results(column)[0], next(subject.stream())
    )

    @tf.function
    def window(steps):
        losses = tf.TensorArray(tf.float32, size=recipe.window)
        for step in tf.range(steps):
            images = kernel.images(batch)
            with tf.GradientTape() as tape:
                of_batch = loss(batch["label"], network.model(images, training=True))
            optimizer.apply(tape.gradient(of_batch, values), trains)
            losses = losses.write(step, of_batch)
        return losses.stack()

    def run() -> None:
        if not np.isfinite(window(tf.constant(recipe.window)).numpy()).all():
            raise RuntimeError("the benchmark's loss is not finite")

    return run


def steps_per_second(
    strategy: tf.distribute.Strategy, *, repeats: int, report: Callable[[str], None]
) -> dict[int, list[float]]:
    """Steps a second of a network that next to nothing is to be computed for, with windows of 1 and of LENGTH steps."""
    rounds = {length: _trivial(strategy, length) for length in (1, LENGTH)}
    for run in rounds.values():
        run()
    found: dict[int, list[float]] = {length: [] for length in rounds}
    for repeat in range(repeats):
        for length, run in rounds.items():
            began = time.perf_counter()
            run()
            found[length].append(STEPS / (time.perf_counter() - began))
        last = ", ".join(f"{all_[-1]:.0f} steps/s in windows of {length}" for length, all_ in found.items())
        report(f"round {repeat + 1} of {repeats}: {last}")
    return found


def _trivial(strategy: tf.distribute.Strategy, length: int) -> Round:
    """STEPS steps in windows of this length, the figures of each read by the host as a session does."""
    with strategy.scope():
        layers = [keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
        model = keras.Sequential(layers)
        variables = {variable.name: variable for variable in model.trainable_variables}
        window = train_window(
            strategy=strategy,
            model=model,
            variables=variables,
            moving_statistics=[],
            optimizer=Optimizer(optimizers.sgd(), variables),
            loss_scale=LossScale(dynamic=False),
            step=tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA),
            task="single_label",
            loss=cross_entropy(),
            rendering=Rendering(size=(SIDE, SIDE)),
            length=length,
        )
    batch = {
        "image": tf.random.stateless_uniform([BATCH, SIDE, SIDE, 3], seed=(0, 0)),
        "label": tf.range(BATCH) % CLASSES,
        "weight": tf.ones([BATCH]),
    }
    again = tf.data.Dataset.from_tensors(batch).repeat().with_options(ordered())
    stream = devices.batches(strategy, lambda _: again)
    rates_, steps = tf.fill([length], RATE), tf.constant(length)

    def run() -> None:
        for _ in range(STEPS // length):
            window(stream, rates_, steps)["loss"].numpy()

    return run


def compare(speeds: dict[str, list[float]]) -> list[dict]:
    """A row a contestant: median images a second, and how many times as long as without a strategy it takes."""
    return [
        {"name": name, "images_per_second": statistics.median(all_), **ratio(speeds[UNDISTRIBUTED], all_)}
        for name, all_ in speeds.items()
    ]


def judged(rows: list[dict], calls: dict) -> tuple[list[str], list[str]]:
    """A sentence on each of the two figures that are wanted, among what is as wanted and among what is not.

    Args:
        rows: of `compare`.
        calls: ratio of steps a second, windows of LENGTH steps to windows of 1.
    """
    step = next(row for row in rows if row["name"] == ONWARD)
    told = {
        f"a step takes {step['ratio']:.3f} times as long as without a strategy ({range_of(step)} over the rounds); at "
        f"most {MOST} is wanted": step["ratio"] <= MOST,
        f"windows of {LENGTH} steps are {calls['ratio']:.2f} times as fast as windows of 1 ({range_of(calls)} over the "
        f"rounds); at least {LEAST} is wanted": calls["ratio"] >= LEAST,
    }
    return [each for each, met in told.items() if met], [each for each, met in told.items() if not met]


def table(title: str, rows: list[dict]) -> Table:
    """The steps of one device for people."""
    columns = ("", "images/s, median", "time of a step, against no strategy", "over the rounds")
    cells = [(row["name"], f"{row['images_per_second']:.1f}", f"{row['ratio']:.3f}", range_of(row)) for row in rows]
    return Table(f"{title}, one batch again and again", columns, cells)


def windows_table(trivial: dict[int, list[float]]) -> Table:
    """Windows of both lengths for people."""
    cells = [(str(length), f"{statistics.median(all_):,.0f}") for length, all_ in trivial.items()]
    return Table("a trivial network", ("steps of a window", "steps/s, median"), cells)
