"""Everything on the devices that shapes the future of a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data import durations
from data.errors import UserError
from trainer.batches import share_of
from trainer.checkpoints import value_of
from trainer.forgetting.anchor import Anchored
from trainer.forgetting.distillation import Teacher
from trainer.guard import GuardState
from trainer.losses import Loss
from trainer.models import freeze
from trainer.models.cut import Cut, cut
from trainer.models.freeze import Trainable
from trainer.models.network import Network
from trainer.models.patterns import Names
from trainer.models.resizing import at_size
from trainer.optimization import clipping
from trainer.optimization.clipping import Clipping
from trainer.optimization.early_stopping import EarlyStoppingState
from trainer.optimization.ema import Average
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer
from trainer.optimization.plateau import PlateauState
from trainer.optimization.stages import Plan, Stage
from trainer.ranking import Ranking
from trainer.recipe import ALWAYS, Recipe
from trainer.rendering import rendering, training_policy
from trainer.rhythm import Rhythm
from trainer.step import train_window


class TrainingState:
    """Builds model, optimizer and counters in the strategy's scope, from the random seed in effect.

    Args:
        load: whether the pre-trained weights of the recipe are loaded; not where others take their place.

    Attributes:
        network: backbone, head and their variables by name.
        trainable: what trains, by the name of the stage.
        cut: the network in two parts, where its stages train on stored features; else None.
        optimizer: update rules of every variable that trains in any stage.
        loss_scale: of mixed_float16; constant 1 otherwise.
        average: moving average of the weights; None where the recipe wants none.
        plateau: how the evaluations go, where the recipe wants the learning rate to follow them; else None.
        teacher: the network as it was before the first step, for distillation; None where the recipe wants none.
        anchored: the weights that are drawn to what they were; likewise.
        step: scalar int64, steps done.
        early_stopping: likewise, where the recipe wants the training to end by it.
        guard: what is remembered of numbers that went bad.
        best: the evaluations that were best so far.
        best_raw: likewise of the weights themselves, where there is an average, which decides; else None.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        *,
        strategy: tf.distribute.Strategy,
        outputs: int,
        task: str,
        loss: Loss,
        load: bool = True,
    ):
        self._task, self._loss = task, loss
        with strategy.scope():
            architecture = recipe.model if load else dataclasses.replace(recipe.model, pretrained=None)
            self.network = architecture.build(image_size=recipe.image_size, classes=outputs, precision=recipe.precision)
            stages = [planned.stage for planned in plan.stages]
            self.trainable = {stage.name: chosen(recipe, self.network, stage) for stage in stages}
            self.cut, self._models = models_of(recipe, self.network, stages, self.trainable)
            ever = {name for trainable in self.trainable.values() for name in trainable.names}
            trained = {name: variable for name, variable in self.network.variables.items() if name in ever}
            self.optimizer = Optimizer(recipe.optimizer, trained)
            self.loss_scale = LossScale(dynamic=recipe.precision == "mixed_float16")
            self.average = (
                None
                if recipe.ema is None
                else Average(self.network.variables, averaged=ever, decay=recipe.ema, warmup=recipe.ema_warmup)
            )
            self.plateau = None if recipe.plateau is None else PlateauState(recipe.plateau)
            early = recipe.early_stopping
            self.early_stopping = None if early is None else EarlyStoppingState(early)
            self.teacher, self._teachers = None, {}
            if recipe.distillation is not None:
                twin = _twin(recipe, self.network)
                self.teacher = Teacher(twin, recipe.distillation, task=task)
                _, self._teachers = models_of(recipe, twin, stages, self.trainable)
            self.anchored = None
            if recipe.anchor is not None:
                self.anchored = Anchored(recipe.anchor, _held(recipe, self.network, trained))
            shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
            self.step = tf.Variable(0, dtype=tf.int64, **shared)
            self.guard = GuardState(recipe.guard)
            self.best = Ranking(keep=recipe.keep_best, gain=recipe.best_gain)
            self.best_raw = None if self.average is None else Ranking(keep=recipe.keep_best, gain=recipe.best_gain)

    def remember(self, initial: Mapping[str, np.ndarray], *, old: Sequence[int]) -> None:
        """Gives teacher and anchor what the session began with; call it before the first window is traced.

        Args:
            initial: an array for each name of the model.
            old: classes that the network knew.
        """
        if self.teacher is not None:
            self.teacher.learn(initial, old=old)
        if self.anchored is not None:
            self.anchored.hold(initial)

    def window(
        self, recipe: Recipe, stage: Stage, *, strategy: tf.distribute.Strategy, stop: tf.Variable | None = None
    ) -> Callable:
        """The compiled loop of a stage, see `trainer.step.train_window`; a new trace.

        Raises:
            UserError: XLA is to compile what it cannot.
        """
        trainable = self.trainable[stage.name]
        if recipe.xla == ALWAYS:
            _expect_no_reduction(self.network)
        freeze.set_batchnorm(self.network, trainable)
        return train_window(
            strategy=strategy,
            model=self._models[stage.name],
            variables={name: self.network.variables[name] for name in trainable.names},
            moving_statistics=freeze.moving_statistics(self.network, trainable),
            optimizer=self.optimizer,
            loss_scale=self.loss_scale,
            step=self.step,
            task=self._task,
            loss=self._loss,
            clipping=self._clipping(recipe),
            accumulation=share_of(recipe, strategy.num_replicas_in_sync).parts,
            factors=trainable.factors,
            average=self.average,
            distillation=self.teacher and self.teacher.term(self._teachers[stage.name]),
            anchor=self.anchored and self.anchored.term(trainable.names),
            rendering=rendering(recipe, training_policy(recipe, stage), samples=recipe.samples, stage=stage),
            length=recipe.window,
            deterministic=recipe.deterministic,
            stop=stop,
            guard=self.guard,
            pack=recipe.reduction_bytes,
            xla=recipe.xla == ALWAYS,
        )

    def _clipping(self, recipe: Recipe) -> Clipping:
        adaptive = recipe.clip_adaptive
        units = {} if adaptive is None else clipping.units(self.network)
        return Clipping(norm=recipe.clip_norm, value=recipe.clip_value, adaptive=adaptive, units=units)

    def groups(self) -> dict[str, dict[str, tf.Variable]]:
        """Every variable by group and name, as checkpoints keep them."""
        optional = {
            "ema": self.average,
            "plateau": self.plateau,
            "early_stopping": self.early_stopping,
            "best_raw": self.best_raw,
        }
        return {
            "model": self.network.values(),
            "optimizer": self.optimizer.variables(),
            "loss_scale": self.loss_scale.variables(),
            "state": {"step": self.step},
            "best": self.best.variables(),
            "guard": self.guard.variables(),
            **{group: holder.variables() for group, holder in optional.items() if holder is not None},
        }

    def not_finite(self) -> list[str]:
        """Names of the model's variables that hold NaN or infinity."""
        values = self.network.values()
        # Tensors: a traced function would go on looking at the variables of the first session in this process.
        floats = {name: value_of(value) for name, value in values.items() if value.dtype.is_floating}
        finite = _all_finite(list(floats.values())).numpy()
        return [name for name, fine in zip(floats, finite, strict=True) if not fine]


