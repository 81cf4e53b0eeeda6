"""Evaluates one split of a session with one of its checkpoints; also beside a training that runs.

python scripts/evaluate.py --workdir=runs/photos --split=test --checkpoint=best
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from data.errors import UserError
from trainer import checkpoints, data_setup, devices, losses, metrics
from trainer.evaluation import Evaluator
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_json


def main() -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    launch.parse_gin([*(flags.FLAGS.gin_file or [str(workdir.config)])], flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
    group = checkpoints.weights_group(prefix, flags.FLAGS.weights)
    console = Console()
    # Before the data: TensorFlow cannot change its devices once something has used them.
    strategy = devices.set_up(flags.FLAGS.devices)
    frozen = data_setup.open_data(recipe, workdir, console, resuming=True)
    task, names = frozen.examples.task, frozen.examples.class_names
    loss = launch.call(partial(losses.chosen, outputs=frozen.examples.outputs), recipe.loss, task)
    parts = frozen.parts()
    # The rule still takes its bindings, which are part of every config.
    launch.call(recipe.sampling, parts["train"])
    launch.check_consumed()
    split = flags.FLAGS.split or next(name for name in ("test", "validation", "train") if name in parts)
    if split not in parts:
        raise UserError(
            f"the session has no examples in the split {split!r}",
            where="--split",
            expected=f"one of {', '.join(parts)}",
            do="choose one of them",
        )

    with strategy.scope():
        # Every weight comes from the checkpoint; the file of the pre-trained ones may be gone.
        architecture = dataclasses.replace(recipe.model, pretrained=None)
        outputs = frozen.examples.outputs
        network = architecture.build(image_size=recipe.image_size, classes=outputs, precision=recipe.precision)
    checkpoints.restore_group(prefix, group, network.values())

    view = data_setup.view(recipe, frozen)
    evaluator = Evaluator(recipe, network, view, strategy=strategy, task=task, loss=loss)
    report = console.count(f"evaluating {split}", len(parts[split]))
    totals = evaluator.evaluate(parts[split], report=report)
    figures, confusion = metrics.figures(totals, task=task), totals.get("confusion")
    per_output = metrics.per_output(totals, task=task)
    console.close()
    if totals["replaced"]:
        for where, reason in data_setup.broken(parts[split], view).items():
            console.say(f"left out {where}: {reason}", style="yellow")
    console.evaluation(f"{split}, {prefix}", figures, per_output=per_output, names=names, confusion=confusion)
    if flags.FLAGS.output:
        facts = {"split": split, "checkpoint": str(prefix), "task": task, **figures, "classes": list(names)}
        facts["replaced"] = int(totals["replaced"])
        facts["per_output"] = {name: _json(values) for name, values in per_output.items()}
        if confusion is not None:
            facts["confusion"] = confusion.tolist()
        _write(Path(flags.FLAGS.output), facts)
    return 0


def _json(values: np.ndarray) -> list[float | int | None]:
    return [None if np.isnan(value) else value.item() for value in values]


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
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    flags.DEFINE_string("output", None, "JSON file for the figures, those of each class, and the confusion matrix.")
    launch.run(main)


if __name__ == "__main__":
    run()
