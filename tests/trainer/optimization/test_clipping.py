"""Bounds on gradients against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import heads
from trainer.models.network import model
from trainer.optimization import clipping
from trainer.optimization.clipping import Clipping

SHAPES = {"conv": (3, 3, 2, 4), "depthwise": (3, 3, 5, 1), "dense": (6, 3), "bias": (4,), "left alone": (2, 2)}
UNITS = {"conv": (0, 1, 2), "depthwise": (0, 1), "dense": (0,), "bias": (0,)}
# A norm of up to 45 float32 squares and a quotient: each of them adds a rounding at most.
ROUNDING = 64 * 2**-24


def drawn(seed, *, sizes=(1e-4, 1.0)):
    """Values whose units are of very different sizes."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        size = np.exp(random.uniform(*np.log(sizes), size=shape[-2:] if len(shape) > 1 else ()))
        found[name] = (random.normal(size=shape) * size).astype(np.float32)
    return found


def clipped(bounds, gradients, weights):
    tensors = [[tf.constant(value) for value in each.values()] for each in (gradients, weights)]
    return dict(zip(gradients, bounds.each(list(gradients), *tensors), strict=True))


def test_adaptive_clipping_is_that_of_the_paper():
    """Brock et al. 2021: where a unit's gradient is longer than a share of its weights, it is made as long as that."""
    weights, gradients, share = drawn(1), drawn(2), 0.05
    weights["dense"][:, 0] = 0.0
    computed = clipped(Clipping(adaptive=share, units=UNITS), gradients, weights)
    bounded = 0
    for name, axes in UNITS.items():
        weight, gradient = weights[name].astype(np.float64), gradients[name].astype(np.float64)
        for unit in np.ndindex(*[1 if axis in axes else size for axis, size in enumerate(weight.shape)]):
            index = tuple(slice(None) if axis in axes else place for axis, place in enumerate(unit))
            longest = share * max(np.sqrt((weight[index] ** 2).sum()), 1e-3)
            length = np.sqrt((gradient[index] ** 2).sum())
            expected = gradient[index] * min(1.0, longest / length)
            np.testing.assert_allclose(computed[name].numpy()[index], expected, rtol=ROUNDING)
            bounded += length > longest
    assert 5 < bounded < 13, "some of the 4 + 5 + 3 + 1 units are longer, some are not"
    np.testing.assert_array_equal(computed["left alone"], gradients["left alone"])


def test_clipping_by_value_bounds_each_number_and_by_norm_gives_one_factor():
    gradients = drawn(3)
    computed = clipped(Clipping(value=0.01), gradients, drawn(4))
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(computed[name], np.clip(gradient, np.float32(-0.01), np.float32(0.01)))
    by_norm = Clipping(norm=2.0)
    assert [float(by_norm.scale(tf.constant(norm))) for norm in (0.0, 1.0, 2.0, 8.0)] == [1.0, 1.0, 1.0, 0.25]
    assert Clipping(value=1.0).scale(tf.constant(3.0)) is None


def test_a_unit_is_what_leads_to_one_output_and_the_last_layer_has_none():
    def head(features, classes):
        x = keras.layers.DepthwiseConv2D(3, padding="same", name="head_depthwise")(features)
        x = keras.layers.SeparableConv2D(8, 3, padding="same", name="head_separable")(x)
        return heads.mlp(pool="average", hidden=(6,), dropout=0.0)(x, classes)

    network = model(backbone="convnet", weights=None, head=head).build(image_size=16, classes=3, precision="float32")
    units = clipping.units(network)
    assert not {"head/head_logits/kernel", "head/head_logits/bias"} & units.keys()
    expected = {
        "backbone/block0_conv/kernel": (0, 1, 2), "backbone/block0_bn/gamma": (0,),
        "head/head_depthwise/kernel": (0, 1), "head/head_depthwise/bias": (0,),
        "head/head_separable/depthwise_kernel": (0, 1), "head/head_separable/pointwise_kernel": (0, 1, 2),
        "head/head_hidden0/kernel": (0,), "head/head_hidden0/bias": (0,),
    }  # fmt: skip
    assert {name: units[name] for name in expected} == expected


@pytest.mark.parametrize("second", ["train.clip_value = 0.1", "train.clip_adaptive = 0.01"])
def test_two_bounds_at_once_are_refused(small, complaint, second):
    from trainer import launch
    from trainer.recipe import Recipe

    launch.parse_gin([small], ["train.clip_norm = 1.0", second])
    with complaint(second.split(" ")[0], "train.clip_norm"):
        launch.call(Recipe)
