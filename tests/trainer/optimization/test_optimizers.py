"""One optimizer per variable does what Keras' one for all does, but counts each variable's own updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import devices
from trainer.optimization import optimizers
from trainer.optimization.optimizers import Optimizer

SHAPES = {"conv/kernel": (3, 3, 2, 4), "conv/bias": (4,), "norm/gamma": (4,), "dense/kernel": (5, 3)}
STEPS = 20


def excluding_vectors(optimizer):
    """Keras' way of not decaying biases, once its variables are known."""
    build = optimizer.build

    def build_excluding(variables):
        optimizer.exclude_from_weight_decay(var_list=[each for each in variables if len(each.shape) < 2])
        build(variables)

    optimizer.build = build_excluding
    return optimizer


PAIRS = {
    "sgd": (optimizers.sgd(), lambda: keras.optimizers.SGD(momentum=0.9)),
    "plain sgd": (optimizers.sgd(momentum=0.0), keras.optimizers.SGD),
    "nesterov": (
        optimizers.sgd(momentum=0.8, nesterov=True), lambda: keras.optimizers.SGD(momentum=0.8, nesterov=True),
    ),
    "decayed sgd": (
        optimizers.sgd(weight_decay=0.1),
        lambda: excluding_vectors(keras.optimizers.SGD(momentum=0.9, weight_decay=0.1)),
    ),
    "adam": (optimizers.adam(), keras.optimizers.Adam),
    "other adam": (
        optimizers.adam(beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        lambda: keras.optimizers.Adam(beta_1=0.8, beta_2=0.95, epsilon=1e-3),
    ),
    "adamw": (optimizers.adamw(), lambda: excluding_vectors(keras.optimizers.AdamW(weight_decay=1e-2))),
    "adamw of all": (
        optimizers.adamw(weight_decay=0.3, decay_vectors=True), lambda: keras.optimizers.AdamW(weight_decay=0.3),
    ),
}  # fmt: skip


def weights(seed=0):
    random = np.random.default_rng(seed)
    return {name: keras.Variable(random.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()}


def gradients(step, names=tuple(SHAPES)):
    random = np.random.default_rng([7, step])
    drawn = {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return [tf.constant(drawn[name]) for name in names]


def learning_rate(step):
    return np.float32(0.1 / (1 + step))


class Ours:
    def __init__(self, rule):
        self.strategy = devices.set_up("cpu")
        with self.strategy.scope():
            self.variables = weights()
            self.optimizer = Optimizer(rule, self.variables)
        self._apply = tf.function(self.optimizer.apply, autograph=False)

    def step(self, step, names=tuple(SHAPES)):
        with self.strategy.scope():
            self._apply(tuple(names), gradients(step, names), tf.constant(learning_rate(step)))

    def slot(self, name):
        return self.optimizer.variables()[name].numpy()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_twenty_updates_are_those_of_keras(pair):
    rule, theirs = pair
    ours, expected, optimizer = Ours(rule), weights(), theirs()
    optimizer.build(list(expected.values()))
    for step in range(STEPS):
        ours.step(step)
        optimizer.learning_rate = float(learning_rate(step))
        optimizer.apply(gradients(step))
    for name, variable in expected.items():
        # 20 updates of at most 1 on weights of size 4, each off by the rounding of a few operations.
        np.testing.assert_allclose(ours.variables[name].numpy(), variable.numpy(), rtol=0, atol=STEPS * 4 * 2**-22)
        assert (ours.variables[name].numpy() != weights()[name].numpy()).any()


def test_biases_and_scales_do_not_decay_unless_told_to():
    still = [tf.zeros(SHAPES[name]) for name in SHAPES]
    for decay_vectors in (False, True):
        ours = Ours(optimizers.adamw(weight_decay=0.5, decay_vectors=decay_vectors))
        before = {name: variable.numpy() for name, variable in ours.variables.items()}
        with ours.strategy.scope():
            ours.optimizer.apply(list(SHAPES), still, tf.constant(0.1))
        for name, variable in ours.variables.items():
            decays = decay_vectors or len(SHAPES[name]) > 1
            np.testing.assert_allclose(variable.numpy(), before[name] * (0.95 if decays else 1.0), rtol=2**-22)


class TestAVariableThatStartsLate:
    LATE = "dense/kernel"

    @pytest.fixture
    def ours(self):
        ours = Ours(optimizers.adam())
        for step in range(30):
            ours.step(step, [name for name in SHAPES if name != self.LATE])
        return ours

    def test_is_updated_as_by_an_adam_of_its_own(self, ours):
        fresh = weights()[self.LATE]
        adam = keras.optimizers.Adam()
        adam.build([fresh])
        for step in range(30, 40):
            ours.step(step)
            adam.learning_rate = float(learning_rate(step))
            adam.apply(gradients(step, [self.LATE]), [fresh])
        np.testing.assert_allclose(ours.variables[self.LATE].numpy(), fresh.numpy(), rtol=0, atol=10 * 4 * 2**-22)

    def test_first_moves_by_the_learning_rate_and_not_by_several(self, ours):
        """With the count of all, bias correction would make it 3 times as much."""
        before = ours.variables[self.LATE].numpy()
        ours.step(30)
        moved = np.abs(ours.variables[self.LATE].numpy() - before)
        # epsilon shortens it by 1e-7 / |gradient|; gradients are normal, the smallest of 15 about 0.05.
        np.testing.assert_allclose(moved, learning_rate(30), rtol=1e-4)

    def test_has_its_own_count(self, ours):
        ours.step(30)
        assert {name: int(ours.slot(f"{name}/updates")) for name in SHAPES} == {
            name: 1 if name == self.LATE else 31 for name in SHAPES
        }


class TestSlots:
    def test_are_named_by_variable_and_purpose(self):
        names = Ours(optimizers.adamw()).optimizer.variables().keys()
        assert names == {f"{name}/{slot}" for name in SHAPES for slot in ("momentum", "velocity", "updates")}
        names = Ours(optimizers.sgd()).optimizer.variables().keys()
        assert names == {f"{name}/{slot}" for name in SHAPES for slot in ("momentum", "updates")}

    def test_and_weights_stay_as_they_are_where_nothing_trains(self):
        ours = Ours(optimizers.adamw())
        ours.step(0)
        before = {name: value.numpy() for name, value in ours.optimizer.variables().items()}
        still = {name: value.numpy() for name, value in ours.variables.items()}
        ours.step(1, ["conv/bias"])
        for name, value in ours.optimizer.variables().items():
            assert np.array_equal(value.numpy(), before[name]) == (not name.startswith("conv/bias/"))
        for name, value in ours.variables.items():
            assert np.array_equal(value.numpy(), still[name]) == (name != "conv/bias")
