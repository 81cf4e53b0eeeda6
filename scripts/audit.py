"""Looks at every image of a data set once: bad files, duplicates, conflicting labels, classes, sizes.

python scripts/audit.py --workdir=audits/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"

Writes WORKDIR/audit.json and WORKDIR/audit.html. What was found of each image is noted in WORKDIR/audit.jsonl: the same
command again goes on where it was stopped, and later only looks at files that are new or have changed.
Exit status 0: the audit is done, whatever it found.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import os
import warnings
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from data import audit, examination
from data.errors import UserError
from data.examples import Examples, Stream
from data.findings import Journal
from data.inspection import Looker
from data.splits import TRAIN
from trainer import data_setup, devices
from trainer.recipe import Recipe
from trainer.reports import audit_page
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_json, write_text


def main() -> int:
    path = launch.required("workdir")
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    devices.set_up(flags.FLAGS.devices)
    source = launch.call(recipe.source)
    _check(source, path)
    if isinstance(source, Examples):
        # What is wrong with the recipe is said before hours of decoding.
        _split(recipe, source)
    workdir = Workdir(path)
    workdir.own()
    # A size that is worth a warning is in the report.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    console = Console()
    decoding = data_setup.decoding(recipe)
    journal = Journal(workdir.path / "audit.jsonl", examination.facts(source, decoding=decoding))
    try:
        _audit(recipe, source, journal, workdir, console)
    except KeyboardInterrupt:
        console.close()
        console.say(f"stopped; what was found is in {journal.path}: the same command goes on from there")
        return launch.STOPPED
    finally:
        console.close()
        journal.close()
    return 0


def _audit(recipe: Recipe, source: Examples | Stream, journal: Journal, workdir: Workdir, console: Console) -> None:
    decoding = data_setup.decoding(recipe)
    looker = Looker(decoding)
    total = source.count if isinstance(source, Stream) else len(source)
    report = {} if total is None else {"report": console.count("looking at images", total)}
    examples = examination.examine(source, journal, looker=looker, **report)
    split = _split(recipe, examples)
    document = audit.audit(examples, split, journal.columns(examples.names), decoding=decoding)
    page = audit_page.render(document, thumbnails=audit_page.thumbnails(document, source, looker=looker))
    write_json(workdir.path / "audit.json", document)
    write_text(workdir.path / "audit.html", page)
    console.close()
    console.header(audit_page.summary(document))
    console.say(f"page: {workdir.path / 'audit.html'}")


def _split(recipe: Recipe, examples: Examples) -> np.ndarray:
    """The split; by now the recipe has been asked for everything that an audit needs."""
    split = launch.call(recipe.split, examples)
    # Only so that its bindings count as used: they are of training.
    launch.call(recipe.sampling, examples.take(split == TRAIN))
    launch.check_consumed()
    return split


def _check(source: Examples | Stream, path: str) -> None:
    if isinstance(source, Stream):
        return
    if not len(source) and not source.refused:
        raise UserError(
            "the source has no examples",
            where="gin binding train.source",
            expected="at least one image",
            do="correct the source",
        )
    if source.root is None:
        if source.pixels is None:
            raise UserError(
                "the source is a store; its images have been looked at when it was packed",
                where="gin binding train.source",
                expected="a source of files, arrays or records",
                do="audit the source that the store was packed from",
            )
        return
    workdir = os.path.realpath(Path(path).expanduser())
    inside = os.fsencode(os.path.relpath(workdir, os.path.realpath(source.root)))
    if inside == b"." or any(name.startswith(inside + b"/") for name in source.names.tolist()):
        raise UserError(
            f"the workdir {workdir} holds images of the data set",
            where="--workdir",
            expected="a folder of its own",
            do="--workdir=audits/NAME",
        )


def run() -> None:
    """Entry point of `onward-audit`."""
    launch.define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
