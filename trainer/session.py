"""One run in one workdir: update, report, checkpoint, evaluate, stop."""

import contextlib
import math
import time
from collections.abc import Sequence
from functools import partial

import gin
import keras
import numpy as np
import tensorflow as tf

from data import durations
from data import frozen as tables
from data.errors import RunFailure, UserError
from data.examples import Examples
from trainer import data_setup, devices, launch, losses, metrics, rendering
from trainer.checkpoints import Checkpoints
from trainer.evaluation import Evaluator
from trainer.optimization.stages import Planned, plan
from trainer.recipe import Recipe
from trainer.reports import environment, summary
from trainer.reports.console import Console
from trainer.reports.log import MetricsLog
from trainer.signals import StopRequest
from trainer.state import TrainingState, check_batch
from trainer.workdir import Workdir, read_json, write_json, write_text


class Session:
    """Trains a recipe in a workdir, or goes on where the workdir stands.

    Args:
        recipe: what to do.
        workdir: where; owned by this process from now on.
        device_spec: as `--devices` gives it.
        allow_change: settings that may differ from the last start.

    Raises:
        UserError: see its message; a session that was there is as it was.
    """

    def __init__(
        self, recipe: Recipe, workdir: Workdir, *, device_spec: str = "auto", allow_change: Sequence[str] = ()
    ):
        self.recipe, self.workdir, self.console = recipe, workdir, Console()
        workdir.own()
        # First of all: TensorFlow cannot change its devices once something, such as decoding, has used them.
        self.strategy = devices.set_up(device_spec)
        check_batch(recipe.batch_size, self.strategy.num_replicas_in_sync)
        launch.call(partial(rendering.check, replicas=self.strategy.num_replicas_in_sync), recipe, recipe.stages)
        self.resuming = workdir.has_checkpoint()
        self.data = data_setup.open_data(recipe, workdir, self.console, resuming=self.resuming)
        self.parts, self.task = self.data.parts(), self.data.examples.task
        self.train, self.order = data_setup.training_part(recipe, self.parts["train"])
        self.plan = plan(recipe.stages, examples=self.order.epoch_length, batch=recipe.batch_size)
        self.evaluate_steps, self.checkpoint_steps = (
            _at_least_one(
                durations.steps(every, examples=self.plan.examples, batch=self.plan.batch, where=where), where
            )
            for every, where in (
                (recipe.evaluate_every, "train.evaluate_every"),
                (recipe.checkpoint_every, "train.checkpoint_every"),
            )
        )
        launch.call(recipe.optimizer.make)
        self.loss = launch.call(losses.chosen, recipe.loss, self.task)
        launch.check_consumed()
        self.config = gin.operative_config_str()
        if self.resuming:
            workdir.check_config(self.config, allow_change)
        self.log = MetricsLog(workdir.metrics)

    def run(self) -> int:
        """Trains to the end, or until a signal.

        Returns:
            exit status: 0 done, 75 stopped early but saved.
        """
        if self.resuming and self.log.find("stop", step=self.plan.steps, reason="done"):
            # A summary that is missing or damaged is made again below.
            with contextlib.suppress(UserError, LookupError, TypeError):
                results = read_json(self.workdir.summary)
                self.console.say("This session is complete; there is nothing left to do.")
                self.console.results(results, self.workdir.path)
                return 0
        self._set_up()
        self._restore()
        self._record_start()
        try:
            while True:
                self._at_boundary()
                if self.stop.requested:
                    return self._stop_early()
                if self.step == self.plan.steps:
                    return self._finish()
                self._train_window()
        finally:
            self.console.close()

    # -- before the first step ----------------------------------------------------------------------------------

    def _set_up(self) -> None:
        recipe = self.recipe
        self.stop = StopRequest()
        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(recipe.seed)
        self.view = data_setup.view(recipe, self.data)
        outputs, aim = self.data.examples.outputs, {"task": self.task, "loss": self.loss}
        self.state = TrainingState(recipe, self.plan, strategy=self.strategy, outputs=outputs, **aim)
        self.evaluator = Evaluator(recipe, self.state.network, self.view, strategy=self.strategy, **aim)
        self.stage: Planned | None = None

    def _restore(self) -> None:
        self.checkpoints = Checkpoints(self.workdir.checkpoints, self.state.groups(), keep=self.recipe.keep_checkpoints)
        restored, set_aside = self.checkpoints.restore_newest()
        for sentence in set_aside:
            self.console.say(sentence, style="yellow")
        self.step = int(self.state.step.numpy())
        if self.step > self.plan.steps:
            raise UserError(
                f"the session is at step {self.step}, and its stages now end at step {self.plan.steps}",
                where="gin bindings stage.length (epochs)",
                expected=f"stages of {self.step} steps or more",
                do="make them longer, or start a new --workdir",
            )
        # Without a checkpoint nothing has happened yet, whatever a start that was cut short has written.
        self.log.cut(self.step if restored is not None else -1)
        if restored is not None and not self.log.find("checkpoint", step=restored):
            self.log.append([{"event": "checkpoint", "step": restored, "seconds": None}])
        for event in self.log.find("eval", split=self._deciding_split()):
            self._consider_best(event)
        self.checkpoints.keep_best(int(self.state.best_step.numpy()))

    def _record_start(self) -> None:
        workdir, recipe = self.workdir, self.recipe
        facts = environment.describe(
            self.strategy,
            project=launch.PROJECT,
            precision=recipe.precision,
            deterministic=recipe.deterministic,
            seed=recipe.seed,
            data_fingerprint=self.data.examples.fingerprint(),
        )
        if self.resuming:
            self._warn_of_changes(facts)
        tables.save(workdir.examples, self.data)
        write_text(workdir.config, self.config)
        write_text(workdir.path / f"config-{self.step}.gin", self.config)
        write_json(workdir.classes, list(self.data.examples.class_names))
        write_json(workdir.environment, facts)
        workdir.summary.unlink(missing_ok=True)
        self.log.append([{"event": "resume" if self.resuming else "start", "step": self.step, "time": time.time()}])
        self.console.header(
            summary.header(
                recipe, self.state, self.plan, self.data, environment=facts, workdir=workdir.path, step=self.step
            )
        )

    def _warn_of_changes(self, facts: dict) -> None:
        try:
            changes = environment.mismatches(read_json(self.workdir.environment), facts)
        except UserError as error:
            changes = [error.found]
        for change in changes:
            self.console.say(f"perhaps not bit for bit the same from here on: {change}", style="yellow")

    # -- training -----------------------------------------------------------------------------------------------

    def _train_window(self) -> None:
        if self.stage is None or not self.stage.start <= self.step < self.stage.stop:
            self._enter_stage()
        first, last = self.step, self._window_end(self.step)
        rates = np.zeros(self.recipe.window, np.float32)
        rates[: last - first] = self.plan.learning_rates(first, last)
        began = time.perf_counter()
        try:
            records = self.window(self.batches, tf.constant(rates), tf.constant(last - first))
            records = {name: values.numpy()[: last - first] for name, values in records.items()}
        except tf.errors.OpError as error:
            raise self._failure(error, where=f"step {first + 1}") from error
        seconds = time.perf_counter() - began
        self.step = int(self.state.step.numpy())
        if self.step != last:
            raise RuntimeError(f"Received: step {self.step} after a window  Expected: {last}")
        self._report(first, records | {"learning_rate": rates[: last - first]}, seconds)

    def _enter_stage(self) -> None:
        """Sets up what trains from here on: a new trace, and an input stream that starts at this step."""
        recipe, state = self.recipe, self.state
        self.stage = next(planned for planned in self.plan.stages if planned.start <= self.step < planned.stop)
        self.window = state.window(recipe, self.stage.stage, strategy=self.strategy)
        self.batches = data_setup.stream(
            recipe,
            self.train,
            self.order,
            self.view,
            stage=self.stage.stage,
            strategy=self.strategy,
            step=self.step,
            steps=self.plan.steps,
        )
        if self.step == self.stage.start and not self.log.find("stage", step=self.step):
            self.log.append([{"event": "stage", "step": self.step, "stage": self.stage.stage.name}])

    def _window_end(self, step: int) -> int:
        """Windows end on multiples of their length and at the ends of stages."""
        stop = next(planned.stop for planned in self.plan.stages if planned.start <= step < planned.stop)
        return min((step // self.recipe.window + 1) * self.recipe.window, stop)

    def _report(self, first: int, records: dict[str, np.ndarray], seconds: float) -> None:
        steps, batch = len(records["loss"]), self.recipe.batch_size
        speed = {"images_per_second": steps * batch / seconds, "data_wait": float(records["wait"].sum() / seconds)}
        events = []
        for index in range(steps):
            step = first + index + 1
            figures = {name: float(values[index]) for name, values in records.items()}
            finite = bool(figures.pop("finite"))
            figures.pop("wait")
            figures.pop("replaced")
            events.append({"event": "train", "step": step, "epoch": self.plan.epoch(step), **figures, **speed})
            if not finite:
                shown = [first * batch + index * batch, first * batch + (index + 1) * batch]
                events.append({"event": "skip", "step": step, "positions": shown, "loss_scale": figures["loss_scale"]})
        self.log.append(events)
        last = next(event for event in reversed(events) if event["event"] == "train")
        self.console.train(self.stage.stage.name, last, steps=self.plan.steps, batch=batch)
        replaced = int(records["replaced"].sum())
        if replaced:
            self._tell_replaced(self.train, self._rows(first * batch, (first + steps) * batch), replaced)
        skips = [event for event in events if event["event"] == "skip"]
        for skip in skips:
            self.console.say(
                f"step {skip['step']} was not finite and changed nothing (loss scale {skip['loss_scale']:g})"
            )
            if not self.state.loss_scale.dynamic or skip["loss_scale"] <= 1:
                raise self._not_finite(skip)

    def _not_finite(self, skip: dict) -> RunFailure:
        start, stop = skip["positions"]
        rows = self._rows(start, stop)
        shown = ", ".join(self.train.where(row) for row in rows[:4])
        return RunFailure(
            f"loss or gradients are NaN or infinite at step {skip['step']}, in the stage {self.stage.stage.name}",
            where=f"positions {start} to {stop - 1} of the training stream: {shown}, ...; "
            f"last good checkpoint: {self.checkpoints.newest_name()}",
            expected="finite numbers",
            do="lower the learning rate, set train.clip_norm, or look at those images; then start a new --workdir, "
            "or go on here with --allow_change",
        )

    def _rows(self, start: int, stop: int) -> list[int]:
        """The rows of the training table at these positions."""
        return self.order.rows(tf.range(start, stop, dtype=tf.int64))[1].numpy().tolist()

    def _failure(self, error: tf.errors.OpError, *, where: str) -> Exception:
        """What to tell of an error of TensorFlow."""
        if not isinstance(error, tf.errors.ResourceExhaustedError):
            return error
        batch = self.recipe.batch_size
        return RunFailure(
            f"out of memory: {str(error).splitlines()[0]}",
            where=f"{where}, global batch {batch}; last good checkpoint: {self.checkpoints.newest_name()}",
            expected="a batch that fits the device",
            do=f"in a new --workdir: --gin_param='batch_size = {max(1, batch // 2)}'",
        )

    # -- images that broke since the start ----------------------------------------------------------------------

    def _tell_replaced(self, examples: Examples, rows: list[int], replaced: int) -> None:
        """Names and counts the images that could not be shown; past the threshold the run ends, saved.

        Args:
            rows: of `examples`, what was to be shown.
            replaced: how many of them were not.
        """
        shown = [examples.where(row) for row in rows]
        broken = data_setup.broken(examples.take(np.unique(rows)), self.view)
        for where, reason in broken.items():
            if not self.log.find("replaced", image=where):
                self._log_replaced(1, reason, image=where)
        # What can be read again now cannot be named.
        passing = replaced - sum(where in broken for where in shown)
        if passing > 0:
            self._log_replaced(passing, "could not be read for a while")
        count = sum(event["count"] for event in self.log.find("replaced"))
        if count > data_setup.allowed(self.recipe, self.data):
            if self.step and self.checkpoints.newest() != self.step:
                self._save()
            last = f"last good checkpoint: {self.checkpoints.newest_name()}"
            raise data_setup.too_many_broken(self.recipe, self.data, count, where=last)

    def _log_replaced(self, count: int, reason: str, *, image: str | None = None) -> None:
        self.log.append([{"event": "replaced", "step": self.step, "image": image, "count": count, "reason": reason}])
        self.console.say(f"replaced {image or f'{count} images'}: {reason}", style="yellow")

    # -- between windows ----------------------------------------------------------------------------------------

    def _at_boundary(self) -> None:
        """Evaluates and saves where it is time; what a stop has cut short is made up for at the next start."""
        done = self.step == self.plan.steps
        deciding = self._deciding_split()
        watched = next((name for name in ("validation", "test") if name in self.parts), None)
        splits = [name for name in self.parts if name != "train"] if done else [watched]
        improved = False
        if done or self._is_time(self.evaluate_steps):
            for split in splits:
                if split is None or self.log.find("eval", step=self.step, split=split):
                    continue
                event = self._evaluate(split)
                improved |= event is not None and split == deciding and self._consider_best(event)
        stage_ends = any(self.step == planned.stop for planned in self.plan.stages)
        time_to_save = self._is_time(self.checkpoint_steps) or stage_ends or improved or self.stop.requested
        if self.step and time_to_save and self.checkpoints.newest() != self.step:
            self._save()
        if improved or deciding is None:
            self.checkpoints.keep_best(self.step)

    def _is_time(self, every: int) -> bool:
        """Whether a multiple of `every` lies in the window that ends here."""
        starts = [planned.start for planned in self.plan.stages if planned.start < self.step]
        before = max([*starts, (self.step - 1) // self.recipe.window * self.recipe.window])
        return self.step > 0 and self.step // every > before // every

    def _save(self) -> None:
        broken = self.state.not_finite()
        if broken:
            raise RunFailure(
                f"{len(broken)} variables are NaN or infinite after step {self.step}: {', '.join(broken[:4])}",
                where=f"last good checkpoint: {self.checkpoints.newest_name()}",
                expected="finite weights; these were not saved",
                do="lower the learning rate or set train.clip_norm in a new --workdir",
            )
        began = time.perf_counter()
        self.checkpoints.save(self.step)
        self.log.append([{"event": "checkpoint", "step": self.step, "seconds": time.perf_counter() - began}])

    def _deciding_split(self) -> str | None:
        """The split whose evaluations decide which checkpoint is best: never test. Without it the newest is best."""
        return "validation" if "validation" in self.parts else None

    def _evaluate(self, split: str) -> dict | None:
        examples = self.parts[split]
        began = time.perf_counter()
        report = self.console.count(f"evaluating {split}", len(examples))
        try:
            totals = self.evaluator.evaluate(examples, stopping=lambda: self.stop.requested, report=report)
        except tf.errors.OpError as error:
            raise self._failure(error, where=f"evaluation of {split}") from error
        if totals is None:
            return None
        if totals["replaced"]:
            self._tell_replaced(examples, list(range(len(examples))), int(totals["replaced"]))
        event = {"event": "eval", "step": self.step, "split": split, **metrics.figures(totals, task=self.task)}
        if totals["replaced"]:
            event["replaced"] = int(totals["replaced"])
        if not math.isfinite(event["loss"]):
            raise RunFailure(
                f"the loss is NaN or infinite in the evaluation of {split} at step {self.step}",
                where=f"{self.workdir.path}; last good checkpoint: {self.checkpoints.newest_name()}",
                expected="finite numbers",
                do="lower the learning rate or set train.clip_norm, and start a new --workdir",
            )
        self.log.append([event | {"seconds": time.perf_counter() - began}])
        self.console.evaluated(event)
        return event

    def _consider_best(self, event: dict) -> bool:
        """Takes note of an evaluation; whether it is the best so far."""
        merit = metrics.merit(event, task=self.task)
        if merit <= float(self.state.best_value.numpy()):
            return False
        self.state.best_value.assign(merit)
        self.state.best_step.assign(event["step"])
        return True

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        results = summary.make(self.log, self.plan, deciding=self._deciding_split(), task=self.task)
        write_json(self.workdir.summary, results)
        self.log.append([{"event": "stop", "step": self.step, "reason": "done", "time": time.time()}])
        self.console.results(results, self.workdir.path)
        return 0

    def _stop_early(self) -> int:
        self.log.append([{"event": "stop", "step": self.step, "reason": self.stop.requested, "time": time.time()}])
        self.console.close()
        self.console.say(
            f"{self.stop.requested}: stopped at step {self.step} of {self.plan.steps}{', saved' if self.step else ''}. "
            "The same command goes on from here."
        )
        return launch.STOPPED


def _at_least_one(steps: int, where: str) -> int:
    if steps < 1:
        raise UserError(
            "a duration of 0",
            where=f"gin binding {where}",
            expected="more than 0",
            do="to evaluate and save less often, name a long one: (1000, 'epochs')",
        )
    return steps
