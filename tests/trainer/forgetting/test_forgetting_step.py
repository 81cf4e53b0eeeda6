"""Teacher and anchor in the training step, against steps that NumPy and Keras take by hand."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from data import pipeline
from data.augment import geometry, mixing
from data.augment.policy import Policy
from tests.trainer.test_step import BATCH, CLASSES, EXAMPLES, RENDERING, VIEW, shuffled, small_model
from trainer import devices
from trainer.forgetting.anchor import Anchored, anchor
from trainer.forgetting.distillation import Teacher, distillation
from trainer.losses import cross_entropy
from trainer.models.network import Network
from trainer.optimization import optimizers
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer
from trainer.step import train_window

STEPS, RATE = 6, np.float32(0.05)
POLICY = Policy((geometry.flip(), mixing.mixup(alpha=1.0)))
# From no weight at all to four times another's.
WEIGHTED = dataclasses.replace(EXAMPLES, weights=np.float32(np.arange(len(EXAMPLES)) % 5 / 2))
OLD, TEACHER, ANCHOR = [0, 3], distillation(weight=2.0, temperature=3.0), anchor(weight=0.2)
HELD = ("small/first/kernel", "small/second/kernel")
# Float32 rounding of sums over a batch, six steps of them; gradients are of size 1.
TOLERANCE = 1e-6


def batches_of(strategy):
    return strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_batches(
            WEIGHTED, order=shuffled(WEIGHTED), start=0, batch=BATCH // strategy.num_replicas_in_sync, seed=5,
            policy=POLICY, view=VIEW,
        )
    )  # fmt: skip


def two_models(strategy):
    """One that trains and one that teaches, of other weights."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        return small_model(regularised=True), small_model()


def trained(replicas, *, accumulation):
    """Weights, losses and the teacher's weights after a few steps of the compiled window."""
    strategy = devices.set_up(f"cpu:{replicas}")
    model, twin = two_models(strategy)
    variables = {variable.path: variable for variable in model.trainable_variables}
    first = {name: variable.numpy() for name, variable in variables.items()}
    with strategy.scope():
        optimizer, loss_scale = Optimizer(optimizers.sgd(momentum=0.0), variables), LossScale(dynamic=False)
        step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, trainable=False)
        twin_variables = {variable.path: variable for variable in twin.variables}
        teacher = Teacher(Network(twin, twin, twin_variables, None), TEACHER, task="single_label")
        teacher.learn({name: variable.numpy() for name, variable in twin_variables.items()}, old=OLD)
        anchored = Anchored(ANCHOR, {name: variables[name] for name in HELD})
        anchored.hold({name: value + np.float32(0.5) for name, value in first.items()})
    window = train_window(
        strategy=strategy, model=model, variables=variables, moving_statistics=[], optimizer=optimizer,
        loss_scale=loss_scale, step=step, task="single_label", loss=cross_entropy(), accumulation=accumulation,
        distillation=teacher.term(twin), anchor=anchored.term(list(variables)),
        rendering=dataclasses.replace(RENDERING, program=POLICY.program), length=STEPS,
    )  # fmt: skip
    records = window(iter(batches_of(strategy)), tf.fill([STEPS], RATE), tf.constant(STEPS))
    taught = {name: variable.numpy() for name, variable in twin_variables.items()}
    return {name: variable.numpy() for name, variable in variables.items()}, records["loss"].numpy(), taught


def by_hand():
    """The same, one step after the other: Keras' divergence, and the anchor's gradient as the paper has it."""
    strategy = devices.set_up("cpu")
    model, twin = two_models(strategy)
    variables = {variable.path: variable for variable in model.trainable_variables}
    places = {name: variables[name].numpy() + np.float32(0.5) for name in HELD}
    render = dataclasses.replace(RENDERING, program=POLICY.program)
    losses = []
    for batch, _ in zip(batches_of(strategy), range(STEPS), strict=False):
        images, share, weight = render.images(batch), batch["share"].numpy(), batch["weight"].numpy()
        other = np.arange(BATCH) ^ 1
        of_image = share * weight + (1 - share) * weight[other]
        certain = tf.one_hot(batch["label"], CLASSES)
        own, partner = (
            (share * weight)[:, None] * certain,
            ((1 - share) * weight[other])[:, None] * certain.numpy()[other],
        )
        taught = tf.nn.softmax(tf.gather(twin(images), OLD, axis=1) / TEACHER.temperature)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            learned = tf.nn.softmax(tf.gather(logits, OLD, axis=1) / TEACHER.temperature)
            apart = TEACHER.temperature**2 * keras.losses.kl_divergence(taught, learned)
            targets = tf.reduce_sum((own + partner) * -tf.nn.log_softmax(logits))
            objective = (targets + TEACHER.weight * tf.reduce_sum(of_image * apart)) / weight.sum() + sum(model.losses)
        gradients = tape.gradient(objective, [variable.value for variable in variables.values()])
        distance = sum(((variables[name].numpy() - places[name]).astype(np.float64) ** 2).sum() for name in HELD)
        losses.append(float(objective) + ANCHOR.weight / 2 * distance)
        for (name, variable), gradient in zip(variables.items(), gradients, strict=True):
            pulled = ANCHOR.weight * (variable.numpy() - places[name]) if name in HELD else 0
            variable.assign(variable.numpy() - RATE * (gradient.numpy() + pulled))
    return *({v.path: v.numpy() for v in each.variables} for each in (model, twin)), losses


@pytest.fixture(scope="module")
def reference():
    return by_hand()


@pytest.mark.parametrize("replicas, accumulation", [(1, 1), (2, 2)])
def test_teacher_and_anchor_count_once_an_update_however_the_batch_is_cut(replicas, accumulation, reference):
    weights, losses, taught = trained(replicas, accumulation=accumulation)
    expected, teacher, expected_losses = reference
    for name, value in weights.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, value in taught.items():
        assert value.tobytes() == teacher[name].tobytes(), f"the teacher has learned: {name}"
