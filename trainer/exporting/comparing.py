"""Whether exports say what the session says: read by a process of their own, asked about real images."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from data.augment.views import Views
from data.errors import RunFailure, UserError
from data.examples import Examples
from trainer import answers, data_setup, prediction
from trainer.exporting import alone
from trainer.exporting.formats import Format
from trainer.exporting.network import Exported
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

# How far probabilities (of a regression: values, relative to the largest, at least 1) may be from the session's.
TOLERANCE = 1e-4
# Share of the images about which a network of whole numbers has to decide as the session does.
SAME = 0.95
# Of a regression, how far that may be off: a share of the span of the session's values.
SPAN = 0.05
# Random images, where there are no others.
RANDOM = 16
# Splits in the order in which one is chosen to compare on.
COMPARED = ("test", "validation", "train")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What an export says of N images against what the session says.

    Attributes:
        images: N.
        difference: the largest of a probability, or of a value of a regression.
        same: images about which both decide alike.
        limit: what `difference` may be; None: `same` has to reach SAME of the images.
    """

    images: int
    difference: float
    same: int
    limit: float | None

    @property
    def holds(self) -> bool:
        """Whether that is near enough."""
        if self.limit is None:
            return self.same >= max(1, int(SAME * self.images))
        return self.difference <= self.limit

    def __str__(self) -> str:
        if self.limit is None:
            return (
                f"the decision is the same for {self.same} of {self.images} images, probabilities differ by "
                f"{self.difference:.1e} at most"
            )
        return f"probabilities of {self.images} images differ by {self.difference:.1e} at most"


@contextlib.contextmanager
def session_images(
    recipe: Recipe, workdir: Workdir, console: Console, *, splits: Sequence[str], count: int
) -> Iterator[tuple[str, list[str]]]:
    """Files with images of a session, evenly out of the first of these splits that has some.

    Images that are in memory or in a store are written beside, as they are.

    Yields:
        the split, and at most `count` paths.

    Raises:
        UserError: the images of the session are not there any more.
    """
    parts = data_setup.open_data(recipe, workdir, console, resuming=True).parts()
    split = next(name for name in splits if name in parts)
    examples = parts[split]
    rows = evenly(len(examples), count)
    with tempfile.TemporaryDirectory() as folder:
        if examples.root is not None:
            paths = [os.path.join(examples.root, os.fsdecode(bytes(examples.names[row]))) for row in rows]
        else:
            paths = [_written(examples, row, Path(folder) / f"{row}.png") for row in rows]
        yield split, paths


def evenly(total: int, count: int) -> np.ndarray:
    """Indexes of at most `count` of so many things, from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)


def _written(examples: Examples, row: int, path: Path) -> str:
    """The canvas of an example as a file that is shown the same way."""
    if examples.store is None:
        pixels = examples.pixels[row]
    else:
        canvas, size = examples.store.canvases()(tf.constant(examples.store_rows[row]))
        pixels = canvas.numpy().reshape(*size.numpy(), 3)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = int(examples.orientations[row])
    grey = pixels.shape[-1] == 1
    Image.fromarray(pixels[..., 0] if grey else pixels).save(path, exif=turned)
    return str(path)


@contextlib.contextmanager
def random_images(size: int) -> Iterator[list[str]]:
    """Files with noise, for sessions whose images are gone."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{number}.png") for number in range(RANDOM)]
        for path in paths:
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        yield paths


