"""A session's network as files: each predicts the same, in Keras and as the beginning of a new session."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoints, export, init_from, launch, workdir
from trainer.models.files import load_file
from trainer.models.growing import Outputs
from trainer.models.network import model
from trainer.models.patterns import Names
from trainer.prediction import Meaning
from trainer.recipe import Recipe

OUTPUTS = {
    "keras": "whole.keras",
    "h5": "whole.h5",
    "weights": "only.weights.h5",
    "saved_model": "served",
    "checkpoint": "saved",
}
NAMES = ("class0", "class1", "class2", "class3")
MEANING = Meaning("single_label", NAMES)
formats = pytest.mark.parametrize("name", export.FORMATS)


def recipe_of(small, *bindings):
    launch.parse_gin([small], bindings)
    return launch.call(Recipe)


@pytest.fixture(scope="module")
def exported(finished_once, small):
    recipe = recipe_of(small)
    return export.prepare(recipe, checkpoints.find(finished_once / "checkpoints", "last"), MEANING)


@pytest.fixture(scope="module")
def written(exported, tmp_path_factory):
    """Name of a format -> what was written."""
    folder = tmp_path_factory.mktemp("exports")
    for name, output in OUTPUTS.items():
        # The command's promise: what was read again is at most so far from the network.
        assert export.write(exported, folder / output, export.chosen_format(folder / output, name)) <= 1e-5
    return {name: folder / output for name, output in OUTPUTS.items()}


@pytest.fixture(scope="module")
def answers(exported):
    """Random pixels, and what the session's own network says of them behind its own normalisation."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3)).astype(np.float32)
    network = exported.recipe.model.build(image_size=16, classes=4, precision="float32")
    checkpoints.restore_group(exported.prefix, "model", network.values())
    # As the convnet's own normalisation is defined.
    return pixels, network.model((pixels - 127.5) / 127.5, training=False).numpy()


def in_keras(name, path, exported):
    """What other programs get out of the file."""
    if name in ("keras", "h5"):
        return keras.saving.load_model(path, compile=False)
    if name == "saved_model":
        layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
        return lambda pixels: layer(pixels)["logits"]
    if name == "weights":
        model = keras.models.clone_model(exported.model)
        model.load_weights(path)
        return model
    network, model = exported.blank()
    status = tf.train.Checkpoint(model=network.values()).restore(tf.train.latest_checkpoint(path))
    status.assert_existing_objects_matched().expect_partial()
    return model


@formats
def test_every_format_predicts_the_same_in_keras(name, written, answers, exported):
    pixels, logits = answers
    np.testing.assert_allclose(in_keras(name, written[name], exported)(pixels), logits, rtol=0, atol=1e-5)


@formats
def test_a_new_session_begins_with_every_format_exactly(name, written, answers, exported):
    pixels, logits = answers
    network = exported.recipe.model.build(image_size=16, classes=4, precision="float32")
    report = init_from.load(network, str(written[name]), ours=Outputs("single_label", NAMES), recipe=exported.recipe)
    np.testing.assert_array_equal(network.model((pixels - 127.5) / 127.5, training=False).numpy(), logits)
    assert report.missing == report.skipped == report.notes == ()
    assert report.matched_parameters == report.model_parameters == network.model.count_params()
    assert report.classes.kept == NAMES and report.classes.note == ""


@formats
def test_the_backbone_takes_every_format_as_its_weights(name, written, exported):
    network, _ = exported.blank()
    report = load_file(network.backbone, written[name])
    assert len(report.matched) == len(network.backbone.weights) and report.missing == ()
    assert {skipped.split("/")[0] for skipped in report.skipped} >= {"head_logits"}
    ours, theirs = ([weight.numpy() for weight in each.backbone.weights] for each in (network, exported.network))
    assert all(map(np.array_equal, ours, theirs))


@formats
def test_what_the_outputs_stand_for_goes_with_it(name, written):
    facts = json.loads(init_from.classes_file(written[name]).read_text())
    assert (facts["task"], facts["classes"], facts["outputs"]) == ("single_label", list(NAMES), "logits")
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


@formats
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
        except export.UserError:
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
        found = export.prepare(exported.recipe, prefix, MEANING, weights=weights)
        np.testing.assert_array_equal(found.network.variables[kernel], expected.variables[kernel])
    network, _ = exported.blank()
    init_from.load(network, str(prefix), ours=Outputs("single_label", NAMES), recipe=exported.recipe)
    np.testing.assert_array_equal(network.variables[kernel], average.variables[kernel])
    for path, weights in ((prefix, "mean"), (exported.prefix, "ema")):
        with complaint(f"no weights '{weights}'", "--weights"):
            export.prepare(exported.recipe, path, MEANING, weights=weights)


