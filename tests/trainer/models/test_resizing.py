"""A network serves another image size with the same variables."""

import numpy as np
import pytest

from trainer.models.backbones import BACKBONES
from trainer.models.heads import linear, mlp
from trainer.models.network import Architecture
from trainer.models.resizing import at_size


def build(name, size, *, precision="float32", head=None):
    architecture = Architecture(backbone=BACKBONES[name], pretrained=None, head=head or linear())
    return architecture.build(image_size=size, classes=3, precision=precision)


@pytest.mark.parametrize(("name", "precision"), [("convnet", "mixed_bfloat16"), ("mobilenetv2_035", "float32")])
def test_at_another_size_it_is_the_network_that_is_built_for_it(name, precision):
    network, other = build(name, 32, precision=precision), build(name, 64, precision=precision)
    for each, variable in other.variables.items():
        variable.assign(network.variables[each])
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    resized = at_size(network, 64, where="x")
    np.testing.assert_array_equal(resized(images, training=False), other.model(images, training=False))
    assert {id(variable) for variable in resized.variables} == {id(variable) for variable in network.model.variables}


def test_at_its_own_size_it_is_itself():
    network = build("convnet", 16)
    assert at_size(network, 16, where="x") is network.model


def test_a_head_that_flattens_is_refused(complaint):
    network = build("convnet", 16, head=mlp(hidden=[4]))
    with complaint("16 x 16 does not work for 32 x 32", "x/stage.image_size", "head"):
        at_size(network, 32, where="x/stage.image_size")
