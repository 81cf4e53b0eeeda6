"""A backbone and a head: every variable has a name that the next process finds again."""

import keras
import numpy as np
import pytest

from trainer.models import backbones
from trainer.models.backbones import BACKBONES
from trainer.models.heads import linear, mlp
from trainer.models.network import Architecture, model

BATCH = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def build(
    *, backbone="convnet", pretrained=None, head=None, features=None, image_size=16, classes=3, precision="float32"
):
    keras.utils.set_random_seed(1)
    architecture = Architecture(
        backbone=BACKBONES[backbone], pretrained=pretrained, head=head or mlp(hidden=(4,)), features=features
    )
    return architecture.build(image_size=image_size, classes=classes, precision=precision)


class TestNames:
    def test_tell_part_layer_and_variable_of_every_variable_once(self):
        network = build()
        assert set(map(id, network.variables.values())) == set(map(id, network.model.variables))
        assert {name.split("/")[0] for name in network.variables} == {"backbone", "head"}
        assert {
            "backbone/block0_conv/kernel", "backbone/block0_bn/moving_mean", "head/head_hidden0/bias",
            "head/head_logits/kernel", "head/head_dropout0/seed_generator_state",
            "backbone/block1_dropout/seed_generator_state",
        } <= network.variables.keys()  # fmt: skip
        assert network.variables["head/head_logits/kernel"].shape == (4, 3)

    def test_do_not_depend_on_what_was_built_before(self):
        one = build()
        keras.layers.Dropout(0.5)
        assert list(build().variables) == list(one.variables)

    def test_are_those_of_the_values_that_tensorflow_saves(self):
        network = build()
        assert {name: value.shape for name, value in network.values().items()} == {
            name: variable.shape for name, variable in network.variables.items()
        }

    def test_of_an_own_head_that_takes_a_name_of_the_backbone_do_not_collide(self):
        def head(features, classes):
            pooled = keras.layers.Flatten(name="pool")(features)
            return keras.layers.Dense(classes, name="block0_conv")(pooled)

        names = build(head=head).variables.keys()
        assert {"head/block0_conv/kernel", "backbone/block0_conv/kernel"} <= names


class TestPrecision:
    @pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
    def test_is_that_of_the_network_and_of_nothing_built_later(self, precision):
        network = build(precision=precision)
        policy = keras.DTypePolicy(precision)
        assert network.backbone.get_layer("block0_conv").compute_dtype == policy.compute_dtype
        assert network.model(BATCH).dtype == "float32"
        assert keras.config.dtype_policy().name == "float32"
        assert network.variables["backbone/block0_conv/kernel"].dtype == "float32"

    def test_is_given_back_even_where_building_fails(self, complaint):
        with complaint("mobilenetv2", "16 x 16", "image_size", "224"):
            build(backbone="mobilenetv2_035", precision="mixed_float16")
        assert keras.config.dtype_policy().name == "float32"


class TestWeights:
    def test_come_from_the_random_seed_without_a_file(self):
        one, two = build(), build()
        assert one.loaded is None
        for name, variable in one.variables.items():
            if name != "head/head_dropout0/seed_generator_state":
                np.testing.assert_array_equal(variable.numpy(), two.variables[name].numpy())

    def test_come_from_a_file_into_the_backbone_alone(self, tmp_path):
        source = build()
        for variable in source.backbone.trainable_variables:
            variable.assign(variable.numpy() + 1)
        path = str(tmp_path / "convnet.weights.h5")
        source.backbone.save_weights(path)
        network = build(pretrained=path)
        assert len(network.loaded.matched) == 15 and network.loaded.missing == ()
        for name in source.variables:
            if name.startswith("backbone/") and "seed" not in name:
                np.testing.assert_array_equal(network.variables[name].numpy(), source.variables[name].numpy())

    @pytest.mark.parametrize("content", [None, b"no weights"])
    def test_of_a_file_that_is_gone_or_something_else_are_refused_by_name(self, tmp_path, complaint, content):
        path = tmp_path / "there.h5"
        if content is not None:
            path.write_bytes(content)
        with complaint(str(path)):
            build(pretrained=str(path))

    def test_of_another_backbone_are_refused_with_what_does_not_fit(self, tmp_path, complaint):
        other = BACKBONES["mobilenetv2_035"].build((32, 32, 3))
        path = str(tmp_path / "other.weights.h5")
        other.save_weights(path)
        with complaint(path, "'convnet'", "fit, so none was loaded"):
            build(pretrained=path)

    def test_of_imagenet_are_refused_where_there_are_none(self, complaint):
        with complaint("no ImageNet weights for convnet", "model.weights = None"):
            build(pretrained="imagenet")


