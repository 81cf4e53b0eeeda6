"""Exports as a source of predictions, without their session."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf

from data.augment.views import Views
from data.decode import Decoding
from data.errors import UserError
from data.examples import TASKS
from data.inspection import Looker, in_order
from trainer import init_from, manifest, metrics
from trainer.exporting import alone
from trainer.exporting.formats import FORMATS, silence
from trainer.exporting.preprocessing import Preprocessing
from trainer.prediction import Meaning

BATCH = 32
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Opened:
    """An export that can be asked.

    Attributes:
        path: where it lies.
        meaning: what its outputs stand for.
        preprocessing: what makes its pixels of an image.
        logits: [B, S, S, 3] float32 in 0..255 -> [B, outputs].
    """

    path: Path
    meaning: Meaning
    preprocessing: Preprocessing
    logits: alone.Predict

    def predict(self, paths: Sequence[str], *, views: Views) -> Iterator[tuple[np.ndarray | None, str]]:
        """What it says of each image, in their order; of several views their mean prediction.

        Yields:
            logits [K] float32 and an empty reason, or None and why there are none.
        """
        for some in batched(shown(self.preprocessing, paths, views=views)):
            good = [pixels for pixels, _ in some if pixels is not None]
            answers = iter(self._mean(np.stack(good)) if good else [])
            for pixels, reason in some:
                yield (None if pixels is None else next(answers)), reason

    def _mean(self, pixels: np.ndarray) -> np.ndarray:
        """[B, V, S, S, 3] -> [B, K]."""
        told = [self.logits(np.ascontiguousarray(pixels[:, view])) for view in range(pixels.shape[1])]
        if len(told) == 1:
            return told[0]
        return metrics.mean_prediction(tf.constant(np.stack(told)), task=self.meaning.task).numpy()


def shown(
    preprocessing: Preprocessing, paths: Sequence[str], *, views: Views | None = None
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Images as pixels, decoded on all cores in their order.

    Yields:
        [V, S, S, 3] float32 and an empty reason, or None and why there are none.
    """
    decode = preprocessing.decoder(views)
    looker = Looker(Decoding(preprocessing.short_side, preprocessing.background))

    def pixels(path: str) -> tuple[np.ndarray | None, str]:
        try:
            if os.path.isfile(path):
                return decode(Path(path).read_bytes()), ""
        except (OSError, tf.errors.OpError):
            pass
        return None, looker.file(os.fsencode(path)).reason or "could not be decoded"

    return in_order(pixels, paths)


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The same items in lists of BATCH."""
    remaining = iter(items)
    while some := list(itertools.islice(remaining, BATCH)):
        yield some


def open_export(name: str) -> Opened:
    """An export by its path, with what `scripts/export.py` wrote beside it.

    A SavedModel is a program: only open those that you trust. Of a `.keras` file nothing runs (`safe_mode`).

    Raises:
        UserError: there is none, it is damaged, or holds weights alone.
    """
    path = Path(name).expanduser().absolute()
    if not path.exists():
        raise UserError(
            f"there is nothing at {path}", where="--model", expected="a file or folder", do="correct the path"
        )
    kind, meaning, preprocessing, checksum = _described(path)
    if FORMATS[kind].rebuild is not None:
        raise UserError(
            f"{path.name} holds weights and no network",
            where="--model",
            expected=", ".join(known for known, form in FORMATS.items() if form.rebuild is None),
            do="export the session in one of these formats, or name the session: --workdir",
        )
    if checksum is not None and checksum != manifest.sha256(path):
        raise _unreadable(path, "it has other content than when it was exported")
    try:
        with silence():
            logits = alone.LOADERS[kind](str(path))
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed",
            where="--model",
            expected="the package that runs this format",
            do="pip install 'onward[onnx]'",
        ) from error
    # What a library says of a damaged file is its own.
    except Exception as error:
        raise _unreadable(path, " ".join(str(error).split())[:300]) from error
    return Opened(path, meaning, preprocessing, logits)


def _described(path: Path) -> tuple[str, Meaning, Preprocessing, str | None]:
    """Its format, what it means and sees, and its checksum, if it is one file."""
    file = init_from.classes_file(path)
    try:
        facts = json.loads(file.read_text())
        kind, task, names = facts["format"], facts["task"], facts["classes"]
        if kind not in FORMATS or task not in TASKS or not isinstance(names, list) or not names:
            raise ValueError(f"format {kind!r}, task {task!r}, classes {names!r}")
        if not all(isinstance(each, str) for each in names) or (task == "binary" and len(names) != 2):
            raise ValueError(f"classes {names!r}")
        if bool(FORMATS[kind].suffix) == path.is_dir():
            raise ValueError(f"it is of the format {kind}")
        return kind, Meaning(task, tuple(names)), Preprocessing.read(facts["preprocessing"]), facts.get("sha256")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"what the export says of itself cannot be read: {error}",
            where=str(file),
            expected=f"{file.name} as scripts/export.py wrote it",
            do="export it again, or copy that file as well",
        ) from error


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"the export cannot be read: {reason}",
        where=str(path),
        expected="the file or folder as scripts/export.py wrote it",
        do="export it again",
    )
