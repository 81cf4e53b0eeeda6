"""Moving averages of weights against NumPy, and a network that is as it was after it has held them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import devices
from trainer.optimization.ema import Average

NAMES = ("kernel", "moving_mean", "seed")


class Held:
    """Three variables, one of them averaged, and their average."""

    def __init__(self, *, decay=0.9, warmup=False, replicas=2):
        self.strategy = devices.set_up(f"cpu:{replicas}")
        random = np.random.default_rng(4)
        initial = {"kernel": random.normal(size=(3, 4)).astype(np.float32), "moving_mean": np.float32([1, 2])}
        with self.strategy.scope():
            self.variables = {name: keras.Variable(value, name=name) for name, value in initial.items()}
            self.variables["seed"] = keras.Variable([1, 2], dtype="uint32", trainable=False, name="seed")
            self.average = Average(self.variables, averaged={"kernel"}, decay=decay, warmup=warmup)
        self.update = tf.function(self.average.update, autograph=False)

    def values(self):
        """Of every variable and average, on every replica."""
        both = {"value": {name: each.value for name, each in self.variables.items()}, "mean": self.average.variables()}
        return {
            (kind, name): [value.numpy() for value in self.strategy.experimental_local_results(variable)]
            for kind, named in both.items()
            for name, variable in named.items()
        }


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_that_of_the_weights_after_each_update(warmup):
    held, random = Held(warmup=warmup), np.random.default_rng(5)
    expected = held.values()["value", "kernel"][0].astype(np.float64)
    for step in range(30):
        weights = random.normal(size=(3, 4)).astype(np.float32)
        held.variables["kernel"].value.assign(weights)
        held.update(tf.constant(step, tf.int64))
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * weights
    for mean in held.values()["mean", "kernel"]:
        # Each update rounds numbers of size 4 at most three times, and forgets a tenth of what was there.
        np.testing.assert_allclose(mean, expected, rtol=0, atol=3 * 4 * 2**-24 * 10)


def test_what_is_not_averaged_is_copied_and_nothing_else_is():
    held = Held()
    held.variables["moving_mean"].value.assign([5.0, 7.0])
    held.variables["seed"].value.assign(np.uint32([8, 9]))
    held.variables["kernel"].value.assign(np.zeros((3, 4), np.float32))
    before = held.values()
    tf.function(held.average.copy_others, autograph=False)()
    after = held.values()
    for replica in range(2):
        for name in ("moving_mean", "seed"):
            np.testing.assert_array_equal(after["mean", name][replica], before["value", name][replica])
        np.testing.assert_array_equal(after["mean", "kernel"][replica], before["mean", "kernel"][replica])
    held.average.start()
    for mean in held.values()["mean", "kernel"]:
        np.testing.assert_array_equal(mean, 0)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_network_holds_the_average_for_a_while_and_then_its_own_weights_to_the_bit(replicas, interrupted):
    held = Held(replicas=replicas)
    odd = np.float32([[np.nan, -0.0, 1e-45, np.inf]] * 3)
    held.variables["kernel"].value.assign(odd)
    before = held.values()
    try:
        with held.average.in_place():
            within = held.values()
            if interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert interrupted
    for mine, mean in zip(within["value", "kernel"], before["mean", "kernel"], strict=True):
        assert mine.tobytes() == mean.tobytes()
    for key, values in held.values().items():
        assert [value.tobytes() for value in values] == [value.tobytes() for value in before[key]]
