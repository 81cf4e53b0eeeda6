"""The pixels that an export is shown are those that an evaluation of its session shows its network."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer import data_setup, evaluation, launch, prediction
from trainer.exporting.preprocessing import Preprocessing
from trainer.recipe import Recipe
from trainer.rendering import evaluation_policy, rendering

SETTINGS = [
    ("train.fit = 'contain'", "train.crop = 0.8", "train.evaluation_samples = 2", "train.fill = 'constant'",
     "train.fill_value = (9, 90, 200)", "train.background = (200, 10, 10)"),
    ("train.fit = 'native'", "train.interpolation = 'bicubic'", "train.fill = 'reflect'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Large and small, turned, transparent, grey."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    exif = Image.Exif()
    for turn, (height, width) in ((6, (90, 40)), (3, (17, 23))):
        exif[0x0112] = turn
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{turn}.jpg", exif=exif)
    Image.fromarray(random.integers(0, 256, (20, 31, 4), dtype=np.uint8)).save(folder / "clear.png")
    Image.fromarray(random.integers(0, 256, (8, 9), dtype=np.uint8)).save(folder / "grey.webp", lossless=True)
    return [str(path) for path in sorted(folder.iterdir())]


def recipe_of(small, *bindings):
    launch.parse_gin([small], bindings)
    # What reaches the network is then still in 0..255.
    return dataclasses.replace(launch.call(Recipe), normalisation=[])


@pytest.mark.parametrize("bindings", SETTINGS)
def test_pixels_are_those_of_an_evaluation(small, files, bindings):
    recipe = recipe_of(small, *bindings)
    table, _ = prediction.looked_at(prediction.listed(files), recipe)
    strategy = tf.distribute.get_strategy()
    batches, _ = evaluation.batches(recipe, table.examples, data_setup.view(recipe, table), strategy=strategy)
    rendered = rendering(recipe, evaluation_policy(recipe), samples=recipe.evaluation_samples)
    expected = rendered.images(next(batches))[: len(files)].numpy()
    decode = Preprocessing.of(recipe).decoder()
    paths = [b"/" + bytes(name) for name in table.examples.names]
    found = np.concatenate([decode(tf.io.read_file(path).numpy()) for path in paths])
    assert found.shape == expected.shape == (4, 16, 16, 3) and np.ptp(found) > 100
    # To what XLA and TensorFlow make of the same sums.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)


class TestWritten:
    def test_and_read_it_is_the_same(self, small):
        for bindings in SETTINGS:
            preprocessing = Preprocessing.of(recipe_of(small, *bindings))
            stored = json.loads(json.dumps(dataclasses.asdict(preprocessing)))
            assert Preprocessing.read(stored) == preprocessing

    @pytest.mark.parametrize(
        "change",
        [
            {"image_size": 0},
            {"image_size": None},
            {"image_size": "16"},
            {"fit": "fill"},
            {"crop": 2},
            {"background": [1, 2]},
            {"fill_value": [1, 2, "x"]},
            {"more": 1},
        ],
    )
    def test_otherwise_it_is_refused(self, small, change):
        stored = json.loads(json.dumps(dataclasses.asdict(Preprocessing.of(recipe_of(small)))))
        with pytest.raises(ValueError, match="preprocessing holds"):
            Preprocessing.read(stored | change)
