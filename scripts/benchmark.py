"""Throughput, measured against peers in turn in one run.

python scripts/benchmark.py --gin_file=configs/benchmark.gin
    the training loop against `keras.Model.fit`
python scripts/benchmark.py --part=input --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
    the input pipeline, from files and from a store, against reading and decoding alone
python scripts/benchmark.py --part=augment --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
    files and stores to augmented float batches, against ImageDataGenerator, Keras' layers and OpenCV
python scripts/benchmark.py --part=features --gin_file=configs/features.gin --gin_param="data_dir = 'photos'"
    head and last blocks on stored features against keras fit through the frozen layers; what the heads then know
python scripts/benchmark.py --part=table
    seconds and memory of tables of a million rows
python scripts/benchmark.py --part=endurance --gin_file=configs/endurance.gin
    10,000 steps of a session with a save each 100: memory, threads, open files, files; exit status 1 if any grows
python scripts/benchmark.py --part=saving --gin_file=configs/saving.gin
    training that saves 100 MB every 20 steps against training that does not
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
import tempfile
from pathlib import Path

import tensorflow as tf
from absl import flags

from data import packing
from data.errors import UserError
from data.examples import Examples, Stream
from data.frozen import Frozen
from data.inspection import Inspection
from trainer import (
    augment_benchmark,
    benchmark,
    data_setup,
    devices,
    endurance,
    feature_benchmark,
    input_benchmark,
    saving_benchmark,
    table_benchmark,
)
from trainer.recipe import Recipe
from trainer.reports import environment
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_json

# The loop is compared with the best of these: steps per execution, XLA.
FIT_SETTINGS = ((1, False), (20, False), (1, True))
FAR = 10_000_000


def main() -> int:
    if flags.FLAGS.part == "table":
        with tempfile.TemporaryDirectory(prefix="onward-table-") as folder:
            paths = table_benchmark.write(Path(folder), flags.FLAGS.rows)
            rows = table_benchmark.measure(paths, project=launch.PROJECT, report=Console().say)
        if flags.FLAGS.output:
            write_json(Path(flags.FLAGS.output), {"rows": rows})
        return 0
    sessions = {"endurance": _endurance, "saving": _saving}
    if flags.FLAGS.part in sessions:
        launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
        with tempfile.TemporaryDirectory(prefix="onward-session-") as folder:
            workdir = Workdir(folder)
            try:
                return sessions[flags.FLAGS.part](launch.call(Recipe), workdir, Console())
            finally:
                workdir.disown()
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    strategy = devices.set_up(flags.FLAGS.devices)
    source = launch.call(recipe.source)
    if isinstance(source, Stream):
        raise UserError(
            f"{source.title} can only be read in sequence",
            where="gin binding train.source",
            expected="a source in memory, or files for --part=input",
            do="--gin_file=configs/benchmark.gin",
        )
    console = Console()
    parts = {"loop": _loop, "input": _input, "augment": _augment, "features": _features}
    figures = parts[flags.FLAGS.part](recipe, source, strategy, console)
    if flags.FLAGS.output:
        facts = environment.describe(strategy, project=launch.PROJECT, precision=recipe.precision)
        write_json(Path(flags.FLAGS.output), {**figures, "environment": facts})
    return 0


def _endurance(recipe: Recipe, workdir: Workdir, console: Console) -> int:
    steps = flags.FLAGS.steps
    every = max(recipe.window, steps // endurance.PARTS // recipe.window * recipe.window)
    where = {"device_spec": flags.FLAGS.devices, "report": lambda held: console.say(str(held))}
    session = endurance.Watched(_of_length(recipe, steps), workdir, every=every, **where)
    if status := session.run():
        return status
    for sentence in (sentences := endurance.grown(session.samples)):
        console.say(sentence, style="red")
    if flags.FLAGS.output:
        rows = [dataclasses.asdict(each) for each in session.samples]
        write_json(Path(flags.FLAGS.output), {"samples": rows, "growth": endurance.growth(session.samples)})
    return 1 if sentences else 0


def _saving(recipe: Recipe, workdir: Workdir, console: Console) -> int:
    repeats, every = flags.FLAGS.repeats, recipe.checkpoint_every[0]
    turn = saving_benchmark.SAVES * every
    where = {"device_spec": flags.FLAGS.devices, "report": console.say}
    session = saving_benchmark.InTurns(_of_length(recipe, (1 + 2 * repeats) * turn), workdir, turn=turn, **where)
    if status := session.run():
        return status
    rows = saving_benchmark.compare(session.seconds, images=turn * recipe.batch_size)
    size = sum(path.stat().st_size for path in workdir.checkpoints.glob(f"ckpt-{session.step}.*"))
    step = recipe.batch_size / rows[1]["images_per_second"]
    title = f"{size / 1e6:.0f} MB every {every} steps of {step:.2f} s"
    for row in rows:
        console.say(f"{row['name']}: {row['images_per_second']:.1f} images/s, median of {repeats} turns")
    console.say(
        f"saving {title}: {rows[0]['ratio']:.3f} of the speed without "
        f"({rows[0]['lowest_ratio']:.3f} to {rows[0]['highest_ratio']:.3f} over the rounds; "
        f"at least {saving_benchmark.WANTED} is wanted)"
    )
    if flags.FLAGS.output:
        facts = environment.describe(session.strategy, project=launch.PROJECT, precision=recipe.precision)
        write_json(Path(flags.FLAGS.output), {"title": title, "rows": rows, "environment": facts})
    return 0


def _of_length(recipe: Recipe, steps: int) -> Recipe:
    """The last stage of a recipe, so long."""
    return dataclasses.replace(recipe, stages=[dataclasses.replace(recipe.stages[-1], length=(steps, "steps"))])


def _loop(recipe: Recipe, examples: Examples, strategy: tf.distribute.Strategy, console: Console) -> dict:
    shape = None if examples.pixels is None else examples.pixels.shape[1:3]
    if shape != (recipe.image_size, recipe.image_size):
        raise UserError(
            "the benchmark needs images in memory at the size of the network",
            where="gin binding train.source",
            expected=f"a source in memory with images of {recipe.image_size} x {recipe.image_size}",
            do="--gin_file=configs/benchmark.gin, or --part=input",
        )
    split = launch.call(recipe.split, examples)
    frozen = Frozen(examples, split, Inspection.of_arrays(examples), data_setup.decoding(recipe))
    rounds = {"onward": benchmark.onward(recipe, frozen, strategy=strategy)}
    launch.check_consumed()
    if strategy.num_replicas_in_sync == 1:
        for steps, jit in FIT_SETTINGS:
            name = f"fit, {steps} a call{', XLA' if jit else ''}"
            rounds[name] = benchmark.keras_fit(recipe, examples, steps_per_execution=steps, jit_compile=jit)
    measured = benchmark.rates(
        rounds, images=recipe.window * recipe.batch_size, repeats=flags.FLAGS.repeats, report=console.say
    )
    rows = benchmark.compare(measured, against="onward")
    title = f"{recipe.model.backbone.name}, {recipe.image_size} px, batch {recipe.batch_size}, {recipe.precision}"
    console.benchmark(title, rows)
    return {"title": title, "rows": rows, "rates": measured}


def _input(recipe: Recipe, examples: Examples, strategy: tf.distribute.Strategy, console: Console) -> dict:
    images, repeats = flags.FLAGS.images, flags.FLAGS.repeats
    frozen = input_benchmark.photos(recipe, examples, count=images)
    with tempfile.TemporaryDirectory(prefix="onward-store-") as folder:
        contestants = input_benchmark.contestants(recipe, frozen, Path(folder))
        measured = input_benchmark.costs(
            contestants, images=images, batch=recipe.batch_size, repeats=repeats, report=console.say
        )
        del contestants
    rows = input_benchmark.compare(measured)
    title = f"{images} JPEG files, {recipe.image_size} px, batch {recipe.batch_size}"
    console.costs(title, rows)
    starts = input_benchmark.first_batch(recipe, frozen, positions=(0, FAR), repeats=repeats)
    for position, seconds in starts.items():
        console.say(f"first batch at position {position:,}: {seconds:.2f} s")
    peaks = input_benchmark.memory(recipe, frozen, epochs=flags.FLAGS.epochs)
    console.say(
        f"peak memory after epoch 1, {len(peaks) // 2}, {len(peaks)}: "
        + ", ".join(f"{peaks[epoch] / 1e6:.0f} MB" for epoch in (0, len(peaks) // 2 - 1, -1))
    )
    return {"title": title, "rows": rows, "first_batch": starts, "peak_memory": peaks}


def _augment(recipe: Recipe, examples: Examples, strategy: tf.distribute.Strategy, console: Console) -> dict:
    images = flags.FLAGS.images
    files = input_benchmark.photos(recipe, examples, count=images)
    with tempfile.TemporaryDirectory(prefix="onward-store-") as folder:
        store = packing.pack(files.examples, Path(folder), decoding=files.decoding)
        stored = dataclasses.replace(files, examples=store.attach(files.examples))
        contestants = augment_benchmark.contestants(recipe, files, stored)
        measured = input_benchmark.costs(
            contestants, images=images, batch=recipe.batch_size, repeats=flags.FLAGS.repeats, report=console.say
        )
        del contestants
    title = f"{images} JPEG files, {recipe.image_size} px, batch {recipe.batch_size}"
    rows = input_benchmark.compare(measured, against=augment_benchmark.AFFINE)
    console.costs(title, rows, against="the affine policy")
    ratios = augment_benchmark.compare(measured)
    console.times_as_fast(ratios)
    return {"title": title, "rows": rows, "ratios": ratios}


def _features(recipe: Recipe, examples: Examples, strategy: tf.distribute.Strategy, console: Console) -> dict:
    if recipe.features is None:
        raise UserError(
            "the recipe stores no features",
            where="gin binding train.features",
            expected="@features()",
            do="--gin_file=configs/features.gin",
        )
    frozen = feature_benchmark.photos(recipe, examples, count=flags.FLAGS.images)
    rows, known = [], {}
    with tempfile.TemporaryDirectory(prefix="onward-features-") as folder:
        for name in feature_benchmark.TRAINED:
            where = {"strategy": strategy, "console": console, "folder": Path(folder) / name}
            bench = feature_benchmark.Bench(recipe, frozen, name=name, **where)
            rounds, images = bench.rounds()
            measured = benchmark.rates(rounds, images=images, repeats=flags.FLAGS.repeats, report=console.say)
            rows.append(feature_benchmark.ratio(measured, name=name))
            if name == "head":
                fresh = feature_benchmark.Bench(recipe, frozen, name=name, **where)
                known = fresh.accuracies(flags.FLAGS.epochs)
    console.times_as_fast(rows)
    told = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in known.items())
    console.say(f"test accuracy of the head after {flags.FLAGS.epochs} epochs of the same batches: {told}")
    return {"rows": rows, "accuracy": known}


def run() -> None:
    """Entry point of `onward-benchmark`."""
    launch.define_flags()
    flags.DEFINE_enum(
        "part",
        "loop",
        ["loop", "input", "augment", "features", "table", "endurance", "saving"],
        "The training loop, the input pipeline, augmentation, training on features, large tables, many steps of the "
        "last stage of a recipe, or the price of saving.",
    )
    flags.DEFINE_integer("repeats", 5, "Measurements of each contestant.", lower_bound=1)
    flags.DEFINE_integer(
        "images", 1000, "Images of --part=features; JPEG files that a round of input or augment takes.", lower_bound=1
    )
    flags.DEFINE_integer("steps", 10_000, "Steps of --part=endurance.", lower_bound=100)
    flags.DEFINE_integer("rows", 1_000_000, "Rows of the tables of --part=table.", lower_bound=1000)
    flags.DEFINE_integer("epochs", 20, "Epochs that --part=input is watched, or heads train.", lower_bound=2)
    flags.DEFINE_string("output", None, "JSON file for the figures.")
    launch.run(main)


if __name__ == "__main__":
    run()
