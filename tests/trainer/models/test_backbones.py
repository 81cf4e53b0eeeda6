"""Each backbone knows its own preprocessing, its blocks and where its weights are."""

import keras
import numpy as np
import pytest
from keras.src.applications import mobilenet_v2

from trainer.models import backbones
from trainer.models.backbones import BACKBONES

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.float32)


def coloured(name):
    matrix = BACKBONES[name].colour
    return PIXELS @ matrix[:, :3].T + matrix[:, 3]


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv2_035"])
def test_mobilenet_sees_what_keras_would_show_it(name):
    expected = keras.applications.mobilenet_v2.preprocess_input(PIXELS.copy())
    # Values up to 1 from float32 products up to 2.
    np.testing.assert_allclose(coloured(name), expected, rtol=0, atol=2**-21)


def test_lite0_sees_pixels_around_zero():
    np.testing.assert_allclose(coloured("efficientnet_lite0"), (PIXELS - 127) / 128, rtol=0, atol=2**-21)


@pytest.mark.parametrize(("name", "stride"), [("convnet", 8), ("mobilenetv2_035", 32), ("efficientnet_lite0", 32)])
def test_a_backbone_ends_in_a_feature_map_of_its_stride(name, stride):
    assert BACKBONES[name].build((64, 96, 3)).output_shape[1:3] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(("name", "alpha"), [("mobilenetv2", 1.0), ("mobilenetv2_035", 0.35)])
class TestImagenetWeightsOfMobilenet:
    def test_are_the_file_that_keras_asks_for(self, monkeypatch, name, alpha):
        asked = []

        def get_file(file, url, **others):
            asked.append((file, url, others.get("cache_subdir")))
            raise OSError("no connection")

        monkeypatch.setattr(keras.utils, "get_file", get_file)
        monkeypatch.setattr(mobilenet_v2.file_utils, "get_file", get_file)
        with pytest.raises(OSError, match="no connection"):
            keras.applications.MobileNetV2(input_shape=(224, 224, 3), alpha=alpha, include_top=False)
        with pytest.raises(backbones.UserError):
            BACKBONES[name].load_imagenet(None)
        assert len(asked) == 2 and asked[0] == asked[1]

    def test_out_of_reach_tell_what_to_fetch(self, monkeypatch, complaint, name, alpha):
        def get_file(*_, **__):
            raise OSError("no connection")

        monkeypatch.setattr(keras.utils, "get_file", get_file)
        with complaint("no connection", "https://", "_no_top.h5", "~/.keras/models"):
            BACKBONES[name].load_imagenet(None)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_found_by_its_name(name):
    assert backbones.find(name) is BACKBONES[name] and BACKBONES[name].name == name


@pytest.mark.parametrize("name", ["resnet50", "", None, 3])
def test_a_name_like_none_of_them_is_told_all(name, complaint):
    with complaint(repr(name), *BACKBONES):
        backbones.find(name)
