"""Says what images show, with a checkpoint of a session or an export; also beside a training that runs.

python scripts/predict.py --workdir=runs/photos --checkpoint=best --output=predictions.csv --top_k=3 new/ more/cat.jpg
python scripts/predict.py --model=photos.tflite 'new/**/*.jpg'
find new -name '*.jpg' | python scripts/predict.py --workdir=runs/photos --output=predictions.parquet -

Files, folders (every image below them), patterns, and - for a list of paths on standard input. The ending of --output
says what is written, a row an image: .csv, .jsonl or .parquet; without --output rows are printed. --model is what
scripts/export.py wrote: a SavedModel, .keras, .h5, .tflite or .onnx. Neither the training data nor the pre-trained
weights are needed; of a session whose backbone is a model file, that is. Averaged over views, as in
scripts/evaluate.py: --gin_param='train.evaluation_views = @five_crop()'
Exit status 0: at least one image has a prediction; those that do not decode are named, with the reason.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gin
import numpy as np
from absl import flags

from data.augment.views import Views
from data.errors import UserError
from data.names import printable
from trainer import answers, devices, prediction, trained
from trainer.exporting import reading
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.trained import Trained
from trainer.workdir import Workdir

# Image -> logits, or None and why there are none; and what gave them.
Told = tuple[Iterator[tuple[str, np.ndarray | None, str]], str]


def main(paths: Sequence[str]) -> int:
    if flags.FLAGS.model and flags.FLAGS.workdir:
        raise UserError(
            "both --model and --workdir", where="command line", expected="one of them", do="leave out the other"
        )
    meaning, start = _export() if flags.FLAGS.model else _session()
    rows = answers.Answers(meaning, top_k=flags.FLAGS.top_k, threshold=flags.FLAGS.threshold)
    paths = prediction.given(paths)
    if not paths:
        raise UserError("no image is named", where="command line", expected="files or folders", do="name some")
    console, good, reasons = Console(), 0, {}
    with _writer(flags.FLAGS.output, rows.columns, console, lists=meaning.task == "multi_label") as write:
        told, source = start(prediction.listed(paths), console)
        for name, logits, reason in told:
            row = {"reason": reason} if logits is None else rows.row(logits)
            reasons[name] = row.get("reason", "")
            good += "reason" not in row
            write({"name": printable(name), **row})
        console.close()
        prediction.tell_bad(reasons, console)
    where = f", in {flags.FLAGS.output}" if flags.FLAGS.output else ""
    console.say(f"{good} of {len(reasons)} images{where}, with {source}")
    return 0


def _session() -> tuple[Meaning, Callable[[dict[str, str], Console], Told]]:
    workdir = Workdir.existing(launch.required("workdir"))
    # What it says of its data is of no use here; what the command line says has to be.
    recipe = launch.session_recipe(flags.FLAGS.gin_file or [str(workdir.config)], flags.FLAGS.gin_param, Recipe)
    meaning = Meaning.of(workdir)
    which = {"checkpoint": flags.FLAGS.checkpoint, "weights": flags.FLAGS.weights}
    opened = Trained.opened(workdir, recipe, **which, device_spec=flags.FLAGS.devices)
    return meaning, lambda images, console: (trained.predict(opened, meaning, images, console), str(opened.prefix))


def _export() -> tuple[Meaning, Callable[[dict[str, str], Console], Told]]:
    for flag, usual in (("checkpoint", "best"), ("weights", None)):
        if getattr(flags.FLAGS, flag) != usual:
            raise UserError(
                f"--{flag} beside --model",
                where="command line",
                expected="an export, which has one set of weights",
                do="leave it out",
            )
    views = _views()
    devices.set_up(flags.FLAGS.devices)
    opened = reading.open_export(flags.FLAGS.model)

    def start(images: dict[str, str], console: Console) -> Told:
        said = opened.predict([name for name, reason in images.items() if not reason], views=views)
        return prediction.in_order(images, said, console), str(opened.path)

    return opened.meaning, start


def _views() -> Views:
    """The one thing that gin says of predictions with an export."""
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    ours = {binding for binding in launch.bindings() if binding[1] == "evaluation_views"}
    views = launch.call(gin.get_bindings, "train").get("evaluation_views", Views())
    if not isinstance(views, Views):
        raise UserError(
            f"train.evaluation_views = {views!r}",
            where="gin binding train.evaluation_views",
            expected="@views() or @five_crop()",
            do="--gin_param='train.evaluation_views = @five_crop()'",
        )
    launch.check_consumed(but=ours)
    return views


@contextlib.contextmanager
def _writer(
    output: str | None, columns: Sequence[str], console: Console, *, lists: bool
) -> Iterator[Callable[[dict], None]]:
    if output:
        with answers.writer(Path(output).expanduser(), columns, lists=lists) as write:
            yield write
    else:
        yield lambda row: "reason" in row or console.say(answers.sentence(row))


def run() -> None:
    """Entry point of `onward-predict`."""
    launch.define_flags()
    flags.DEFINE_string("model", None, "What scripts/export.py wrote, in place of --workdir.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    flags.DEFINE_string("output", None, "File for the predictions, .csv, .jsonl or .parquet; by default printed.")
    flags.DEFINE_integer("top_k", None, "Classes an image, the most probable ones first; by default 1.")
    flags.DEFINE_float("threshold", None, "Of binary and multi-label: probability above which a class is predicted.")
    launch.run(main, positional=True)


if __name__ == "__main__":
    run()
