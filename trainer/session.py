"""One run in one workdir: update, report, checkpoint, evaluate, stop."""

import contextlib
import math
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gin
import keras
import numpy as np
import tensorflow as tf

from data import frozen as tables
from data import skipping
from data.errors import UserError
from data.examples import Examples
from trainer import (
    checkpoints,
    choosing,
    data_setup,
    devices,
    failures,
    features,
    identity,
    judging,
    launch,
    losses,
    metrics,
    quiet,
    rendering,
    starting,
)
from trainer.batches import share_of
from trainer.beginning import Beginning, drift
from trainer.board import Board
from trainer.checkpoints import Checkpoints, Saved
from trainer.cluster import START_WITHIN, Cluster, Members
from trainer.evaluation import Evaluator
from trainer.forgetting import report as forgetting
from trainer.guard import ROLL_BACK, Fault
from trainer.models.growing import Outputs
from trainer.optimization.stages import Planned, plan
from trainer.outcomes import Details, Outcomes, check_decides
from trainer.recipe import Recipe
from trainer.replacing import Replacements
from trainer.reports import heading, summary, tensorboard
from trainer.reports.console import Console
from trainer.reports.log import MetricsLog, window_events
from trainer.reports.page import stages, writing
from trainer.rollback import possible, roll_back, suspects
from trainer.signals import StopRequest
from trainer.state import TrainingState, rhythm
from trainer.workdir import Workdir, read_json, write_json