def compare(
    exported: Exported, exports: Mapping[Path, Format], paths: Sequence[str], *, console: Console | None = None
) -> dict[Path, Agreement]:
    """Asks every export in a process that cannot import this project, and the session's own network in this one.

    The session answers as scripts/predict.py does, in float32. A SavedModel gets the bytes of the images (and says the
    same of their pixels), all others the pixels that `Preprocessing` makes of them.

    Args:
        exports: where it lies -> its format.
        paths: images; those that do not decode are left out.

    Raises:
        UserError: none decodes, or a file cannot be read by itself.
        RunFailure: the process failed.
    """
    console = console or Console()
    recipe = dataclasses.replace(exported.recipe, evaluation_views=Views(), features=None)
    table, images = prediction.looked_at(prediction.listed(paths), recipe)
    prediction.tell_bad(images, console)
    names = [os.fsencode("/") + bytes(name) for name in table.examples.names]
    task = exported.meaning.task
    told = prediction.predict(
        recipe,
        exported.network,
        table.examples,
        data_setup.view(recipe, table),
        strategy=tf.distribute.get_strategy(),
        task=task,
    )
    expected = shares(np.stack([logits for logits, _ in told]), task)
    with tempfile.TemporaryDirectory() as folder:
        decode = exported.preprocessing.decoder()
        shown = np.stack([decode(Path(os.fsdecode(name)).read_bytes())[0] for name in names])
        found = _asked(exported, exports, shown, [os.fsdecode(name) for name in names], Path(folder))
    agreements = {}
    for path, form in exports.items():
        if form.name == "saved_model":
            served = found[path].pop("served")
            found[path]["served"] = served[:, 1:] if task == "binary" else served
        logits = found[path].pop("logits")
        both = [shares(logits, task), *found[path].values()]
        largest = max(float(np.max(np.abs(each - expected))) for each in both)
        scale = max(1.0, float(np.max(np.abs(expected))))
        same = int(np.min([_same(each, expected, task).sum() for each in both]))
        agreements[path] = Agreement(len(names), largest, same, None if form.rounded else TOLERANCE * scale)
    return agreements


def _asked(
    exported: Exported, exports: Mapping[Path, Format], pixels: np.ndarray, images: list[str], folder: Path
) -> dict[Path, dict[str, np.ndarray]]:
    np.save(folder / "pixels.npy", pixels)
    entries, alien = {}, []
    for number, (path, form) in enumerate(exports.items()):
        answers_file = str(folder / f"{number}.npz")
        try:
            entries[str(path)] = {
                "kind": form.name, "path": str(path), "answers": answers_file, **form.facts(exported)
            }  # fmt: skip
        except (TypeError, ValueError, NotImplementedError):  # Layers that cannot say what they are.
            alien.append(path)
    told = fresh({"pixels": str(folder / "pixels.npy"), "images": images, "exports": entries}, folder)
    found = {}
    for path, form in exports.items():
        wrong = told.get(str(path), "layers that Keras cannot make by itself")
        if not wrong:
            with np.load(entries[str(path)]["answers"]) as stored:
                found[path] = dict(stored)
        elif form.rebuild is not None:
            predict = form.rebuild(exported, path)
            starts = range(0, len(pixels), alone.BATCH)
            found[path] = {"logits": np.concatenate([predict(pixels[at : at + alone.BATCH]) for at in starts])}
        else:
            raise UserError(
                f"this network cannot be read by itself: {wrong}",
                where=f"the export as {form.name}",
                expected="layers that Keras, or the library of the format, can make by itself",
                do="choose --format=weights, saved_model or checkpoint",
            )
    return found


def fresh(request: Mapping[str, object], folder: Path) -> dict[str, str]:
    """What `alone.answer` says of a request, in a process of its own on the CPU.

    Raises:
        RunFailure: it ended without an answer.
    """
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-I", alone.__file__, str(file)],
        cwd=folder,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise RunFailure(
            f"the process that reads the exports again failed: {last[0]}",
            where=alone.__file__,
            expected="memory for a second process",
            do="run the same command again with less beside it",
        )
    return json.loads(file.with_name(f"{file.name}.told").read_text())


def shares(logits: np.ndarray, task: str) -> np.ndarray:
    """[N, K] logits -> [N, K] float64 probabilities, of a binary task those of the class of 1; or the values."""
    if task == "regression":
        return logits.astype(np.float64)
    each: Callable[[np.ndarray], np.ndarray] = answers.softmax if task == "single_label" else answers.sigmoid
    return np.stack([each(row) for row in logits])


def _same(found: np.ndarray, expected: np.ndarray, task: str) -> np.ndarray:
    """[N] bool, whether both decide alike."""
    if task == "single_label":
        return found.argmax(axis=1) == expected.argmax(axis=1)
    if task == "regression":
        return (np.abs(found - expected) <= SPAN * np.ptp(expected, axis=0)).all(axis=1)
    return ((found > 0.5) == (expected > 0.5)).all(axis=1)
