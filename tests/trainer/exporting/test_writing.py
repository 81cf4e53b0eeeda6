"""A session's network as files: each predicts the same, read by itself and as the beginning of a new session."""

import contextlib
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.errors import RunFailure, UserError
from trainer import checkpoints, init_from, launch, workdir
from trainer.exporting import alone, comparing, formats, writing
from trainer.exporting.comparing import TOLERANCE, Agreement
from trainer.exporting.formats import FORMATS
from trainer.exporting.network import prepare
from trainer.models.files import load_file
from trainer.models.growing import Outputs
from trainer.models.network import model
from trainer.models.patterns import Names
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

OUTPUTS = {
    "keras": "whole.keras",
    "h5": "whole.h5",
    "weights": "only.weights.h5",
    "saved_model": "served",
    "checkpoint": "saved",
    "tflite": "small.tflite",
    "tflite_int8": "small.int8.tflite",
    "onnx": "other.onnx",
}
if any(importlib.util.find_spec(name) is None for name in formats.ONNX_PACKAGES):
    del OUTPUTS["onnx"]
# Those that a session begins with.
WEIGHTS = ("keras", "h5", "weights", "saved_model", "checkpoint")
NAMES = ("class0", "class1", "class2", "class3")
MEANING = Meaning("single_label", NAMES)
of_keras = pytest.mark.parametrize("name", WEIGHTS)


def recipe_of(small, *bindings):
    launch.parse_gin([small], bindings)
    return launch.call(Recipe)


@pytest.fixture(scope="module")
def images(finished_once, small):
    """Name of a split -> files with its images."""
    found = {}
    with contextlib.ExitStack() as stack:
        for split in ("train", "test"):
            arguments = recipe_of(small), Workdir.existing(str(finished_once)), Console()
            part = comparing.session_images(*arguments, splits=[split], count=20)
            name, found[split] = stack.enter_context(part)
            assert name == split
        yield found


@pytest.fixture(scope="module")
def exported(finished_once, small, images):
    recipe = recipe_of(small)
    found = prepare(recipe, checkpoints.find(finished_once / "checkpoints", "last"), MEANING)
    # So certain of its classes that eight bits do not change its mind.
    found.model.layers[-1].kernel.assign(10 * found.model.layers[-1].kernel)
    return dataclasses.replace(found, calibration=tuple(Path(path).read_bytes() for path in images["train"]))


@pytest.fixture(scope="module")
def written(exported, images, tmp_path_factory):
    """Name of a format -> what was written; all are read again by a process of their own."""
    folder = tmp_path_factory.mktemp("exports")
    outputs = {folder / output: formats.chosen_format(folder / output, name) for name, output in OUTPUTS.items()}
    agreements = writing.write(exported, outputs, images["test"])
    for output, form in outputs.items():
        found = agreements[output]
        assert found.images == len(images["test"]) >= 4 and found.holds
        # What was read again is nearer than the command promises.
        assert found.limit is None if form.rounded else found.difference <= 1e-5 < found.limit
    return {name: folder / output for name, output in OUTPUTS.items()}


@pytest.fixture
def in_this_process(monkeypatch):
    """Has what was written read again here, which takes a moment."""
    monkeypatch.setattr(comparing, "fresh", lambda request, folder: alone.answer(request))


