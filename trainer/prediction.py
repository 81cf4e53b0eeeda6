"""What a network says of images nobody has labelled, seen exactly as an evaluation sees them."""

import dataclasses
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from data import npz
from data.errors import UserError
from data.examples import TASKS, Examples
from data.frozen import Frozen
from data.inspection import inspect
from data.names import SESSION_LOCK, STORE_LOCK, natural, printable
from data.pipeline import View
from data.sources.folder import IMAGE_SUFFIXES
from data.splits import TEST
from trainer import data_setup, evaluation
from trainer.models.network import Network
from trainer.recipe import Recipe
from trainer.rendering import evaluation_policy, rendering
from trainer.reports.console import Console
from trainer.step import predictions
from trainer.workdir import Workdir

GONE = "could be read at first and cannot any more"
# In place of a path: paths are read from standard input, a line each.
STANDARD_INPUT = "-"
LISTED = 10


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the outputs of a session's network stand for.

    Attributes:
        task: one of `data.examples.TASKS`.
        names: of K classes or numbers; two of a binary task, for 0 and for 1.
    """

    task: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, workdir: Workdir) -> "Meaning":
        """As the session has written it; its data may be gone.

        Raises:
            UserError: a file of the session is missing or damaged.
        """
        try:
            names = json.loads(workdir.classes.read_text())
            stored = npz.read(workdir.examples)
            task = str(stored["task"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
                raise ValueError(f"{workdir.classes.name} holds no list of names")
            if names != stored["class_names"].tolist():
                raise ValueError("they hold other names of classes")
            if task not in TASKS or (task == "binary" and len(names) != 2):
                raise ValueError(f"{len(names)} names for the task {task}")
        except (OSError, ValueError, LookupError, RecursionError) as error:
            raise UserError(
                f"what the outputs of the network stand for cannot be read: {error}",
                where=f"{workdir.classes}, {workdir.examples}",
                expected="the files as the session wrote them",
                do="put them back from a copy",
            ) from error
        return cls(task, tuple(names))

    @property
    def outputs(self) -> int:
        """Outputs of the network."""
        return 1 if self.task == "binary" else len(self.names)


def given(paths: Sequence[str]) -> list[str]:
    """Paths as a command line names them: patterns (`photos/**/*.jpg`) opened, `-` replaced by standard input.

    Standard input holds a path a line, or with a zero byte behind each, as `find -print0` writes them. A pattern that
    matches nothing, or that is the name of a file, stays as it is.
    """
    found = []
    for path in paths:
        if path == STANDARD_INPUT:
            lines = sys.stdin.buffer.read()
            lines = lines.split(b"\0") if b"\0" in lines else lines.splitlines()
            found += [os.fsdecode(line) for line in lines if line]
        else:
            pattern = not os.path.lexists(path) and glob.has_magic(path)
            found += (glob.glob(path, recursive=True) if pattern else []) or [path]
    return found


def listed(paths: Sequence[str]) -> dict[str, str]:
    """Every image that is named or lies below a folder that is named, in natural order.

    Files are taken whatever they are called; below folders those that end like images. What is hidden, and folders in
    which a session or a store is kept, are left out.

    Returns:
        name, as the path was given -> why it is not to be read; empty for those to be looked at.
    """
    found: dict[str, tuple[str, str]] = {}
    for path in paths:
        for name, reason in _below(path) if os.path.isdir(path) else [(path, "")]:
            # One entry a file, however many paths lead to it.
            found.setdefault(_absolute(name), (name, reason))
    return dict(sorted(found.values(), key=lambda entry: natural(entry[0])))


def _below(top: str) -> list[tuple[str, str]]:
    found = []

    def unreadable(error: OSError) -> None:
        found.append((error.filename, f"a folder that cannot be listed: {error.strerror}"))

    for folder, folders, files in os.walk(top, onerror=unreadable):
        below = [os.path.join(folder, name) for name in folders if not name.startswith(".")]
        found += [(path, "a link to a folder") for path in below if os.path.islink(path)]
        ours = [path for path in below if any(os.path.exists(f"{path}/{lock}") for lock in (SESSION_LOCK, STORE_LOCK))]
        folders[:] = [os.path.basename(path) for path in below if path not in ours]
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        found += [(os.path.join(folder, name), "") for name in images]
    return found or [(top, "a folder without images")]


def _absolute(path: str) -> str:
    # Without `normpath`: behind a link, `..` is another folder.
    return os.path.join(os.getcwd(), path)


def looked_at(
    images: dict[str, str], recipe: Recipe, *, report: Callable[[int], None] = lambda done: None
) -> tuple[Frozen, dict[str, str]]:
    """Decodes every image once.

    Args:
        images: as `listed` gives them.
        report: is told how many are done.

    Returns:
        the table of those that decode, in their order, its labels without meaning; and `images` with the reasons why
        others do not.
    """
    names = [name for name, reason in images.items() if not reason]
    table = Examples.of(
        names=[os.fsencode(_absolute(name)).lstrip(b"/") for name in names],
        labels=np.zeros(len(names), np.int32),
        class_names=[""],
        root="/",
    )
    decoding = data_setup.decoding(recipe)
    seen = inspect(table, decoding=decoding, report=report)
    good = seen.reasons == b""
    kept = dataclasses.replace(table, orientations=seen.orientations, kinds=seen.kinds).take(good)
    reasons = images | {names[row]: reason for row, reason in seen.bad.items()}
    return Frozen(kept, np.full(len(kept), TEST, np.int8), seen.take(good), decoding), reasons


def tell_bad(images: dict[str, str], console: Console) -> None:
    """A sentence on each image that has no prediction.

    Args:
        images: name -> why it has none.

    Raises:
        UserError: none has one.
    """
    bad = [f"{name}: {reason}" for name, reason in images.items() if reason]
    if len(bad) == len(images):
        more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise UserError(
            f"none of {len(bad)} images decodes: {printable('; '.join(bad[:LISTED]))}{more}",
            where="command line",
            expected="JPEG, PNG, WebP, BMP or GIF files that are whole, or folders of them",
            do="correct the paths, or mend the files",
        )
    for told in bad:
        console.say(f"no prediction for {told}", style="yellow")


def in_order(
    images: dict[str, str], said: Iterator[tuple[np.ndarray | None, str]], console: Console
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """Of every image in turn what is said of it, or why nothing is; shows how many are done.

    Args:
        images: as `listed` gives them.
        said: logits [K] float32 of each image that has no reason yet, or None; and why there are none.

    Yields:
        name; logits or None; and why there are none.
    """
    report, done = console.count("predicting", sum(not reason for reason in images.values())), 0
    for name, reason in images.items():
        logits = None
        if not reason:
            logits, reason = next(said)
            done += 1
            report(done)
        yield name, logits, reason


def predict(
    recipe: Recipe, network: Network, examples: Examples, view: View, *, strategy: tf.distribute.Strategy, task: str
) -> Iterator[tuple[np.ndarray, bool]]:
    """What the network says of each example, in the order of the table; of the views of the recipe, if it has any.

    Yields:
        logits [K] float32, and whether the image could not be read any more, so that they mean nothing.
    """
    rendered = rendering(recipe, evaluation_policy(recipe), samples=recipe.evaluation_samples)

    def of_replica(batch):
        return predictions(batch, network.model, rendered, task=task), batch["replaced"]

    @tf.function
    def step(batch):
        return strategy.run(of_replica, args=(batch,))

    batches, steps = evaluation.batches(recipe, examples, view, strategy=strategy)
    left = len(examples)
    for _ in range(steps):
        results = (strategy.experimental_local_results(part) for part in step(next(batches)))
        logits, broken = (np.concatenate([part.numpy() for part in parts])[:left] for parts in results)
        yield from zip(logits, broken.tolist(), strict=True)
        left -= len(logits)
