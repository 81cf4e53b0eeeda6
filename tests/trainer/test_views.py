"""Test-time augmentation: an evaluation of several views is that of the mean of their predictions."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data import pipeline
from data.augment.apply import Rendering
from data.augment.views import Views, five_crop, views
from data.decode import Decoding
from data.examples import TASKS, Examples
from tests.trainer.test_step import CLASSES, EXAMPLES, SIZE, VIEW
from trainer import devices, launch, losses, metrics
from trainer.evaluation import Evaluator
from trainer.outcomes import Outcomes
from trainer.recipe import Recipe
from trainer.step import predictions

PIXELS = EXAMPLES.pixels


def log_mean(logs):
    """[V, ...] -> [...], the logarithm of the mean of what these are logarithms of, in float64."""
    highest = logs.max(axis=0)
    return np.log(np.exp(logs - highest).mean(axis=0)) + highest


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def mean_of(logits, task):
    """[V, B, K] float32 -> [B, K] float64, what `metrics.mean_prediction` is to give."""
    logits = logits.astype(np.float64)
    if task == "regression":
        return logits.mean(axis=0)
    if task == "single_label":
        return log_mean(log_softmax(logits))
    return log_mean(-np.logaddexp(0, -logits)) - log_mean(-np.logaddexp(0, logits))


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 10), st.integers(1, 5), st.integers(1, 7)),
    seed=st.integers(0, 2**32 - 1),
    largest=st.sampled_from([1e-3, 1.0, 80.0]),
)
def test_a_mean_prediction_is_that_of_the_probabilities(task, shape, seed, largest):
    random = np.random.default_rng(seed)
    # The ends of the range as often as what lies between.
    logits = np.float32(largest * np.clip(random.uniform(-2, 2, shape), -1, 1))
    mean = metrics.mean_prediction(tf.constant(logits), task=task).numpy()
    assert mean.dtype == np.float32 and mean.shape == shape[1:]
    # Numbers up to 2 * largest, or of log(10) and log(7), that are rounded to float32 some ten times.
    np.testing.assert_allclose(mean, mean_of(logits, task), rtol=0, atol=10 * 2**-23 * (2 * largest + 5))
    if task == "single_label":
        shares = np.exp(log_softmax(logits.astype(np.float64))).mean(axis=0)
        np.testing.assert_allclose(np.exp(mean.astype(np.float64)), shares, rtol=10 * 2**-23 * (2 * largest + 5))


@pytest.mark.parametrize("task", ["single_label", "binary", "multi_label"])
def test_views_that_contradict_each_other_with_certainty_leave_every_class_open(task):
    mean = metrics.mean_prediction(tf.constant([[[80.0, -80.0]], [[-80.0, 80.0]]]), task=task).numpy()
    # Both have half a chance: the logit of 1/2 is 0.
    expected = np.log(0.5) if task == "single_label" else 0
    np.testing.assert_allclose(mean, [[expected, expected]], rtol=0, atol=2**-21)


# -- evaluation -----------------------------------------------------------------------------------------------------


def evaluator_of(small, tta, *, replicas=1, batch=4, task="single_label"):
    """An evaluator with these views, and a function (pixels [B, S, S, 3] uint8) -> logits of the plain images."""
    launch.parse_gin([small], [f"train.evaluation_batch_size = {batch}"])
    recipe = dataclasses.replace(launch.call(Recipe), evaluation_views=tta)
    strategy = devices.set_up(f"cpu:{replicas}")
    keras.utils.set_random_seed(3)
    with strategy.scope():
        outputs = 1 if task == "binary" else CLASSES
        network = recipe.model.build(image_size=SIZE, classes=outputs, precision="float32")
        for name, variable in network.variables.items():
            if name.startswith("head/") and name.endswith("kernel"):
                # Convictions, as a trained network has them.
                variable.assign(np.random.default_rng(1).normal(0, 30, variable.shape))
    evaluator = Evaluator(
        recipe, network, VIEW, strategy=strategy, task=task, loss=losses.chosen(None, task)
    )  # fmt: skip
    colour = recipe.model.backbone.colour

    def logits(pixels):
        return network.model((pixels @ colour[:, :3].T + colour[:, 3]).astype(np.float32), training=False).numpy()

    return evaluator, logits


@pytest.mark.parametrize(("examples", "replicas"), [(1, 4), (7, 2), (50, 1)])
def test_an_evaluation_with_mirror_images_is_that_of_the_mean_of_two(small, examples, replicas):
    part = EXAMPLES.take(np.arange(examples))
    evaluator, logits = evaluator_of(small, views(), replicas=replicas)
    outcomes = Outcomes(part)
    totals = evaluator.evaluate(part, into=outcomes)
    both = np.stack([logits(part.pixels), logits(part.pixels[:, :, ::-1])])
    expected = mean_of(both, "single_label")
    labels = part.labels
    assert totals["examples"] == totals["weight"] == examples
    loss = -expected[np.arange(examples), labels].mean()
    # Logits of some 64 products of size 30, rounded to float32.
    figures = metrics.figures(totals, task="single_label")
    assert figures["loss"] == pytest.approx(loss, abs=64 * 30 * 2**-23)
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(confusion, (labels, expected.argmax(axis=1)), 1)
    np.testing.assert_array_equal(totals["confusion"], confusion)
    # And each by itself, in the order of the table.
    assert outcomes.seen.all()
    np.testing.assert_allclose(outcomes.logits, expected, rtol=0, atol=64 * 30 * 2**-23)
    np.testing.assert_array_equal(outcomes.predicted, expected.argmax(axis=1))
    assert outcomes.losses.mean() == pytest.approx(loss, abs=64 * 30 * 2**-23)
    if examples == 50:
        one = -log_softmax(both[0].astype(np.float64))[np.arange(examples), labels].mean()
        assert abs(one - loss) > 0.01, "the mirror images must matter"


@pytest.mark.parametrize("task", ["binary", "multi_label", "regression"])
def test_every_task_is_evaluated_over_views(small, task):
    classes = np.eye(CLASSES, dtype=np.float32)[EXAMPLES.labels]
    labels = {"binary": EXAMPLES.labels % 2, "multi_label": classes, "regression": classes}[task]
    names = ("no", "yes") if task == "binary" else EXAMPLES.class_names
    part = Examples.of(names=EXAMPLES.names, labels=labels, class_names=names, task=task, pixels=PIXELS).take(
        np.arange(7)
    )
    evaluator, logits = evaluator_of(small, views(), task=task)
    totals = evaluator.evaluate(part)
    expected = mean_of(np.stack([logits(part.pixels), logits(part.pixels[:, :, ::-1])]), task)
    truth = np.reshape(part.labels, expected.shape).astype(np.float64)
    each = (truth - expected) ** 2 if task == "regression" else np.logaddexp(0, expected) - truth * expected
    # As above; squares of numbers up to 100 double that.
    assert metrics.figures(totals, task=task)["loss"] == pytest.approx(each.mean(), rel=2**-16, abs=64 * 30 * 2**-23)


def test_a_single_view_other_than_the_plain_image_counts(small):
    part = EXAMPLES.take(np.arange(7))
    evaluator, logits = evaluator_of(small, Views(views().relative[1:]))
    mirrored = log_softmax(logits(part.pixels[:, :, ::-1]).astype(np.float64))
    loss = -mirrored[np.arange(7), part.labels].mean()
    figures = metrics.figures(evaluator.evaluate(part), task="single_label")
    assert figures["loss"] == pytest.approx(loss, abs=64 * 30 * 2**-23)


# -- five crops -----------------------------------------------------------------------------------------------------

LARGE = 24
CROPS = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]


@pytest.fixture(scope="module")
def large():
    """Seven noisy images of 24 x 24, and their only batch with five crops of 16 x 16."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, LARGE, LARGE, 3), dtype=np.uint8)
    part = Examples.of(
        names=[b"%d" % row for row in range(7)], labels=np.zeros(7), class_names=["a", "b"], pixels=pixels
    )
    view = pipeline.View(
        image_size=(SIZE, SIZE), fit="stretch", crop=1.0, decoding=Decoding(LARGE), capacity=LARGE * LARGE
    )
    crops = five_crop(share=SIZE / LARGE).matrices((SIZE, SIZE))
    return pixels, next(iter(pipeline.evaluation_batches(part, batch=8, view=view, views=crops)))


