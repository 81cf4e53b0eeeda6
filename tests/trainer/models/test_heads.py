"""Heads turn a feature map into float32 logits, and all of them is called head."""

import keras
import numpy as np
import pytest

from trainer.models.heads import linear, mlp

FEATURES = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype(np.float32)


def build(head, *, classes=5, policy="float32"):
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((3, 3, 8))
        return keras.Model(inputs, head(inputs, classes))
    finally:
        keras.config.set_dtype_policy("float32")


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


@pytest.mark.parametrize(("pool", "inputs"), [("average", 8), ("max", 8), ("flatten", 72)])
def test_a_linear_head_is_pooling_and_one_dense_layer(pool, inputs):
    model = build(linear(pool=pool))
    assert [tuple(weight.shape) for weight in model.weights] == [(inputs, 5), (5,)]
    pooled = {"average": FEATURES.mean((1, 2)), "max": FEATURES.max((1, 2)), "flatten": FEATURES.reshape(2, -1)}[pool]
    kernel, bias = model.get_weights()
    # Sums of 72 products of size 1 at most.
    np.testing.assert_allclose(model(FEATURES), pooled @ kernel + bias, rtol=0, atol=72 * 2**-22)


def test_an_mlp_is_the_classic_recipe():
    model = build(mlp(hidden=(16, 4), dropout=0.5))
    assert kinds(model) == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [16, 4, 5]
    assert [layer.rate for layer in model.layers if hasattr(layer, "rate")] == [0.5, 0.5]
    assert model.get_layer("head_hidden0").activation is keras.activations.relu


@pytest.mark.parametrize("head", [linear, mlp])
def test_dropout_acts_in_training_alone_and_is_there_only_if_wanted(head):
    assert "Dropout" not in kinds(build(head(dropout=0.0)))
    model = build(head(dropout=0.5))
    assert "Dropout" in kinds(model)
    np.testing.assert_array_equal(model(FEATURES), model(FEATURES))
    assert (np.asarray(model(FEATURES, training=True)) != np.asarray(model(FEATURES))).any()


@pytest.mark.parametrize("head", [linear(), mlp()])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_logits_and_weights_are_float32_in_every_precision(head, policy):
    model = build(head, policy=policy)
    assert model.output.dtype == "float32" and {weight.dtype for weight in model.weights} <= {"float32", "uint32"}
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("head", [linear(dropout=0.2), mlp()])
def test_every_layer_is_called_head(head):
    assert all(layer.name.startswith("head_") for layer in build(head).layers[1:])


@pytest.mark.parametrize("head", [linear, mlp])
def test_an_unknown_pool_is_named_with_the_known(head, complaint):
    with complaint("'middle'", "average, max, flatten"):
        build(head(pool="middle"))
