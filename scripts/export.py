"""Writes the network of a session as a file for other programs; also beside a training that runs.

python scripts/export.py --workdir=runs/photos --output=flowers.keras

The ending of --output says what is written: .keras, .h5 (whole model, as Keras wrote before), .weights.h5, and of a
folder a SavedModel, or with --format=checkpoint a checkpoint. Models are plain Keras in float32: RGB pixels in 0..255
[B, S, S, 3] -> logits [B, outputs], without softmax; the normalisation is their first layer. Beside a file,
NAME.classes.json says what the outputs stand for; in a folder, classes.json. What was written is read again and
compared before it is moved into place. scripts/train.py --init_from takes each of them, and so does model.weights.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from pathlib import Path

from absl import flags

from trainer import checkpoints, devices, export
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir


def main() -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    output = Path(launch.required("output")).expanduser().absolute()
    form = export.chosen_format(output, flags.FLAGS.format)
    files = flags.FLAGS.gin_file or [str(workdir.config)]
    recipe = launch.session_recipe(files, flags.FLAGS.gin_param, Recipe)
    meaning = Meaning.of(workdir)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
    devices.set_up(flags.FLAGS.devices)
    exported = export.prepare(recipe, prefix, meaning, weights=flags.FLAGS.weights)
    difference = export.write(exported, output, form, overwrite=flags.FLAGS.overwrite)
    weights = "moving average of the weights" if exported.group == "ema" else "weights"
    Console().say(
        f"{output}: {weights} of {prefix}, {len(meaning.names)} classes; read again, logits of random images differ by "
        f"{difference:.1e} at most"
    )
    return 0


def run() -> None:
    """Entry point of `onward-export`."""
    launch.define_flags()
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("output", None, "What to write: NAME.keras, NAME.h5, NAME.weights.h5, or a folder.")
    flags.DEFINE_string("format", None, f"{', '.join(export.FORMATS)}; by default what the ending of --output says.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default the average if there is one.")
    flags.DEFINE_bool("overwrite", False, "Whether an earlier export of this name is replaced.")
    launch.run(main)


if __name__ == "__main__":
    run()
