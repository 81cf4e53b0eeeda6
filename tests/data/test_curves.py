"""Tone operations give the levels that Pillow and scikit-image give."""

import numpy as np
import pytest
import skimage.exposure
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data.augment import curves
from data.augment.operation import tone
from tests import pixels

# Every level, many of them twice.
RAMP = np.resize(np.arange(256, dtype=np.uint8), (*pixels.SIZE, 3))
ALL = (curves.posterize(), curves.solarize(), curves.invert(), curves.gamma())


def levels(operation, **numbers) -> np.ndarray:
    """The new levels of 0..255, through the kernel."""
    return pixels.with_numbers(np.stack([RAMP] * pixels.BATCH), operation, **numbers)[-1].reshape(-1)[:256]


def pillow(function, *arguments) -> np.ndarray:
    return np.asarray(function(Image.fromarray(RAMP), *arguments)).reshape(-1)[:256]


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_that_of_pillow(bits: int):
    np.testing.assert_array_equal(levels(curves.posterize(), bits=bits), pillow(ImageOps.posterize, bits))


def test_no_bits_are_black():
    assert not levels(curves.posterize(bits=0), bits=0).any()


# No subnormal numbers, which TensorFlow and XLA take for zero.
@given(threshold=st.floats(0, 256, allow_subnormal=False))
def test_solarize_is_that_of_pillow(threshold: float):
    found = levels(curves.solarize(), threshold=threshold)
    np.testing.assert_array_equal(found, pillow(ImageOps.solarize, threshold))


def test_invert_is_that_of_pillow():
    np.testing.assert_array_equal(levels(curves.invert()), pillow(ImageOps.invert))


@pytest.mark.parametrize("gamma", [0, 0.3, 1, 1.7, 5])
def test_gamma_is_that_of_scikit_image(gamma: float):
    expected = skimage.exposure.adjust_gamma(np.arange(256) / 255, gamma) * 255
    # Two roundings in float64, which is far below the last one, to float32.
    np.testing.assert_allclose(levels(curves.gamma(), gamma=gamma), expected, rtol=1.01 * pixels.ULP, atol=1e-12)


@pytest.mark.parametrize("name", ["3x5", "1x1"])
def test_every_channel_of_every_picture_goes_through_the_curve(name: str):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, curves.solarize(), threshold=100.5)
    np.testing.assert_array_equal(found, pixels.pillow(lambda image: ImageOps.solarize(image, 100.5), images))


def test_each_example_has_its_own_curve():
    image = pixels.noise(pixels.BATCH, *pixels.SIZE)
    bits_of = (1, 4, 8, 3, 2, 5)
    found = pixels.with_numbers(image, curves.posterize(), bits=bits_of)
    for row, bits in enumerate(bits_of):
        np.testing.assert_array_equal(found[row], np.asarray(ImageOps.posterize(Image.fromarray(image[row]), bits)))


def test_pixels_between_levels_take_the_new_level_of_the_nearer():
    image = pixels.fractions(pixels.BATCH, *pixels.SIZE)
    found = pixels.with_numbers(image, curves.invert())
    # Halves go to the even level, as NumPy rounds them.
    np.testing.assert_array_equal(found, 255 - np.round(image))


def test_a_curve_of_ones_own():
    own = tone("own", ranges={"shift": (0, 9)}, curve=lambda size, shift: (np.arange(256) + shift[:, None]) % 256)
    np.testing.assert_array_equal(levels(own, shift=3), (np.arange(256) + 3) % 256)


def test_bits_are_whole_and_alike_often():
    found = pixels.drawn(curves.posterize(bits=(2, 5)), 4000, (8, 8))["bits"]
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    # Five standard deviations of a binomial distribution.
    assert np.abs(counts - 1000).max() <= 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_single_number_is_always_drawn():
    assert set(pixels.drawn(curves.solarize(threshold=77), 9, (8, 8))["threshold"]) == {77}
    assert set(pixels.drawn(curves.posterize(bits=3), 9, (8, 8))["bits"]) == {3}


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_passed_over_examples_keep_their_bits(operation):
    pixels.assert_passes_over(operation)


def test_an_example_has_the_same_bits_in_every_batch():
    pixels.assert_same_bits_in_every_batch(curves.gamma(low=0.5))


def test_another_batch_needs_no_other_program():
    pixels.assert_nothing_is_compiled_in(curves.gamma())


@pytest.mark.parametrize(
    "make",
    [
        lambda: curves.posterize(bits=9),
        lambda: curves.posterize(bits=(5, 3)),
        lambda: curves.posterize(bits="4"),
        lambda: curves.posterize(bits=(4.2, 4.8)),
        lambda: curves.solarize(threshold=-1),
        lambda: curves.solarize(threshold=(0, 1, 2)),
        lambda: curves.gamma(low=-1),
        lambda: curves.gamma(low=2),
        lambda: curves.gamma(high="much"),
    ],
)
def test_wrong_arguments_are_the_users_errors(make, complaint):
    with complaint("expected"):
        make()
