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


ALL = {
    name: getattr(optimizers, name) for name in ("sgd", "adam", "adamw", "rmsprop", "lion", "lamb", "adafactor", "muon")
}
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
    def __init__(self, rule, factors=None):
        self.strategy = devices.set_up("cpu")
        with self.strategy.scope():
            self.variables = weights()
            self.optimizer = Optimizer(rule, self.variables)
        self._apply = tf.function(self.optimizer.apply, autograph=False)
        self._factors = factors

    def step(self, step, names=tuple(SHAPES)):
        with self.strategy.scope():
            self._apply(tuple(names), gradients(step, names), tf.constant(learning_rate(step)), self._factors)

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


def test_rates_of_their_own_and_masks_of_decay_are_those_of_numpy_for_momentum():
    rule = optimizers.sgd(momentum=0.9, weight_decay=0.2, decay_vectors=True, undecayed=("^norm/", "bias$"))
    factors = {"conv/kernel": 0.25, "conv/bias": 2.0, "norm/gamma": 0.5}
    decays = {"conv/kernel": 0.2, "conv/bias": 0.0, "norm/gamma": 0.0, "dense/kernel": 0.2}
    assert {name: rule.decay_of(name, shape) for name, shape in SHAPES.items()} == decays
    ours = Ours(rule, factors)
    wanted = {name: variable.numpy().astype(np.float64) for name, variable in ours.variables.items()}
    momentum = dict.fromkeys(SHAPES, 0.0)
    for step in range(STEPS):
        ours.step(step)
        for name, gradient in zip(SHAPES, gradients(step), strict=True):
            rate = float(learning_rate(step)) * factors.get(name, 1.0)
            momentum[name] = 0.9 * momentum[name] - rate * gradient.numpy().astype(np.float64)
            wanted[name] = wanted[name] - rate * decays[name] * wanted[name] + momentum[name]
    for name, expected in wanted.items():
        # 20 updates of weights of size 4, each off by the rounding of a few operations.
        np.testing.assert_allclose(ours.variables[name].numpy(), expected, rtol=0, atol=STEPS * 4 * 2**-22)


def test_rates_of_their_own_and_masks_of_decay_are_those_of_numpy_for_adam():
    ours = Ours(optimizers.adamw(weight_decay=0.3, undecayed=("dense",)), {"dense/kernel": 0.1, "conv/kernel": 0.5})
    wanted = {name: variable.numpy().astype(np.float64) for name, variable in ours.variables.items()}
    first, second = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(SHAPES, 0.0)
    for step in range(STEPS):
        ours.step(step)
        for name, gradient in zip(SHAPES, gradients(step), strict=True):
            gradient = gradient.numpy().astype(np.float64)
            rate = float(learning_rate(step)) * {"dense/kernel": 0.1, "conv/kernel": 0.5}.get(name, 1.0)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            length = rate * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            wanted[name] -= rate * (0.3 if name == "conv/kernel" else 0.0) * wanted[name]
            wanted[name] -= length * first[name] / (np.sqrt(second[name]) + 1e-7)
    for name, expected in wanted.items():
        np.testing.assert_allclose(ours.variables[name].numpy(), expected, rtol=0, atol=STEPS * 4 * 2**-22)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"undecayed": ["("]}, ["'('", "undecayed"]),
        ({"undecayed": "bias"}, ["'bias'", "list"]),
        ({"weight_decay": -0.1}, ["weight_decay = -0.1"]),
        ({"weight_decay": "much"}, ["weight_decay = 'much'"]),
        ({"decay_vectors": "no"}, ["decay_vectors = 'no'", "False"]),
        ({"nesterov": "no"}, ["nesterov = 'no'"]),
        ({"by_adam": ["("]}, ["'('", "by_adam"]),
        ({"by_adam": "head"}, ["by_adam = 'head'", "list"]),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(complaint, arguments, told):
    make = optimizers.muon if "by_adam" in arguments else optimizers.sgd
    with complaint(*told):
        make(**arguments)


def test_a_mask_that_matches_no_variable_is_refused(complaint):
    with complaint("'^head/'", "undecayed", "dense/kernel"):
        Ours(optimizers.adamw(undecayed=["bias", "^head/"]))


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

    def test_of_adafactor_are_a_row_and_a_column_of_second_moments(self):
        slots = Ours(optimizers.adafactor()).optimizer.variables()
        found = {name: tuple(slots[f"conv/kernel/{name}"].shape) for name in ("row", "column", "velocity")}
        assert found == {"row": (3, 3, 2), "column": (3, 3, 4), "velocity": (3, 3, 2, 4)}
        assert {name for name in slots if name.startswith("conv/bias/")} == {
            "conv/bias/velocity",
            "conv/bias/updates",
        }

    @pytest.mark.parametrize("name", ["rmsprop", "lion", "lamb", "adafactor", "muon"])
    def test_hold_all_that_an_optimizer_remembers(self, name):
        """Weights and slots put into another optimizer give the next update to the bit."""
        rule = ALL[name]()
        ours, other = Ours(rule), Ours(rule)
        for step in range(3):
            ours.step(step)
        for name, variable in ours.variables.items():
            other.variables[name].assign(variable)
        for name, slot in ours.optimizer.variables().items():
            other.optimizer.variables()[name].assign(slot)
        for each in (ours, other):
            each.step(3)
        for name, variable in ours.variables.items():
            np.testing.assert_array_equal(other.variables[name].numpy(), variable.numpy())

    @pytest.mark.parametrize("rule", ALL.values(), ids=ALL.keys())
    def test_and_weights_stay_as_they_are_where_nothing_trains(self, rule):
        ours = Ours(rule())
        ours.step(0)
        before = {name: value.numpy() for name, value in ours.optimizer.variables().items()}
        still = {name: value.numpy() for name, value in ours.variables.items()}
        ours.step(1, ["conv/bias"])
        for name, value in ours.optimizer.variables().items():
            assert np.array_equal(value.numpy(), before[name]) == (not name.startswith("conv/bias/"))
        for name, value in ours.variables.items():
            assert np.array_equal(value.numpy(), still[name]) == (name != "conv/bias")
