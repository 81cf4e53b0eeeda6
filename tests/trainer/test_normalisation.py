"""`train.normalisation`: training, evaluation and prediction show the network the pixels that it says."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from data import pipeline
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from trainer import data_setup, devices, launch, metrics, prediction
from trainer.evaluation import Evaluator
from trainer.recipe import Recipe
from trainer.rendering import rendering, training_policy

SIZE, COUNT = 16, 7
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
# Every image of another mean and contrast.
PIXELS[1:] = PIXELS[1:] // 4 * 3 + 8 * np.arange(COUNT - 1, dtype=np.uint8)[:, None, None, None]
VIEW = pipeline.View(
    image_size=(SIZE, SIZE), fit="stretch", crop=1.0, decoding=Decoding(SIZE), capacity=SIZE * SIZE, uniform=True
)


def rescaled(images: np.ndarray) -> np.ndarray:
    return images / 255


def standardised(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean(axis=(1, 2, 3), keepdims=True)
    return centred / (centred.std(axis=(1, 2, 3), keepdims=True) + 1e-6)


# Rescaled, numbers up to 1 are rounded at most 8 times, the mean over views among them. Standardised, the mean of
# levels is amiss by 2**-22 * 255 at most, and that of squares by 2**-23 of the largest; deviations are above 24, so
# that numbers stay below 11 and those are shares of at most 2**-16 of them.
CASES = [("rescale", rescaled, 8 * 2.0**-24), ("samplewise_standardise", standardised, 2.0**-12)]
NAMED = pytest.mark.parametrize(("name", "normalised", "tolerance"), CASES, ids=[name for name, *_ in CASES])
VIEWS = ["train.evaluation_views = @views()", "views.scales = (1.0, 0.5)"]


def enlarged(images: np.ndarray) -> np.ndarray:
    """The centre of half the sides over the whole image, bilinear."""
    at = (np.arange(SIZE) - (SIZE - 1) / 2) / 2 + (SIZE - 1) / 2
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIZE)))
    return np.einsum("yi,xj,bijc->byxc", weights, weights, images)


def of_views(normalised, *, several: bool) -> np.ndarray:
    """[COUNT, S * S * 3] float64: the mean of the normalised views of each image."""
    images = PIXELS.astype(np.float64)
    shown = [images, enlarged(images)] if several else [images]
    assert all(view.std(axis=(1, 2, 3)).min() > 24 for view in shown), "what the tolerances assume"
    shown += [view[:, :, ::-1] for view in shown] if several else []
    return np.mean([normalised(view) for view in shown], axis=0).reshape(COUNT, -1)


def recipe_of(small: str, name: str, *bindings: str) -> Recipe:
    given = (f"train.normalisation = [@{name}()]", "train.evaluation_batch_size = 4", "train.policy = @policy()")
    launch.parse_gin([small], [*given, *bindings])
    return launch.call(Recipe)


@pytest.fixture(scope="module")
def strategy():
    return devices.set_up("cpu:1")


@pytest.fixture(scope="module")
def network():
    """Its outputs are the pixels that it is shown."""
    return SimpleNamespace(model=keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten()]))


def table(labels: np.ndarray) -> Examples:
    names = [f"value {index}" for index in range(labels.shape[1])]
    rows = [b"%d" % row for row in range(COUNT)]
    return Examples.of(names=rows, labels=labels, class_names=names, task="regression", pixels=PIXELS)


def trained_on(recipe: Recipe, strategy, *, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the table, and the pixels that a stage trains on."""
    examples, stage = table(np.zeros((COUNT, 1), np.float32)), recipe.stages[0]
    order = Order.of(examples, factors=examples.repeats, seed=0)
    batches = data_setup.stream(
        recipe, examples, order, VIEW, stage=stage, strategy=strategy, step=0, steps=steps
    )  # fmt: skip
    seen = rendering(recipe, training_policy(recipe, stage), samples=recipe.samples)
    found = [(batch["example"].numpy(), seen.images(batch).numpy()) for batch in (next(batches) for _ in range(steps))]
    rows, images = map(np.concatenate, zip(*found, strict=True))
    return rows, images


@NAMED
def test_training_sees_the_normalised_image(small, strategy, name, normalised, tolerance):
    recipe = recipe_of(small, name, "policy.operations = [@flip()]", "flip.horizontal = 1.0")
    rows, images = trained_on(recipe, strategy, steps=2)
    expected = normalised(PIXELS[:, :, ::-1].astype(np.float64))[rows]
    np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "normalised", "tolerance", "several"), [(*CASES[0], False), (*CASES[1], True)], ids=["plain", "views"]
)
def test_evaluation_and_prediction_see_the_normalised_views(
    small, strategy, network, name, normalised, tolerance, several
):
    recipe = recipe_of(small, name, "policy.operations = [@flip()]", *(VIEWS if several else []))
    expected = of_views(normalised, several=several)
    examples = table(expected.astype(np.float32))

    predicted = prediction.predict(recipe, network, examples, VIEW, strategy=strategy, task="regression")
    found, broken = zip(*predicted, strict=True)
    assert not any(broken)
    np.testing.assert_allclose(np.stack(found), expected, rtol=0, atol=tolerance)

    def largest_error(labels, values):
        return tf.reduce_max(tf.abs(labels - values), axis=1)

    totals = Evaluator(
        recipe, network, VIEW, strategy=strategy, task="regression", loss=largest_error
    ).evaluate(examples)  # fmt: skip
    assert totals["examples"] == COUNT
    assert metrics.figures(totals, task="regression")["loss"] <= tolerance


def test_what_switches_an_operation_of_the_policy_leaves_the_same_one_of_the_normalisation_on(small, strategy):
    recipe = recipe_of(
        small, "equalize", "train.normalisation = [@equalize(), @rescale()]",
        "policy.operations = [@invert(), @equalize()]",
        "policy.during = {'equalize': (0.0, 0.5), 'invert': (0.0, 0.5)}",
    )  # fmt: skip
    rows, images = trained_on(recipe, strategy, steps=2)

    def equalized(pixels, times):
        image = Image.fromarray(pixels)
        for _ in range(times):
            image = ImageOps.equalize(image)
        return np.asarray(image) / 255

    half = len(rows) // 2
    first = [equalized(255 - PIXELS[row], 2) for row in rows[:half]]
    second = [equalized(PIXELS[row], 1) for row in rows[half:]]
    assert any((equalized(PIXELS[row], 1) != PIXELS[row] / 255).any() for row in rows[half:])
    np.testing.assert_allclose(images, np.stack(first + second), rtol=0, atol=2 * 2.0**-24)
