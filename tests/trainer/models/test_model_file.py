"""A whole model that somebody saved becomes a backbone, with its own weights and nothing of its classifier."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from trainer import launch
from trainer.models.network import model
from trainer.recipe import Recipe

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)


def body(*, size=16, channels=3, regulariser=None) -> keras.Model:
    inputs = keras.Input((size, size, channels))
    x = layers.Conv2D(6, 3, strides=2, name="block0_conv", kernel_regularizer=regulariser)(inputs)
    x = layers.BatchNormalization(name="block0_bn", moving_variance_initializer="random_uniform")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="block1_conv", bias_initializer="random_normal")(x)
    return keras.Model(inputs, x, name="body")


def classifier(front=(), nested=None) -> keras.Model:
    """Input, some layers, a nested network, pooling and a dense layer."""
    nested = nested or body()
    inputs = x = keras.Input(nested.input_shape[1:])
    for layer in front:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(nested(x, training=False))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.Dropout(0.5)(x)))


def saved(network: keras.Model, path) -> str:
    network.save(path)
    return str(path)


def built(path: str, *, image_size=16, precision="float32", **arguments):
    return model(backbone=path, **arguments).build(image_size=image_size, classes=3, precision=precision)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
class TestTheBackbone:
    def test_of_a_classifier_with_a_network_inside_is_that_network_behind_what_stands_in_front(self, tmp_path, name):
        whole = classifier([layers.Rescaling(1 / 127.5, offset=-1)])
        network = built(saved(whole, tmp_path / name))
        expected = whole.get_layer("body")(IMAGES / 127.5 - 1, training=False)
        # Sums of 54 products.
        np.testing.assert_allclose(network.backbone(IMAGES, training=False), expected, rtol=0, atol=54 * 2.0**-20)
        assert {name for name in network.variables if name.startswith("backbone/")} == {
            "backbone/block0_conv/kernel", "backbone/block0_conv/bias", "backbone/block0_bn/gamma",
            "backbone/block0_bn/beta", "backbone/block0_bn/moving_mean", "backbone/block0_bn/moving_variance",
            "backbone/block1_conv/kernel", "backbone/block1_conv/bias",
        }  # fmt: skip
        assert network.loaded.skipped == ("logits/kernel", "logits/bias") and network.loaded.missing == ()

    def test_of_a_sequential_model_ends_in_front_of_its_flatten(self, tmp_path, name):
        whole = keras.Sequential([*body().layers, layers.Flatten(), layers.Dense(4)])
        network = built(saved(whole, tmp_path / name))
        expected = keras.Model(whole.inputs, whole.layers[-3].output)(IMAGES, training=False)
        np.testing.assert_allclose(network.backbone(IMAGES, training=False), expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("image_size", "shape"), [(24, (None, 9, 9, 8)), (None, (None, None, None, 8))])
    def test_takes_images_of_another_size(self, tmp_path, name, image_size, shape):
        network = built(saved(classifier(), tmp_path / name), image_size=image_size)
        assert network.backbone.output_shape == shape

    def test_has_random_weights_where_they_are_wanted(self, tmp_path, name):
        path = saved(classifier(), tmp_path / name)
        kernels = [
            built(path, weights=weights).variables["backbone/block1_conv/kernel"] for weights in ("imagenet", None)
        ]
        assert not np.array_equal(*(kernel.numpy() for kernel in kernels))

    def test_computes_in_the_precision_of_the_run(self, tmp_path, name):
        network = built(saved(classifier(), tmp_path / name), precision="mixed_bfloat16")
        assert network.backbone.get_layer("block1_conv").compute_dtype == "bfloat16"
        assert network.variables["backbone/block1_conv/kernel"].dtype == "float32"


def test_the_losses_that_a_model_carries_are_those_of_the_network(tmp_path):
    path = saved(classifier(nested=body(regulariser=keras.regularizers.L2(0.5))), tmp_path / "model.keras")
    network = built(path)
    kernel = network.variables["backbone/block0_conv/kernel"].numpy()
    np.testing.assert_allclose([float(loss) for loss in network.model.losses], [0.5 * (kernel**2).sum()], rtol=1e-5)


def test_the_blocks_are_those_of_the_known_network_whose_names_it_has(tmp_path):
    backbone = model(backbone=saved(classifier(), tmp_path / "model.keras")).backbone
    names = ["block0_conv", "block0_bn", "block1_conv", "other"]
    assert [backbone.block_of(name) for name in names] == ["block0", "block0", "block1", "other"]


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    own = Own()
    own(IMAGES)
    return own


def two_inputs():
    inputs = [keras.Input((16, 16, 3)), keras.Input((16, 16, 3))]
    return keras.Model(inputs, layers.Add()(inputs))


def twice_the_name():
    inputs = keras.Input((16, 16, 3))
    first, second = body(), keras.Sequential([layers.Conv2D(2, 1, name="block1_conv")], name="second")
    return keras.Model(inputs, second(first(inputs)))


@keras.saving.register_keras_serializable("tests")
class ConvBlock(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.normalise = layers.BatchNormalization()

    def build(self, shape):
        self.normalise.build(shape)

    def call(self, inputs):
        return self.normalise(inputs)


def hidden_normalisation():
    return keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(2, 3), ConvBlock()])


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: keras.Sequential([keras.Input((16, 16, 3)), layers.Lambda(lambda x: 2 * x)]), "Lambda"),
        (lambda: classifier(nested=body(channels=1)), "16, 1)"),
        (lambda: keras.Sequential([keras.Input((5,)), layers.Dense(2)]), "(None, 5)"),
        (lambda: keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(2)]), "no feature map"),
        (two_inputs, "2 inputs"),
        (twice_the_name, "block1_conv"),
        (subclassed, "Own"),
        (hidden_normalisation, "has batch normalisation inside"),
    ],
    ids=["lambda", "grey", "a vector", "no map", "two inputs", "names twice", "subclassed", "hidden"],
)
def test_what_cannot_be_a_backbone_is_refused_with_the_reason(tmp_path, complaint, make, culprit):
    path = saved(make(), tmp_path / "model.keras")
    with complaint(path, culprit):
        built(path)


@pytest.mark.parametrize("content", [None, b"no model", b"PK\x03\x04broken"], ids=["absent", "text", "broken"])
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_that_is_gone_or_broken_is_refused(tmp_path, complaint, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with complaint(str(tmp_path / name), "model.backbone"):
        model(backbone=str(tmp_path / name))


@pytest.mark.parametrize(
    "config", ["[]", "{}", '{"class_name": "Functional"}', '{"class_name": "Sequential", "config": {"layers": []}}']
)
def test_a_file_whose_configuration_is_none_of_a_model_is_refused(tmp_path, complaint, config):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", config)
    with complaint(str(tmp_path / "model.keras"), "model.backbone"):
        model(backbone=str(tmp_path / "model.keras"))


def test_a_file_of_weights_alone_is_told_where_it_belongs(tmp_path, complaint):
    body().save_weights(tmp_path / "body.weights.h5")
    with complaint("no model", "model.weights"):
        model(backbone=str(tmp_path / "body.weights.h5"))


class TestItsPixels:
    @pytest.fixture
    def recipe(self, small, tmp_path):
        def made(whole, *bindings):
            path = saved(whole, tmp_path / "model.keras")
            launch.parse_gin([small], [f"model.backbone = '{path}'", "model.weights = 'imagenet'", *bindings])
            return launch.call(Recipe)

        return made

    def test_have_to_be_told_where_the_model_does_not_say(self, recipe, complaint):
        with complaint("train.normalisation", "model.keras"):
            recipe(classifier())
        assert recipe(classifier(), "train.normalisation = []").normalisation == []

    @pytest.mark.parametrize("augmented", [False, True])
    def test_are_as_they_come_where_it_begins_with_a_rescaling(self, recipe, augmented):
        front = [layers.RandomFlip()] * augmented + [layers.Rescaling(1 / 255)]
        np.testing.assert_array_equal(recipe(classifier(front)).model.backbone.colour, np.eye(3, 4))
