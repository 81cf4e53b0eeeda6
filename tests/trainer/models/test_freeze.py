"""What trains in a stage is named by words or patterns; a name that means nothing is an error."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from trainer.models import freeze
from trainer.models.backbones import BACKBONES
from trainer.models.heads import linear
from trainer.models.network import Architecture

# How the names of each block's layers start, from the input to the output.
BLOCKS = {
    "convnet": ["block0_", "block1_", "block2_"],
    "mobilenetv2_035": [
        "(bn_)?Conv1/", "expanded_conv_", *(f"block_{index}_" for index in range(1, 17)), "Conv_1(_bn)?/",
    ],
    "efficientnet_lite0": ["stem_", *(f"block{index}_" for index in range(16)), "top_"],
}  # fmt: skip
every_backbone = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture(scope="module")
def networks():
    built = {}

    def build(name):
        if name not in built:
            architecture = Architecture(backbone=BACKBONES[name], pretrained=None, head=linear(dropout=0.1))
            built[name] = architecture.build(image_size=32, classes=3, precision="float32")
        return built[name]

    return build


@pytest.fixture
def choose(networks):
    def call(name, *patterns, batchnorm="train", **factors):
        where = {"where": "x/stage.trains", "factors_where": "x/stage.factors"}
        return freeze.choose(networks(name), BACKBONES[name], patterns, batchnorm=batchnorm, **where, **factors)

    return call


def trainable(network, start=""):
    """Kernels, biases, scales and offsets, by Keras' own distinction."""
    weights = {id(variable) for variable in network.model.trainable_variables}
    return [name for name, variable in network.variables.items() if id(variable) in weights and name.startswith(start)]


@every_backbone
class TestWords:
    def test_head_is_all_outside_the_backbone(self, choose, networks, name):
        assert choose(name, "head").names == ("head/head_logits/kernel", "head/head_logits/bias")

    def test_backbone_and_all_leave_out_statistics_and_seeds(self, choose, networks, name):
        network = networks(name)
        assert list(choose(name, "backbone").names) == trainable(network, "backbone/")
        assert list(choose(name, "all").names) == trainable(network)

    def test_last_blocks_are_counted_from_the_output(self, choose, networks, name):
        network, blocks = networks(name), BLOCKS[name]
        seen = 0
        for count in range(1, len(blocks) + 1):
            starts = "|".join(blocks[-count:])
            expected = [each for each in trainable(network) if re.match(f"backbone/({starts})", each)]
            found = list(choose(name, f"last {count} block{'s' * (count > 1)}").names)
            assert found == expected and len(found) > seen
            seen = len(found)
        assert seen == len(trainable(network, "backbone/")), "all blocks are the backbone"

    @pytest.mark.parametrize("count", [0, 99])
    def test_last_blocks_are_no_more_than_there_are(self, choose, complaint, name, count):
        with complaint(f"last {count} blocks", f"has {len(BLOCKS[name])} blocks", "x/stage.trains"):
            choose(name, f"last {count} blocks")

    def test_frozen_batch_normalisation_neither_trains_nor_normalises(self, choose, networks, name):
        frozen = choose(name, "all", batchnorm="frozen")
        assert frozen.normalising == frozenset()
        layers = {layer.name: layer for layer in networks(name).backbone.layers}
        kinds = {type(layers[each.split("/")[1]]) for each in frozen.names if each.startswith("backbone/")}
        assert kinds and keras.layers.BatchNormalization not in kinds
        thawed = choose(name, "all", batchnorm="train")
        both = len(thawed.names) - len(frozen.names)
        assert both == 2 * len(thawed.normalising) == len(freeze.moving_statistics(networks(name), thawed))


@pytest.mark.parametrize("word", ["head", "backbone", "all"])
def test_words_mean_the_same_where_layers_of_the_backbone_are_called_so(word):
    def build(shape):
        return keras.Sequential([keras.Input(shape), *(keras.layers.Conv2D(2, 3, name=n) for n in ("first", word))])

    backbone = dataclasses.replace(BACKBONES["convnet"], build=build)
    network = Architecture(backbone=backbone, pretrained=None, head=linear()).build(
        image_size=16, classes=3, precision="float32"
    )
    names = freeze.choose(network, backbone, [word], batchnorm="train", where="here").names
    assert {name.split("/")[0] for name in names} == ({"backbone", "head"} if word == "all" else {word})
    assert "head/head_logits/kernel" in names or len(names) == 4


