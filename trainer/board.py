"""What of a session is shown in TensorBoard, and when: nothing of it costs a step anything."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import pipeline
from data.examples import Examples
from data.order import Order
from data.pipeline import View
from data.skipping import Ranges
from trainer import launch
from trainer.optimization.stages import Plan, Planned
from trainer.recipe import Recipe
from trainer.rendering import colour_matrix, rendering, training_policy
from trainer.reports import confusion, tensorboard
from trainer.reports.log import MetricsLog
from trainer.reports.tensorboard import EventFiles
from trainer.state import TrainingState

# Windows of a start before those that are profiled: they compile.
BEFORE_PROFILE = 2


class Board:
    """Writes it, if the recipe wants it.

    Args:
        folder: `WORKDIR/tensorboard`; None: nothing is written, by whatever method.
        log: what it logs from here on is shown as well.
        step: at which the session stands.
    """

    def __init__(
        self, recipe: Recipe, state: TrainingState, plan: Plan, folder: Path | None, *, log: MetricsLog, step: int
    ):
        self._wanted = tensorboard.wanted(recipe.tensorboard)
        self._recipe, self._state, self._plan = recipe, state, plan
        self._files: EventFiles | None = None
        self._pictured: set[str] = set()
        self._spread_at = -1
        self._windows, self._profiling = 0, False
        if self._wanted is not None and folder is not None:
            self._files = EventFiles(folder, log, step=step, window=recipe.window, batch=recipe.batch_size)
            log.followed_by(self._files.take)
            self._pictured = {stage.stage.name for stage in plan.stages if stage.start < step < stage.stop}

    def begin(self, config: str, *, step: int, deciding: tuple[str, str | None, str] | None) -> None:
        """Shows what the session is made of.

        Args:
            config: operative configuration.
            deciding: split, kind of weights and figure by which it is judged.
        """
        if self._files is None:
            return
        indented = "".join(f"    {line}\n" for line in config.splitlines())
        self._files.text("config", indented, step=step)
        judged = [] if deciding is None else [(tensorboard.run_of(*deciding[:2]), deciding[2])]
        self._files.hyperparameters(hyperparameters(config), figures=[*judged, (tensorboard.TRAIN, "loss")])

    def cut(self, step: int) -> None:
        """Forgets what is of later steps."""
        if self._files is not None:
            self._files.cut(step)

    def before_window(self) -> None:
        """Begins and ends the profile."""
        if self._files is None or not self._wanted.profile:
            return
        if self._windows == BEFORE_PROFILE:
            tf.profiler.experimental.start(str(self._files.folder))
            self._profiling = True
        elif self._windows == BEFORE_PROFILE + self._wanted.profile:
            self._end_profile()
        self._windows += 1

    def _end_profile(self) -> None:
        if self._profiling:
            tf.profiler.experimental.stop()
            self._profiling = False

    def evaluated(self, event: Mapping, totals: Mapping[str, np.ndarray], *, names: Sequence[str]) -> None:
        """Shows, after an evaluation, the confusion matrix, and the weights that train in any stage."""
        if self._files is None:
            return
        which = "/".join(filter(None, ("confusion", event["split"], event.get("weights"))))
        if "confusion" in totals:
            drawn = confusion.picture(totals["confusion"], names)
            self._files.images(which, drawn[None], step=event["step"])
        if self._wanted.histograms and event.get("weights") != "ema" and event["step"] != self._spread_at:
            self._spread_at = event["step"]
            variables = self._state.network.variables
            trained = dict.fromkeys(name for stage in self._state.trainable.values() for name in stage.names)
            shown = {name: variables[name].numpy for name in trained}
            self._files.histograms(shown, step=event["step"])

    def picture(
        self, stage: Planned, examples: Examples, order: Order, view: View, *, replicas: int, left_out: Ranges
    ) -> None:
        """Shows, once, the first images of a stage as the network sees them."""
        count = self._wanted.images if self._files is not None and self._state.cut is None else 0
        if count and stage.stage.name not in self._pictured:
            self._pictured.add(stage.stage.name)
            about = {"length": self._plan.steps * self._recipe.batch_size, "left_out": left_out}
            shown = augmented(self._recipe, stage, examples, order, view, replicas=replicas, **about)
            self._files.images(f"augmented/{stage.stage.name}", shown[:count], step=stage.start)

    def close(self, *, done: bool = False) -> None:
        """Ends it; `done`: the session has come to its end."""
        self._end_profile()
        if self._files is not None:
            if done:
                self._files.done()
            self._files.close()


def augmented(
    recipe: Recipe,
    stage: Planned,
    examples: Examples,
    order: Order,
    view: View,
    *,
    replicas: int,
    length: int,
    left_out: Ranges,
) -> np.ndarray:
    """The first images of a stage as the first replica sees them, without the normalisation, [B, H, W, 3] uint8.

    Args:
        view: of an evaluation.
        length: positions of the whole training.
    """
    policy = training_policy(recipe, stage.stage)
    batches = pipeline.train_batches(
        examples,
        order=order,
        start=stage.start * recipe.batch_size,
        # Of this shape the kernel is compiled already.
        batch=recipe.batch_size // replicas,
        seed=recipe.seed,
        policy=policy,
        view=dataclasses.replace(view, image_size=recipe.size(stage.stage)),
        length=length,
        left_out=left_out,
    )
    kernel = rendering(recipe, policy, samples=recipe.samples, stage=stage.stage)
    return _levels(kernel.images(next(iter(batches))).numpy(), colour_matrix(recipe))


def _levels(images: np.ndarray, colour: np.ndarray | None) -> np.ndarray:
    """Undoes a normalisation, [3, 4]; None: it cannot be undone, and each image is stretched to what can be shown."""
    if colour is None or np.linalg.matrix_rank(colour[:, :3]) < 3:
        low, high = (end(images, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
        pixels = 255 * (images - low) / np.maximum(high - low, 1e-6)
    else:
        pixels = (images - colour[:, 3]) @ np.linalg.inv(colour[:, :3]).T
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def hyperparameters(config: str) -> dict[str, bool | float | str]:
    """The settings of a configuration that are numbers, words or True and False, by their names."""
    found = {}
    for name, written in launch.settings(config).items():
        try:
            value = ast.literal_eval(written)
        except (ValueError, SyntaxError):
            # What refers to another setting, which is there itself, or to what is named by a reference.
            value = written if written.startswith("@") else None
        if isinstance(value, bool | int | float | str):
            found[name] = value
    return found
