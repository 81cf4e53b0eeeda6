"""Weights go from a file into a model whole, or not at all."""

import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from data.errors import UserError
from trainer.models.files import load_file
from trainer.models.weights import WeightReport, assign, named_variables


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, include_top=False, weights=None)


def small(
    *, classes: int | None = None, automatic: bool = False, prefix: str = "", width: int = 4, **head
) -> keras.Model:
    """Two convolutions, BatchNorm and dropout; named by us or by Keras."""

    def name(text):
        return None if automatic else prefix + text

    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, name=name("conv1"))(image)
    x = layers.BatchNormalization(name=name("bn1"))(x)
    x = layers.DepthwiseConv2D(3, name=name("depthwise"))(x)
    x = layers.Conv2D(width, 1, name=name("conv2"))(layers.Dropout(0.5)(x))
    if classes is not None:
        x = layers.Dense(classes, **head)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def around(backbone: keras.Model, **head) -> keras.Model:
    """A classifier that has the backbone as one layer."""
    image = keras.Input(backbone.input_shape[1:])
    x = layers.GlobalAveragePooling2D()(backbone(image))
    return keras.Model(image, layers.Dense(3, **head)(x))


def scramble(model: keras.Model, seed: int = 0) -> keras.Model:
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def by_name(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in named_variables(model).items()}


def assert_same(one: keras.Model, other: keras.Model) -> None:
    pairs = list(zip(one.get_weights(), other.get_weights(), strict=True))
    assert pairs and all(np.array_equal(a, b) for a, b in pairs)


def save_legacy_weights(model: keras.Model, path: Path) -> None:
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


SAVE = {
    "model.weights.h5": lambda model, path: model.save_weights(path),
    "model.keras": lambda model, path: model.save(path),
    "model.h5": lambda model, path: model.save(path),
    "weights_only.h5": save_legacy_weights,
}
formats = pytest.mark.parametrize("file", SAVE)


class TestEveryFormat:
    @formats
    def test_brings_a_mobilenet_back_bit_for_bit(self, tmp_path, file):
        saved, fresh = scramble(mobilenet()), mobilenet()
        SAVE[file](saved, tmp_path / file)
        report = load_file(fresh, tmp_path / file)
        assert_same(fresh, saved)
        assert len(report.matched) == len(fresh.weights) == 260
        assert report.matched_parameters == report.model_parameters == fresh.count_params()
        assert report.skipped == report.missing == ()

    @formats
    def test_leaves_the_classifier_out_and_says_so(self, tmp_path, file):
        saved, fresh = scramble(small(classes=5, name="predictions")), small()
        SAVE[file](saved, tmp_path / file)
        report = load_file(fresh, tmp_path / file)
        assert len(report.skipped) == 2 and all(name.startswith("predictions/") for name in report.skipped)
        theirs = by_name(saved)
        assert all(np.array_equal(value, theirs[name]) for name, value in by_name(fresh).items())

    @formats
    def test_gives_the_backbone_that_is_a_layer_of_the_saved_classifier(self, tmp_path, file):
        backbone, fresh = scramble(small()), small()
        SAVE[file](around(backbone), tmp_path / file)
        report = load_file(fresh, tmp_path / file)
        assert_same(fresh, backbone)
        assert len(report.matched) == 10 and len(report.skipped) == 2

    @formats
    def test_gives_the_whole_classifier_back_too(self, tmp_path, file):
        saved, fresh = scramble(around(small(), name="head")), around(small(), name="head")
        SAVE[file](saved, tmp_path / file)
        report = load_file(fresh, tmp_path / file)
        assert_same(fresh, saved)
        assert {"conv1/kernel", "head/kernel"} <= set(report.matched) and report.skipped == ()

    @formats
    @pytest.mark.parametrize("nested", [False, True])
    def test_knows_layers_that_keras_numbered_otherwise(self, tmp_path, file, nested):
        saved = scramble(small(automatic=True))
        SAVE[file](around(saved) if nested else saved, tmp_path / file)
        small(automatic=True)
        fresh = small(automatic=True)
        assert not by_name(fresh).keys() & by_name(saved).keys()
        load_file(fresh, tmp_path / file)
        assert_same(fresh, saved)

    @formats
    def test_passes_over_the_state_of_optimizer_metrics_and_seeds(self, tmp_path, file):
        saved = small()
        saved.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
        saved.fit(np.ones((2, 8, 8, 3)), np.zeros((2, *saved.output_shape[1:])), verbose=0)
        SAVE[file](saved, tmp_path / file)
        fresh = small()
        assert load_file(fresh, tmp_path / file).skipped == ()
        assert_same(fresh, saved)

    @formats
    def test_sets_up_a_normalization_layer_anew(self, tmp_path, file):
        saved = keras.Sequential([keras.Input((3,)), layers.Normalization(name="normalize")])
        saved.layers[0].adapt(np.array([[1.0, 2, 3], [3, 2, 9]], "float32"))
        SAVE[file](saved, tmp_path / file)
        fresh = keras.Sequential([keras.Input((3,)), layers.Normalization(name="normalize")])
        load_file(fresh, tmp_path / file)
        pixels = np.array([[5.0, 6, 7]], "float32")
        np.testing.assert_array_equal(fresh(pixels), saved(pixels))
        assert np.any(np.asarray(fresh(pixels)) != pixels)

    @formats
    def test_goes_into_the_replicas_of_a_strategy(self, tmp_path, file):
        saved = scramble(small())
        SAVE[file](saved, tmp_path / file)
        devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
        strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
        with strategy.scope():
            fresh = small()
        load_file(fresh, tmp_path / file)
        for ours, theirs in zip(fresh.weights, saved.weights, strict=True):
            for replica in strategy.experimental_local_results(ours.value):
                np.testing.assert_array_equal(replica, theirs)


