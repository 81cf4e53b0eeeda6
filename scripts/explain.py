"""Shows where in images a network finds what speaks for a class: Grad-CAM.

python scripts/explain.py --workdir=runs/photos --output=why new/ more/cat.jpg
python scripts/explain.py --workdir=runs/photos --output=why_glass --class_name=glass --layer=block10_add 'new/*.jpg'

Images as scripts/predict.py takes them: files, folders, patterns, - for standard input. Without --class_name the most
probable class of each image is explained. The folder --output, which has to be new or empty, gets a PNG an image (left
what the network sees, right the same with the map over it), index.html, and index.csv. Images that do not decode are
named and left out.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from data.errors import UserError
from data.names import printable
from trainer import answers, checkpoints, devices, explaining, prediction
from trainer.exporting import network
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_text

COLUMNS = ("name", "picture", "explained", "figure", "reason")


def main(paths: Sequence[str]) -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    output = Path(launch.required("output")).expanduser().absolute()
    recipe = launch.session_recipe(flags.FLAGS.gin_file or [str(workdir.config)], flags.FLAGS.gin_param, Recipe)
    meaning = Meaning.of(workdir)
    prefix = checkpoints.find(workdir.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
    paths = prediction.given(paths)
    if not paths:
        raise UserError("no image is named", where="command line", expected="files or folders", do="name some")
    devices.set_up(flags.FLAGS.devices)
    console = Console()
    images = prediction.listed(paths)
    exported = network.prepare(recipe, prefix, meaning, weights=flags.FLAGS.weights)
    named = {"class_name": flags.FLAGS.class_name, "layer": flags.FLAGS.layer}
    layer, found = explaining.explain(exported, images, **named)
    report, rows = console.count("explaining", len(images)), []
    with _folder(output) as folder:
        with answers.writer(folder / "index.csv", COLUMNS) as write:
            for number, each in enumerate(found, start=1):
                row = {"name": printable(each.name), "reason": each.reason}
                if each.picture is not None:
                    stem = re.sub(r"[^\w.-]+", "_", printable(Path(each.name).stem), flags=re.ASCII)[:60]
                    row |= {"picture": f"{number:04}-{stem}.png", "explained": printable(each.explained)}
                    row["figure"] = f"{each.figure:.4f}"
                    explaining.save(each.picture, folder / row["picture"])
                rows.append(row)
                write(row)
                report(number)
        console.close()
        prediction.tell_bad({row["name"]: row["reason"] for row in rows}, console)
        write_text(folder / "index.html", explaining.page(rows, layer=layer, source=printable(str(prefix))))
    for row in rows:
        if not row["reason"]:
            console.say(f"{row['name']}: {row['explained']} {row['figure']}")
    good = sum(not row["reason"] for row in rows)
    console.say(f"{good} of {len(rows)} images, by the layer {layer} of {prefix}")
    console.say(f"page: {output / 'index.html'}")
    return 0


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """A folder beside the output, moved there when all is written."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise FileExistsError(f"{output} is there already and is not empty")
        part.mkdir()
    except OSError as error:
        raise UserError(
            f"the explanations cannot be written: {error}",
            where="--output",
            expected="a new or empty folder, in one that is there and can be written",
            do="choose another --output",
        ) from error
    try:
        yield part
        os.replace(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def run() -> None:
    """Entry point of `onward-explain`."""
    launch.define_flags()
    flags.DEFINE_string("output", None, "Folder for the pictures and their index; new or empty.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    flags.DEFINE_string("class_name", None, "What to explain; by default the most probable class of each image.")
    flags.DEFINE_string("layer", None, "Whose feature map; by default the last one.")
    launch.run(main, positional=True)


if __name__ == "__main__":
    run()
