"""The network as it was before the first step teaches the one that trains (learning without forgetting)."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import gin
import keras
import numpy as np
import tensorflow as tf

from data.errors import UserError
from trainer.models.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """How much the teacher counts, see `distillation`."""

    weight: float
    temperature: float


@gin.configurable
def distillation(*, weight: float = 1.0, temperature: float = 2.0) -> Distillation:
    """Adds to the loss of each training image how far the outputs of old classes are from the teacher's.

    The teacher is the network before the first step; it sees the same augmented images. Li, Hoiem 2016, "Learning
    without Forgetting"; the divergence is `divergence`.

    Args:
        weight: factor of the divergence, above 0; the loss itself has 1.
        temperature: above 0; higher ones let small probabilities count more. Regression knows none.

    Raises:
        UserError: a number that is not above 0.
    """
    for name, value in (("weight", weight), ("temperature", temperature)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            raise UserError(
                f"{name} = {value!r}",
                where=f"gin binding distillation.{name}",
                expected="a finite number above 0",
                do="correct it; without distillation: train.distillation = None",
            )
    return Distillation(weight=weight, temperature=temperature)


class Teacher:
    """A frozen network, in inference mode, and how far another one's outputs are from its own.

    Args:
        network: of the same architecture as the one that trains.
        task: one of `data.examples.TASKS`.
    """

    def __init__(self, network: Network, rule: Distillation, *, task: str):
        self._network, self._rule, self._task = network, rule, task
        self._old: list[int] = []

    def learn(self, values: Mapping[str, np.ndarray], *, old: Sequence[int]) -> None:
        """Takes its weights, by the names of the network, and the classes that it knows.

        Raises:
            UserError: it knows none.
        """
        self._old = taught_outputs(old, task=self._task)
        for name, variable in self._network.values().items():
            variable.assign(values[name])

    def term(self, model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """What is added to the losses.

        Args:
            model: the teacher's, for the image size in question.

        Returns:
            function (normalised pixels [B, S, S, 3], logits [B, K] float32 of the network that trains) -> [B] float32.
        """

        def of_batch(images: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            taught = tf.gather(tf.stop_gradient(model(images, training=False)), self._old, axis=1)
            learned = tf.gather(logits, self._old, axis=1)
            apart = divergence(taught, learned, temperature=self._rule.temperature, task=self._task)
            return self._rule.weight * apart

        return of_batch


def taught_outputs(old: Sequence[int], *, task: str) -> list[int]:
    """The outputs that a teacher of these classes has something to say of.

    Raises:
        UserError: there is none.
    """
    # One output tells two classes apart.
    outputs = list(old) if task != "binary" else [0] if len(old) == 2 else []
    if not outputs:
        raise UserError(
            "the first weights know none of the classes, so they cannot teach any",
            where="gin binding train.distillation, --init_from",
            expected="weights of a network whose outputs go over to this one, by the names of their classes",
            do="give the session before as --init_from=WORKDIR, or set train.distillation = None",
        )
    return outputs


def divergence(teacher: tf.Tensor, student: tf.Tensor, *, temperature: float, task: str) -> tf.Tensor:
    """How far outputs are from a teacher's, for each example.

    single_label: T^2 times the Kullback-Leibler divergence of softmax(student / T) from softmax(teacher / T), in nats.
    The factor keeps gradients at one size whatever T is (Hinton, Vinyals, Dean 2015).
    binary, multi_label: the same of the sigmoid of each output, the mean over the outputs.
    regression: the mean over the outputs of the squared difference.

    Args:
        teacher, student: [B, K] float32 logits, or values of a regression.
        temperature: T, above 0.
        task: one of `data.examples.TASKS`.

    Returns:
        [B] float32, at least 0 but for rounding.
    """
    if task == "regression":
        return tf.reduce_mean(tf.math.squared_difference(teacher, student), axis=-1)
    teacher, student = teacher / temperature, student / temperature
    if task == "single_label":
        log_teacher, log_student = tf.nn.log_softmax(teacher), tf.nn.log_softmax(student)
        apart = tf.reduce_sum(tf.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    else:
        on = tf.math.sigmoid(teacher) * (tf.math.log_sigmoid(teacher) - tf.math.log_sigmoid(student))
        off = tf.math.sigmoid(-teacher) * (tf.math.log_sigmoid(-teacher) - tf.math.log_sigmoid(-student))
        apart = tf.reduce_mean(on + off, axis=-1)
    return temperature**2 * apart
