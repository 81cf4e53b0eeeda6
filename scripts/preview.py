"""Shows what the network sees: examples beside what a policy makes of them, each operation by its magnitude, the range.

python scripts/preview.py --output=previews/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
python scripts/preview.py --workdir=runs/photos --examples=cat/1.jpg --examples=dog/2.jpg

Writes preview.png and preview.html into the folder --output, and nothing else. Each example is shown as the first
epochs of a training show it. Without a session in --workdir only the examples shown are looked at: as if all others
decode.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import io
import os
from pathlib import Path

from absl import flags

from data.errors import UserError
from data.examples import SPLITS
from trainer import devices, preview, preview_material
from trainer.recipe import Recipe
from trainer.reports import preview_page
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_bytes, write_text


def main() -> int:
    session = _session()
    output = _output()
    launch.parse_gin(flags.FLAGS.gin_file or [str(session.config)], flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    strategy = devices.set_up(flags.FLAGS.devices)
    console = Console()
    split = flags.FLAGS.split
    with preview_material.material(
        recipe,
        session,
        console,
        wanted=flags.FLAGS.examples or ["6"],
        draws=flags.FLAGS.draws,
        stage=flags.FLAGS.stage,
        split=split,
        replicas=strategy.num_replicas_in_sync,
    ) as material:
        _refuse_in(material.examples.root, output, session)
        found = preview.make(recipe, material, split=split)
    page, sheet = preview_page.render(found), io.BytesIO()
    preview_page.sheet(found).save(sheet, "PNG")
    _write(output, page, sheet.getvalue())
    console.close()
    console.header(found.facts)
    for sentence in found.warnings:
        console.say(f"warning: {sentence}", style="yellow")
    console.say(f"page: {output / 'preview.html'}")
    console.say(f"sheet: {output / 'preview.png'}")
    return 0


def _session() -> Workdir | None:
    """That of the workdir; None where a recipe is given and nothing has been trained yet."""
    workdir, recipe = flags.FLAGS.workdir, flags.FLAGS.gin_file
    if recipe and not (workdir and (Path(workdir).expanduser() / "examples.npz").exists()):
        return None
    return Workdir.existing(launch.required("workdir"))


def _output() -> Path:
    """The folder, which can be made and written: rendering for nothing would be a pity."""
    if not (flags.FLAGS.output or flags.FLAGS.workdir):
        raise UserError(
            "neither --output nor --workdir is given",
            where="command line",
            expected="a folder for preview.png and preview.html",
            do="--output=previews/NAME",
        )
    output = Path(flags.FLAGS.output or os.path.join(flags.FLAGS.workdir, "preview")).expanduser().absolute()
    there = next(path for path in (output, *output.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise _unwritable(f"{there} is no folder that this user can write")
    return output


def _refuse_in(root: str | None, output: Path, session: Workdir | None) -> None:
    """A picture among those of the data set would be one of them the next time."""
    if root is None or (session is not None and output.is_relative_to(session.path)):
        return
    if output.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(
            f"the folder {output} is in the data folder, {root}",
            where="--output, gin binding folder.root (data_dir)",
            expected="a folder elsewhere",
            do="--output=previews/NAME",
        )


def _write(output: Path, page: str, sheet: bytes) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_bytes(output / "preview.png", sheet)
        write_text(output / "preview.html", page)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise _unwritable(str(error)) from error


def _unwritable(reason: str) -> UserError:
    return UserError(
        f"the preview cannot be written: {reason}",
        where="--output",
        expected="a folder that this user can make and write",
        do="choose another --output",
    )


def run() -> None:
    """Entry point of `onward-preview`."""
    launch.define_flags()
    flags.DEFINE_string("output", None, "Folder for preview.png and preview.html; WORKDIR/preview where none is given.")
    flags.DEFINE_multi_string("examples", [], "How many (6), or the name or path of one; may be given several times.")
    flags.DEFINE_integer("draws", 6, "Draws of each example.", lower_bound=0)
    flags.DEFINE_string("stage", None, "Whose policy; the first stage that augments where none is given.")
    flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Where the examples are from.")
    launch.run(main)


if __name__ == "__main__":
    run()
