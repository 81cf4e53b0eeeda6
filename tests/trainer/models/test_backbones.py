"""Each backbone knows its own preprocessing, its blocks and where its weights are."""

import numpy as np
import pytest

from trainer.models import backbones
from trainer.models.backbones import BACKBONES

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.float32)


def coloured(name):
    matrix = BACKBONES[name].colour
    return PIXELS @ matrix[:, :3].T + matrix[:, 3]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_lite_sees_pixels_around_zero(name):
    np.testing.assert_allclose(coloured(name), (PIXELS - 127) / 128, rtol=0, atol=2**-21)


@pytest.mark.parametrize(("name", "stride"), [("convnet", 8), ("mobilenetv2_035", 32), ("efficientnet_lite0", 32)])
def test_a_backbone_ends_in_a_feature_map_of_its_stride(name, stride):
    assert BACKBONES[name].build((64, 96, 3)).output_shape[1:3] == (64 // stride, 96 // stride)


@pytest.mark.parametrize("name", ["convnet", "efficientnet_lite1", "efficientnet_lite2", "mobilenetv2_035"])
def test_a_backbone_has_the_parameters_and_blocks_that_are_listed(name):
    backbone = BACKBONES[name]
    model = backbone.build((None, None, 3))
    blocks = {backbone.block_of(layer.name) for layer in model.layers if layer.weights}
    assert model.count_params() == backbone.parameters
    assert None not in blocks and len(blocks) == backbone.blocks


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_found_by_its_name(name):
    assert backbones.find(name) is BACKBONES[name] and BACKBONES[name].name == name


@pytest.mark.parametrize("name", ["perceptron", "", None, 3])
def test_a_name_like_none_of_them_is_told_all(name, complaint):
    with complaint(repr(name), *BACKBONES):
        backbones.find(name)
