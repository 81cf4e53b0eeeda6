"""What a network says of each example of a table: gathered by an evaluation, written for reports, read again."""

import dataclasses
import functools
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from data import npz
from data.errors import UserError
from data.examples import TASKS, Examples
from trainer import calibration
from trainer.task_metrics import OF
from trainer.thresholds import OF_SCORES, areas
from trainer.workdir import write_bytes

FORMAT = 1
# Scores, examples x outputs, that are kept on the host: 256 MB. Beyond it what needs all of them is left out.
MOST_SCORES = 2**26
# Scores that are turned into probabilities at once.
PART = 2**22


class Outcomes:
    """Takes what the replicas say of the examples, in any order, each into its row.

    Args:
        examples: N of them.
        most: see MOST_SCORES.

    Attributes:
        examples: the table.
        seen: [N] bool; elsewhere there was no image.
        losses: [N] float32, not weighted, NaN where nothing was seen.
        predicted: [N] int32, of the tasks single_label and binary; -1 where nothing was seen. None of other tasks.
        predicted_probability, label_probability: [N] float32, likewise.
        logits: [N, outputs] float32; None if they are too many.
    """

    def __init__(self, examples: Examples, *, most: int = MOST_SCORES):
        count, task = len(examples), examples.task
        self.examples = examples
        self.seen = np.zeros(count, bool)
        self.losses = np.full(count, np.nan, np.float32)
        self.predicted, self.predicted_probability, self.label_probability = None, None, None
        if task in ("single_label", "binary"):
            self.predicted = np.full(count, -1, np.int32)
            self.predicted_probability, self.label_probability = self.losses.copy(), self.losses.copy()
        self.keeps_scores = count * examples.outputs <= most
        self.logits = np.full((count, examples.outputs), np.nan, np.float32) if self.keeps_scores else None

    def take(self, columns: Mapping[str, np.ndarray]) -> None:
        """Puts the results of some examples into their rows.

        Args:
            columns: position: [M] int64, rows of the table, padding behind its end; replaced: [M] int32, 1 where there
                was no image; logits: [M, outputs] float32; losses: [M] float32.
        """
        good = (columns["position"] < len(self.seen)) & (columns["replaced"] == 0)
        rows, logits = columns["position"][good], columns["logits"][good]
        self.seen[rows] = True
        self.losses[rows] = columns["losses"][good]
        if self.logits is not None:
            self.logits[rows] = logits
        if self.predicted is not None:
            shares = _shares(logits, self.examples.task)
            # Of a binary task the logit decides: a probability may be rounded to 1/2.
            binary = self.examples.task == "binary"
            self.predicted[rows] = predicted = logits[:, 0] > 0 if binary else logits.argmax(axis=1)
            each = np.arange(len(rows))
            self.predicted_probability[rows] = shares[each, predicted.astype(int)]
            self.label_probability[rows] = shares[each, self.examples.labels[rows]]

    def figures(self) -> dict[str, float]:
        """ROC-AUC and average precision: of class 1 of a binary task, else the mean over the classes that have them.

        What is undefined is left out: with no class that has it, beyond MOST_SCORES, where logits are not finite, and
        of regressions.
        """
        found = {name: values[~np.isnan(values)] for name, values in self._deciding().items()}
        return {name: float(values.mean()) for name, values in found.items() if values.size}

    def _deciding(self) -> dict[str, np.ndarray]:
        only = slice(1, None) if self.examples.task == "binary" else slice(None)
        return {name: values[only] for name, values in self.per_output.items()}

    @functools.cached_property
    def per_output(self) -> dict[str, np.ndarray]:
        """Both of each class, [K] float64, NaN where undefined (two of a binary task); empty if there are none at all.

        One class is told from all others by its probability.
        """
        rows = self.seen & (self.examples.weights > 0)
        if self.examples.task == "regression" or self.logits is None or not np.isfinite(self.logits[rows]).all():
            return {}
        return areas(self._classes(rows), self.examples.weights[rows].astype(np.float64))

    def _classes(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels, logits = self.examples.labels[rows], self.logits[rows]
        if self.examples.task == "multi_label":
            yield from zip(labels.T > 0.5, logits.T, strict=True)
        elif self.examples.task == "binary":
            yield from ((labels == label, sign * logits[:, 0]) for label, sign in ((0, -1), (1, 1)))
        else:
            top = logits.max(axis=1, initial=-np.inf).astype(np.float64)
            # In parts: in float64 at once it would be twice as much again.
            parts = np.array_split(np.arange(len(logits)), 1 + logits.size // PART)
            whole = np.concatenate([np.exp(logits[part] - top[part, None]).sum(axis=1) for part in parts])
            for label in range(logits.shape[1]):
                yield labels == label, np.exp(logits[:, label] - top) / whole

    def undefined(self) -> dict[str, list[str]]:
        """Names of the classes that each figure leaves out."""
        names = self.examples.class_names[-self.examples.outputs :]
        found = {figure: np.flatnonzero(np.isnan(values)) for figure, values in self._deciding().items()}
        return {figure: [names[index] for index in missing] for figure, missing in found.items() if missing.size}


def _shares(logits: np.ndarray, task: str) -> np.ndarray:
    """[M, K] float64 probabilities; two columns of a binary task."""
    logits = logits.astype(np.float64)
    if task == "binary":
        return expit(np.concatenate([-logits, logits], axis=1))
    return softmax(logits, axis=1)


def check_decides(by: str | None, examples: Examples) -> None:
    """Refuses a figure that evaluations of so many examples do not give.

    Args:
        by: `train.best_by`.
        examples: whose evaluations decide.

    Raises:
        UserError: see there.
    """
    if by in OF_SCORES and len(examples) * examples.outputs > MOST_SCORES:
        raise UserError(
            f"train.best_by = {by!r}, with {len(examples):,} examples x {examples.outputs:,} outputs in validation",
            where="gin binding train.best_by",
            expected=f"another figure: of more than {MOST_SCORES:,} scores it is not computed",
            do="train.best_by = 'accuracy', or a smaller share for validation",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """One evaluation, example by example: N examples in the order of the table, K classes or numbers.

    Attributes:
        task, class_names: as of `Examples`.
        split: its name.
        weights: `raw`, `ema`, or empty where there is one kind only.
        step: of the weights.
        root: folder of the images; empty where they are no files.
        figures: by name, ready for JSON.
        names, labels: as of `Examples`.
        example_weights: [N] float32.
        seen, losses, predicted, predicted_probability, label_probability: as of `Outcomes`.
        probabilities: [N, K] float32, of multi_label; None of other tasks, and beyond MOST_SCORES.
        predictions: [N, K] float32, of regression; likewise.
        confusion: [K, K] int64, of single_label and binary; counts, the true class in the row.
        calibration_weight, calibration_confidence, calibration_right: see `trainer.calibration`; None of regression.
        each: figures of each class or number by name, [K]; NaN where undefined.
    """

    task: str
    split: str
    weights: str
    step: int
    root: str
    class_names: tuple[str, ...]
    figures: dict[str, float | int]
    names: np.ndarray
    labels: np.ndarray
    example_weights: np.ndarray
    seen: np.ndarray
    losses: np.ndarray
    predicted: np.ndarray | None = None
    predicted_probability: np.ndarray | None = None
    label_probability: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    predictions: np.ndarray | None = None
    confusion: np.ndarray | None = None
    calibration_weight: np.ndarray | None = None
    calibration_confidence: np.ndarray | None = None
    calibration_right: np.ndarray | None = None
    each: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        outcomes: Outcomes,
        totals: Mapping[str, np.ndarray],
        *,
        split: str,
        step: int,
        weights: str | None,
        figures: Mapping[str, float | int],
    ) -> "Details":
        """All that is known after an evaluation.

        Args:
            totals: as `trainer.metrics` has them.
            figures: of the totals and of the outcomes.
        """
        examples = outcomes.examples
        logits = {
            "multi_label": lambda: {"probabilities": expit(outcomes.logits)},
            "regression": lambda: {"predictions": outcomes.logits},
        }
        scores = logits[examples.task]() if examples.task in logits and outcomes.keeps_scores else {}
        kept = ("seen", "losses", "predicted", "predicted_probability", "label_probability")
        return cls(
            task=examples.task,
            split=split,
            weights=weights or "",
            step=step,
            root="" if examples.root is None else str(examples.root),
            class_names=examples.class_names,
            figures=dict(figures),
            names=examples.names,
            labels=examples.labels,
            example_weights=examples.weights,
            each=OF[examples.task].per_output(totals) | outcomes.per_output,
            **{name: getattr(outcomes, name) for name in kept},
            **{name: totals[name] for name in ("confusion", *calibration.NAMES) if name in totals},
            **scores,
        )

    def write(self, path: Path) -> None:
        """Writes them as an `.npz` without pickles, whole or not at all; the folder is made."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        each, figures = columns.pop("each"), json.dumps(columns.pop("figures"), allow_nan=False)
        columns = {name: np.asarray(value) for name, value in columns.items() if value is not None}
        columns["class_names"] = np.asarray(self.class_names, np.str_)
        content = io.BytesIO()
        np.savez(content, format=FORMAT, figures=figures, **columns, **{f"each_{name}": each[name] for name in each})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content.getbuffer())


def read(path: Path) -> Details:
    """What `Details.write` wrote.

    Raises:
        UserError: it is missing, damaged, or of another version.
    """
    try:
        columns = npz.read(path)
        if int(columns.pop("format")) != FORMAT:
            raise ValueError("it is of another version")
        each = {name.removeprefix("each_"): columns.pop(name) for name in list(columns) if name.startswith("each_")}
        scalars = {name: str(columns.pop(name)) for name in ("task", "split", "weights", "root")}
        figures = json.loads(str(columns.pop("figures")))
        names = tuple(columns.pop("class_names").tolist())
        details = Details(
            **scalars, step=int(columns.pop("step")), figures=figures, class_names=names, each=each, **columns
        )
        _check(details)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the results of an evaluation cannot be read: {error}",
            where=str(path),
            expected="the file as training or scripts/evaluate.py --details wrote it",
            do=f"make it anew: scripts/evaluate.py --workdir={path.parent.parent} --split={path.stem} --details",
        ) from error
    return details


def _check(details: Details) -> None:
    """Raises ValueError unless columns and tables are of one length each, and of the task."""
    count, classes, task = len(details.names), len(details.class_names), details.task
    if task not in TASKS or not isinstance(details.figures, dict):
        raise ValueError(f"task {task}, figures {type(details.figures).__name__}")
    columns = ["labels", "example_weights", "seen", "losses"]
    if task in ("single_label", "binary"):
        columns += ["predicted", "predicted_probability", "label_probability"]
        if details.confusion.shape != (classes, classes):
            raise ValueError(f"a confusion matrix of shape {details.confusion.shape}")
    if any(len(getattr(details, name)) != count for name in columns):
        raise ValueError("its columns differ in length")
    if any(len(values) != classes for values in details.each.values()):
        raise ValueError("its figures of each class differ in length")
