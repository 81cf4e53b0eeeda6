"""Evaluates one split of a session with one of its checkpoints; also beside a training that runs.

python scripts/evaluate.py --workdir=runs/photos --split=test --checkpoint=best
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
from pathlib import Path

import tensorflow as tf
from absl import flags

from data.errors import UserError
from trainer import checkpoints, data_setup, devices, metrics
from trainer.evaluation import Evaluator
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_json


def main() -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    launch.parse_gin([*(flags.FLAGS.gin_file or [str(workdir.config)])], flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint)
    console = Console()
    # Before the data: TensorFlow cannot change its devices once something has used them.
    strategy = devices.set_up(flags.FLAGS.devices)
    frozen = data_setup.open_data(recipe, workdir, console, resuming=True)
    launch.check_consumed()
    parts = frozen.parts()
    split = flags.FLAGS.split or next(name for name in ("test", "validation", "train") if name in parts)
    if split not in parts:
        raise UserError(
            f"the session has no examples in the split {split!r}",
            where="--split",
            expected=f"one of {', '.join(parts)}",
            do="choose one of them",
        )

    names = frozen.examples.class_names
    with strategy.scope():
        # Every weight comes from the checkpoint; the file of the pre-trained ones may be gone.
        architecture = dataclasses.replace(recipe.model, pretrained=None)
        network = architecture.build(image_size=recipe.image_size, classes=len(names), precision=recipe.precision)
    checkpoints.restore_group(prefix, "model", network.values())

    view = data_setup.view(recipe, frozen)
    evaluator = Evaluator(recipe, network, view, strategy=strategy)
    report = console.count(f"evaluating {split}", len(parts[split]))
    try:
        totals = evaluator.evaluate(parts[split], report=report)
    except tf.errors.OpError as error:
        raise (data_setup.broken(parts[split], view) or error) from error
    figures = metrics.figures(totals)
    console.close()
    console.evaluation(f"{split}, {prefix}", figures, totals["confusion"], names)
    if flags.FLAGS.output:
        confusion = {"classes": list(names), "confusion": totals["confusion"].tolist()}
        _write(Path(flags.FLAGS.output), {"split": split, "checkpoint": str(prefix), **figures, **confusion})
    return 0


def _write(path: Path, figures: dict) -> None:
    try:
        write_json(path, figures)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"the figures cannot be written: {error}",
            where="--output",
            expected="a file in a folder that is there and can be written",
            do="choose another --output",
        ) from error


def run() -> None:
    """Entry point of `onward-evaluate`."""
    launch.define_flags()
    flags.DEFINE_string("split", None, "train, validation or test; by default test, else validation.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("output", None, "JSON file for the figures and the confusion matrix.")
    launch.run(main)


if __name__ == "__main__":
    run()
