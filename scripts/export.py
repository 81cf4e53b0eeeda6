"""Writes the network of a session as files for other programs; also beside a training that runs.

python scripts/export.py --workdir=runs/photos --output=photos.keras
python scripts/export.py --workdir=runs/photos --output=served --output=photos.tflite --output=photos.int8.tflite new/

The ending of --output, which may be given several times, says what is written: .keras, .h5 (whole model, as Keras wrote
before), .weights.h5, .tflite, .int8.tflite (its scales from training images), .onnx (extra `onnx`), and of a folder a
SavedModel, or with --format=checkpoint a checkpoint. A SavedModel takes the bytes of image files and gives class names
and probabilities; the others are float32: RGB pixels in 0..255 [B, S, S, 3] -> logits [B, outputs], without softmax.
The normalisation is inside. Beside a file, NAME.classes.json says what the outputs stand for and how pixels are made;
in a folder, classes.json. What was written is read by a process that knows nothing of this project and compared with
the session, on the images that are named or on its own, before it is moved into place. scripts/predict.py --model reads
exports, scripts/train.py --init_from and model.weights take those of Keras and TensorFlow.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf
from absl import flags

from data.errors import UserError
from trainer import checkpoints, devices, prediction
from trainer.exporting import comparing, formats, network, writing
from trainer.exporting.network import Exported
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

# Images that formats of whole numbers choose their scales by.
CALIBRATION = 100


def main(paths: Sequence[str]) -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    outputs = _outputs()
    files = flags.FLAGS.gin_file or [str(workdir.config)]
    recipe = launch.session_recipe(files, flags.FLAGS.gin_param, Recipe)
    meaning = Meaning.of(workdir)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
    devices.set_up(flags.FLAGS.devices)
    # Or else GPUs would round what is compared to 1e-4.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    console = Console()
    exported = network.prepare(recipe, prefix, meaning, weights=flags.FLAGS.weights)
    if any(form.calibrated for form in outputs.values()):
        exported = _calibrated(exported, workdir, console)
    with _images(exported, workdir, paths, console) as (shown, where):
        agreements = writing.write(exported, outputs, shown, overwrite=flags.FLAGS.overwrite, console=console)
    weights = "moving average of the weights" if exported.group == "ema" else "weights"
    console.say(
        f"{weights} of {prefix}, {len(meaning.names)} classes; read by a process of its own and compared {where}"
    )
    for output, agreement in agreements.items():
        console.say(f"{output}: {agreement}")
    return 0


def _outputs() -> dict[Path, formats.Format]:
    if not flags.FLAGS.output:
        launch.required("output")
    if flags.FLAGS.format and len(flags.FLAGS.output) > 1:
        raise UserError(
            "--format beside several --output",
            where="command line",
            expected="endings that say the formats",
            do="leave out --format, or give one --output at a time",
        )
    outputs = [Path(output).expanduser().absolute() for output in flags.FLAGS.output]
    if len(set(outputs)) < len(outputs):
        raise UserError("an --output twice", where="command line", expected="different names", do="leave one out")
    return {output: formats.chosen_format(output, flags.FLAGS.format) for output in outputs}


def _calibrated(exported: Exported, workdir: Workdir, console: Console) -> Exported:
    try:
        images = comparing.session_images(exported.recipe, workdir, console, splits=["train"], count=CALIBRATION)
        with images as (_, paths):
            decode, content = exported.preprocessing.decoder(), []
            for path in paths:
                try:
                    encoded = Path(path).read_bytes()
                    decode(encoded)
                except (OSError, tf.errors.OpError):
                    continue
                content.append(encoded)
            if not content:
                raise UserError(
                    f"none of {len(paths)} decodes",
                    where=str(workdir.path),
                    expected="images that are whole",
                    do="put them back",
                )
    except UserError as error:
        raise UserError(
            f"the training images, by which whole numbers choose their scales, cannot be read: {error.found}",
            where=error.where,
            expected="the images where they were in training",
            do=f"{error.do}; or export it without rounding, as .tflite",
        ) from error
    return dataclasses.replace(exported, calibration=tuple(content))


@contextlib.contextmanager
def _images(
    exported: Exported, workdir: Workdir, paths: Sequence[str], console: Console
) -> Iterator[tuple[list[str], str]]:
    """Files to compare on, and a word on what they are."""
    count = flags.FLAGS.compare
    if paths:
        found = prediction.listed(prediction.given(paths))
        prediction.tell_bad(found, console)
        good = [name for name, reason in found.items() if not reason]
        yield [good[row] for row in comparing.evenly(len(good), count)], "on the images that were named"
        return
    with contextlib.ExitStack() as stack:
        try:
            images = comparing.session_images(exported.recipe, workdir, console, splits=comparing.COMPARED, count=count)
            split, shown = stack.enter_context(images)
            told = f"on images of the split {split}"
        except UserError as error:
            console.say(f"compared on random pixels, the session's images are gone: {error.found}", style="yellow")
            shown = stack.enter_context(comparing.random_images(exported.recipe.image_size))
            told = "on random pixels"
        yield shown, told


def run() -> None:
    """Entry point of `onward-export`."""
    launch.define_flags()
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_multi_string(
        "output", [], "What to write: a name with the ending of a format, or a folder; repeatable."
    )
    flags.DEFINE_string("format", None, f"{', '.join(formats.FORMATS)}; by default what the ending of --output says.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default the average if there is one.")
    flags.DEFINE_integer("compare", 100, "Images on which what was written is compared, at most.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Whether an earlier export of this name is replaced.")
    launch.run(main, positional=True)


if __name__ == "__main__":
    run()