# Coordinates below 24 in float32, each out of some four roundings, between levels that differ by up to 255.
CROP_ROUNDING = 255 * LARGE * 4 * 2**-23


def test_five_crops_are_the_corners_and_the_centre_of_the_larger_image(large):
    pixels, batch = large
    assert batch["geometry"].shape == (8, 5, 3, 3)
    for index, (top, left) in enumerate(CROPS):
        images = Rendering(size=(SIZE, SIZE)).images(batch | {"geometry": batch["geometry"][:, index]})
        slices = pixels[:, top : top + SIZE, left : left + SIZE]
        np.testing.assert_allclose(images[:7], slices, rtol=0, atol=CROP_ROUNDING)
    np.testing.assert_array_equal(batch["weight"], [1] * 7 + [0])


def test_predictions_are_the_mean_over_the_crops(large):
    pixels, batch = large
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    found = tf.function(lambda batch: predictions(batch, model, Rendering(size=(SIZE, SIZE)), task="regression"))(batch)
    kernel = model.layers[-1].kernel.numpy().astype(np.float64)
    crops = [pixels[:, top : top + SIZE, left : left + SIZE].reshape(7, -1) @ kernel for top, left in CROPS]
    # 768 products of levels and weights below 0.1.
    np.testing.assert_allclose(found[:7], np.mean(crops, axis=0), rtol=0, atol=768 * 255 * 0.1 * 2**-23)
