"""Everything on the devices that shapes the future of a run."""

import math
from collections.abc import Callable

import tensorflow as tf

from data.errors import UserError
from trainer.losses import Loss
from trainer.models import freeze
from trainer.models.freeze import Trainable
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer
from trainer.optimization.stages import Plan, Stage
from trainer.recipe import Recipe
from trainer.rendering import rendering, training_policy
from trainer.step import train_window


class TrainingState:
    """Builds model, optimizer and counters in the strategy's scope, from the random seed in effect.

    Attributes:
        network: backbone, head and their variables by name.
        trainable: what trains, by the name of the stage.
        optimizer: update rules of every variable that trains in any stage.
        loss_scale: of mixed_float16; constant 1 otherwise.
        step: scalar int64, steps done.
        best_value, best_step: `metrics.merit` and step of the evaluation that was best so far; -inf and -1 before the
            first.
    """

    def __init__(
        self, recipe: Recipe, plan: Plan, *, strategy: tf.distribute.Strategy, outputs: int, task: str, loss: Loss
    ):
        self._task, self._loss = task, loss
        with strategy.scope():
            self.network = recipe.model.build(image_size=recipe.image_size, classes=outputs, precision=recipe.precision)
            self.trainable = {planned.stage.name: self._choose(recipe, planned.stage) for planned in plan.stages}
            ever = {name for trainable in self.trainable.values() for name in trainable.names}
            trained = {name: variable for name, variable in self.network.variables.items() if name in ever}
            self.optimizer = Optimizer(recipe.optimizer, trained)
            self.loss_scale = LossScale(dynamic=recipe.precision == "mixed_float16")
            shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
            self.step = tf.Variable(0, dtype=tf.int64, **shared)
            self.best_value = tf.Variable(-math.inf, dtype=tf.float64, **shared)
            self.best_step = tf.Variable(-1, dtype=tf.int64, **shared)

    def _choose(self, recipe: Recipe, stage) -> Trainable:
        pretrained = recipe.model.pretrained is not None
        return freeze.choose(
            self.network,
            recipe.model.backbone,
            stage.trains,
            batchnorm=stage.batchnorm or ("frozen" if pretrained else "train"),
            where=f"gin binding {stage.name}/stage.trains",
        )

    def window(self, recipe: Recipe, stage: Stage, *, strategy: tf.distribute.Strategy) -> Callable:
        """The compiled loop of a stage, see `trainer.step.train_window`; a new trace."""
        trainable = self.trainable[stage.name]
        freeze.set_batchnorm(self.network, trainable)
        return train_window(
            strategy=strategy,
            model=self.network.model,
            variables={name: self.network.variables[name] for name in trainable.names},
            moving_statistics=freeze.moving_statistics(self.network, trainable),
            optimizer=self.optimizer,
            loss_scale=self.loss_scale,
            step=self.step,
            task=self._task,
            loss=self._loss,
            clip_norm=recipe.clip_norm,
            rendering=rendering(recipe, training_policy(recipe, stage), samples=recipe.samples),
            length=recipe.window,
            deterministic=recipe.deterministic,
        )

    def groups(self) -> dict[str, dict[str, tf.Variable]]:
        """Every variable by group and name, as checkpoints keep them."""
        return {
            "model": self.network.values(),
            "optimizer": self.optimizer.variables(),
            "loss_scale": self.loss_scale.variables(),
            "state": {"step": self.step, "best_value": self.best_value, "best_step": self.best_step},
        }

    def not_finite(self) -> list[str]:
        """Names of the model's variables that hold NaN or infinity."""
        values = self.network.values()
        # Tensors: a traced function would go on looking at the variables of the first session in this process.
        floats = {name: value.read_value() for name, value in values.items() if value.dtype.is_floating}
        finite = _all_finite(list(floats.values())).numpy()
        return [name for name, fine in zip(floats, finite, strict=True) if not fine]


@tf.function
def _all_finite(values: list[tf.Tensor]) -> tf.Tensor:
    return tf.stack([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def check_batch(batch: int, replicas: int) -> None:
    """Refuses a global batch that does not divide over the replicas."""
    if batch % replicas:
        raise UserError(
            f"a global batch of {batch} does not divide over {replicas} replicas",
            where="gin binding train.batch_size (batch_size), with --devices",
            expected=f"a multiple of {replicas}",
            do=f"--gin_param='batch_size = {math.ceil(batch / replicas) * replicas}', or other --devices",
        )
