"""Speed, measured in one run, and what follows from it. docs/performance.md says how to read it.

python scripts/benchmark.py --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
    a recipe: input alone, step alone, both; what holds it back and what to change; against `keras.Model.fit`
python scripts/benchmark.py --part=PART ...
    rates      the three rates alone
    scaling    the same on 1, 2, 4 replicas, strong and weak
    sweep      batch size, precision, XLA, threads, window length: the best of each; the largest batch that fits
    loop       the training loop against keras fit
    input      the input pipeline, from files and from a store, against reading and decoding alone
    augment    files and stores to augmented float batches, against ImageDataGenerator, Keras' layers and OpenCV
    features   head and last blocks on stored features against keras fit through the frozen layers
    saving     training that saves against training that does not
    overhead   the loop against one that is written by hand; windows of 20 steps against windows of 1
    start      seconds to the first step of a session, fresh and resumed at step 1,000,000
    growth     1,000,000 examples against 1,000
    endurance  10,000 steps of a session with its saves: memory, threads, open files, files
    table      seconds and memory of tables of a million rows
    all        every figure that is wanted of the project, one after the other, in a table
python scripts/benchmark.py --compare=before.json,after.json
    whether two results, written by --output, differ by more than the noise
python scripts/benchmark.py --compare=train.window=1,20 --gin_file=configs/benchmark.gin
    the same of two values of one binding or flag, measured in turn

Exit status 1: something is not as it ought to be (traced twice, memory that grows, a figure wanted and not reached).
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
import sys

import gin
from absl import flags

from trainer.benchmarks import (
    augmentation,
    comparison,
    endurance,
    growth,
    inputs,
    loop,
    overhead,
    rates,
    recipe,
    replicas,
    results,
    saving,
    starts,
    stored_features,
    sweep,
    tables,
    wanted,
)
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console

# Name -> function (settings, console) that measures it.
PARTS = {
    "recipe": recipe.run,
    "rates": rates.run,
    "scaling": replicas.run,
    "sweep": sweep.run,
    "loop": loop.run,
    "input": inputs.run,
    "augment": augmentation.run,
    "features": stored_features.run,
    "saving": saving.run,
    "overhead": overhead.run,
    "start": starts.run,
    "growth": growth.run,
    "endurance": endurance.run,
    "table": tables.run,
    "all": wanted.run,
}


def main() -> int:
    own, console = flags.FLAGS, Console()
    results.check(own.output, plots=own.part == "sweep" and own.compare is None)
    settings = Settings(**{field.name: getattr(own, field.name) for field in dataclasses.fields(Settings)})
    if own.compare is not None:
        part, result = "compare", comparison.run(own.compare, settings, console)
    else:
        part, result = own.part, PARTS[own.part](settings, console)
    result.show()
    if own.output:
        if not gin.config_str() and (own.gin_file or own.gin_param):
            # Only processes of their own have read it.
            launch.parse_gin(own.gin_file, own.gin_param)
        document = result.document(part, sys.argv)
        for path in own.output:
            results.write(path, result, document)
    return 1 if result.faults else 0


def run() -> None:
    """Entry point of `onward-benchmark`."""
    launch.define_flags()
    usual = Settings()
    flags.DEFINE_enum("part", "recipe", list(PARTS), "What is measured.")
    flags.DEFINE_integer("repeats", usual.repeats, "Turns of each contestant.", lower_bound=1)
    flags.DEFINE_integer("images", usual.images, "Images, spread evenly over those of the source.", lower_bound=1)
    flags.DEFINE_string("stage", usual.stage, "Stage of the recipe that is measured; the longest if not given.")
    flags.DEFINE_string("trace", usual.trace, "Folder for a profile of two windows, for TensorBoard (extra `profile`).")
    flags.DEFINE_list("replicas", list(usual.replicas), "Of --part=scaling: numbers of devices.")
    flags.DEFINE_integer("most_batch", usual.most_batch, "Of --part=sweep: largest batch that is tried.", lower_bound=1)
    flags.DEFINE_list("only", list(usual.only), "Of --part=all: words, one of which a row has to hold.")
    flags.DEFINE_integer("steps", usual.steps, "Steps of --part=endurance.", lower_bound=100)
    flags.DEFINE_integer("rows", usual.rows, "Rows of the tables of --part=table, of --part=growth.", lower_bound=1000)
    flags.DEFINE_integer("epochs", usual.epochs, "Epochs --part=input is watched, or heads train.", lower_bound=2)
    flags.DEFINE_string("compare", None, "A.json,B.json; or NAME=VALUE,VALUE of a binding or flag.")
    flags.DEFINE_multi_string(
        "output", [], "File for the figures: .json, .md, .csv, which gets one more row, or .png of a sweep."
    )
    launch.run(main)


if __name__ == "__main__":
    run()
