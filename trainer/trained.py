"""A session that has been trained, opened at one of its checkpoints: what it says of a split, and of other images."""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.errors import UserError
from data.examples import Examples
from data.pipeline import View
from trainer import checkpoints, data_setup, devices, failures, launch, losses, metrics, prediction
from trainer.evaluation import Evaluator
from trainer.models.network import Network
from trainer.outcomes import Details, Outcomes
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """Where it lies, and what it is made of.

    Attributes:
        prefix: of the checkpoint.
        group: of its variables, see `checkpoints.weights_group`.
    """

    workdir: Workdir
    recipe: Recipe
    strategy: tf.distribute.Strategy
    prefix: Path
    group: str

    @classmethod
    def opened(
        cls, workdir: Workdir, recipe: Recipe, *, checkpoint: str = "best", weights: str | None = None, device_spec: str
    ) -> "Trained":
        """Finds the checkpoint and sets up the devices.

        Args:
            recipe: of the session.
            checkpoint: as `checkpoints.find` takes it.
            weights: `raw` or `ema`; None: the average where there is one.
            device_spec: as `--devices` gives it.

        Raises:
            UserError: no such checkpoint or weights, it is damaged, or the devices are not there.
        """
        prefix = checkpoints.find(workdir.checkpoints, checkpoint, weights=weights)
        group = checkpoints.weights_group(prefix, weights)
        # Before any data: TensorFlow cannot change its devices once something has used them.
        strategy = devices.set_up(device_spec)
        return cls(workdir=workdir, recipe=recipe, strategy=strategy, prefix=prefix, group=group)

    @property
    def step(self) -> int:
        """Of the checkpoint."""
        return int(self.prefix.name.removeprefix("ckpt-"))

    def network(self, outputs: int) -> Network:
        """The network with the weights of the checkpoint.

        Raises:
            UserError: they do not fit.
        """
        with self.strategy.scope():
            # Every weight comes from the checkpoint; the file of the pre-trained ones may be gone.
            architecture = dataclasses.replace(self.recipe.model, pretrained=None)
            size = {"image_size": self.recipe.image_size, "classes": outputs}
            network = architecture.build(**size, precision=self.recipe.precision)
        checkpoints.restore_group(self.prefix, self.group, network.values())
        return network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation of one split has given.

    Attributes:
        examples: of the split.
        view: how they were seen.
        totals: as `trainer.metrics` has them.
    """

    examples: Examples
    view: View
    outcomes: Outcomes
    totals: dict[str, np.ndarray]
    details: Details


def evaluate(trained: Trained, console: Console, *, split: str | None = None) -> Evaluation:
    """Evaluates a split of the session, exactly.

    Args:
        split: None: test, or else validation, or else train.

    Raises:
        UserError: the session's data cannot be found, or has no such split; a binding that nothing uses.
        RunFailure: the loss is not finite.
    """
    recipe, workdir = trained.recipe, trained.workdir
    frozen = data_setup.open_data(recipe, workdir, console, resuming=True)
    task, outputs, parts = frozen.examples.task, frozen.examples.outputs, frozen.parts()
    loss = launch.call(partial(losses.chosen, outputs=outputs), recipe.loss, task)
    # The rule still takes its bindings, which are part of every config.
    launch.call(recipe.sampling, parts["train"])
    launch.check_consumed()
    split = split or next(name for name in ("test", "validation", "train") if name in parts)
    if split not in parts:
        raise UserError(
            f"the session has no examples in the split {split!r}",
            where="--split",
            expected=f"one of {', '.join(parts)}",
            do="choose one of them",
        )
    view, examples = data_setup.view(recipe, frozen), parts[split]
    evaluator = Evaluator(recipe, trained.network(outputs), view, strategy=trained.strategy, task=task, loss=loss)
    report, outcomes = console.count(f"evaluating {split}", len(examples)), Outcomes(examples)
    totals = evaluator.evaluate(examples, into=outcomes, report=report)
    figures = metrics.figures(totals, task=task) | outcomes.figures()
    console.close()
    if not math.isfinite(figures["loss"]):
        prefix = str(trained.prefix)
        raise failures.of_evaluation(trained.step, split, where=prefix, last=prefix)
    kind = None if recipe.ema is None else {"model": "raw"}.get(trained.group, trained.group)
    about = {"split": split, "step": trained.step, "weights": kind, "figures": figures}
    details = Details.of(outcomes, totals, **about)
    return Evaluation(examples=examples, view=view, outcomes=outcomes, totals=totals, details=details)


def predict(
    trained: Trained, meaning: Meaning, images: dict[str, str], console: Console
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """What the network says of images.

    Args:
        images: as `prediction.listed` gives them.

    Yields:
        name; logits [K] float32, or None; and why there are none. In the order of `images`.
    """
    recipe = trained.recipe
    report = console.count("decoding", sum(not reason for reason in images.values()))
    table, images = prediction.looked_at(images, recipe, report=report)
    console.close()
    said = iter(())
    if len(table.examples):
        network, view = trained.network(meaning.outputs), data_setup.view(recipe, table)
        about = {"strategy": trained.strategy, "task": meaning.task}
        said = prediction.predict(recipe, network, table.examples, view, **about)
    answers = ((None, prediction.GONE) if broken else (logits, "") for logits, broken in said)
    yield from prediction.in_order(images, answers, console)
