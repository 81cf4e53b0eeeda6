"""What a network says of images nobody has labelled, seen exactly as an evaluation sees them."""

import dataclasses
import json
import os
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
from trainer.step import predictions
from trainer.workdir import Workdir

NOT_FINITE = "the network gives numbers that are not finite"
GONE = "could be read at first and cannot any more"


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


class Answers:
    """Logits as a row of a table for people.

    single_label: class, probability, class_2, probability_2, ...: the most probable ones.
    binary: class, probability_NAME of the class of 1.
    multi_label: class, a list of those above the threshold; probability_NAME of each.
    regression: value_NAME of each.
    And of all `name`, of the image, and `reason`, why it has no prediction.

    Args:
        top_k: classes of a single label; None: 1.
        threshold: the probability above which a class counts as predicted, binary and multi_label; None: 0.5, the
            decision that an evaluation counts.

    Raises:
        UserError: either is out of its range, or not of this task.
    """

    def __init__(self, meaning: Meaning, *, top_k: int | None = None, threshold: float | None = None):
        self._task, self._names = meaning.task, [printable(name) for name in meaning.names]
        self._top_k = 1 if top_k is None else top_k
        self._threshold = 0.5 if threshold is None else threshold
        most, decides = len(self._names), self._task in ("binary", "multi_label")
        single = self._task == "single_label"
        _expect("top_k", top_k, top_k is None or (single and 1 <= top_k <= most), f"1 to {most}", single, self._task)
        within = threshold is None or (decides and 0 <= threshold <= 1)
        _expect("threshold", threshold, within, "a probability, 0 to 1", decides, self._task)

    @property
    def columns(self) -> list[str]:
        """Names of all, in their order."""
        answer = self.row(np.zeros(1 if self._task == "binary" else len(self._names), np.float32))
        return ["name", *(name for name in answer if name != "reason"), "reason"]

    def row(self, logits: np.ndarray) -> dict[str, object]:
        """The columns that have a value, but for the name; [K] float32 logits."""
        if not np.isfinite(logits).all():
            return {"reason": NOT_FINITE}
        if self._task == "regression":
            return {f"value_{name}": short(value) for name, value in zip(self._names, logits, strict=True)}
        if self._task == "single_label":
            probabilities, answer = softmax(logits), {}
            for place, index in enumerate(np.argsort(-logits, kind="stable")[: self._top_k], start=1):
                which = "" if place == 1 else f"_{place}"
                answer |= {f"class{which}": self._names[index], f"probability{which}": short(probabilities[index])}
            return answer
        probabilities = [short(probability) for probability in sigmoid(logits)]
        with np.errstate(divide="ignore"):
            above = logits > np.log(self._threshold) - np.log1p(-self._threshold)
        if self._task == "binary":
            return {"class": self._names[int(above[0])], f"probability_{self._names[1]}": probabilities[0]}
        named = {f"probability_{name}": value for name, value in zip(self._names, probabilities, strict=True)}
        return {"class": [self._names[index] for index in np.flatnonzero(above)], **named}


def softmax(logits: np.ndarray) -> np.ndarray:
    """[K] -> [K] float64."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    return shares / shares.sum()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """[K] -> [K] float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def short(value: float) -> float:
    """The shortest number that float32 tells from all others."""
    return float(str(np.float32(value)))


def _expect(flag: str, value: object, holds: bool, expected: str, known: bool, task: str) -> None:
    if not holds:
        raise UserError(
            f"--{flag}={value}",
            where="command line",
            expected=expected if known else f"no --{flag} for the task {task}",
            do="correct it" if known else "leave it out",
        )