class TestNamesInTheBackbone:
    def test_last_layers_are_those_with_variables(self, choose):
        """The convolutional network ends in convolution, batch normalisation, ReLU."""
        assert choose("convnet", "last 2 layers").names == (
            "backbone/block2_conv/kernel", "backbone/block2_bn/gamma", "backbone/block2_bn/beta",
        )  # fmt: skip
        assert choose("convnet", "last 1 layer").names == choose("convnet", "block2_bn").names
        assert choose("convnet", "last 6 layers").names == choose("convnet", "backbone").names

    @pytest.mark.parametrize("count", [0, 7])
    def test_last_layers_are_no_more_than_there_are(self, choose, complaint, count):
        with complaint(f"last {count} layers", "has 6 layers", "1 to 6", "x/stage.trains"):
            choose("convnet", f"last {count} layers")

    def test_a_block_is_not_another_that_begins_like_it(self, choose):
        layers = {name.split("/")[1] for name in choose("efficientnet_lite0", "block1").names}
        assert layers == {
            f"block1_{kind}_{what}" for kind in ("expand", "depthwise", "project") for what in ("conv", "bn")
        }

    def test_a_layer_is_not_another_whose_name_holds_it(self, choose):
        """`Conv_1` is a block of Conv_1 and Conv_1_bn; `block_1_expand` begins like `block_1_expand_BN`."""
        assert choose("mobilenetv2_035", "block_1_expand").names == ("backbone/block_1_expand/kernel",)
        assert len(choose("mobilenetv2_035", "Conv_1").names) == 3

    @pytest.mark.parametrize(("start", "same"), [("block1", ["last 2 blocks"]), ("block1_bn", ["block1_bn", "block2"])])
    def test_from_a_block_or_layer_on_goes_to_the_output_of_the_backbone(self, choose, start, same):
        assert choose("convnet", f"from {start}").names == choose("convnet", *same).names

    @pytest.mark.parametrize("name", ["block7", "block1_relu", "head_logits"])
    def test_from_needs_a_layer_with_variables(self, choose, complaint, name):
        with complaint(f"'from {name}'", f"is called {name!r}", "block0, block1, block2", "nearest:", "x/stage.trains"):
            choose("convnet", f"from {name}")


class TestExclusions:
    def test_take_away_wherever_they_stand(self, choose):
        expected = [name for name in choose("convnet", "backbone").names if "block1" not in name]
        assert list(choose("convnet", "backbone", "!block1").names) == expected
        assert list(choose("convnet", "!block1", "backbone").names) == expected
        assert choose("convnet", "all", "!(bn|bias)").names == (
            *(f"backbone/block{index}_conv/kernel" for index in range(3)), "head/head_logits/kernel",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("pattern", "told"),
        [
            ("!blok", "'blok' matches no variable"),
            ("!head", "'!head' excludes nothing"),
            ("!last 9 blocks", "3 blocks"),
        ],
    )
    def test_of_what_does_not_train_are_refused(self, choose, complaint, pattern, told):
        with complaint(told, "x/stage.trains"):
            choose("convnet", "backbone", pattern)

    def test_of_everything_leave_nothing(self, choose, complaint):
        with complaint("nothing trains"):
            choose("convnet", "head", "!all")


class TestFactors:
    def test_are_1_where_nothing_is_said(self, choose):
        chosen = choose("convnet", "all")
        assert chosen.factors == dict.fromkeys(chosen.names, 1.0)

    def test_the_last_pattern_that_matches_counts(self, choose):
        factors = [("backbone", 0.1), ("last 1 block", 0.5), ("bias$", 2.0)]
        found = choose("convnet", "block[12]_conv", "head", factors=factors).factors
        assert found == {
            "backbone/block1_conv/kernel": 0.1, "backbone/block2_conv/kernel": 0.5,
            "head/head_logits/kernel": 1.0, "head/head_logits/bias": 2.0,
        }  # fmt: skip

    def test_fall_with_each_block_away_from_the_head(self, choose, networks):
        found = choose("efficientnet_lite0", "all", layer_decay=0.75).factors
        distance = {"stem": 18, "top": 1} | {f"block{index}": 17 - index for index in range(16)}
        for name, factor in found.items():
            part, layer, _ = name.split("/")
            assert factor == (0.75 ** distance[layer.split("_")[0]] if part == "backbone" else 1.0)

    def test_by_pattern_and_by_block_multiply(self, choose):
        found = choose("convnet", "all", batchnorm="frozen", factors=[("block0", 0.1)], layer_decay=0.5).factors
        assert found["backbone/block0_conv/kernel"] == 0.1 * 0.5**3
        assert found["backbone/block2_conv/kernel"] == 0.5

    @pytest.mark.parametrize(
        ("pattern", "told"), [("block0", "'block0' of a learning-rate factor"), ("blok", "matches no variable")]
    )
    def test_of_what_does_not_train_are_refused(self, choose, complaint, pattern, told):
        with complaint(told, "x/stage.factors"):
            choose("convnet", "head", "last 1 block", factors=[(pattern, 0.5)])


