"""The data of a session: found, split, checked once, frozen."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import decode, pipeline
from data import examples as tables
from data.errors import UserError
from data.examples import Examples, Frozen
from data.pipeline import View
from data.splits import TRAIN
from trainer import launch
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

LISTED = 10


def open_data(recipe: Recipe, workdir: Workdir, console: Console, *, resuming: bool) -> Frozen:
    """The frozen table of the session; on the first start the source's, with every file decoded once.

    Raises:
        UserError: no data, images that do not decode, or data that is not that of the session.
    """
    short = short_side(recipe)
    found = _in_memory(_checked(launch.call(recipe.source), workdir), short)
    if resuming:
        frozen = tables.restore(workdir.examples, found)
        # The split is the frozen one. The rule still takes its bindings, so that they are part of every config.
        launch.call(recipe.split, frozen.examples)
        if short == frozen.short_side:
            return frozen
        sizes, bad = _sizes(frozen.examples, short, console)
        if bad:
            raise bad_images(frozen.examples, bad)
        return dataclasses.replace(frozen, sizes=sizes, short_side=short)
    split = launch.call(recipe.split, found)
    sizes, bad = _sizes(found, short, console)
    if bad and recipe.bad_images == "refuse":
        raise bad_images(found, bad)
    for row, reason in bad.items():
        console.say(f"left out {found.where(row)}: {reason}", style="yellow")
    good = np.setdiff1d(np.arange(len(found)), np.array(list(bad), int))
    kept = found.take(good)
    if kept.pixels is None:
        kept = dataclasses.replace(kept, orientations=decode.orientations(kept))
    for label in np.setdiff1d(np.arange(len(found.class_names)), kept.labels):
        raise UserError(
            f"no image of the class {found.class_names[label]} decodes",
            where=str(found.root),
            expected="at least one good image per class",
            do="replace the images, or list the classes wanted in folder.class_names",
        )
    if not (split[good] == TRAIN).any():
        raise UserError(
            "no image of the split train decodes",
            where=str(found.root),
            expected="at least one good image to train on",
            do="replace the images, or lower the shares of validation and test",
        )
    return Frozen(kept, split[good], sizes[good], short)


def _checked(found: Examples, workdir: Workdir) -> Examples:
    shape = (1, 1) if found.pixels is None else found.pixels.shape[1:3]
    if len(found.class_names) < 2 or not len(found) or 0 in shape:
        raise UserError(
            f"{len(found)} examples of the classes {list(found.class_names)}, images of {shape[0]} x {shape[1]}",
            where="gin binding train.source",
            expected="at least two classes, and images with pixels",
            do="correct the source",
        )
    if found.root is not None and workdir.path.resolve() == Path(found.root).resolve():
        raise UserError(
            f"the workdir is the data folder, {found.root}",
            where="--workdir, gin binding folder.root (data_dir)",
            expected="a workdir of its own",
            do="--workdir=runs/NAME",
        )
    return found


def _in_memory(found: Examples, short: int) -> Examples:
    if found.pixels is None:
        return found
    return dataclasses.replace(found, pixels=decode.shrink_array(found.pixels, short_side=short))


def _sizes(examples: Examples, short: int, console: Console) -> tuple[np.ndarray, dict[int, str]]:
    """Height and width of each canvas, and why the bad ones are bad."""
    if examples.pixels is not None:
        return np.tile(np.int32(examples.pixels.shape[1:3]), (len(examples), 1)), {}
    try:
        return decode.inspect(examples, short_side=short, report=console.count("decoding", len(examples)))
    finally:
        console.close()


def untrained_classes(frozen: Frozen) -> list[str]:
    """Classes without an example in train: the model cannot learn them."""
    trained = np.unique(frozen.parts()["train"].labels)
    return [name for label, name in enumerate(frozen.examples.class_names) if label not in trained]


def short_side(recipe: Recipe) -> int:
    """Pixels that the short side of an image must have to fill the view without enlarging."""
    return math.ceil(recipe.image_size / recipe.crop)


def view(recipe: Recipe, frozen: Frozen) -> View:
    """How the pipeline shows these canvases to the network."""
    return View(
        image_size=recipe.image_size,
        fit=recipe.fit,
        crop=recipe.crop,
        colour=recipe.model.backbone.colour,
        short_side=short_side(recipe),
        capacity=int(frozen.sizes.astype(np.int64).prod(axis=1).max()),
    )


def stream(recipe: Recipe, examples: Examples, view: View, *, strategy: tf.distribute.Strategy, step: int) -> Iterator:
    """The training batches of every replica from a step on."""
    dataset = strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_batches(
            examples,
            start=step * recipe.batch_size,
            batch=recipe.batch_size // strategy.num_replicas_in_sync,
            seed=recipe.seed,
            policy=recipe.policy,
            view=view,
        )
    )
    return iter(dataset)


def broken(examples: Examples, view: View) -> UserError | None:
    """The error that names those of a session's images that broke after its start; None if none did."""
    if examples.pixels is not None:
        return None
    sizes, bad = decode.inspect(examples, short_side=view.short_side)
    for row in np.flatnonzero(sizes.astype(np.int64).prod(axis=1) > view.capacity):
        bad[int(row)] = "larger than any image when the session started"
    return bad_images(examples, bad, do="put the images back as they were, or start a new --workdir") if bad else None


def bad_images(
    examples: Examples,
    bad: dict[int, str],
    *,
    do: str = "replace or remove them, or start with --gin_param=\"train.bad_images = 'drop'\"",
) -> UserError:
    """The error that names images which do not decode."""
    listed = "; ".join(f"{examples.where(row)}: {reason}" for row, reason in list(bad.items())[:LISTED])
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return UserError(
        f"{len(bad)} of {len(examples)} images do not decode: {listed}{more}",
        where=str(examples.root),
        expected="JPEG, PNG, BMP or GIF files that are whole",
        do=do,
    )