def _expect_no_reduction(network: Network) -> None:
    """XLA cannot compile what adds up over replicas inside the network."""
    synchronised = [name for name, layer in network.layers.items() if getattr(layer, "synchronized", False)]
    if synchronised:
        raise UserError(
            f"XLA cannot compile batch normalisation that is synchronised over replicas: {synchronised[0]}",
            where="gin binding train.xla",
            expected="'never' for this network",
            do="--gin_param=\"train.xla = 'never'\"",
        )


def chosen(recipe: Recipe, network: Network, stage: Stage) -> Trainable:
    """What of a network trains in a stage, see `trainer.models.freeze.choose`."""
    return freeze.choose(
        network,
        recipe.model.backbone,
        stage.trains,
        batchnorm=batchnorm_mode(recipe, stage),
        where=f"gin binding {stage.binding('trains')}",
        factors=stage.factors,
        layer_decay=stage.layer_decay,
        factors_where=f"gin binding {stage.binding('factors')}",
    )


def batchnorm_mode(recipe: Recipe, stage: Stage) -> str:
    """That of a stage, or else the usual one for the weights."""
    return stage.batchnorm or ("train" if recipe.model.pretrained is None else "frozen")


def models_of(
    recipe: Recipe, network: Network, stages: Sequence[Stage], trainable: Mapping[str, Trainable]
) -> tuple[Cut | None, dict[str, keras.Model]]:
    """What of a network the steps of each stage run, by its name, and where it is cut for that."""
    if recipe.features is None:
        return None, {stage.name: model_of(recipe, network, stage) for stage in stages}
    parts = cut(network, recipe.features.layer, stages=trainable.values())
    return parts, {stage.name: parts.suffix for stage in stages}


