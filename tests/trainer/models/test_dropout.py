"""Dropout by a mask is Keras' own, bit for bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.dropout import Dropout
from trainer.models.network import fuse

SHAPE = (2, 7, 3, 5)


def drawn(layer, *, calls=2):
    """Outputs, gradients and the state of the seed behind calls of a layer in training."""
    inputs = tf.constant(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    found = []
    for _ in range(calls):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            target = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        found += [outputs, tape.gradient(target, inputs)]
    return [*found, *(variable.value for variable in layer.variables)]


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("noise_shape", [None, (None, 1, 1, 1), (2, None, 1, 5)])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.37, 0.5, 0.9])
def test_outputs_gradients_and_seeds_are_those_of_keras(rate, noise_shape, dtype):
    settings = {"seed": 3, "noise_shape": noise_shape, "dtype": dtype}
    layers = keras.layers.Dropout(rate, **settings), Dropout(rate, **settings)
    for theirs, ours in zip(*map(drawn, layers), strict=True):
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_infinity_that_is_dropped_is_nan():
    inputs = np.full(SHAPE, np.inf, np.float32)
    theirs, ours = (kind(0.5, seed=3)(inputs, training=True) for kind in (keras.layers.Dropout, Dropout))
    assert set(np.unique(theirs)) == {0.0, np.inf}
    np.testing.assert_array_equal(np.isnan(ours), np.equal(theirs, 0))


def test_all_can_be_dropped():
    assert not np.any(Dropout(1.0)(np.ones(SHAPE, np.float32), training=True))


@pytest.mark.parametrize("training", [False, None])
def test_nothing_is_dropped_outside_training(training):
    layer = Dropout(0.5)
    np.testing.assert_array_equal(layer(np.ones(SHAPE, np.float32), training=training), np.ones(SHAPE))


def test_a_compiled_gradient_chooses_nothing_and_keeps_a_mask_of_the_noise_shape():
    layer = Dropout(0.5, noise_shape=(None, 1, 1, 1))

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return tape.gradient(outputs, inputs)

    graph = step.get_concrete_function(tf.TensorSpec(SHAPE)).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert "SelectV2" not in kinds and kinds.count("StatelessRandomUniformV2") == 1
    (random,) = (each for each in graph.get_operations() if each.type == "StatelessRandomUniformV2")
    assert random.outputs[0].shape == (2, 1, 1, 1)


def test_models_get_it_and_own_kinds_of_dropout_stay():
    class Own(keras.layers.Dropout):
        pass

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Own(0.1, name="own")(keras.layers.Dropout(0.1, name="plain")(inputs)))
    fuse(model)
    assert type(model.get_layer("plain")) is Dropout and type(model.get_layer("own")) is Own
