"""Every architecture of keras.applications, with Keras' own pixels, layers and weights."""

import importlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils import file_utils

from trainer.models import applications
from trainer.models.applications import FAMILIES, name_of
from trainer.models.backbones import BACKBONES
from trainer.models.heads import linear
from trainer.models.naming import numbered_from_zero
from trainer.models.network import Architecture
from trainer.models.weights import named_variables

# The smallest of each family and the side of its images.
SMALLEST = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "VGG19": 32,
    "Xception": 71,
}


def pixels(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)


def seen(name: str, size: int) -> np.ndarray:
    colour = BACKBONES[name].colour
    return pixels(size) @ colour[:, :3].T + colour[:, 3]


def stirred(model: keras.Model) -> keras.Model:
    """The model with other statistics, scales and offsets than those of a new one."""
    random = np.random.default_rng(1)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def build(name: str, pretrained: str | None, *, size: int, fused: bool = True):
    architecture = Architecture(backbone=BACKBONES[name], pretrained=pretrained, head=linear())
    return architecture.build(image_size=size, classes=3, precision="float32", fused=fused)


def assert_same(model: keras.Model, reference: keras.Model, images: np.ndarray) -> None:
    ours, theirs = (np.asarray(each(images, training=False)) for each in (model, reference))
    # The same operations on the same numbers.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_none_is_missing():
    functions = {name for name, each in vars(keras.applications).items() if inspect.isfunction(each)}
    listed = [function for family in FAMILIES for function in family.members]
    assert sorted(listed) == sorted(functions)
    assert {name_of(function) for function in listed} <= BACKBONES.keys()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("ResNet50", "resnet50"), ("ResNet101V2", "resnet101v2"), ("MobileNetV2", "mobilenetv2"),
        ("MobileNetV3Small", "mobilenetv3_small"), ("EfficientNetV2B0", "efficientnetv2_b0"), ("VGG16", "vgg16"),
        ("EfficientNetV2L", "efficientnetv2_l"), ("NASNetMobile", "nasnet_mobile"),
        ("ConvNeXtXLarge", "convnext_xlarge"),
    ],
)  # fmt: skip
def test_names_follow_one_rule(function, name):
    assert name_of(function) == name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.module)
def test_a_network_sees_what_preprocess_input_would_show_it(family):
    module = importlib.import_module(f"keras.applications.{family.module}")
    images = pixels(8)
    for function in family.members:
        np.testing.assert_allclose(
            seen(name_of(function), 8), module.preprocess_input(images.copy()), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("function", SMALLEST)
def test_a_file_that_keras_saved_fills_every_variable_with_that_of_its_name(function, tmp_path):
    backbone, path = BACKBONES[name_of(function)], str(tmp_path / "saved.weights.h5")
    model = build(backbone.name, None, size=SMALLEST[function], fused=False).backbone
    stirred(model).save_weights(path)
    expected = {name: variable.numpy() for name, variable in named_variables(model).items()}
    # Built once, as that takes longest: no variable holds any more what the file does.
    for variable in model.weights:
        variable.assign(tf.fill(variable.shape, tf.constant(7, variable.dtype)))
    loaded = Architecture(backbone=backbone, pretrained=path, head=linear()).load(model)
    assert loaded.missing == loaded.skipped == ()
    assert all(np.array_equal(each.numpy(), expected[name]) for name, each in named_variables(model).items())
    assert loaded.model_parameters == backbone.parameters
    blocks = {backbone.block_of(layer.name) for layer in model.layers if layer.weights}
    assert None not in blocks and len(blocks) == backbone.blocks


# One whose layers all have names, one that numbers all of them, one with both.
@pytest.mark.parametrize("function", ["MobileNet", "InceptionV3", "Xception"])
def test_its_variables_have_the_names_that_keras_gives_them_in_a_new_process(function):
    with numbered_from_zero():
        theirs = getattr(keras.applications, function)(include_top=False, weights=None)
    ours = build(name_of(function), None, size=None, fused=False).backbone
    assert list(named_variables(ours)) == list(named_variables(theirs))


@pytest.mark.parametrize("function", ["ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small"])
def test_with_imagenet_weights_it_is_the_network_of_keras(function, tmp_path, monkeypatch):
    make, name = getattr(keras.applications, function), name_of(function)
    path = str(tmp_path / "downloaded.weights.h5")
    stirred(make(input_shape=(32, 32, 3), include_top=False, weights=None)).save_weights(path)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: path)
    assert_same(
        build(name, "imagenet", size=32).backbone, make(input_shape=(32, 32, 3), include_top=False), seen(name, 32)
    )


def test_nasnet_is_refused_for_images_of_any_size(complaint):
    with complaint("nasnet_mobile", "any x any", "image_size"):
        build("nasnet_mobile", None, size=None)


def test_imagenet_weights_out_of_reach_tell_what_to_fetch(monkeypatch, complaint):
    def get_file(*_, origin=None, **__):
        raise OSError("URL fetch failure on https://storage.googleapis.com/vgg16_notop.h5")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    with complaint("vgg16_notop.h5", "VGG16", "~/.keras/models", "model.weights"):
        BACKBONES["vgg16"].load_imagenet(None)


def test_a_file_of_another_family_is_refused(tmp_path, complaint):
    path = str(tmp_path / "other.weights.h5")
    applications.build("MobileNetV3Small", (32, 32, 3)).save_weights(path)
    with complaint(path, "mobilenetv2", "fit, so none was loaded"):
        build("mobilenetv2_035", path, size=32, fused=False)


def test_layers_without_a_name_of_their_own_are_called_alike_whatever_was_built_before():
    def names():
        model = applications.build("Xception", (None, None, 3))
        return [layer.name for layer in model.layers if layer.weights]

    before = names()
    keras.layers.Conv2D(1, 1)
    assert names() == before and "conv2d_3" in before
    assert BACKBONES["xception"].block_of("conv2d_3") == "block13"