class TestFeaturesOfALayer:
    def test_are_what_the_head_gets(self, tmp_path):
        source = build()
        path = str(tmp_path / "convnet.weights.h5")
        source.backbone.save_weights(path)
        network = build(features="block1_relu", pretrained=path)
        expected = keras.Model(source.backbone.input, source.backbone.get_layer("block1_relu").output)
        np.testing.assert_array_equal(network.backbone(BATCH, training=False), expected(BATCH, training=False))
        assert {name.split("/")[1] for name in network.variables if name.startswith("backbone/")} == {
            "block0_conv", "block0_bn", "block1_conv", "block1_bn",
        }  # fmt: skip
        assert {name.split("/")[0] for name in network.loaded.skipped} == {"block2_conv", "block2_bn"}

    def test_of_an_unknown_layer_are_told_the_nearest(self, complaint):
        with complaint("model.features", "'block1_rel'", "block1_relu"):
            build(features="block1_rel")


class TestImagesOfAnySize:
    def test_go_through_a_network_whose_head_pools(self):
        network = build(image_size=None, head=linear())
        assert network.model.input_shape == (None, None, None, 3)
        assert network.model(BATCH).shape == (2, 3) and network.model(BATCH[:, :8]).shape == (2, 3)

    def test_are_refused_where_the_head_flattens(self, complaint):
        with complaint("the head cannot be built", "that pools"):
            build(image_size=None)


def test_layers_of_an_own_head_without_a_name_are_called_alike_whatever_was_built_before():
    def head(features, classes):
        return keras.layers.Dense(classes)(keras.layers.GlobalMaxPooling2D()(features))

    names = list(build(head=head).variables)
    assert "head/dense/kernel" in names and list(build(head=head).variables) == names


@pytest.mark.parametrize("head", [linear, linear(dropout=2), mlp(hidden=(-1,))], ids=["no ()", "dropout 2", "width -1"])
def test_a_head_that_cannot_be_built_is_told_as_such(head, complaint):
    with complaint("the head cannot be built", "model.head"):
        build(head=head)


@pytest.mark.parametrize(
    ("name", "nearest"), [("mobilenet_v2", "mobilenetv2"), ("EfficientNetLite0", "efficientnet_lite0")]
)
def test_an_unknown_backbone_is_told_the_nearest(name, nearest, complaint):
    with complaint(repr(name), f"did you mean {nearest}", "convnet"):
        model(backbone=name)


def test_a_head_that_hides_batch_normalisation_from_the_stages_is_refused(complaint):
    def head(features, classes):
        hidden = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()], name="hidden")
        return keras.layers.Dense(classes)(hidden(keras.layers.Flatten()(features)))

    with complaint("hidden", "batch normalisation inside", "model.head"):
        build(head=head)


def test_the_default_is_lite0_with_its_weights_and_a_linear_head():
    default = model()
    assert default.backbone is backbones.BACKBONES["efficientnet_lite0"] and default.pretrained == "imagenet"
    features = keras.Input((2, 2, 5))
    assert [tuple(w.shape) for w in keras.Model(features, default.head(features, 7)).weights] == [(5, 7), (7,)]
