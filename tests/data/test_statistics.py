"""Operations by statistics of the whole image do what Pillow and Keras do."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import ImageEnhance, ImageOps

from data.augment import curves, statistics
from data.augment.operation import one_of
from tests import pixels

ALL = (
    statistics.contrast(),
    statistics.autocontrast(),
    statistics.equalize(),
    statistics.samplewise_centre(),
    statistics.samplewise_standardise(),
)
# Beside what is derived: a few float32 roundings of numbers below 2048.
SLACK = 2048 * 8 * pixels.ULP


@pytest.mark.parametrize("name", pixels.PICTURES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9, 5.0])
def test_contrast_is_that_of_pillow(name: str, factor: float):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, statistics.contrast(), factor=factor)
    # The mean is Pillow's; Pillow cuts off what is behind the point.
    beyond = found - pixels.pillow(lambda image: ImageEnhance.Contrast(image).enhance(factor), images)
    assert beyond.min() >= -SLACK and beyond.max() < 1 + SLACK


@pytest.mark.parametrize("name", pixels.PICTURES)
def test_equalize_is_that_of_pillow_exactly(name: str):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, statistics.equalize())
    np.testing.assert_array_equal(found, pixels.pillow(ImageOps.equalize, images))


@pytest.mark.parametrize("name", pixels.PICTURES)
def test_autocontrast_is_that_of_pillow(name: str):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, statistics.autocontrast())
    # Pillow computes in float64 and cuts off: a level less where that falls short of a whole number.
    assert set(np.unique(found - pixels.pillow(ImageOps.autocontrast, images))) <= {0, 1}


def images_of_few_levels() -> st.SearchStrategy[np.ndarray]:
    """Four images of 17 x 16 pixels: steps of 0 and 1, where the table runs past 255."""
    levels = st.lists(st.integers(0, 255), min_size=1, max_size=5).flatmap(st.sampled_from)
    return st_numpy.arrays(np.uint8, (4, 17, 16, 3), elements=levels, fill=st.integers(0, 255))


@settings(max_examples=60)
@given(images_of_few_levels())
def test_equalize_and_autocontrast_follow_pillow_on_any_histogram(images: np.ndarray):
    found = pixels.with_numbers(images, statistics.equalize())
    np.testing.assert_array_equal(found, pixels.pillow(ImageOps.equalize, images))
    found = pixels.with_numbers(images, statistics.autocontrast())
    assert set(np.unique(found - pixels.pillow(ImageOps.autocontrast, images))) <= {0, 1}


def keras_of(images: np.ndarray, **arguments) -> np.ndarray:
    generator = tf.keras.preprocessing.image.ImageDataGenerator(samplewise_center=True, **arguments)
    return np.stack([generator.standardize(image.astype(np.float64)) for image in images])


@pytest.mark.parametrize("unit", [1.0, 1 / 255, 1000.0])
def test_samplewise_is_what_imagedatagenerator_does_in_any_unit(unit: float):
    images = (pixels.PICTURES["64x48"] * np.float32(unit)).astype(np.float32)
    # Each value counts to 2**-23 of the largest; that, the mean and the difference are rounded.
    off = images.max() * (2.0**-23 + 4 * pixels.ULP)
    centred = pixels.with_numbers(images, statistics.samplewise_centre())
    np.testing.assert_allclose(centred, keras_of(images), rtol=0, atol=off)
    # What is divided by the deviation is as much amiss, and so is the deviation, from squares of the distances: in
    # parts of the square of the largest. Only images of more than one colour, where it is above 0.
    several = images.std(axis=(1, 2, 3)) > 0
    scaled = pixels.with_numbers(images, statistics.samplewise_standardise())[several]
    expected = keras_of(images, samplewise_std_normalization=True)[several]
    deviation = images[several].std(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
    farthest = np.abs(centred[several]).max(axis=(1, 2, 3), keepdims=True)
    relative = ((farthest / deviation) ** 2 * 2.0**-23 + 2 * off / deviation) / 2 + 4 * pixels.ULP
    assert (np.abs(scaled - expected) <= off / deviation + np.abs(expected) * relative).all()


def test_an_image_of_one_value_standardises_to_nothing():
    """Its deviation is 0: whatever was left of it would be divided by 1e-6."""
    values = np.float32([0, 77.3, 255, -3.7, 1 / 3, 1e-3])
    images = np.broadcast_to(values[:, None, None, None], (pixels.BATCH, *pixels.SIZE, 3))
    assert not pixels.with_numbers(images, statistics.samplewise_standardise()).any()


def test_a_choice_of_ways_is_one_slot_and_sees_each_example_alone():
    images = pixels.noise(pixels.BATCH, *pixels.SIZE) // 2
    layer = one_of(operations=[statistics.equalize(), statistics.autocontrast(), curves.invert()])
    assert len(layer.slots) == 1
    chosen = np.array([0, 1, 2, 0, 2, 1])
    found = pixels.run(images, layer.slots, layer.draw(tf.constant((chosen[:, None] + 0.5) / 3), pixels.SIZE))
    functions = (ImageOps.equalize, ImageOps.autocontrast, ImageOps.invert)
    for example, which, image in zip(found, chosen, images, strict=True):
        assert set(np.unique(example - pixels.pillow(functions[which], image[None])[0])) <= {0, which % 2}


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_passed_over_examples_keep_their_bits(operation):
    pixels.assert_passes_over(operation)


def test_an_example_has_the_same_bits_in_every_batch():
    either = one_of(operations=[statistics.equalize(), statistics.autocontrast()])
    pixels.assert_same_bits_in_every_batch(either, ALL[0], ALL[4], batches=(1, 5))


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_another_batch_needs_no_other_program(operation):
    pixels.assert_nothing_is_compiled_in(operation)


@pytest.mark.parametrize("wrong", [{"low": -0.1}, {"low": 2, "high": 1}, {"high": None}, {"low": [1]}])
def test_wrong_arguments_are_the_users_errors(wrong: dict, complaint):
    with complaint("expected", "contrast"):
        statistics.contrast(**wrong)