@pytest.fixture(scope="module")
def answers(exported):
    """Random pixels, and what the session's own network says of them behind its own normalisation."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3)).astype(np.float32)
    # As the convnet's own normalisation is defined.
    return pixels, exported.network.model((pixels - 127.5) / 127.5, training=False).numpy()


def in_keras(name, path, exported):
    """What other programs get out of the file."""
    if name in ("keras", "h5"):
        return keras.saving.load_model(path, compile=False)
    if name == "saved_model":
        layer = keras.layers.TFSMLayer(path, call_endpoint="logits")
        return lambda pixels: layer(pixels)["logits"]
    if name == "weights":
        model = keras.models.clone_model(exported.model)
        model.load_weights(path)
        return model
    network, model = exported.blank()
    status = tf.train.Checkpoint(model=network.values()).restore(tf.train.latest_checkpoint(path))
    status.assert_existing_objects_matched().expect_partial()
    return model


@of_keras
def test_every_format_predicts_the_same_in_keras(name, written, answers, exported):
    pixels, logits = answers
    np.testing.assert_allclose(in_keras(name, written[name], exported)(pixels), logits, rtol=1e-5, atol=1e-5)


@of_keras
def test_a_new_session_begins_with_every_format_exactly(name, written, answers, exported):
    pixels, logits = answers
    network = exported.recipe.model.build(image_size=16, classes=4, precision="float32")
    report = init_from.load(network, str(written[name]), ours=Outputs("single_label", NAMES), recipe=exported.recipe)
    np.testing.assert_array_equal(network.model((pixels - 127.5) / 127.5, training=False).numpy(), logits)
    assert report.missing == report.skipped == report.notes == ()
    assert report.matched_parameters == report.model_parameters == network.model.count_params()
    assert report.classes.kept == NAMES and report.classes.note == ""


@of_keras
def test_the_backbone_takes_every_format_as_its_weights(name, written, exported):
    network, _ = exported.blank()
    report = load_file(network.backbone, written[name])
    assert len(report.matched) == len(network.backbone.weights) and report.missing == ()
    assert {skipped.split("/")[0] for skipped in report.skipped} >= {"head_logits"}
    ours, theirs = ([weight.numpy() for weight in each.backbone.weights] for each in (network, exported.network))
    assert all(map(np.array_equal, ours, theirs))


@of_keras
def test_what_the_outputs_stand_for_goes_with_it(name, written):
    facts = json.loads(init_from.classes_file(written[name]).read_text())
    assert (facts["task"], facts["classes"], facts["outputs"]) == ("single_label", list(NAMES), "logits")
    assert facts["format"] == name and facts["preprocessing"]["image_size"] == 16
    assert init_from.find(str(written[name])).outputs == Outputs("single_label", NAMES)


@pytest.mark.parametrize("name", ["keras", "h5"])
def test_a_whole_model_is_plain_keras_with_a_frozen_normalisation(name, written):
    model = keras.saving.load_model(written[name], compile=False)
    nested = [layer for outer in model.layers for layer in getattr(outer, "layers", [outer])]
    assert all(type(layer).__module__.startswith("keras.src.") for layer in nested)
    assert not model.get_layer("normalisation").trainable and model.get_layer("normalisation").kernel_size == (1, 1)
    assert {layer.compute_dtype for layer in nested} == {"float32"}


@pytest.mark.parametrize("name", ["keras", "h5"])
def test_a_whole_model_is_a_backbone_whose_normalisation_is_known_and_never_trains(name, written):
    architecture = model(backbone=str(written[name]))
    assert architecture.backbone.knows_colour
    network = architecture.build(image_size=16, classes=4, precision="float32")
    names = Names.of(network, architecture.backbone).variables
    assert "backbone/normalisation/kernel" in network.variables
    assert {name.split("/")[1] for name in names} == {
        layer.name for layer in network.model.layers + network.backbone.layers if layer.trainable_weights
    } - {network.backbone.name}


def test_nothing_else_is_left_in_the_folder(written):
    folder = written["keras"].parent
    files = {output for output in OUTPUTS.values()}
    beside = {f"{output}.classes.json" for output in files if "." in output}
    assert {path.name for path in folder.iterdir()} == files | beside


@of_keras
def test_a_damaged_export_is_told_or_harmless(name, written, exported, tmp_path):
    """Bytes anywhere in it are changed or missing: no other error, and never other weights."""
    random = np.random.default_rng(0)
    right = {key: value.numpy() for key, value in exported.network.values().items()}
    network, _ = exported.blank()
    ours, refused = Outputs("single_label", NAMES), 0
    source = written[name]
    files = [path for path in sorted(source.rglob("*")) if path.is_file()] if source.is_dir() else [source]
    for attempt in range(8):
        copy = tmp_path / f"{attempt}-{source.name}"
        for path in [*files, *([] if source.is_dir() else [init_from.classes_file(source)])]:
            target = copy / path.relative_to(source) if source.is_dir() else copy.with_name(path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        victim = files[attempt % len(files)]
        victim = copy / victim.relative_to(source) if source.is_dir() else copy.with_name(victim.name)
        content = bytearray(victim.read_bytes())
        if attempt % 2:
            content[random.integers(len(content))] ^= 1 << random.integers(8)
        else:
            del content[random.integers(len(content)) :]
        victim.write_bytes(content)
        try:
            init_from.load(network, str(copy if source.is_dir() else victim), ours=ours, recipe=exported.recipe)
        except UserError:
            refused += 1
        else:
            now = {key: value.numpy() for key, value in network.values().items()}
            assert all(np.array_equal(now[key], right[key]) for key in right if "seed_generator" not in key)
    assert refused


def test_moving_averages_are_taken_where_there_are_some(exported, tmp_path, complaint):
    raw, average = exported.blank()[0], exported.blank()[0]
    groups = {"model": raw.values(), "ema": average.values()}
    prefix = checkpoints.Checkpoints(tmp_path, groups, keep=1).save(7)
    kernel = "head/head_logits/kernel"
    for weights, expected in ((None, average), ("ema", average), ("raw", raw)):
        found = prepare(exported.recipe, prefix, MEANING, weights=weights)
        np.testing.assert_array_equal(found.network.variables[kernel], expected.variables[kernel])
    network, _ = exported.blank()
    init_from.load(network, str(prefix), ours=Outputs("single_label", NAMES), recipe=exported.recipe)
    np.testing.assert_array_equal(network.variables[kernel], average.variables[kernel])
    for path, weights in ((prefix, "mean"), (exported.prefix, "ema")):
        with complaint(f"no weights '{weights}'", "--weights"):
            prepare(exported.recipe, path, MEANING, weights=weights)


def test_the_command_writes_what_the_next_session_begins_with(finished_once, small, command, tmp_path):
    output = tmp_path / "whole.keras"
    export_arguments = (f"--workdir={finished_once}", "--devices=cpu", f"--output={output}")
    done = command("export", *export_arguments)
    assert done.end() == 0, done.printed
    assert f"weights of {finished_once}/checkpoints/best/ckpt-" in done.printed and "4 classes" in done.printed
    assert f"{output}: probabilities of 11 images differ by " in done.printed
    again = command("export", *export_arguments)
    assert again.end() == 2 and "--overwrite" in again.printed
    more = [f"--gin_file={small}", "--devices=cpu", "--gin_param=synthetic.classes = 5", f"--init_from={output}"]
    trained = command("train", f"--workdir={tmp_path}/run", *more)
    assert trained.end() == 0, trained.printed
    assert "4 kept (class0, class1, class2, class3), 1 new (class4)" in " ".join(trained.printed.split())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 9


def test_the_bytes_of_images_are_answered_with_names_and_probabilities(written, exported, images):
    served = tf.saved_model.load(str(written["saved_model"])).signatures
    encoded = [Path(path).read_bytes() for path in images["test"]]
    told = served["serving_default"](images=tf.constant(encoded))
    logits = exported.model(np.stack([exported.preprocessing.decoder()(each)[0] for each in encoded]), training=False)
    probabilities = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(told["probabilities"], probabilities, rtol=0, atol=1e-5)
    assert told["classes"].numpy().tolist() == [[name.encode() for name in NAMES]] * len(encoded)
    assert told["class"].numpy().tolist() == [NAMES[index].encode() for index in probabilities.argmax(axis=1)]
    # What makes pixels for the other formats, where this project is not.
    pixels = served["pixels"](images=tf.constant(encoded))["pixels"]
    np.testing.assert_allclose(served["logits"](pixels=pixels)["logits"], logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        served["pixels"](images=tf.constant([encoded[0], b"no picture"]))


@pytest.mark.parametrize(
    ("task", "names", "told"),
    [
        ("binary", ("no", "yes"), {"class": [b"yes"], "classes": [[b"no", b"yes"]], "probabilities": [[0.25, 0.75]]}),
        ("multi_label", ("a",), {"classes": [[b"a"]], "probabilities": [[0.75]]}),
        ("regression", ("size",), {"names": [[b"size"]], "values": [[np.log(3)]]}),
    ],
)
def test_every_task_is_answered_in_its_own_way(task, names, told):
    found = formats.answering(Meaning(task, names))(tf.constant([[np.log(3)]], tf.float32))
    assert found.keys() == told.keys()
    for name, expected in told.items():
        if name in ("probabilities", "values"):
            np.testing.assert_allclose(found[name], expected, atol=1e-6)
        else:
            assert found[name].numpy().tolist() == expected


def test_the_process_that_reads_exports_cannot_import_this_project():
    content = (
        "import sys; sys.path[:0] = [{!r}, {!r}]; import alone; sys.meta_path.insert(0, alone._Refused()); import {}"
    )
    folder = str(Path(alone.__file__).parent)
    for name in alone.PROJECT:
        code = content.format(folder, str(launch.PROJECT), name)
        ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
        assert ended.returncode and f"{name} is not to be used here" in ended.stderr


class TestTheOutput:
    @pytest.fixture(autouse=True)
    def agreeing(self, monkeypatch):
        """Nothing is compared."""
        agreement = Agreement(images=1, difference=0.0, same=1, limit=TOLERANCE)
        monkeypatch.setattr(
            comparing, "compare", lambda exported, exports, paths, **_: dict.fromkeys(exports, agreement)
        )

    def test_decides_on_the_format(self):
        for name, output in OUTPUTS.items():
            if name != "checkpoint":
                assert formats.chosen_format(Path(output), None) is FORMATS[name]
        assert formats.chosen_format(Path("v1.0"), "saved_model") is FORMATS["saved_model"]

    @pytest.mark.parametrize(
        ("output", "name"),
        [
            ("a.pt", None),
            ("a.keras", "h5"),
            ("a.h5", "weights"),
            ("a", "keras"),
            ("a.tflite", "tflite_int8"),
            ("a", "pt"),
        ],
    )
    def test_of_an_unknown_format_or_of_another_is_told(self, output, name, complaint):
        with complaint(output, ".weights.h5"):
            formats.chosen_format(Path(output), name)

    def test_that_is_there_is_replaced_only_if_that_is_asked_for(self, exported, tmp_path, complaint):
        for name in ("weights", "checkpoint"):
            output, form = tmp_path / OUTPUTS[name], FORMATS[name]
            writing.write(exported, {output: form}, [])
            with complaint(str(output), "--overwrite"):
                writing.write(exported, {output: form}, [])
            writing.write(exported, {output: form}, [], overwrite=True)
            assert init_from.find(str(output)).outputs.names == NAMES

    def test_that_is_something_else_is_never_replaced(self, exported, tmp_path, complaint):
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "cat.jpg").touch()
        with complaint(str(photos), "no export"):
            writing.write(exported, {photos: FORMATS["saved_model"]}, [], overwrite=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["photos", "cat.jpg"]

    def test_is_never_a_session(self, exported, tmp_path, complaint):
        workdir.write_json(tmp_path / "classes.json", list(NAMES))
        with complaint(str(tmp_path), "no export"):
            writing.write(exported, {tmp_path: FORMATS["saved_model"]}, [], overwrite=True)

    def test_needs_a_folder_to_be_in(self, exported, tmp_path, complaint):
        with complaint("--output"):
            writing.write(exported, {tmp_path / "nowhere" / "a.keras": FORMATS["keras"]}, [])

    def test_that_differs_is_put_in_place_with_none_of_the_others(self, exported, tmp_path, complaint, monkeypatch):
        found = [Agreement(9, 0.0, 9, TOLERANCE), Agreement(9, 2e-4, 9, TOLERANCE)]
        monkeypatch.setattr(comparing, "compare", lambda _, exports, *__, **___: dict(zip(exports, found, strict=True)))
        outputs = {tmp_path / name: FORMATS["weights"] for name in ("a.weights.h5", "b.weights.h5")}
        with complaint("differ by 2.0e-04 at most", "0.0001", kind=RunFailure):
            writing.write(exported, outputs, [])
        assert not list(tmp_path.iterdir())


class TestAgreement:
    @pytest.mark.parametrize(
        ("same", "images", "holds"), [(95, 100, True), (94, 100, False), (0, 1, False), (1, 1, True)]
    )
    def test_of_whole_numbers_is_one_of_decisions(self, same, images, holds):
        assert Agreement(images=images, difference=0.5, same=same, limit=None).holds is holds

    def test_that_other_weights_have_is_none(self, exported, images, tmp_path, in_this_process):
        _, model = exported.blank()
        model.save(tmp_path / "a.keras")
        [found] = comparing.compare(exported, {tmp_path / "a.keras": FORMATS["keras"]}, images["test"]).values()
        assert not found.holds and found.difference > 1e-2

    def test_of_layers_that_keras_does_not_know_is_found_in_this_process(self, exported, images, tmp_path, monkeypatch):
        monkeypatch.setattr(
            comparing, "fresh", lambda request, folder: dict.fromkeys(request["exports"], "unknown layer")
        )
        exported.model.save_weights(tmp_path / "a.weights.h5")
        exports = {tmp_path / "a.weights.h5": FORMATS["weights"]}
        assert comparing.compare(exported, exports, images["test"])[tmp_path / "a.weights.h5"].difference < 1e-5
        with pytest.raises(UserError, match="unknown layer"):
            comparing.compare(exported, {tmp_path / "a.weights.h5": FORMATS["keras"]}, images["test"])


class TestANormalisation:
    @pytest.mark.parametrize(
        ("bindings", "written"),
        [
            (["train.normalisation = [@rescale()]"], lambda x: x / 255),
            (
                ["train.normalisation = [@rescale(), @standardise()]", "standardise.mean = (0.5, 0.4, 0.3)",
                 "standardise.std = (0.2, 0.3, 0.4)"],
                lambda x: (x / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4]),
            ),
            (
                ["train.normalisation = [@grey(), @rescale()]"],
                lambda x: np.repeat(x @ np.array([[0.299], [0.587], [0.114]]), 3, axis=-1) / 255,
            ),
        ],
    )  # fmt: skip
    def test_of_the_recipe_is_inside(self, small, exported, answers, bindings, written):
        recipe = recipe_of(small, *bindings)
        found = prepare(recipe, exported.prefix, MEANING)
        expected = found.network.model(written(answers[0].astype(np.float64)).astype(np.float32), training=False)
        np.testing.assert_allclose(found.model(answers[0]), expected, rtol=0, atol=1e-5)

    def test_that_is_no_matrix_is_told(self, small, exported, complaint):
        recipe = recipe_of(small, "train.normalisation = [@samplewise_centre()]")
        with complaint("train.normalisation"):
            prepare(recipe, exported.prefix, MEANING)

    def test_that_differs_is_noted_where_a_session_begins(self, small, written, exported):
        recipe = recipe_of(small, "train.normalisation = [@rescale()]")
        for name in ("keras", "saved_model", "checkpoint"):
            network, _ = exported.blank()
            report = init_from.load(network, str(written[name]), ours=Outputs("single_label", NAMES), recipe=recipe)
            assert "normalised in another way" in report.summary()