class TestFilesOfOlderKeras:
    def older(self, path: Path, saved: dict[str, dict[str, np.ndarray]]) -> Path:
        """Layer -> weight name as in the file -> array."""
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [name.encode() for name in saved]
            for layer, arrays in saved.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [name.encode() for name in arrays]
                for name, array in arrays.items():
                    group[name] = array
        return path

    def arrays(self, model: keras.Model, layer: str, *names: str) -> dict[str, np.ndarray]:
        return dict(zip(names, model.get_layer(layer).get_weights(), strict=True))

    def keras_2(self, model: keras.Model, scope: str = "") -> dict[str, dict[str, np.ndarray]]:
        norm = [f"{scope}bn1/{name}:0" for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        depthwise = (f"{scope}depthwise/depthwise_kernel:0", f"{scope}depthwise/bias:0")
        return {
            "conv1": self.arrays(model, "conv1", f"{scope}conv1/kernel:0", f"{scope}conv1/bias:0"),
            "bn1": self.arrays(model, "bn1", *norm),
            "depthwise": self.arrays(model, "depthwise", *depthwise),
            "conv2": self.arrays(model, "conv2", "conv2_W_1:0", "conv2_b_1:0"),
        }

    @pytest.mark.parametrize("scope", ["", "model_3/", "conv2/"])
    def test_may_call_variables_otherwise(self, tmp_path, scope):
        saved, fresh = scramble(small()), small()
        load_file(fresh, self.older(tmp_path / "old.h5", self.keras_2(saved, scope)))
        assert_same(fresh, saved)

    def test_may_call_every_layer_otherwise_as_long_as_order_and_shapes_agree(self, tmp_path):
        saved, fresh = scramble(small(prefix="old_")), small()
        save_legacy_weights(saved, tmp_path / "old.h5")
        load_file(fresh, tmp_path / "old.h5")
        assert_same(fresh, saved)

    def test_may_call_some_layers_otherwise_but_not_move_those_of_a_known_name(self, tmp_path):
        saved, fresh = scramble(small()), small()
        layers_of = self.keras_2(saved)
        renamed = {"first" if name == "conv1" else name: arrays for name, arrays in layers_of.items()}
        renamed["first"] = self.arrays(saved, "conv1", "first/kernel:0", "first/bias:0")
        load_file(fresh, self.older(tmp_path / "renamed.h5", renamed))
        assert_same(fresh, saved)
        moved = dict(reversed(renamed.items()))
        with pytest.raises(UserError, match="missing from the file: conv1/kernel"):
            load_file(fresh, self.older(tmp_path / "moved.h5", moved))

    def test_hold_half_frozen_numbered_layers_out_of_order(self, tmp_path):
        saved = scramble(small(automatic=True))
        saved.layers[1].trainable = False
        SAVE["model.h5"](around(saved), tmp_path / "half_frozen.h5")
        fresh = small(automatic=True)
        load_file(fresh, tmp_path / "half_frozen.h5")
        assert_same(fresh, saved)

    def test_count_ten_after_nine(self, tmp_path):
        def chain(first):
            image = x = keras.Input((4, 4, 3))
            for number in range(first, first + 12):
                x = layers.Conv2D(3, 1, name=f"conv2d_{number}")(x)
            return keras.Model(image, x)

        saved, fresh = scramble(chain(1)), chain(30)
        saved.save(tmp_path / "chain.h5")
        load_file(fresh, tmp_path / "chain.h5")
        assert_same(fresh, saved)

    def test_may_lack_the_names_of_layers(self, tmp_path):
        saved, fresh, path = scramble(small(classes=5)), small(), tmp_path / "old.weights.h5"
        saved.save_weights(path)
        with h5py.File(path, "a") as file:
            file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
        report = load_file(fresh, path)
        assert report.skipped == ("layers/dense/vars/0", "layers/dense/vars/1")
        theirs = by_name(saved)
        assert all(np.array_equal(value, theirs[name]) for name, value in by_name(fresh).items())

    def test_may_keep_layers_as_checkpoint_dependencies(self, tmp_path):
        saved, fresh, path = scramble(small()), small(), tmp_path / "old.weights.h5"
        saved.save_weights(path)
        with h5py.File(path, "a") as file:
            file.move("layers", "_layer_checkpoint_dependencies")
        load_file(fresh, path)
        assert_same(fresh, saved)

    def test_may_split_long_lists_of_names(self, tmp_path):
        saved, fresh, path = scramble(small()), small(), tmp_path / "long.h5"
        save_legacy_weights(saved, path)
        with h5py.File(path, "a") as file:
            names = file.attrs.pop("layer_names")
            file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:3], names[3:]
        load_file(fresh, path)
        assert_same(fresh, saved)

    def test_may_be_in_bfloat16(self, tmp_path):
        saved = scramble(keras.Sequential([keras.Input((2,)), layers.Dense(3, dtype="bfloat16")]))
        saved.save_weights(tmp_path / "half.weights.h5")
        fresh = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
        load_file(fresh, tmp_path / "half.weights.h5")
        for ours, theirs in zip(fresh.weights, saved.weights, strict=True):
            np.testing.assert_array_equal(ours, keras.ops.cast(theirs, "float32"))


