"""One run in one workdir: update, report, checkpoint, evaluate, stop."""

import contextlib
import itertools
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gin
import keras
import numpy as np
import tensorflow as tf

from data import frozen as tables
from data.errors import UserError
from data.examples import Examples
from trainer import data_setup, devices, failures, features, launch, losses, metrics, rendering
from trainer.beginning import Beginning, drift
from trainer.checkpoints import Checkpoints
from trainer.evaluation import Evaluator
from trainer.forgetting import report as forgetting
from trainer.models.growing import Outputs
from trainer.optimization.stages import Planned, plan
from trainer.recipe import Recipe
from trainer.reports import environment, summary
from trainer.reports.console import Console
from trainer.reports.log import MetricsLog, window_events
from trainer.signals import StopRequest
from trainer.state import TrainingState, check_batch, intervals
from trainer.workdir import Workdir, read_json, write_json, write_text


class Session:
    """Trains a recipe in a workdir, or goes on where the workdir stands.

    Args:
        recipe: what to do.
        workdir: where; owned by this process from now on.
        device_spec: as `--devices` gives it.
        allow_change: settings that may differ from the last start.
        init_from: whose weights a new session begins with, see `trainer.init_from`; None: those of the recipe.

    Raises:
        UserError: see its message; a session that was there is as it was.
    """

    def __init__(
        self,
        recipe: Recipe,
        workdir: Workdir,
        *,
        device_spec: str = "auto",
        allow_change: Sequence[str] = (),
        init_from: str | None = None,
    ):
        self.recipe, self.workdir, self.console = recipe, workdir, Console()
        self.init_from = init_from
        workdir.own()
        # First of all: TensorFlow cannot change its devices once something, such as decoding, has used them.
        self.strategy = devices.set_up(device_spec)
        check_batch(recipe.batch_size, self.strategy.num_replicas_in_sync, accumulation=recipe.accumulation)
        launch.call(partial(rendering.check, replicas=self.strategy.num_replicas_in_sync), recipe, recipe.stages)
        features.check(recipe)
        self.resuming = workdir.has_checkpoint()
        self.data = data_setup.open_data(recipe, workdir, self.console, resuming=self.resuming)
        self.parts, self.task = self.data.parts(), self.data.examples.task
        self.train, self.order = data_setup.training_part(recipe, self.parts["train"])
        size = {"examples": self.order.epoch_length, "batch": recipe.batch_size}
        self.plan = plan(recipe.stages, **size, rate_factor=recipe.rate_factor)
        validates = self._deciding_split() is not None
        self.evaluate_steps, self.checkpoint_steps = intervals(recipe, self.plan, validates=validates)
        launch.call(recipe.optimizer.make)
        self.loss = launch.call(partial(losses.chosen, outputs=self.data.examples.outputs), recipe.loss, self.task)
        launch.check_consumed()
        self.config = gin.operative_config_str()
        if self.resuming:
            # Rates that follow evaluations change with them.
            shaping = () if recipe.plateau is None else ("train.evaluate_every",)
            workdir.check_config(self.config, allow_change, shaping=shaping)
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
            if self.state.cut is not None and not self._prepare_features():
                return self._stop_early()
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
        load = not self.resuming and self.init_from is None
        self.state = TrainingState(recipe, self.plan, strategy=self.strategy, outputs=outputs, load=load, **aim)
        self.beginning = Beginning(
            recipe,
            self.state,
            self.workdir,
            outputs=Outputs(self.task, self.data.examples.class_names),
            log=self.log,
            resuming=self.resuming,
            source=self.init_from,
            say=self.console.say,
        )
        suffix = self.state.cut and self.state.cut.suffix
        self.evaluator = Evaluator(recipe, self.state.network, self.view, strategy=self.strategy, model=suffix, **aim)
        self.features: features.FeatureBatches | None = None
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
        if restored is None and self.state.average is not None:
            self.state.average.start()
        for event in self.log.find("eval", split=self._deciding_split(), weights=self._weights[-1]):
            if event["step"]:
                self._follow(event)
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
        else:
            self.beginning.keep()
        tables.save(workdir.examples, self.data)
        write_text(workdir.config, self.config)
        write_text(workdir.path / f"config-{self.step}.gin", self.config)
        write_json(workdir.classes, list(self.data.examples.class_names))
        write_json(workdir.environment, facts)
        workdir.summary.unlink(missing_ok=True)
        facts_of_weights = self.beginning.facts
        event = {"event": "resume"} if self.resuming else {"event": "start", "weights": facts_of_weights}
        self.log.append([event | {"step": self.step, "time": time.time()}])
        self.console.header(
            summary.header(
                recipe,
                self.state,
                self.plan,
                self.data,
                environment=facts,
                workdir=workdir.path,
                step=self.step,
                weights=facts_of_weights["summary"] if facts_of_weights else "random",
            )
        )

    def _warn_of_changes(self, facts: dict) -> None:
        try:
            changes = environment.mismatches(read_json(self.workdir.environment), facts)
        except UserError as error:
            changes = [error.found]
        for change in changes:
            self.console.say(f"perhaps not bit for bit the same from here on: {change}", style="yellow")

    def _prepare_features(self) -> bool:
        """Computes what is missing of the features that the stages train on; False if a stop came in between."""
        recipe = self.recipe
        folder = recipe.features.folder
        try:
            store = features.prepare(
                recipe,
                self.state.cut.prefix,
                self.data,
                self.view,
                strategy=self.strategy,
                folder=self.workdir.features if folder is None else Path(folder).expanduser().absolute(),
                views=dict.fromkeys(self.parts) | {"train": recipe.features.views},
                dtype=recipe.features.dtype,
                length=self.plan.steps * recipe.batch_size,
                console=self.console,
                stopping=lambda: self.stop.requested,
            )
        except tf.errors.OpError as error:
            raise self._failure(error, where="the features of the frozen part") from error
        if store is None:
            return False
        tables = self.parts | {"train": self.train}
        self.features = features.FeatureBatches(recipe, store, tables, strategy=self.strategy)
        for image in self.features.broken():
            if not self.log.find("replaced", image=image):
                self._log_replaced(1, "could not be read when its features were computed", image=image)
        self._check_replaced()
        return True

    # -- training -----------------------------------------------------------------------------------------------

    def _train_window(self) -> None:
        if self.stage is None or not self.stage.start <= self.step < self.stage.stop:
            self._enter_stage()
        first, last = self.step, self._window_end(self.step)
        rates = np.zeros(self.recipe.window, np.float32)
        rates[: last - first] = self.plan.learning_rates(first, last)
        if self.state.plateau is not None:
            rates *= self.state.plateau.factor(self.stage.start)
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
        if self.features is not None:
            self.batches = self.features.stream(self.order, step=self.step)
        else:
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
        events = window_events(first, records, seconds, batch=batch, epoch=self.plan.epoch)
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
                images = [self.train.where(row) for row in self._rows(*skip["positions"])[:4]]
                about = {"positions": skip["positions"], "images": images, "last": self.checkpoints.newest_name()}
                raise failures.of_step(skip["step"], self.stage.stage.name, **about)

    def _rows(self, start: int, stop: int) -> list[int]:
        """The rows of the training table at these positions."""
        return self.order.rows(tf.range(start, stop, dtype=tf.int64))[1].numpy().tolist()

    def _failure(self, error: tf.errors.OpError, *, where: str) -> Exception:
        batch, last = self.recipe.batch_size, self.checkpoints.newest_name()
        return failures.of_tensorflow(error, where=where, batch=batch, last=last)

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
        self._check_replaced()

    def _check_replaced(self) -> None:
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
        # What is known before the first step decides nothing: there is no checkpoint of it.
        before = self.step == 0 and bool(self.beginning.old)
        splits = [name for name in self.parts if name != "train"] if done or before else [watched]
        improved = False
        if done or before or self._is_time(self.evaluate_steps):
            for split, weights in itertools.product(splits, self._weights):
                if split is None or self.log.find("eval", step=self.step, split=split, weights=weights):
                    continue
                event = self._evaluate(split, weights)
                decides = not before and split == deciding and weights == self._weights[-1]
                improved |= event is not None and decides and self._follow(event)
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
            raise failures.of_weights(self.step, broken, last=self.checkpoints.newest_name())
        began = time.perf_counter()
        self.checkpoints.save(self.step)
        self.log.append([{"event": "checkpoint", "step": self.step, "seconds": time.perf_counter() - began}])

    def _deciding_split(self) -> str | None:
        """The split whose evaluations decide which checkpoint is best: never test. Without it the newest is best."""
        return "validation" if "validation" in self.parts else None

    @property
    def _weights(self) -> tuple[str | None, ...]:
        """The kinds of weights that are evaluated, the one that decides last; None where there is but one kind."""
        return (None,) if self.recipe.ema is None else ("raw", "ema")

    def _evaluate(self, split: str, weights: str | None) -> dict | None:
        examples = self.parts[split]
        averaged = self.state.average.in_place() if weights == "ema" else contextlib.nullcontext()
        began = time.perf_counter()
        report = self.console.count(f"evaluating {split}", len(examples))
        try:
            found = None if self.features is None else self.features.evaluation(split)
            watch = {"stopping": lambda: self.stop.requested, "report": report}
            with averaged:
                totals = self.evaluator.evaluate(examples, found=found, **watch)
        except tf.errors.OpError as error:
            raise self._failure(error, where=f"evaluation of {split}") from error
        if totals is None:
            return None
        if totals["replaced"] and self.features is None:
            self._tell_replaced(examples, list(range(len(examples))), int(totals["replaced"]))
        event = {"event": "eval", "step": self.step, "split": split}
        event |= {} if weights is None else {"weights": weights}
        event |= metrics.figures(totals, task=self.task) | forgetting.figures(totals, self.beginning.old)
        if totals["replaced"]:
            event["replaced"] = int(totals["replaced"])
        if not math.isfinite(event["loss"]):
            last = self.checkpoints.newest_name()
            raise failures.of_evaluation(self.step, split, where=str(self.workdir.path), last=last)
        self.log.append([event | {"seconds": time.perf_counter() - began}])
        self.console.evaluated(event)
        return event

    def _follow(self, event: dict) -> bool:
        """Takes note of an evaluation that decides; whether it is the best so far."""
        merit, step = metrics.merit(event, task=self.task), event["step"]
        if self.state.plateau is not None:
            start = next(planned.start for planned in self.plan.stages if step <= planned.stop)
            if self.state.plateau.take(step, merit, start=start):
                self.console.say(f"no gain: learning rate times {self.state.plateau.factor(start):g} from here on")
        if merit <= float(self.state.best_value.numpy()):
            return False
        self.state.best_value.assign(merit)
        self.state.best_step.assign(step)
        return True

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        deciding, weights = self._deciding_split(), self._weights[-1]
        results = summary.make(self.log, self.plan, deciding=deciding, weights=weights, task=self.task)
        try:
            results |= {"drift": found} if (found := drift(self.workdir, self.state.network)) else {}
        except UserError as error:
            self.console.say(f"no drift of the layers: {error.found}", style="yellow")
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