class TestPatterns:
    def test_are_searched_in_names(self, choose):
        names = choose("convnet", r"block[12]_conv/kernel$").names
        assert names == ("backbone/block1_conv/kernel", "backbone/block2_conv/kernel")

    def test_add_up_in_the_order_of_the_model(self, choose):
        one = choose("convnet", "head", "last 1 block").names
        assert (
            one
            == choose("convnet", "last 1 block", "head").names
            == choose("convnet", "last 1 block", "^head", "bn$|head").names[: len(one)]
        )
        assert one[0].startswith("backbone/block2") and one[-1].startswith("head/")

    @pytest.mark.parametrize(
        ("pattern", "nearest"),
        [
            ("block2_convv", "backbone/block2_conv"), ("haed", "head/head_logits"), ("moving_mean", ""),
            ("seed_generator", ""), ("last two blocks", ""), ("Head", ""),
        ],
    )  # fmt: skip
    def test_that_match_nothing_tell_the_nearest_names(self, choose, complaint, pattern, nearest):
        with complaint(repr(pattern), "matches no variable", "nearest:", nearest, "x/stage.trains"):
            choose("convnet", "head", pattern)

    def test_that_are_malformed_are_told_so(self, choose, complaint):
        with complaint("'block('", "no regular expression"):
            choose("convnet", "block(")

    @pytest.mark.parametrize("patterns", [(), ("block0_bn",)])
    def test_that_leave_nothing_to_train_are_refused(self, choose, complaint, patterns):
        with complaint("nothing trains", "'frozen'"):
            choose("convnet", *patterns, batchnorm="frozen")


class TestBatchNormalisation:
    """In the network itself: one step of Keras in training mode."""

    @pytest.fixture
    def network(self):
        architecture = Architecture(backbone=BACKBONES["convnet"], pretrained=None, head=linear())
        return architecture.build(image_size=16, classes=3, precision="float32")

    @pytest.mark.parametrize(
        ("patterns", "batchnorm", "moving"),
        [
            (["all"], "train", {0, 1, 2}), (["all"], "frozen", set()), (["head", "last 1 block"], "train", {2}),
            (["head"], "recalibrate", {0, 1, 2}),
        ],
    )  # fmt: skip
    def test_uses_and_updates_statistics_only_where_it_trains(self, network, patterns, batchnorm, moving):
        chosen = freeze.choose(network, BACKBONES["convnet"], patterns, batchnorm=batchnorm, where="here")
        freeze.set_batchnorm(network, chosen)
        before = {name: variable.numpy() for name, variable in network.variables.items()}
        images = np.random.default_rng(0).normal(2, 3, (8, 16, 16, 3)).astype(np.float32)
        network.model(images, training=True)
        changed = {
            int(re.search(r"block(\d)_bn/moving", name)[1])
            for name, variable in network.variables.items()
            if "moving_" in name and (variable.numpy() != before[name]).any()
        }
        assert changed == moving
        named = freeze.moving_statistics(network, chosen)
        assert {variable.path.split("/")[0] for variable in named} == {f"block{index}_bn" for index in moving}

    def test_that_recalibrates_keeps_scale_and_offset(self, network):
        chosen = freeze.choose(network, BACKBONES["convnet"], ["all"], batchnorm="recalibrate", where="here")
        assert chosen.names == (
            *(f"backbone/block{index}_conv/kernel" for index in range(3)),
            "head/head_logits/kernel", "head/head_logits/bias",
        )  # fmt: skip

    def test_thaws_again_in_the_next_stage(self, network):
        for batchnorm, thawed in (("frozen", False), ("train", True)):
            chosen = freeze.choose(network, BACKBONES["convnet"], ["all"], batchnorm=batchnorm, where="here")
            freeze.set_batchnorm(network, chosen)
            assert {network.backbone.get_layer(f"block{index}_bn").trainable for index in range(3)} == {thawed}

    def test_of_an_own_head_always_trains_and_one_of_its_name_in_the_backbone_stays(self):
        def head(features, classes):
            pooled = keras.layers.BatchNormalization(name="block0_bn")(keras.layers.Flatten(name="head_flat")(features))
            return keras.layers.Dense(classes, name="head_logits")(pooled)

        architecture = Architecture(backbone=BACKBONES["convnet"], pretrained=None, head=head)
        network = architecture.build(image_size=16, classes=3, precision="float32")
        chosen = freeze.choose(network, BACKBONES["convnet"], ["all"], batchnorm="frozen", where="here")
        assert chosen.normalising == {"head/block0_bn"} and "head/block0_bn/gamma" in chosen.names
        freeze.set_batchnorm(network, chosen)
        assert not network.backbone.get_layer("block0_bn").trainable
        assert {name.rsplit("/", 1)[0] for name in freeze.moving_names(network, chosen)} == {"head/block0_bn"}
