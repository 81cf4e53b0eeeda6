"""Throughput of the training loop against `keras.Model.fit`, measured in turn in one run.

python scripts/benchmark.py --gin_file=configs/benchmark.gin
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from pathlib import Path

import numpy as np
from absl import flags

from data.errors import UserError
from data.examples import Frozen
from trainer import benchmark, devices
from trainer.recipe import Recipe
from trainer.reports import environment
from trainer.reports.console import Console
from trainer.workdir import write_json

# The loop is compared with the best of these: steps per execution, XLA.
FIT_SETTINGS = ((1, False), (20, False), (1, True))


def main() -> int:
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    strategy = devices.set_up(flags.FLAGS.devices)
    examples = recipe.source()
    shape = None if examples.pixels is None else examples.pixels.shape[1:3]
    if shape != (recipe.image_size, recipe.image_size):
        raise UserError(
            "the benchmark needs images in memory at the size of the network",
            where="gin binding train.source",
            expected=f"a source in memory with images of {recipe.image_size} x {recipe.image_size}",
            do="--gin_file=configs/benchmark.gin",
        )
    split = recipe.split(examples)
    frozen = Frozen(examples, split, np.tile(np.int32(shape), (len(examples), 1)), recipe.image_size)

    rounds = {"onward": benchmark.onward(recipe, frozen, strategy=strategy)}
    launch.check_consumed()
    if strategy.num_replicas_in_sync == 1:
        for steps, jit in FIT_SETTINGS:
            name = f"fit, {steps} a call{', XLA' if jit else ''}"
            rounds[name] = benchmark.keras_fit(recipe, examples, steps_per_execution=steps, jit_compile=jit)
    console = Console()
    measured = benchmark.rates(
        rounds, images=recipe.window * recipe.batch_size, repeats=flags.FLAGS.repeats, report=console.say
    )
    rows = benchmark.compare(measured, against="onward")
    title = f"{recipe.model.backbone.name}, {recipe.image_size} px, batch {recipe.batch_size}, {recipe.precision}"
    console.benchmark(title, rows)
    if flags.FLAGS.output:
        facts = environment.describe(strategy, project=launch.PROJECT, precision=recipe.precision)
        write_json(Path(flags.FLAGS.output), {"title": title, "rows": rows, "rates": measured, "environment": facts})
    return 0


def run() -> None:
    """Entry point of `onward-benchmark`."""
    launch.define_flags()
    flags.DEFINE_integer("repeats", 5, "Measurements of each contestant.", lower_bound=1)
    flags.DEFINE_string("output", None, "JSON file for the figures.")
    launch.run(main)


if __name__ == "__main__":
    run()
