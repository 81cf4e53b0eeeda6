"""The smallest network that has every kind of variable, and windows that train it on arrays."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from data.augment.apply import Rendering
from data.pipeline import ordered
from trainer import devices
from trainer.guard import Guard, GuardState
from trainer.losses import Loss, cross_entropy
from trainer.optimization.ema import Average
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer, UpdateRule
from trainer.step import train_window

SIZE, OUTPUTS = 8, 4


def network(*, l2: float = 0.0) -> keras.Model:
    """A convolution and two dense layers, without normalisation and dropout; always with the same weights."""
    keras.utils.set_random_seed(11)
    layers, regulariser = keras.layers, keras.regularizers.L2(l2) if l2 else None
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(4, 3, strides=2, activation="tanh", kernel_regularizer=regulariser, name="conv"),
            layers.Flatten(),
            layers.Dense(6, activation="tanh", name="hidden"),
            layers.Dense(OUTPUTS, name="head_logits"),
        ]
    )


def material(steps: int, batch: int, *, task: str = "single_label") -> dict[str, np.ndarray]:
    """A batch a step: image [steps, batch, SIZE, SIZE, 3], label, weight."""
    random = np.random.default_rng(12)
    labels = {
        "single_label": random.integers(0, OUTPUTS, (steps, batch)).astype(np.int32),
        "multi_label": random.integers(0, 2, (steps, batch, OUTPUTS)).astype(np.float32),
        "regression": random.normal(size=(steps, batch, OUTPUTS)).astype(np.float32),
    }[task]
    images = random.normal(size=(steps, batch, SIZE, SIZE, 3)).astype(np.float32)
    return {"image": images, "label": labels, "weight": np.ones((steps, batch), np.float32)}


class Run:
    """A network in training. `window` are arguments of `train_window`."""

    def __init__(
        self,
        rule: UpdateRule,
        *,
        replicas: int = 1,
        make: Callable[[], keras.Model] = network,
        task: str = "single_label",
        loss: Loss | None = None,
        ema: float | None = None,
        length: int = 50,
        guard: Guard | None = None,
        **window,
    ):
        self.strategy, self._length = devices.set_up(f"cpu:{replicas}"), length
        with self.strategy.scope():
            self.model = make()
            self.variables = {"/".join(each.path.split("/")[-2:]): each for each in self.model.trainable_variables}
            averaged = {"averaged": set(self.variables), "decay": ema, "warmup": False}
            self.average = None if ema is None else Average(self.variables, **averaged)
            self.guard = None if guard is None else GuardState(guard)
            self._window = train_window(
                strategy=self.strategy,
                model=self.model,
                variables=self.variables,
                moving_statistics=[],
                optimizer=Optimizer(rule, self.variables),
                loss_scale=LossScale(dynamic=False),
                step=tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA),
                task=task,
                loss=loss or cross_entropy(),
                rendering=Rendering(size=(SIZE, SIZE)),
                length=length,
                average=self.average,
                guard=self.guard,
                **window,
            )

    def train(self, batches: Mapping[str, np.ndarray], rates: np.ndarray) -> dict[str, np.ndarray]:
        """Trains a batch a step, cut over the replicas. Returns what `train_window` records."""
        steps, replicas = len(rates), self.strategy.num_replicas_in_sync

        def of_replica(context):
            # Elements go to the replicas in turn.
            cut = {
                name: values.reshape(steps * replicas, values.shape[1] // replicas, *values.shape[2:])
                for name, values in batches.items()
            }
            return tf.data.Dataset.from_tensor_slices(cut).with_options(ordered())

        padded = np.zeros(self._length, np.float32)
        padded[:steps] = rates
        stream = devices.batches(self.strategy, of_replica)
        records = self._window(stream, tf.constant(padded), tf.constant(steps))
        return {name: values.numpy()[:steps] for name, values in records.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def averages(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self.average.variables().items()}
