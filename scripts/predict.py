"""Says what images show, with a checkpoint of a session; also beside a training that runs.

python scripts/predict.py --workdir=runs/photos --checkpoint=best --output=predictions.csv --top_k=3 new/ more/cat.jpg

Of folders every image below them. The ending of --output says what is written, a row an image: .csv or .jsonl; without
--output rows are printed. Neither the training data nor the pre-trained weights are needed; a model file that is the
backbone is. Averaged over views, as in scripts/evaluate.py: --gin_param='train.evaluation_views = @five_crop()'
Exit status 0: at least one image has a prediction; those that do not decode are named, with the reason.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from data.errors import UserError
from data.names import printable
from trainer import checkpoints, data_setup, devices, prediction
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

LISTED = 10
# Between the classes of a cell of CSV.
SEPARATOR = ";"


def main(paths: Sequence[str]) -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    recipe = _recipe(workdir)
    meaning = prediction.Meaning.of(workdir)
    answers = prediction.Answers(meaning, top_k=flags.FLAGS.top_k, threshold=flags.FLAGS.threshold)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
    group = checkpoints.weights_group(prefix, flags.FLAGS.weights)
    if not paths:
        raise UserError("no image is named", where="command line", expected="files or folders", do="name some")
    console = Console()
    strategy = devices.set_up(flags.FLAGS.devices)
    with _writer(flags.FLAGS.output, answers.columns, console) as write:
        images = prediction.listed(paths)
        report = console.count("decoding", sum(not reason for reason in images.values()))
        table, images = prediction.looked_at(images, recipe, report=report)
        console.close()
        _tell(images, console)
        with strategy.scope():
            architecture = dataclasses.replace(recipe.model, pretrained=None)
            network = architecture.build(
                image_size=recipe.image_size, classes=meaning.outputs, precision=recipe.precision
            )
        checkpoints.restore_group(prefix, group, network.values())
        view = data_setup.view(recipe, table)
        said = prediction.predict(recipe, network, table.examples, view, strategy=strategy, task=meaning.task)
        report, done = console.count("predicting", len(table.examples)), 0
        for name, reason in images.items():
            row = {"reason": reason}
            if not reason:
                logits, broken = next(said)
                row, done = {"reason": prediction.GONE} if broken else answers.row(logits), done + 1
                report(done)
                if "reason" in row:
                    console.say(f"no prediction for {name}: {row['reason']}", style="yellow")
            write({"name": printable(name), **row})
    console.close()
    where = f", in {flags.FLAGS.output}" if flags.FLAGS.output else ""
    console.say(f"{len(table.examples)} of {len(images)} images{where}, with {prefix}")
    return 0


def _recipe(workdir: Workdir) -> Recipe:
    """The recipe of the session; what it says of its data is of no use here, what the command line says has to be."""
    return launch.session_recipe(flags.FLAGS.gin_file or [str(workdir.config)], flags.FLAGS.gin_param, Recipe)


def _tell(images: dict[str, str], console: Console) -> None:
    bad = [f"{name}: {reason}" for name, reason in images.items() if reason]
    if len(bad) == len(images):
        more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise UserError(
            f"none of {len(bad)} images decodes: {printable('; '.join(bad[:LISTED]))}{more}",
            where="command line",
            expected="JPEG, PNG, WebP, BMP or GIF files that are whole, or folders of them",
            do="correct the paths, or mend the files",
        )
    for sentence in bad:
        console.say(f"no prediction for {sentence}", style="yellow")


@contextlib.contextmanager
def _writer(output: str | None, columns: Sequence[str], console: Console) -> Iterator[Callable[[dict], None]]:
    """A function that takes row after row; the file is there once all are written, and not before."""
    if not output:
        yield lambda row: "reason" in row or console.say(_sentence(row))
        return
    path = Path(output).expanduser()
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--output={output}", where="command line", expected="a name in .csv or .jsonl", do="rename it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        file = open(part, "w", encoding="utf-8", newline="")  # noqa: SIM115, closed below
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"the predictions cannot be written: {error}",
            where="--output",
            expected="a file in a folder that is there and can be written",
            do="choose another --output",
        ) from error
    try:
        with file:
            if path.suffix == ".jsonl":
                yield lambda row: print(json.dumps(dict.fromkeys(columns) | row, allow_nan=False), file=file)
            else:
                table = csv.DictWriter(file, columns, lineterminator="\n")
                table.writeheader()
                yield lambda row: table.writerow({name: _cell(value) for name, value in row.items()})
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _cell(value: object) -> object:
    return SEPARATOR.join(value) if isinstance(value, list) else value


def _sentence(row: dict) -> str:
    classes = [value for column, value in row.items() if column == "class" or column.startswith("class_")]
    figures = {column: value for column, value in row.items() if column.startswith(("probability", "value_"))}
    if "probability" in figures:
        told = [f"{name} {float(share):.4f}" for name, share in zip(classes, figures.values(), strict=True)]
    else:
        told = [f"{name.split('_', 1)[-1]} {float(value):.4f}" for name, value in figures.items()]
        told = [*([_cell(row["class"]) or "no class"] if "class" in row else []), *told]
    return f"{row['name']}: {', '.join(told)}"


def run() -> None:
    """Entry point of `onward-predict`."""
    launch.define_flags()
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    flags.DEFINE_string("output", None, "File for the predictions, .csv or .jsonl; by default they are printed.")
    flags.DEFINE_integer("top_k", None, "Classes an image, the most probable ones first; by default 1.")
    flags.DEFINE_float("threshold", None, "Of binary and multi-label: probability above which a class is predicted.")
    launch.run(main, positional=True)


if __name__ == "__main__":
    run()
