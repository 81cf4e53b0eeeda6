"""What a layer of a network says of each image, for other programs.

python scripts/extract.py --workdir=runs/photos --split=test --output=test.npz
python scripts/extract.py --gin_file=configs/features.gin --gin_param="data_dir = 'photos'" --output=photos.parquet
python scripts/extract.py --workdir=runs/photos --layer=block14_add --output=maps new/ more/cat.jpg

With --workdir the network of that session, as its best checkpoint has it; with --gin_file alone the pre-trained one. Of
the images of a split, of all images of the source, or of files and folders that are named. The ending of --output says
what is written: .npz, .parquet (a row an image), or without one a folder, flat files as a training keeps them, to be
mapped into memory: an extraction that was killed goes on there. Images that do not decode are named and left out.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf
from absl import flags

from data.errors import UserError
from data.frozen import Frozen
from trainer import checkpoints, data_setup, devices, extraction, features, prediction
from trainer.models.cut import up_to
from trainer.models.network import Network
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir


def main(paths: Sequence[str]) -> int:
    output = Path(launch.required("output")).expanduser().absolute()
    extraction.check_output(output)
    session = Workdir.existing(flags.FLAGS.workdir) if flags.FLAGS.workdir else None
    if session is None and not flags.FLAGS.gin_file:
        launch.required("workdir")
    if paths and flags.FLAGS.split:
        raise UserError(
            "both --split and images", where="command line", expected="one of them", do="leave out the other"
        )
    recipe = _recipe(session)
    console = Console()
    strategy = devices.set_up(flags.FLAGS.devices)
    frozen = _images(recipe, session, paths, console)
    network = _network(recipe, session, frozen, strategy)
    with strategy.scope():
        prefix = up_to(network, flags.FLAGS.layer)
    views = flags.FLAGS.views
    with _folder(output) as folder:
        store = features.prepare(
            recipe,
            prefix,
            frozen,
            data_setup.view(recipe, frozen),
            strategy=strategy,
            folder=folder,
            views=dict.fromkeys(frozen.parts(), views),
            dtype="float32",
            length=None,
            console=console,
        )
        known = extraction.columns(frozen, store, labelled=not paths)
        for row, broken in enumerate(known["broken"].tolist()):
            if broken:
                console.say(f"left out {known['names'][row]}: {prediction.GONE}", style="yellow")
        rows = int((~known["broken"]).sum())
        extraction.write(output, store, known, layer=prefix.layer, task=frozen.examples.task)
    shape = " x ".join(map(str, prefix.shape))
    console.say(f"{rows} rows of {shape} numbers, of {prefix.layer}, in {output}")
    return 0


def _recipe(session: Workdir | None) -> Recipe:
    """What it says of more than network, images and policy is of no use here; what the command line says has to be."""
    files = flags.FLAGS.gin_file or [str(session.config)]
    return launch.session_recipe(files, flags.FLAGS.gin_param, Recipe)


def _images(recipe: Recipe, session: Workdir | None, paths: Sequence[str], console: Console) -> Frozen:
    if paths:
        listed = prediction.listed(paths)
        report = console.count("decoding", sum(not reason for reason in listed.values()))
        frozen, reasons = prediction.looked_at(listed, recipe, report=report)
        console.close()
        for name, reason in reasons.items():
            if reason:
                console.say(f"left out {name}: {reason}", style="yellow")
        if not len(frozen.examples):
            raise UserError(
                f"none of {len(reasons)} images decodes",
                where="command line",
                expected="JPEG, PNG, WebP, BMP or GIF files that are whole, or folders of them",
                do="correct the paths, or mend the files",
            )
        return frozen
    if session is None:
        frozen = extraction.of_source(recipe, console)
    else:
        frozen = data_setup.open_data(recipe, session, console, resuming=True)
    return extraction.narrowed(frozen, flags.FLAGS.split)


def _network(recipe: Recipe, session: Workdir | None, frozen: Frozen, strategy: tf.distribute.Strategy) -> Network:
    architecture, outputs = recipe.model, frozen.examples.outputs
    if session is not None:
        # Every weight comes from the checkpoint; the file of the pre-trained ones may be gone.
        architecture, outputs = (
            dataclasses.replace(architecture, pretrained=None),
            prediction.Meaning.of(session).outputs,
        )
    with strategy.scope():
        network = architecture.build(image_size=recipe.image_size, classes=outputs, precision=recipe.precision)
    if session is not None:
        prefix = checkpoints.find(session.checkpoints, flags.FLAGS.checkpoint, weights=flags.FLAGS.weights)
        group = checkpoints.weights_group(prefix, flags.FLAGS.weights)
        checkpoints.restore_group(prefix, group, network.values())
    return network


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """Where the features are computed into: the output, or a folder beside it for a while."""
    if output.suffix not in extraction.FORMATS:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        yield Path(folder)


def run() -> None:
    """Entry point of `onward-extract`."""
    launch.define_flags()
    flags.DEFINE_string("split", None, "train, validation or test; by default all images of the source.")
    flags.DEFINE_string("layer", None, "Whose outputs; by default the mean over the last feature map of the backbone.")
    flags.DEFINE_integer("views", None, "Augmented views of each image; by default the plain image.", lower_bound=1)
    flags.DEFINE_string("output", None, "Where to write: a name in .npz or .parquet, or a folder.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
    flags.DEFINE_string("weights", None, "raw, or ema, their moving average; by default that where there is one.")
    launch.run(main, positional=True)


if __name__ == "__main__":
    run()
