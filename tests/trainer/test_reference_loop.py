"""Fifty steps are those of Keras' own `train_on_batch`: same initial weights, same batches, float32 rounding apart."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer import losses
from trainer.optimization import optimizers, schedules

STEPS, BATCH = 50, 16
KERAS, DECAY = keras.optimizers, keras.optimizers.schedules
KERAS_LOSS = keras.losses
steps_of = schedules.steps_function(examples=BATCH, batch=BATCH)


@dataclasses.dataclass
class Case:
    """Ours and Keras': an update rule, a schedule and a loss."""

    rule: optimizers.UpdateRule
    optimizer: object
    schedule: schedules.Schedule
    decay: object
    loss: losses.Loss
    keras_loss: object
    task: str = "single_label"


def one_hot(loss):
    """A loss of Keras that wants [B, K], for labels [B]."""
    return lambda labels, logits: loss(tf.one_hot(tf.reshape(tf.cast(labels, tf.int32), [-1]), tiny.OUTPUTS), logits)


def decayed(make, **arguments):
    return lambda rate: make(rate, weight_decay=0.1, **arguments)


EVERYWHERE = {"weight_decay": 0.1, "decay_vectors": True}
CASES = {
    "sgd, constant, cross-entropy": Case(
        optimizers.sgd(**EVERYWHERE), decayed(KERAS.SGD, momentum=0.9),
        schedules.constant_rate(peak=0.02), 0.02,
        losses.cross_entropy(), KERAS_LOSS.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "nesterov, cosine, label smoothing": Case(
        optimizers.sgd(momentum=0.8, nesterov=True), lambda rate: KERAS.SGD(rate, momentum=0.8, nesterov=True),
        schedules.cosine(peak=0.05, final=0.1), DECAY.CosineDecay(0.05, STEPS, alpha=0.1),
        losses.cross_entropy(label_smoothing=0.1),
        one_hot(KERAS_LOSS.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)),
    ),
    "adam, linear, binary": Case(
        optimizers.adam(), KERAS.Adam,
        schedules.linear_decay(peak=1e-3, final=0.2), DECAY.PolynomialDecay(1e-3, STEPS, 2e-4),
        losses.binary_cross_entropy(label_smoothing=0.1),
        KERAS_LOSS.BinaryCrossentropy(from_logits=True, label_smoothing=0.1), "multi_label",
    ),
    "adamw, polynomial, focal": Case(
        optimizers.adamw(**EVERYWHERE), decayed(KERAS.AdamW),
        schedules.polynomial(peak=1e-3, power=3.0), DECAY.PolynomialDecay(1e-3, STEPS, 0.0, power=3.0),
        losses.focal(), one_hot(KERAS_LOSS.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)),
    ),
    "rmsprop, exponential, binary focal": Case(
        optimizers.rmsprop(momentum=0.5, centered=True, **EVERYWHERE),
        decayed(KERAS.RMSprop, momentum=0.5, centered=True),
        schedules.exponential(peak=1e-3, factor=0.5, every=(10, "steps")), DECAY.ExponentialDecay(1e-3, 10, 0.5),
        losses.binary_focal(alpha=0.25),
        KERAS_LOSS.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True), "multi_label",
    ),
    "lion, steps, squared error": Case(
        optimizers.lion(**EVERYWHERE), decayed(KERAS.Lion),
        schedules.step_decay(peak=1e-3, every=(20, "steps")),
        DECAY.ExponentialDecay(1e-3, 20, 0.1, staircase=True),
        losses.squared_error(), KERAS_LOSS.MeanSquaredError(), "regression",
    ),
    "lamb, milestones, huber": Case(
        optimizers.lamb(**EVERYWHERE), decayed(KERAS.Lamb),
        schedules.step_decay(peak=1e-2, milestones=[(10, "steps"), (30, "steps")]),
        # Theirs falls after its boundaries.
        DECAY.PiecewiseConstantDecay([9, 29], [1e-2, 1e-3, 1e-4]),
        losses.huber(delta=0.5), KERAS_LOSS.Huber(delta=0.5), "regression",
    ),
    "adafactor": Case(
        optimizers.adafactor(**EVERYWHERE), decayed(KERAS.Adafactor),
        schedules.constant_rate(peak=1e-2), 1e-2,
        losses.cross_entropy(), KERAS_LOSS.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "muon": Case(
        optimizers.muon(**EVERYWHERE), decayed(KERAS.Muon, adam_weight_decay=0.1, exclude_layers=["head_logits"]),
        schedules.constant_rate(peak=1e-3), 1e-3,
        losses.cross_entropy(), KERAS_LOSS.SparseCategoricalCrossentropy(from_logits=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fifty_steps_are_those_of_keras(case):
    batches = tiny.material(STEPS, BATCH, task=case.task)
    ours = tiny.Run(case.rule, task=case.task, loss=case.loss)
    before = ours.weights()
    records = ours.train(batches, case.schedule(np.arange(STEPS), STEPS, steps_of))

    theirs = tiny.network()
    theirs.compile(optimizer=case.optimizer(case.decay), loss=case.keras_loss, jit_compile=False)
    losses = [theirs.train_on_batch(*batch) for batch in zip(batches["image"], batches["label"], strict=True)]
    # Each step rounds a weight below 1 by 2**-25 at most, in either run; what else is rounded is as much smaller as a
    # step is smaller than a weight.
    rounding = STEPS * 2 * 2**-25
    for (name, weights), other in zip(ours.weights().items(), theirs.trainable_variables, strict=True):
        np.testing.assert_allclose(weights, other.numpy(), rtol=0, atol=rounding)
        assert np.abs(weights - before[name]).max() > 10 * rounding
    # Means of 16 numbers below 4, out of logits of some 30 products.
    np.testing.assert_allclose(records["loss"], losses, rtol=0, atol=64 * 2**-24)
