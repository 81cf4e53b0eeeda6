"""Random layers on several replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import devices
from trainer.models import heads
from trainer.models.dropout import Dropout
from trainer.models.network import model
from trainer.models.randomness import draw_by_replica

KINDS = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "masked": lambda: Dropout(0.5),
    "spatial": lambda: keras.layers.SpatialDropout2D(0.5),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
}


def drawn(replicas: int, layer: keras.layers.Layer, *, times: int = 2, xla: bool = False, start=None):
    """[times, replicas, ...] what a layer makes of ones, and the state of its seed on each replica."""
    strategy = devices.set_up(f"cpu:{replicas}")
    keras.utils.set_random_seed(7)
    with strategy.scope():
        layer = layer()
        whole = keras.Sequential([keras.Input((2, 2, 16)), layer])
        draw_by_replica(whole)
    (state,) = whole.variables
    if start is not None:
        state.assign(start)

    def of_replica():
        return tf.function(lambda: layer(tf.ones([1, 2, 2, 16]), training=True), jit_compile=xla)()

    step = tf.function(lambda: strategy.experimental_local_results(strategy.run(of_replica)))
    values = np.stack([[value.numpy() for value in step()] for _ in range(times)])
    return values, [value.numpy() for value in strategy.experimental_local_results(state.value)]


@pytest.mark.parametrize("kind", KINDS)
def test_draw_otherwise_on_each_replica_and_each_time_and_on_the_first_as_if_alone(kind):
    values, states = drawn(4, KINDS[kind])
    flat = values.reshape(8, -1)
    assert len(np.unique(flat, axis=0)) == 8
    alone, (state,) = drawn(1, KINDS[kind])
    np.testing.assert_array_equal(values[:, 0], alone[:, 0])
    # One state is in a checkpoint, and goes on for all of them.
    assert all((each == state).all() for each in states)
    further, _ = drawn(4, KINDS[kind], times=1, start=state)
    assert not (further == values[-1]).all()
    np.testing.assert_array_equal(further[0], drawn(4, KINDS[kind], times=3)[0][2])


def test_our_dropout_drops_on_every_replica_what_that_of_keras_drops():
    theirs, ours = (drawn(4, KINDS[kind])[0] for kind in ("dropout", "masked"))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["dropout", "masked"])
def test_draw_otherwise_on_each_replica_where_xla_compiles_the_step(kind):
    values, _ = drawn(2, KINDS[kind], xla=True)
    assert len(np.unique(values.reshape(4, -1), axis=0)) == 4


def test_of_a_network_draw_otherwise_on_each_replica_as_soon_as_it_is_built():
    strategy = devices.set_up("cpu:2")
    with strategy.scope():
        architecture = model(backbone="convnet", weights=None, head=heads.linear(dropout=0.5))
        built = architecture.build(image_size=16, classes=64, precision="float32").model
    images = tf.ones([1, 16, 16, 3])
    # Not the other way round: a training pass leaves other moving statistics on each replica.
    for training in (False, True):
        logits = tf.function(lambda training=training: strategy.run(lambda: built(images, training=training)))()
        one, other = strategy.experimental_local_results(logits)
        assert bool((one.numpy() != other.numpy()).any()) is training