def test_the_command_writes_what_the_next_session_begins_with(finished_once, small, command, tmp_path):
    output = tmp_path / "whole.keras"
    export_arguments = (f"--workdir={finished_once}", "--devices=cpu", f"--output={output}")
    done = command("export", *export_arguments)
    assert done.end() == 0, done.printed
    assert (
        f"{output}: weights of {finished_once}/checkpoints/best/ckpt-" in done.printed and "4 classes" in done.printed
    )
    again = command("export", *export_arguments)
    assert again.end() == 2 and "--overwrite" in again.printed
    more = [f"--gin_file={small}", "--devices=cpu", "--gin_param=synthetic.classes = 5", f"--init_from={output}"]
    trained = command("train", f"--workdir={tmp_path}/run", *more)
    assert trained.end() == 0, trained.printed
    assert "4 kept (class0, class1, class2, class3), 1 new (class4)" in " ".join(trained.printed.split())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 9


class TestTheOutput:
    def test_decides_on_the_format(self):
        for name, output in OUTPUTS.items():
            if name != "checkpoint":
                assert export.chosen_format(Path(output), None) is export.FORMATS[name]
        assert export.chosen_format(Path("v1.0"), "saved_model") is export.FORMATS["saved_model"]

    @pytest.mark.parametrize(
        ("output", "name"), [("a.onnx", None), ("a.keras", "h5"), ("a.h5", "weights"), ("a", "keras"), ("a", "tflite")]
    )
    def test_of_an_unknown_format_or_of_another_is_told(self, output, name, complaint):
        with complaint(output, ".weights.h5"):
            export.chosen_format(Path(output), name)

    def test_that_is_there_is_replaced_only_if_that_is_asked_for(self, exported, tmp_path, complaint):
        for name in ("weights", "checkpoint"):
            output, form = tmp_path / OUTPUTS[name], export.FORMATS[name]
            export.write(exported, output, form)
            with complaint(str(output), "--overwrite"):
                export.write(exported, output, form)
            export.write(exported, output, form, overwrite=True)
            assert init_from.find(str(output)).outputs.names == NAMES

    def test_that_is_something_else_is_never_replaced(self, exported, tmp_path, complaint):
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "cat.jpg").touch()
        with complaint(str(photos), "no export"):
            export.write(exported, photos, export.FORMATS["saved_model"], overwrite=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["photos", "cat.jpg"]

    def test_is_never_a_session(self, exported, tmp_path, complaint):
        workdir.write_json(tmp_path / "classes.json", list(NAMES))
        with complaint(str(tmp_path), "no export"):
            export.write(exported, tmp_path, export.FORMATS["saved_model"], overwrite=True)

    def test_needs_a_folder_to_be_in(self, exported, tmp_path, complaint):
        with complaint("--output"):
            export.write(exported, tmp_path / "nowhere" / "a.keras", export.FORMATS["keras"])

    def test_that_predicts_otherwise_is_not_put_in_place(self, exported, tmp_path, complaint):
        form = dataclasses.replace(
            export.FORMATS["weights"], read=lambda exported, path: lambda pixels: np.zeros((4, 4))
        )
        with complaint("differ by", kind=export.RunFailure):
            export.write(exported, tmp_path / "a.weights.h5", form)
        assert not list(tmp_path.iterdir())


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
        found = export.prepare(recipe, exported.prefix, MEANING)
        expected = exported.network.model(written(answers[0].astype(np.float64)).astype(np.float32), training=False)
        np.testing.assert_allclose(found.model(answers[0]), expected, rtol=0, atol=1e-5)

    def test_that_is_no_matrix_is_told(self, small, exported, complaint):
        recipe = recipe_of(small, "train.normalisation = [@samplewise_centre()]")
        with complaint("train.normalisation"):
            export.prepare(recipe, exported.prefix, MEANING)

    def test_that_differs_is_noted_where_a_session_begins(self, small, written, exported):
        recipe = recipe_of(small, "train.normalisation = [@rescale()]")
        for name in ("keras", "saved_model", "checkpoint"):
            network, _ = exported.blank()
            report = init_from.load(network, str(written[name]), ours=Outputs("single_label", NAMES), recipe=recipe)
            assert "normalised in another way" in report.summary()
