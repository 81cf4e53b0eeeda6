"""Evaluates one split of a session with one of its checkpoints; also beside a training that runs.

python scripts/evaluate.py --workdir=runs/photos --split=test --checkpoint=best
python scripts/evaluate.py --workdir=runs/photos --split=train --details

Writes nothing but the file --output; with --details also WORKDIR/predictions/SPLIT.npz, what the network says of each
example, and its loss, for the report. Training images are evaluated as all others, without augmentation.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from data.errors import UserError
from trainer import data_setup, metrics, trained
from trainer.outcomes import MOST_SCORES
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.trained import Trained
from trainer.workdir import Workdir, write_json

LISTED = 10
WHY = {
    "roc_auc": "all examples or none are of them",
    "average_precision": "no example is of them",
}


def main() -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    launch.parse_gin([*(flags.FLAGS.gin_file or [str(workdir.config)])], flags.FLAGS.gin_param)
    recipe, console = launch.call(Recipe), Console()
    found = {"checkpoint": flags.FLAGS.checkpoint, "weights": flags.FLAGS.weights}
    opened = Trained.opened(workdir, recipe, device_spec=flags.FLAGS.devices, **found)
    evaluation = trained.evaluate(opened, console, split=flags.FLAGS.split)
    details, outcomes, totals = evaluation.details, evaluation.outcomes, evaluation.totals
    examples, prefix, split, figures = evaluation.examples, opened.prefix, details.split, details.figures
    task, names, confusion = examples.task, examples.class_names, totals.get("confusion")
    if totals["replaced"]:
        for where, reason in data_setup.broken(examples, evaluation.view).items():
            console.say(f"left out {where}: {reason}", style="yellow")
    console.evaluation(f"{split}, {prefix}", figures, per_output=details.each, names=names, confusion=confusion)
    undefined = outcomes.undefined()
    for figure, classes in undefined.items():
        console.say(f"{figure} without {', '.join(classes[:LISTED])}{' ...' * (len(classes) > LISTED)}: {WHY[figure]}")
    if not outcomes.keeps_scores and task != "regression":
        scores = f"{len(examples):,} examples x {examples.outputs:,} outputs are more than {MOST_SCORES:,} scores"
        console.say(f"no figures of scores in their order: {scores}", style="yellow")
    if flags.FLAGS.output:
        facts = {"split": split, "checkpoint": str(prefix), "task": task, **figures, "classes": list(names)}
        facts["replaced"] = int(totals["replaced"])
        facts["undefined"] = undefined
        facts["per_output"] = {name: _json(values) for name, values in details.each.items()}
        if confusion is not None:
            facts["confusion"] = confusion.tolist()
        if task == "single_label":
            facts["top_k_accuracy"] = metrics.top_k_accuracy(totals).tolist()
        with _writing("--output", "the figures"):
            write_json(Path(flags.FLAGS.output), facts)
    if flags.FLAGS.details:
        path = workdir.predictions / f"{split}.npz"
        with _writing("--workdir", "the details"):
            details.write(path)
        console.say(f"every example by itself: {path}")
    return 0


def _json(values: np.ndarray) -> list[float | int | None]:
    return [None if np.isnan(value) else value.item() for value in values]


@contextlib.contextmanager
def _writing(flag: str, what: str) -> Iterator[None]:
    """Within, it is the user's mistake if the file named by a flag cannot be written."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"{what} cannot be written: {error}",
            where=flag,
            expected="a folder that is there and can be written",
            do=f"choose another {flag}",
        ) from error


def run() -> None:
    """Entry point of `onward-evaluate`."""
    launch.define_flags()
    flags.DEFINE_string("split", None, "train, validation or test; by default test, else validation.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    flags.DEFINE_string("output", None, "JSON file for the figures, those of each class, and the confusion matrix.")
    flags.DEFINE_bool("details", False, "Also writes WORKDIR/predictions/SPLIT.npz, every example by itself.")
    launch.run(main)


if __name__ == "__main__":
    run()