def model_of(recipe: Recipe, network: Network, stage: Stage) -> keras.Model:
    """The network for the image size of a stage."""
    return at_size(network, recipe.size(stage)[0], where=f"gin binding {stage.binding('image_size')}")


def _twin(recipe: Recipe, network: Network) -> Network:
    """Another network like that one, with weights of its own under the same names."""
    size, outputs = recipe.image_size, network.model.output_shape[-1]
    plain = dataclasses.replace(recipe.model, pretrained=None)
    twin = plain.build(image_size=size, classes=outputs, precision=recipe.precision)
    # Layers without a name of their own are numbered in the order in which a process makes them.
    return dataclasses.replace(twin, variables=dict(zip(network.variables, twin.variables.values(), strict=True)))


def _held(recipe: Recipe, network: Network, trained: Mapping[str, keras.Variable]) -> dict[str, keras.Variable]:
    """What of the variables that train the anchor holds."""
    names, where = Names.of(network, recipe.model.backbone), "gin binding anchor.patterns"
    matched = {name for pattern in recipe.anchor.patterns for name in names.matching(pattern, where=where)}
    held = {name: variable for name, variable in trained.items() if name in matched}
    if not held:
        raise UserError(
            f"the patterns {list(recipe.anchor.patterns)} match nothing that trains in any stage",
            where=where,
            expected="patterns of what trains",
            do="correct them, or leave train.anchor out",
        )
    return held


@tf.function
def _all_finite(values: list[tf.Tensor]) -> tf.Tensor:
    return tf.stack([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def rhythm(recipe: Recipe, plan: Plan, *, validates: bool) -> Rhythm:
    """When a run evaluates and saves.

    Args:
        validates: whether there are images in validation.

    Raises:
        UserError: a duration of 0, or something that follows evaluations that there are none of.
    """
    for name, follows in (("plateau", recipe.plateau), ("early_stopping", recipe.early_stopping)):
        if follows is not None and not validates:
            raise UserError(
                f"train.{name}, which follows evaluations, and no validation split",
                where=f"gin bindings train.{name}, train.split",
                expected="a part of the images in validation",
                do=f"give the split a share for validation, or set train.{name} = None",
            )
    every = {}
    for name in ("evaluate_every", "checkpoint_every", "keep_every"):
        duration = getattr(recipe, name)
        if duration is None and name == "keep_every":
            continue
        every[name] = durations.steps(duration, examples=plan.examples, batch=plan.batch, where=f"train.{name}")
        if every[name] < 1:
            raise UserError(
                "a duration of 0",
                where=f"gin binding train.{name}",
                expected="more than 0",
                do="to evaluate and save less often, name a long one: (1000, 'epochs')",
            )
    return Rhythm(
        plan=plan,
        window=recipe.window,
        evaluate=every["evaluate_every"],
        checkpoint=every["checkpoint_every"],
        keep=every.get("keep_every"),
    )
