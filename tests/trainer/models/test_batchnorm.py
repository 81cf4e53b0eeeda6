"""The fused batch normalisation is Keras' own, to rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.batchnorm import BatchNormalization
from trainer.models.network import fuse


def twins(**arguments):
    layers = [keras.layers.BatchNormalization(**arguments), BatchNormalization(**arguments)]
    random = np.random.default_rng(0)
    for layer in layers:
        layer.build((None, 5, 7, 6))
    values = [random.uniform(0.5, 2, variable.shape) for variable in layers[0].variables]
    for layer in layers:
        for variable, value in zip(layer.variables, values, strict=True):
            variable.assign(value)
    return layers


def run(layer, inputs, training):
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        # Weights that differ by element, so that the gradient is not the trivial one of a plain sum.
        target = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2 * tf.reshape(tf.range(2.0, 842.0) / 842, [4, 5, 7, 6]))
    gradients = tape.gradient(target, [inputs, layer.gamma.value, layer.beta.value])
    return [outputs, *gradients, *(variable.numpy() for variable in layer.variables)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_outputs_gradients_and_moving_statistics_are_those_of_keras(training, trainable, epsilon):
    inputs = np.random.default_rng(1).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
    theirs, ours = twins(epsilon=epsilon, momentum=0.9)
    theirs.trainable = ours.trainable = trainable
    for left, right in zip(run(theirs, inputs, training), run(ours, inputs, training), strict=True):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        # Sums over 140 positions in another order: relative 140 * 2**-23, of the largest value summed.
        np.testing.assert_allclose(right, left, rtol=0, atol=140 * 2.0**-23 * np.abs(left).max())


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_statistics_in_float32(dtype):
    inputs = np.random.default_rng(1).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
    theirs, ours = twins(dtype=dtype, momentum=0.5)
    outputs = [layer(inputs, training=True) for layer in (theirs, ours)]
    assert outputs[0].dtype == outputs[1].dtype == dtype.removeprefix("mixed_")
    for left, right in zip(theirs.variables, ours.variables, strict=True):
        assert right.dtype == "float32"
        # The inputs were rounded to 11 or 8 bits; sums of them are exact to float32 rounding.
        np.testing.assert_allclose(right.numpy(), left.numpy(), rtol=140 * 2.0**-23)


def fused_twin(original):
    twin = keras.models.clone_model(original)
    twin.set_weights(original.get_weights())
    fuse(twin)
    return twin


def test_a_fused_model_has_the_names_shapes_and_weight_file_of_the_original(tmp_path):
    original = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)
    fused = fused_twin(original)
    assert [v.path for v in fused.variables] == [v.path for v in original.variables]
    assert [v.shape for v in fused.variables] == [v.shape for v in original.variables]
    assert sum(isinstance(layer, BatchNormalization) for layer in fused.layers) == 52
    fused.set_weights([0 * weight for weight in fused.get_weights()])
    original.save_weights(tmp_path / "original.weights.h5")
    fused.load_weights(tmp_path / "original.weights.h5")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(fused(images, training=False), original(images, training=False))


def test_a_fused_model_trains_by_the_fused_kernel_as_the_original_does():
    original = keras.Sequential([keras.Input((5, 7, 6)), keras.layers.BatchNormalization(momentum=0.9)])
    fused = fused_twin(original)
    assert "FusedBatchNormV3" in operations(fused) - operations(original)
    for left, right in zip(*(run_model(each) for each in (original, fused)), strict=True):
        # Sums over 140 positions in another order: relative 140 * 2**-23, of the largest value summed.
        np.testing.assert_allclose(right, left, rtol=0, atol=140 * 2.0**-23 * np.abs(left).max())


def operations(model):
    traced = tf.function(lambda inputs: model(inputs, training=True))
    graph = traced.get_concrete_function(tf.TensorSpec((4, 5, 7, 6), tf.float32)).graph
    return {operation.type for operation in graph.get_operations()}


def run_model(model):
    inputs = np.random.default_rng(1).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
    return [np.asarray(model(inputs, training=True)), *model.get_weights()]


def test_a_fused_model_carries_the_losses_of_the_original():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 1, kernel_regularizer=keras.regularizers.L2(0.5), name="conv")(inputs)
    x = keras.layers.ActivityRegularization(l2=0.25)(keras.layers.BatchNormalization()(x))
    original = keras.Model(inputs, x)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    losses = []
    for each in (original, fused_twin(original)):
        each(images)
        losses.append([float(loss) for loss in each.losses])
    assert len(losses[0]) == 2 and min(losses[0]) > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
