"""A preset of keras-hub as a backbone: needs the extra `hub`, but no network, as the preset is made on the spot."""

import sys

import numpy as np
import pytest

from trainer.models.network import model


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def preset(hub, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("hub") / "preset")
    hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(None, None, 3),
    ).save_to_preset(folder)  # fmt: skip
    converter = hub.layers.ResNetImageConverter(
        scale=[1 / 255, 1 / 200, 1 / 100], offset=[-1, -2, -3], image_size=(64, 64)
    )
    hub.models.ResNetImageClassifierPreprocessor(converter).save_to_preset(folder)
    return folder


def test_a_preset_is_a_backbone_with_its_pixels_and_weights(hub, preset):
    architecture = model(backbone=f"hub:{preset}")
    backbone = architecture.backbone
    network = architecture.build(image_size=64, classes=3, precision="float32")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    seen = images @ backbone.colour[:, :3].T + backbone.colour[:, 3]
    converted = np.asarray(hub.layers.ImageConverter.from_preset(preset)(images))
    np.testing.assert_allclose(seen, converted, rtol=0, atol=1e-5)
    expected = np.asarray(hub.models.Backbone.from_preset(preset)(seen, training=False))
    np.testing.assert_allclose(network.backbone(seen, training=False), expected, atol=1e-5 * np.abs(expected).max())
    assert backbone.native_size == 64 and network.loaded.missing == ()
    blocks = {backbone.block_of(layer.name) for layer in network.backbone.layers if layer.weights}
    assert {"stack0_block0", "stack1_block0"} < blocks and None not in blocks


def test_a_preset_of_an_unknown_name_is_refused(hub, complaint):
    with complaint("hub:nothing", "Unknown preset"):
        model(backbone="hub:nothing")


def test_without_the_package_it_is_told_what_to_install(monkeypatch, complaint):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with complaint("keras-hub cannot be imported", "onward[hub]"):
        model(backbone="hub:resnet_18_imagenet")