def write_small(path: Path, **arguments) -> None:
    whole = path.with_name("whole.weights.h5")
    small(**arguments).save_weights(whole)
    whole.rename(path)


def truncate(path: Path, save: str) -> None:
    whole = path.with_name(save)
    SAVE[save](small(), whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])


def garbled_archive(path: Path) -> None:
    SAVE["model.keras"](small(), path.with_name("whole.keras"))
    content = bytearray(path.with_name("whole.keras").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def archive(path: Path, name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr(name, content)


def edit(path: Path, change, save: str = "model.weights.h5") -> None:
    whole = path.with_name(save)
    SAVE[save](small(), whole)
    with h5py.File(whole, "a") as file:
        change(file)
    whole.rename(path)


def linked(path: Path, link, place: str = "layers/conv2d/vars/0") -> None:
    """A file that is whole, but one array of which lies in another file."""
    write_small(path.with_name("other.weights.h5"))

    def change(file):
        del file[place]
        file[place] = link

    edit(path, change)


def external_numbers(path: Path) -> None:
    numbers = path.with_name("numbers.bin")
    numbers.write_bytes(bytes(16))

    def change(file):
        del file["layers/conv2d/vars/1"]
        file.create_dataset("layers/conv2d/vars/1", (4,), "<f4", external=[(str(numbers), 0, 16)])

    edit(path, change)


def virtual_numbers(path: Path) -> None:
    write_small(path.with_name("other.weights.h5"))
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.weights.h5")), "layers/conv2d/vars/1", (4,))

    def change(file):
        del file["layers/conv2d/vars/1"]
        file.create_virtual_dataset("layers/conv2d/vars/1", layout)

    edit(path, change)


def replaced(place: str, value):
    def change(file):
        del file[place]
        file[place] = value

    return change


def huge(file: h5py.File) -> None:
    del file["layers/conv2d/vars/0"]
    file.create_dataset("layers/conv2d/vars/0", (1 << 20, 1 << 20, 1 << 10), "<f4", chunks=True)


def two_nested(path: Path, save: str) -> None:
    image = keras.Input((8, 8, 3))
    SAVE[save](keras.Model(image, layers.Add()([small()(image), small()(image)])), path.with_name(save))
    path.with_name(save).rename(path)


OTHER = "other.weights.h5"
BAD = {
    "absent": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "the folder holds no weights"),
    "empty": (lambda path: path.touch(), "neither HDF5 nor a .keras"),
    "a text": (lambda path: path.write_text("weights of the world"), "neither HDF5 nor a .keras"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n."), "neither HDF5 nor a .keras"),
    "a truncated .weights.h5": (lambda path: truncate(path, "model.weights.h5"), "damaged: .*truncated"),
    "a truncated .h5": (lambda path: truncate(path, "model.h5"), "damaged: .*truncated"),
    "a truncated .keras": (lambda path: truncate(path, "model.keras"), "damaged: .*zip"),
    "a .keras with a flipped bit": (garbled_archive, "damaged: .*CRC"),
    "an archive of something else": (lambda path: archive(path, "a.txt", b"a"), "has no model.weights.h5"),
    "an archive of no HDF5": (lambda path: archive(path, "model.weights.h5", b"a"), "damaged"),
    "an archive that swells": (
        lambda path: archive(path, "model.weights.h5", bytes(1 << 22), zipfile.ZIP_DEFLATED),
        "unpacks to 4,194,304 bytes",
    ),
    "HDF5 of something else": (
        lambda path: h5py.File(path, "w").create_dataset("x", data=[1]),
        "no Keras weights",
    ),
    "an external link": (
        lambda path: linked(path, h5py.ExternalLink(OTHER, "layers/conv2d/vars/0")),
        "refused",
    ),
    "an external group": (lambda path: linked(path, h5py.ExternalLink(OTHER, "layers"), "layers"), "refused"),
    "a soft link": (lambda path: linked(path, h5py.SoftLink("/layers/conv2d/vars/1")), "refused"),
    "a group in itself": (lambda path: edit(path, lambda file: replaced("vars", file)(file)), "refused"),
    "numbers in another file": (external_numbers, "in another file; refused"),
    "a view on another file": (virtual_numbers, "in another file; refused"),
    "words for numbers": (
        lambda path: edit(path, replaced("layers/conv2d/vars/1", [b"a", b"b", b"c", b"d"])),
        "conv1/bias holds",
    ),
    "more than memory holds": (
        lambda path: edit(path, huge),
        r"1 of another shape: conv1/kernel \(1048576,",
    ),
    "a missing array": (
        lambda path: edit(path, lambda file: file.pop("layers/conv2d/vars/1")),
        "1 missing from the file: conv1/bias",
    ),
    "a missing legacy array": (
        lambda path: edit(path, lambda file: file.pop("model_weights/conv1/conv1/bias"), "model.h5"),
        "damaged: .*conv1/bias",
    ),
    "a wider model": (
        lambda path: write_small(path, width=5),
        r"conv1/kernel \(3, 3, 3, 5\), the model's \(3, 3, 3, 4\)",
    ),
    "a model with a head of another name": (
        lambda path: write_small(path, classes=5, name="tail"),
        "2 unknown to the model: tail/0, tail/1",
    ),
    "two backbones that fit": (lambda path: two_nested(path, "model.weights.h5"), "2 nested models that fit"),
    "two legacy backbones that fit": (lambda path: two_nested(path, "model.h5"), "2 nested models that fit"),
}


class TestABadFile:
    @pytest.fixture(scope="class")
    def model(self):
        return scramble(small(), seed=1)

    @pytest.mark.parametrize("what", BAD)
    def test_is_told_and_changes_nothing(self, tmp_path, model, what):
        make, words = BAD[what]
        path, before = tmp_path / "file", model.get_weights()
        make(path)
        with pytest.raises(UserError, match=words) as error:
            load_file(model, path)
        assert error.value.where == str(path)
        assert all(map(np.array_equal, before, model.get_weights()))

    @pytest.fixture(scope="class")
    def large(self):
        return mobilenet()

    @formats
    def test_of_another_architecture_is_told_and_changes_nothing(self, tmp_path, large, file):
        SAVE[file](small(), tmp_path / file)
        model, before = large, large.get_weights()
        with pytest.raises(UserError, match=r"of 260 variables .* none was loaded; 2\d\d missing"):
            load_file(model, tmp_path / file)
        assert all(map(np.array_equal, before, model.get_weights()))

    @formats
    def test_of_another_width_is_told_and_changes_nothing(self, tmp_path, model, file):
        SAVE[file](small(width=5), tmp_path / file)
        before = model.get_weights()
        with pytest.raises(UserError, match=r"of another shape: .*, \.\.\."):
            load_file(model, tmp_path / file)
        assert all(map(np.array_equal, before, model.get_weights()))

    def test_has_its_configuration_left_alone(self, tmp_path):
        saved, fresh = scramble(small()), small()
        saved.save(tmp_path / "whole.keras")
        with (
            zipfile.ZipFile(tmp_path / "whole.keras") as whole,
            zipfile.ZipFile(tmp_path / "x.keras", "w") as evil,
        ):
            evil.writestr("model.weights.h5", whole.read("model.weights.h5"))
            evil.writestr("config.json", json.dumps({"module": "os", "class_name": "abort", "config": {}}))
        load_file(fresh, tmp_path / "x.keras")
        assert_same(fresh, saved)


class TestAssigning:
    def test_takes_arrays_by_layer_and_variable(self):
        model = small()
        arrays = {name: np.full(value.shape, 2.0) for name, value in by_name(model).items()}
        report = assign(model, arrays, source="here")
        assert all((value == 2).all() for value in model.get_weights())
        assert report == WeightReport("here", tuple(arrays), (), (), 112 + 16 + 40 + 20, 188)

    def test_lists_all_that_is_wrong_at_once_and_changes_nothing(self):
        model = scramble(small())
        before = model.get_weights()
        arrays = by_name(model)
        del arrays["bn1/beta"]
        arrays |= {"conv1/bias": np.zeros(7), "what/ever": np.zeros(1), "fc/kernel": np.zeros(1)}
        with pytest.raises(UserError) as error:
            assign(model, arrays, source="here")
        assert error.value.where == "here"
        assert "8 of 10 variables" in error.value.found
        assert "1 missing from the file: bn1/beta" in error.value.found
        assert "conv1/bias (7,), the model's (4,)" in error.value.found
        assert "1 unknown to the model: what/ever" in error.value.found
        assert all(map(np.array_equal, before, model.get_weights()))

    def test_names_the_first_five_and_the_count(self):
        with pytest.raises(UserError) as error:
            assign(small(), {}, source="here")
        shown = "conv1/kernel, conv1/bias, bn1/gamma, bn1/beta, bn1/moving_mean, ..."
        assert error.value.found.endswith(f"10 missing from the file: {shown}")

    @pytest.mark.parametrize("head", ["fc/kernel", "predictions/bias", "head/dense/kernel"])
    def test_skips_a_head(self, head):
        model = small()
        assert assign(model, by_name(model) | {head: np.zeros(3)}, source="here").skipped == (head,)

    def test_does_not_take_a_layer_for_a_head_that_only_begins_like_one(self):
        model = small()
        with pytest.raises(UserError, match="unknown to the model: header/kernel"):
            assign(model, by_name(model) | {"header/kernel": np.zeros(3)}, source="here")

    def test_skips_what_the_caller_calls_a_head(self):
        model = small()
        arrays = by_name(model) | {"logits/kernel": np.zeros(3)}
        assert assign(model, arrays, source="here", head="^logits/").skipped == ("logits/kernel",)

    def test_refuses_anything_but_real_numbers(self):
        model = small()
        arrays = by_name(model) | {"conv1/bias": np.zeros(4, complex)}
        with pytest.raises(UserError, match="conv1/bias holds complex128"):
            assign(model, arrays, source="here")


class TestNames:
    def test_leave_out_seed_states(self):
        model = small()
        assert len(model.variables) == len(named_variables(model)) + 1

    def test_reach_into_nested_models_and_layers_of_layers(self):
        image = keras.Input((8, 8, 3))
        x = layers.Reshape((16, 4))(small(prefix="inner_")(image))
        x = layers.MultiHeadAttention(1, 2, name="attention")(x, x)
        names = named_variables(keras.Model(image, x))
        assert "inner_conv1/kernel" in names and "attention/query/kernel" in names

    def test_that_are_there_twice_are_an_error(self):
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, layers.Add()([small()(image), small()(image)]))
        with pytest.raises(UserError, match="two variables of the model are called conv1/kernel"):
            named_variables(model)

    def test_of_a_shared_layer_come_once(self):
        image = keras.Input((8, 8, 3))
        shared = small()
        model = keras.Model(image, layers.Add()([shared(image), shared(image)]))
        assert list(named_variables(model)) == list(named_variables(shared))


def test_a_summary_is_one_line():
    report = WeightReport("FILE", ("a/b",) * 262, ("fc/kernel", "fc/bias"), (), 3_412_345, 3_412_345)
    assert report.summary() == (
        "262 of 262 variables, 3,412,345 of 3,412,345 parameters (100.0 %) from FILE; 2 skipped: fc/kernel, fc/bias"
    )


def test_a_summary_shows_the_first_five_of_many():
    report = WeightReport("FILE", ("a/b",), tuple("cdefgh"), ("x/y",), 1, 4)
    assert report.summary() == (
        "1 of 2 variables, 1 of 4 parameters (25.0 %) from FILE; 6 skipped: c, d, e, f, g, ...; 1 missing: x/y"
    )
