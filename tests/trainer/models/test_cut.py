"""A network is cut where nothing in front of it trains, and its two halves are the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import backbones, freeze, heads
from trainer.models.cut import cut, features, up_to
from trainer.models.network import Architecture

SIZE = 32


def build(backbone="convnet", *, head=None, precision="float32"):
    keras.utils.set_random_seed(0)
    architecture = Architecture(backbone=backbones.find(backbone), pretrained=None, head=head or heads.linear())
    return architecture.build(image_size=SIZE, classes=3, precision=precision)


def stage(network, *trains, backbone="convnet", batchnorm="frozen"):
    return freeze.choose(network, backbones.find(backbone), trains, batchnorm=batchnorm, where="stage")


@pytest.fixture(scope="module")
def convnet():
    return build(head=heads.linear(dropout=0.5))


@pytest.fixture(scope="module")
def residual():
    return build("mobilenetv2_035")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


class TestTheCutThatIsFound:
    def test_of_a_linear_head_is_behind_the_pooling_and_in_front_of_the_dropout(self, convnet):
        found = cut(convnet, None, stages=[stage(convnet, "head")])
        assert (found.prefix.layer, found.prefix.shape) == ("head_pool", (64,))
        assert [layer.name for layer in found.suffix.layers[1:]] == ["head_dropout", "head_logits"]
        assert found.prefix.variables.keys() == {name for name in convnet.variables if name.startswith("backbone/")}

    def test_is_in_front_of_whatever_trains_first_in_any_stage_and_of_the_dropout_before_that(self, convnet):
        found = cut(convnet, None, stages=[stage(convnet, "head"), stage(convnet, "head", "last 1 blocks")])
        assert (found.prefix.layer, found.prefix.shape) == ("block1_relu", (SIZE // 4, SIZE // 4, 32))

    def test_is_in_front_of_a_batch_normalisation_that_follows_the_data(self, convnet):
        found = cut(convnet, None, stages=[stage(convnet, "head", batchnorm="recalibrate")])
        assert found.prefix.layer == "block0_conv"

    def test_of_residual_blocks_is_between_them(self, residual):
        trains = stage(residual, "block_15_project", "head", backbone="mobilenetv2_035")
        # block_15 adds its input to what its layers make of it.
        assert cut(residual, None, stages=[trains]).prefix.layer == "block_14_add"

    def test_of_a_network_that_trains_from_the_first_layer_on_is_refused(self, convnet, complaint):
        with complaint("block0_conv", "stage.trains"):
            cut(convnet, None, stages=[stage(convnet, "head"), stage(convnet, "all")])


class TestBothParts:
    @pytest.mark.parametrize("layer", ["block0_bn", "block1_relu", "block2_relu", "head_pool"])
    def test_together_are_the_network_and_share_its_variables(self, convnet, images, layer):
        found = cut(convnet, layer, stages=[stage(convnet, "head")])
        inner = found.prefix.model(images, training=False)
        assert tuple(inner.shape[1:]) == found.prefix.shape
        # The same operations on the same numbers.
        np.testing.assert_array_equal(found.suffix(inner, training=False), convnet.model(images, training=False))
        ours = {id(variable) for variable in convnet.variables.values()}
        assert {id(variable) for variable in [*found.prefix.variables.values(), *found.suffix.variables]} == ours

    def test_keep_to_the_precision_of_the_network(self, images):
        network = build(precision="mixed_bfloat16")
        found = cut(network, "block1_relu", stages=[stage(network, "head")])
        inner = found.prefix.model(images, training=False)
        assert inner.dtype == tf.bfloat16
        # What a store keeps are float32 or float16; bfloat16 fits into the former.
        logits = found.suffix(tf.cast(inner, tf.float32), training=False)
        np.testing.assert_array_equal(logits, network.model(images, training=False))

    def test_of_a_suffix_that_trains_its_dropout_is_on_and_the_moving_statistics_follow(self, convnet, images):
        trains = stage(convnet, "head", "last 1 blocks", batchnorm="train")
        found = cut(convnet, None, stages=[trains])
        freeze.set_batchnorm(convnet, trains)
        inner, before = (
            found.prefix.model(images, training=False),
            convnet.variables["backbone/block2_bn/moving_mean"].numpy(),
        )
        assert (found.suffix(inner, training=True) != found.suffix(inner, training=True)).numpy().any()
        assert (convnet.variables["backbone/block2_bn/moving_mean"].numpy() != before).any()


class TestALayerThatIsNamed:
    @pytest.mark.parametrize(
        ("layer", "told"),
        [
            ("block_15_expand", "lead around"),  # inside a residual block
            ("head_logits", "block_16_project"),
            ("block_14_ad", "block_14_add"),
            ("input_layer", "input"),
        ],
    )
    def test_that_cannot_be_the_last_of_the_frozen_part_is_refused(self, residual, complaint, layer, told):
        layer = residual.backbone.layers[0].name if layer == "input_layer" else layer
        with complaint(told, layer):
            cut(residual, layer, stages=[stage(residual, "block_16_project", "head", backbone="mobilenetv2_035")])

    def test_ends_a_model_of_its_own_wherever_it_is(self, residual, images):
        model = up_to(residual, "block_15_expand").model
        assert model(images).shape == (2, 1, 1, model.output_shape[-1])
        np.testing.assert_array_equal(up_to(residual, "head_logits").model(images), residual.model(images))
        pooled = up_to(residual, None)
        assert pooled.shape == (1280,)
        np.testing.assert_array_equal(pooled.model(images), up_to(residual, "head_pool").model(images))


@pytest.mark.parametrize("setting", [{"views": 0}, {"views": True}, {"dtype": "int8"}, {"layer": 3}, {"folder": ""}])
def test_settings_that_are_none_are_refused(setting, complaint):
    with complaint(f"features.{next(iter(setting))}"):
        features(**setting)