class Session:
    """Trains a recipe in a workdir, or goes on where the workdir stands.

    Args:
        recipe: what to do.
        workdir: where; owned by this process from now on.
        device_spec: as `--devices` gives it.
        allow_change: settings that may differ from the last start.
        init_from: whose weights a new session begins with, see `trainer.init_from`; None: those of the recipe.
        seconds: from now on, after which it stops as by a signal, saved; None: no limit.
        members: the workers that train together, see `trainer.cluster`; None: this process alone.
        start_within: seconds that the others have to join.

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
        seconds: float | None = None,
        members: Members | None = None,
        start_within: float = START_WITHIN,
    ):
        began = time.monotonic()
        self.recipe, self.workdir, self.console = recipe, workdir, Console()
        self.init_from = init_from
        if members is None or members.is_chief:
            workdir.own(self.console.say)
        # First of all: TensorFlow cannot change its devices once something, such as decoding, has used them.
        wishes = {"within": start_within, "reduce_by": recipe.reduction, "threads": recipe.threads}
        self.strategy = devices.set_up(device_spec, members, **wishes)
        self.cluster = Cluster(self.strategy, members)
        # What it took the others to join counts.
        left = None if seconds is None else seconds - (time.monotonic() - began)
        self.stop = self.cluster.stop(StopRequest(within=recipe.stop_within, seconds=left))
        try:
            self._open(allow_change)
        except BaseException:
            # Whoever catches it has signals that mean what they did before.
            self.stop.close()
            raise

    def _open(self, allow_change: Sequence[str]) -> None:
        recipe, workdir = self.recipe, self.workdir
        with self.cluster.together(newest=str(workdir.checkpoints)):
            self.cluster.follow()
        if not self.cluster.is_chief:
            # Its output is a log already.
            quiet.show()
        share = share_of(recipe, self.strategy.num_replicas_in_sync)
        if share.parts != recipe.accumulation:
            self.console.say(f"{share}: train.accumulation = {recipe.accumulation} does not come out even")
        launch.call(rendering.check, recipe, recipe.stages)
        features.check(recipe)
        tensorboard.wanted(recipe.tensorboard)
        self.resuming = workdir.has_checkpoint()
        if self.resuming:
            self.recipe = recipe = choosing.remembered(recipe, workdir.written_config())
        frozen = self.resuming or not self.cluster.is_chief
        self.data = data_setup.open_data(recipe, workdir, self.console, resuming=frozen, allow=allow_change)
        self.parts, self.task = self.data.parts(), self.data.examples.task
        self.train, self.order = data_setup.training_part(recipe, self.parts["train"])
        size = {"examples": self.order.epoch_length, "batch": recipe.batch_size}
        self.plan = plan(recipe.stages, **size, rate_factor=recipe.rate_factor)
        validates = judging.deciding_split(self.parts) is not None
        self.rhythm = rhythm(recipe, self.plan, validates=validates)
        metrics.decisive(self.task, recipe.best_by)
        if validates:
            check_decides(recipe.best_by, self.parts["validation"])
        launch.call(recipe.optimizer.make)
        self.loss = launch.call(partial(losses.chosen, outputs=self.data.examples.outputs), recipe.loss, self.task)
        launch.check_consumed()
        self.config, self.chosen = choosing.written(gin.operative_config_str(), recipe), {}
        if self.resuming:
            # What follows evaluations changes with them.
            follows = recipe.plateau is not None or recipe.early_stopping is not None
            shaping = ("train.evaluate_every",) if follows else ()
            rule = getattr(recipe.split, "__name__", None)
            self.changed = workdir.check_config(self.config, allow_change, shaping=shaping, rule=rule)
        self.log = MetricsLog(workdir.metrics, writes=self.cluster.is_chief)
        self.checkpoints: Checkpoints | None = None
        if self.resuming:
            self.log.check(identity.of(workdir))

    def run(self) -> int:
        """Trains to the end, or until a signal.

        Returns:
            exit status: 0 done, 75 stopped early but saved.
        """
        try:
            with self.cluster.together(newest=str(self.workdir.checkpoints)):
                self._share_beginning()
                status = self._run()
                self.cluster.meet()
                return status
        finally:
            self.console.close()
            self.stop.close()

    def _share_beginning(self) -> None:
        """Has the others see the data that the chief has looked at, and begin where it does."""
        if self.cluster.workers > 1 and self.cluster.is_chief and not self.resuming:
            self.workdir.environment.unlink(missing_ok=True)
            tables.save(self.workdir.examples, self.data)
        self.cluster.lead()

    def _run(self) -> int:
        if self.resuming and self._is_complete():
            # A summary that is missing or damaged is made again below.
            with contextlib.suppress(UserError, LookupError, TypeError, ValueError, AttributeError):
                results = read_json(self.workdir.summary)
                self.console.say("This session is complete; there is nothing left to do.")
                self.console.results(results, self.workdir.path, commands=heading.commands(self.workdir.path))
                return 0
        try:
            self._set_up()
            self._restore()
        except tf.errors.OpError as error:
            raise self._failure(error, where="before the first step") from error
        self._record_start()
        self.stop.listen()
        if self.state.cut is not None and not self._prepare_features():
            return self._stop_early()
        while True:
            self.stop.agreed()
            self._at_boundary()
            if self.stopping:
                return self._stop_early()
            if self._done:
                return self._finish()
            self._train_window()

    def _is_complete(self) -> bool:
        """Whether the stages, as they are today, have come to their end."""
        last = next(reversed(self.log.find("stop")), {})
        # With another patience, say, it may go on.
        done = (last.get("reason") == "early stopping" and not self.changed) or (
            last.get("reason") == "done" and last["step"] == self.plan.steps
        )
        newest, folder = checkpoints.steps_in(self.workdir.checkpoints)[-1], self.workdir.checkpoints
        return done and newest == last["step"] and checkpoints.damage(folder / f"ckpt-{newest}") is None

    @property
    def _done(self) -> bool:
        """Whether training has come to its end."""
        return self.step == self.plan.steps or self.judge.ends

    # -- before the first step ----------------------------------------------------------------------------------

    def _set_up(self) -> None:
        if self.recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        outputs, aim = self.data.examples.outputs, {"task": self.task, "loss": self.loss}
        self._choose(**aim)
        recipe = self.recipe
        keras.utils.set_random_seed(recipe.seed)
        self.view = data_setup.view(recipe, self.data)
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
        parts, say = self.parts.keys(), self.console.say
        self.judge = judging.Judge(recipe, self.state, self.plan, task=self.task, parts=parts, say=say)
        self.replacements = Replacements(recipe, self.data, self.view, log=self.log, console=self.console)
        suffix = self.state.cut and self.state.cut.suffix
        self.evaluator = Evaluator(recipe, self.state.network, self.view, strategy=self.strategy, model=suffix, **aim)
        self.features: features.FeatureBatches | None = None
        self.stage: Planned | None = None

    def _choose(self, **aim) -> None:
        """Measures what the recipe leaves open; a session that goes on knows already."""
        if self.resuming:
            self.chosen = starting.chosen(self.workdir)
        elif choosing.is_open(self.recipe):
            about = {"strategy": self.strategy, "cluster": self.cluster, "say": self.console.say}
            self.recipe, self.chosen = choosing.choose(self.recipe, self.data, self.plan, **aim, **about)
            self.config = choosing.written(self.config, self.recipe)

    def _restore(self) -> None:
        own = (identity.of(self.workdir) if self.resuming else None) or uuid.uuid4().hex
        self.identity = self.cluster.told(own)
        self.checkpoints = Checkpoints(
            self.workdir.checkpoints,
            self.state.groups(),
            keep=self.recipe.keep_checkpoints,
            session=self.identity,
            cluster=self.cluster,
        )
        self.saved_at = time.monotonic()
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
        self.log.cut(self.step if restored is not None else -1, roll_backs=self.state.guard.roll_backs)
        if restored is not None and not self.log.find("checkpoint", step=restored):
            self.log.append([{"event": "checkpoint", "step": restored, "seconds": None}])
        if restored is None and self.state.average is not None:
            self.state.average.start()
        self._catch_up()

    def _catch_up(self) -> None:
        """Has what follows evaluations know those that are logged; those of earlier steps are in the checkpoint."""
        for event in self.log.find("eval", step=self.step):
            self.judge.take(event)
        self._keep()

    def _keep(self) -> None:
        """Has those checkpoints stay that are to stay, of what there is."""
        for place, steps in self._places().items():
            self.checkpoints.keep_in(place, steps, verify=True)

    def _record_start(self) -> None:
        workdir, weights = self.workdir, self.beginning.facts
        about = {"session": self.identity, "cluster": self.cluster, "chosen": self.chosen}
        facts = starting.facts(self.recipe, self.strategy, self.data, **about)
        for doubt in starting.doubts(workdir, facts) if self.resuming else ():
            self.console.say(doubt, style="yellow")
        if self.cluster.is_chief:
            # First: beside the configuration of today it would say that this one is complete.
            workdir.summary.unlink(missing_ok=True)
            if not self.resuming:
                self.beginning.keep()
            about = {"config": self.config, "data": self.data, "facts": facts}
            starting.write(workdir, **about, session=self.identity, step=self.step)
            write_json(workdir.stages, stages.describe(self.recipe, self.plan, self.state))
            quiet.keep_in(workdir.log)
        folder = workdir.tensorboard if self.cluster.is_chief else None
        self.board = Board(self.recipe, self.state, self.plan, folder, log=self.log, step=self.step)
        deciding = self.judge.split and (self.judge.split, self.judge.weights[-1], self.judge.metric)
        self.board.begin(self.config, step=self.step, deciding=deciding)
        event = {"event": "resume"} if self.resuming else {"event": "start", "weights": weights}
        self.log.append([event | {"step": self.step, "session": self.identity, "time": time.time()}])
        origin = weights["summary"] if weights else "random"
        about = {"environment": facts, "workdir": workdir.path, "step": self.step, "weights": origin}
        self.console.header(heading.rows(self.recipe, self.state, self.plan, self.data, **about))

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
                stopping=self.stop.agreed,
                cluster=self.cluster,
            )
        except tf.errors.OpError as error:
            raise self._failure(error, where="the features of the frozen part", evaluates=True) from error
        if store is None:
            return False
        tables = self.parts | {"train": self.train}
        self.features = features.FeatureBatches(recipe, store, tables, strategy=self.strategy)
        for image in self.features.broken():
            self.replacements.note(image, "could not be read when its features were computed", step=self.step)
        self._check_replaced()
        return True

    # -- training -----------------------------------------------------------------------------------------------

    def _train_window(self) -> None:
        if self.stage is None or not self.stage.start <= self.step < self.stage.stop:
            self._enter_stage()
        first, last = self.step, self.rhythm.window_end(self.step)
        rates = np.zeros(self.recipe.window, np.float32)
        rates[: last - first] = self.plan.learning_rates(first, last)
        if self.state.plateau is not None:
            rates *= self.state.plateau.factor(self.stage.start)
        self.board.before_window()
        began = time.perf_counter()
        try:
            records = self.window(self.batches, tf.constant(rates), tf.constant(last - first))
            self.step = int(self.state.step.numpy())
            records = {name: values.numpy()[: self.step - first] for name, values in records.items()}
        except tf.errors.OpError as error:
            raise self._failure(error, where=f"step {first + 1}") from error
        seconds = time.perf_counter() - began
        if self.step != last and not (self.stop.requested and first <= self.step < last):
            raise RuntimeError(f"Received: step {self.step} after a window  Expected: {last}")
        if self.step > first:
            self._report(first, records | {"learning_rate": rates[: self.step - first]}, seconds)

    def _enter_stage(self) -> None:
        """Sets up what trains from here on: a new trace, and an input stream that starts at this step."""
        recipe, state = self.recipe, self.state
        self.stage = self.rhythm.stage(self.step)
        self.console.preparing(f"{self.stage.stage.name}: the first steps are compiled")
        self.window = state.window(recipe, self.stage.stage, strategy=self.strategy, stop=self.stop.flag)
        self._start_stream()

    def _start_stream(self) -> None:
        recipe, left_out = self.recipe, self.state.guard.left_out
        if self.features is not None:
            self.batches = self.features.stream(self.order, step=self.step, left_out=left_out)
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
                left_out=left_out,
                say=self.console.say,
            )
        if self.step == self.stage.start:
            self.state.guard.begin_stage()
            if not self.log.find("stage", step=self.step):
                self.log.append([{"event": "stage", "step": self.step, "stage": self.stage.stage.name}])

    def _report(self, first: int, records: dict[str, np.ndarray], seconds: float) -> None:
        if self.cluster.is_chief:
            self.workdir.check_owned()
        batch, fault = self.recipe.batch_size, self.state.guard.judge(first, records)
        if fault is not None:
            self._note_saved(self.checkpoints.wait())
            saved = self.cluster.told(checkpoints.steps_in(self.workdir.checkpoints))
            fault = possible(fault, saved, batches=self.recipe.guard.batches)
            if fault.action == ROLL_BACK:
                return self._roll_back(fault)
            records = {name: values[: fault.step - first] for name, values in records.items()}
        told = {"epoch": self.plan.epoch, "shown": self._shown}
        shown = {"view": self.view, "replicas": self.strategy.num_replicas_in_sync}
        self.board.picture(self.stage, self.train, self.order, left_out=self.state.guard.left_out, **shown)
        events = window_events(first, records, seconds, batch=batch, **told)
        self.log.append(events)
        last = next(event for event in reversed(events) if event["event"] == "train")
        self.console.train(self.stage.stage.name, last, steps=self.plan.steps, batch=batch)
        replaced = int(records["replaced"].sum())
        if replaced:
            self._tell_replaced(self.train, self._rows(first, self.step)[1], replaced)
        for event in events:
            if event["event"] == "skip" and (fault is None or event["step"] < fault.step):
                self.console.skipped(event)
        if fault is not None:
            positions, images = self._shown(fault.step - 1, fault.step)
            about = {"positions": positions, "images": images, "suspects": suspects(self.log, fault.reason)}
            raise failures.of_step(fault, self.stage.stage.name, **about, last=self._last_good())

    def _rows(self, first: int, last: int) -> tuple[np.ndarray, list[int]]:
        """What the steps behind `first`, up to `last`, show: positions of the stream, rows of the training table."""
        indexes = tf.range(first * self.recipe.batch_size, last * self.recipe.batch_size, dtype=tf.int64)
        positions = skipping.shown(indexes, self.state.guard.left_out)
        return positions.numpy(), self.order.rows(positions)[1].numpy().tolist()

    def _shown(self, first: int, last: int) -> tuple[list[int], list[str]]:
        """Likewise: the first position and the one after the last, and the images."""
        positions, rows = self._rows(first, last)
        return [int(positions[0]), int(positions[-1]) + 1], [self.train.where(row) for row in rows]

    def _roll_back(self, fault: Fault) -> None:
        told = {"shown": self._shown}
        event, self.step, set_aside = roll_back(fault, self.state, self.checkpoints, self.log, **told)
        for sentence in set_aside:
            self.console.say(sentence, style="yellow")
        told = failures.named("; in all of them", suspects(self.log, fault.reason))
        self.console.rolled_back(event, step=self.step, tries=self.recipe.guard.tries, suspects=told)
        self.board.cut(self.step)
        self._catch_up()
        if self.stage.start <= self.step < self.stage.stop:
            self._start_stream()
        else:
            self.stage = None

    def _failure(self, error: tf.errors.OpError, *, where: str, evaluates: bool = False) -> Exception:
        last = self._last_good() if self.checkpoints else "none yet"
        about = {"recipe": self.recipe, "replicas": self.strategy.num_replicas_in_sync, "evaluates": evaluates}
        return failures.of_tensorflow(error, where=where, last=last, **about)

    def _tell_replaced(self, examples: Examples, rows: list[int], replaced: int) -> None:
        if self.cluster.is_chief:
            self.replacements.look(examples, rows, replaced, step=self.step)
            self._check_replaced()

    def _check_replaced(self) -> None:
        """Ends the run, saved, where too many images have broken."""
        if self.replacements.too_many:
            if self.step and self.checkpoints.newest() != self.step:
                self._save()
            raise self.replacements.failure(last=self._last_good())

    # -- between windows ----------------------------------------------------------------------------------------

    def _at_boundary(self) -> None:
        """Evaluates and saves where it is time; what a stop has cut short is made up for at the next start."""
        self._note_saved(self.checkpoints.done())
        improved = self._evaluate_where_due()
        # Looked at once: a request that comes later finds nothing saved.
        self.stopping = self.stop.requested is not None
        if self.stopping:
            self.stop.reached()
        rhythm, minutes = self.rhythm, self.recipe.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        time_to_save = (
            rhythm.is_time(rhythm.checkpoint, self.step)
            or rhythm.is_time(rhythm.keep, self.step)
            or rhythm.is_stage_end(self.step)
            or self._done
            or improved
            or overdue
            or self.stopping
        )
        # What a stop before the first step has found of the data is not to be found again.
        if time_to_save and (self.step or self.stopping) and self.checkpoints.newest() != self.step:
            self._save()
        elif improved:
            # The checkpoint of a stop that had cut this evaluation short.
            self._note_saved(self.checkpoints.wait())
            self._keep()

    def _evaluate_where_due(self) -> bool:
        """Whether one of the evaluations is among the best."""
        before = self.step == 0 and bool(self.beginning.old)
        others = [name for name in self.parts if name != "train"]
        watched = next((name for name in ("validation", "test") if name in self.parts), None)
        improved = False
        if self._done or before or self.rhythm.is_time(self.rhythm.evaluate, self.step):
            # The first one may show that training is done.
            for split in [watched, *others]:
                if split is None or (split != watched and not (self._done or before)):
                    continue
                for weights in self.judge.weights:
                    if not self.log.find("eval", step=self.step, split=split, weights=weights):
                        event = self._evaluate(split, weights)
                        improved |= event is not None and self.judge.take(event)
        return improved

    def _save(self) -> None:
        if not self.cluster.is_chief:
            return
        broken = self.state.not_finite()
        if broken:
            raise failures.of_weights(self.step, broken, last=self._last_good())
        self._note_saved(self.checkpoints.wait())
        self.workdir.check_owned()
        self.log.flush()
        self.checkpoints.save_behind(self.step, places=self._places())
        self.saved_at = time.monotonic()

    def _last_good(self) -> str:
        """Path of the newest checkpoint, for messages."""
        self._note_saved(self.checkpoints.wait())
        return self.checkpoints.newest_name()

    def _note_saved(self, saved: Saved | None) -> None:
        if saved is not None and not self.log.find("checkpoint", step=saved.step):
            self.log.append([{"event": "checkpoint", "step": saved.step, "seconds": saved.seconds}])

    def _places(self) -> dict[str, list[int]]:
        there = [*checkpoints.steps_in(self.workdir.checkpoints / checkpoints.KEPT), self.step]
        return self.judge.places(self.step, [step for step in there if self.rhythm.is_time(self.rhythm.keep, step)])

    def _evaluate(self, split: str, weights: str | None) -> dict | None:
        examples = self.parts[split]
        averaged = self.state.average.in_place() if weights == "ema" else contextlib.nullcontext()
        began = time.perf_counter()
        report = self.console.count(f"evaluating {split}", len(examples))
        try:
            found, outcomes = None if self.features is None else self.features.evaluation(split), Outcomes(examples)
            watch = {"stopping": self.stop.agreed, "report": report}
            with averaged:
                totals = self.evaluator.evaluate(examples, found=found, into=outcomes, **watch)
        except tf.errors.OpError as error:
            raise self._failure(error, where=f"evaluation of {split}", evaluates=True) from error
        if totals is None:
            return None
        if totals["replaced"] and self.features is None:
            self._tell_replaced(examples, list(range(len(examples))), int(totals["replaced"]))
        event = {"event": "eval", "step": self.step, "split": split}
        event |= {} if weights is None else {"weights": weights}
        figures = metrics.figures(totals, task=self.task) | outcomes.figures()
        event |= figures | forgetting.figures(totals, self.beginning.old)
        if totals["replaced"]:
            event["replaced"] = int(totals["replaced"])
        if not math.isfinite(event["loss"]):
            last = self._last_good()
            raise failures.of_evaluation(self.step, split, where=str(self.workdir.path), last=last)
        if self.cluster.is_chief and weights == self.judge.weights[-1]:
            about = {"split": split, "step": self.step, "weights": weights, "figures": figures}
            Details.of(outcomes, totals, **about).write(self.workdir.predictions / f"{split}.npz")
        self.log.append([event | {"seconds": time.perf_counter() - began}])
        self.console.evaluated(event)
        self.board.evaluated(event, totals, names=self.data.examples.class_names)
        return event

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        self._note_saved(self.checkpoints.wait())
        results = summary.make(
            self.log,
            self.plan,
            step=self.step,
            deciding=self.judge.split,
            best=self.judge.best,
            weights=self.judge.weights[-1],
            metric=self.judge.metric,
        )
        try:
            results |= {"drift": found} if (found := drift(self.workdir, self.state.network)) else {}
        except UserError as error:
            self.console.say(f"no drift of the layers: {error.found}", style="yellow")
        reason = "done"
        if self.step < self.plan.steps:
            reason = "early stopping"
            self.console.say(f"early stopping: evaluations have not got better; ended at step {self.step}")
        if self.cluster.is_chief:
            write_json(self.workdir.summary, results)
        self.log.append([{"event": "stop", "step": self.step, "reason": reason, "time": time.time()}])
        self.board.close(done=True)
        self.console.results(results, self.workdir.path, commands=heading.commands(self.workdir.path))
        if self.cluster.is_chief:
            writing.at_end(self.workdir, self.recipe, self.data, self.console)
        return 0

    def _stop_early(self) -> int:
        self._note_saved(self.checkpoints.wait())
        saved = ", saved" if self.checkpoints.newest() == self.step else ""
        self.log.append([{"event": "stop", "step": self.step, "reason": self.stop.requested, "time": time.time()}])
        self.board.close()
        self.console.stopped(self.stop.requested, f"step {self.step} of {self.plan.steps}{saved}")
        return launch.STOPPED
