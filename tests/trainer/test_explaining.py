"""Grad-CAM as its paper defines it, against sums of our own; and the folder that scripts/explain.py writes."""

import csv
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image

from scripts import explain as script
from trainer import checkpoints, launch
from trainer.explaining import GradCam, explain, overlay
from trainer.exporting.network import prepare
from trainer.prediction import Meaning, listed
from trainer.recipe import Recipe

NAMES = ("class0", "class1", "class2", "class3")
MEANING = Meaning("single_label", NAMES)


def small_network():
    """Two maps [6, 6, 4] and [6, 6, 5] one behind the other, and three outputs; seen by its arrays as well."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((6, 6, 3))
    first = layers.Conv2D(4, 1, activation="tanh", name="first")(image)
    second = layers.Conv2D(5, 1, activation="relu", name="second")(first)
    return keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="pool")(second)))


def by_hand(model, pixels, output, layer):
    """Forward and backward by matrices: convolutions of one pixel are products, and the mean shares its gradient."""
    kernel, bias = (model.get_layer("first").get_weights()[0][0, 0], model.get_layer("first").get_weights()[1])
    kernel2, bias2 = (model.get_layer("second").get_weights()[0][0, 0], model.get_layer("second").get_weights()[1])
    first = np.tanh(pixels @ kernel + bias)
    before = first @ kernel2 + bias2
    second = np.maximum(before, 0)
    to_second = np.broadcast_to(model.get_layer("logits").get_weights()[0][:, output] / 36, second.shape)
    to_first = (to_second * (before > 0)) @ kernel2.T
    features, gradient = {"first": (first, to_first), "second": (second, to_second)}[layer]
    return np.maximum((features * gradient.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)


class TestMaps:
    @pytest.mark.parametrize("layer", ["first", "second"])
    @pytest.mark.parametrize("trainable", [True, False])
    def test_are_those_of_the_paper_frozen_or_not(self, layer, trainable):
        model = small_network()
        model.trainable = trainable
        pixels = np.random.default_rng(0).normal(size=(7, 6, 6, 3)).astype(np.float32)
        outputs = np.arange(7) % 3
        found = GradCam(model, layer).maps(pixels, outputs, np.ones(7))
        for row, output in enumerate(outputs):
            expected = by_hand(model, pixels[row : row + 1], output, layer)[0]
            np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-7)
        assert (found > 0).any() and (found == 0).any()

    def test_are_of_the_last_map_where_none_is_named(self):
        assert GradCam(small_network()).layer == "second"

    def test_of_what_speaks_against_an_output_are_those_of_the_opposite_score(self):
        model = small_network()
        pixels = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
        against = GradCam(model).maps(pixels, np.zeros(2), -np.ones(2))
        last = model.get_layer("logits")
        last.set_weights([-array for array in last.get_weights()])
        np.testing.assert_allclose(GradCam(model).maps(pixels, np.zeros(2), np.ones(2)), against, rtol=1e-5)

    def test_need_a_feature_map(self, complaint):
        with complaint("no feature map", "first, second"):
            GradCam(small_network(), "logits")
        with complaint("'thrid'", "--layer"):
            GradCam(small_network(), "thrid")
        flat = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        with complaint("the network has no feature map"):
            GradCam(keras.Model(flat.inputs, flat.outputs))


def test_an_overlay_is_the_photo_where_nothing_speaks_and_reddest_where_most_does():
    photo = np.full((32, 32, 3), 100.0, np.float32)
    found = np.zeros((4, 4), np.float32)
    np.testing.assert_array_equal(overlay(photo, found), photo)
    found[0, 3] = 5
    shown = overlay(photo, found).astype(int)
    assert (shown[12:] == 100).all() and shown[1, 30, 0] > 160 and shown[1, 30, 2] < 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("one.png", "<b>&two.png"):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / name)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


def explained(small, folder, precision, photos, **named):
    launch.parse_gin([small], [f"precision = '{precision}'"])
    exported = prepare(launch.call(Recipe), checkpoints.find(folder / "checkpoints", "last"), MEANING)
    layer, found = explain(exported, listed([str(photos)]), **named)
    return exported, layer, list(found)


def test_a_session_is_explained_in_float32_whatever_it_trained_in(small, finished_once, photos):
    exported, layer, found = explained(small, finished_once, "float32", photos)
    assert layer == "block2_relu" and {Path(each.name).name: bool(each.reason) for each in found} == {
        "one.png": False, "<b>&two.png": False, "torn.jpg": True
    }  # fmt: skip
    [one] = [each for each in found if each.name.endswith("one.png")]
    pixels = exported.preprocessing.decoder()(Path(one.name).read_bytes())
    probabilities = tf.nn.softmax(exported.model(pixels, training=False)).numpy()[0]
    assert (one.explained, one.figure) == (NAMES[probabilities.argmax()], pytest.approx(probabilities.max(), abs=1e-6))
    assert one.picture.shape == (16, 32, 3)
    np.testing.assert_allclose(one.picture[:, :16], pixels[0], atol=0.5)
    _, _, mixed = explained(small, finished_once, "mixed_float16", photos)
    for each, other in zip(found, mixed, strict=True):
        assert each.explained == other.explained
        np.testing.assert_array_equal(each.picture, other.picture)


def test_a_class_that_is_named_is_explained_in_every_image(small, finished_once, photos, complaint):
    exported, _, found = explained(small, finished_once, "float32", photos, class_name="class2", layer="block0_relu")
    assert {each.explained for each in found} == {"class2", ""}
    with complaint("'klass2'", "did you mean class2"):
        explain(exported, {}, class_name="klass2")


def test_the_command_writes_pictures_and_their_index(finished_once, photos, tmp_path, monkeypatch, complaint, capsys):
    given = dict.fromkeys(("class_name", "layer", "weights"))
    given |= {"workdir": str(finished_once), "gin_file": [], "gin_param": [], "devices": "cpu", "checkpoint": "last"}
    given |= {"output": str(tmp_path / "why"), "is_parsed": lambda: False}
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given))
    assert script.main([str(photos)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 images" in printed and "no prediction for" in printed and "torn.jpg" in printed
    with open(tmp_path / "why" / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = {row["picture"] for row in rows if not row["reason"]}
    assert {path.name for path in (tmp_path / "why").iterdir()} == pictures | {"index.csv", "index.html"}
    assert Image.open(tmp_path / "why" / pictures.pop()).size == (32, 16)
    page = (tmp_path / "why" / "index.html").read_text()
    assert "<b>&two" not in page and "&lt;b&gt;&amp;two.png" in page and page.count("<img ") == 2
    with complaint("not empty", "--output"):
        script.main([str(photos)])
    monkeypatch.setattr(flags.FLAGS, "output", str(tmp_path / "other"))
    with complaint("none of 1 images decodes"):
        script.main([str(photos / "torn.jpg")])
    assert [path.name for path in tmp_path.iterdir()] == ["why"]
