"""Sharpness is Pillow's, blur is scipy's."""

import numpy as np
import pytest
import scipy.ndimage
from PIL import ImageEnhance

from data.augment import filters
from tests import pixels

ALL = (filters.sharpness(), filters.blur())


@pytest.mark.parametrize("name", pixels.PICTURES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.999, 1.0, 1.9, 3.0])
def test_sharpness_is_that_of_pillow(name: str, factor: float):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, filters.sharpness(), factor=factor)
    # Pillow rounds the smoothed image to levels before it blends, and cuts off what is behind the point afterwards.
    # Beside that, a few float32 roundings of numbers below 2048.
    expected = pixels.pillow(lambda image: ImageEnhance.Sharpness(image).enhance(factor), images)
    amiss = 0.5 * abs(1 - factor) + 2048 * 8 * pixels.ULP
    assert (found - expected).min() >= -amiss and (found - expected).max() < 1 + amiss
    # So before the last cut it differs by less than 1: no more than one level in the end.
    assert np.abs(np.floor(found) - expected).max() <= 1


def test_sharpness_leaves_the_border():
    images = pixels.fractions(pixels.BATCH, *pixels.SIZE)
    found = pixels.with_numbers(images, filters.sharpness(), factor=0.2)
    changed = found != images
    assert changed[:, 1:-1, 1:-1].mean() > 0.9
    changed[:, 1:-1, 1:-1] = False
    assert not changed.any()


@pytest.mark.parametrize(("name", "high"), [("64x48", 2.0), ("3x5", 2.0), ("1x1", 2.0), ("3x5", 0.3)])
def test_blur_is_that_of_scipy(name: str, high: float):
    """Also where the taps reach over the image and back."""
    operation = filters.blur(high=high)
    images = pixels.PICTURES[name]
    for sigma in (0.01, 0.15 * high, 0.7 * high, high):
        found = pixels.with_numbers(images, operation, sigma=sigma)
        reach = {"radius": int(np.ceil(3 * high)), "mode": "reflect", "axes": (1, 2)}
        expected = scipy.ndimage.gaussian_filter(images.astype(np.float64), sigma, **reach)
        # Two passes; a product of a rounded weight and as many additions as taps in each, of numbers up to 255.
        taps = 2 * reach["radius"] + 1
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * (taps + 2) * 255 * pixels.ULP)


def test_each_example_has_its_own_sigma():
    image = np.zeros((pixels.BATCH, *pixels.SIZE, 3), np.uint8)
    image[:, 5, 6] = 255
    found = pixels.with_numbers(image, filters.blur(), sigma=[0.3, 0.5, 0.7, 1.0, 1.5, 2.0])
    assert (np.diff(found[:, 5, 6, 0]) < 0).all()


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_passed_over_examples_keep_their_bits(operation):
    pixels.assert_passes_over(operation)


def test_an_example_has_the_same_bits_in_every_batch():
    pixels.assert_same_bits_in_every_batch(*ALL)


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_another_batch_needs_no_other_program(operation):
    pixels.assert_nothing_is_compiled_in(operation)


@pytest.mark.parametrize(
    "make",
    [
        lambda: filters.sharpness(low=-1),
        lambda: filters.sharpness(low=2, high=1),
        lambda: filters.sharpness(high="1"),
        lambda: filters.blur(low=0),
        lambda: filters.blur(high=21),
        lambda: filters.blur(low=True),
    ],
)
def test_wrong_arguments_are_the_users_errors(make, complaint):
    with complaint("gin bindings", "low", "expected"):
        make()
