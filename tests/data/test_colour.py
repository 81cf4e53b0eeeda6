"""Linear colour operations do what Pillow does, and what their formulas say."""

import numpy as np
import pytest
import skimage.color
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageEnhance

from data.augment import colour
from data.augment.slots import Matrix
from tests import pixels

ALL = (
    colour.brightness(),
    colour.saturation(),
    colour.hue(degrees=180),
    colour.channel_shift(),
    colour.channel_shift(joint=False),
    colour.grey(),
    colour.rescale(),
    colour.standardise(mean=(120, 110, 100), std=60),
    colour.colour_jitter(),
)
# A few float32 roundings of numbers below 2048.
SLACK = 2048 * 8 * pixels.ULP


@pytest.mark.parametrize("name", pixels.PICTURES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9, 5.0])
def test_brightness_is_that_of_pillow(name: str, factor: float):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, colour.brightness(), factor=factor)
    # Pillow cuts off what is behind the point.
    beyond = found - pixels.pillow(lambda image: ImageEnhance.Brightness(image).enhance(factor), images)
    assert beyond.min() >= -SLACK and beyond.max() < 1 + SLACK


@pytest.mark.parametrize("name", pixels.PICTURES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9, 2.9])
def test_saturation_is_that_of_pillow(name: str, factor: float):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, colour.saturation(), factor=factor)
    expected = pixels.pillow(lambda image: ImageEnhance.Color(image).enhance(factor), images)
    # Pillow rounds the grey image to levels before it blends, and cuts off what is behind the point afterwards.
    amiss = 0.5 * abs(1 - factor) + SLACK
    assert (found - expected).min() >= -amiss and (found - expected).max() < 1 + amiss
    # So before the last cut it differs by less than 1: no more than one level in the end.
    assert np.abs(np.floor(found) - expected).max() <= 1


@pytest.mark.parametrize("name", pixels.PICTURES)
def test_grey_is_that_of_pillow(name: str):
    images = pixels.PICTURES[name]
    found = pixels.with_numbers(images, colour.grey(), always=1.0)
    # Pillow rounds.
    expected = pixels.pillow(lambda image: image.convert("L").convert("RGB"), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5)
    assert (found == found[..., :1]).all()


def test_grey_has_its_probability():
    found = pixels.drawn(colour.grey(probability=0.2), 4000, (8, 8))["draw"] < 0.2
    # Five standard deviations of a binomial distribution.
    assert abs(found.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    images = pixels.noise(pixels.BATCH, *pixels.SIZE)
    changed = pixels.with_numbers(images, colour.grey(probability=0.2), draw=[0, 0.19, 0.2, 0.3, 0.9, 0.1]) != images
    assert changed.any(axis=(1, 2, 3)).tolist() == [True, True, False, False, False, True]


@settings(max_examples=40)
@given(degrees=st.floats(-180, 180, allow_subnormal=False))
def test_hue_turns_the_chroma_of_yiq(degrees: float):
    images = pixels.noise(pixels.BATCH, *pixels.SIZE)
    yiq = skimage.color.rgb2yiq(images / 255)
    turn = np.exp(-1j * np.deg2rad(degrees)) * (yiq[..., 1] + 1j * yiq[..., 2])
    expected = skimage.color.yiq2rgb(np.stack([yiq[..., 0], turn.real, turn.imag], axis=-1)) * 255
    found = pixels.with_numbers(images, colour.hue(degrees=180), degrees=degrees)
    np.testing.assert_allclose(found, expected.clip(0, 255), rtol=0, atol=SLACK)


def test_hue_keeps_grey_and_turns_red_to_yellow():
    images = np.repeat(pixels.noise(pixels.BATCH, *pixels.SIZE)[..., :1], 3, axis=-1)
    found = pixels.with_numbers(images, colour.hue(), degrees=np.linspace(-180, 180, pixels.BATCH))
    np.testing.assert_allclose(found, images, rtol=0, atol=SLACK)
    red = np.broadcast_to(np.uint8([200, 90, 90]), (pixels.BATCH, *pixels.SIZE, 3))
    _, green, blue = np.moveaxis(pixels.with_numbers(red, colour.hue(), degrees=15)[0], -1, 0)
    assert (green > blue + 10).all()


def test_channels_shift_together_or_apart():
    images = pixels.noise(pixels.BATCH, *pixels.SIZE)
    shifts = np.linspace(-100, 100, pixels.BATCH)
    found = pixels.with_numbers(images, colour.channel_shift(), shift=shifts)
    np.testing.assert_allclose(found, (images + shifts[:, None, None, None]).clip(0, 255), rtol=0, atol=SLACK)
    apart = colour.channel_shift(joint=False)
    found = pixels.with_numbers(images, apart, red=shifts, green=7, blue=-shifts)
    added = np.stack([shifts, np.full(pixels.BATCH, 7), -shifts], axis=-1)[:, None, None]
    np.testing.assert_allclose(found, (images + added).clip(0, 255), rtol=0, atol=SLACK)


def test_rescale_and_standardise_are_not_held_in_levels():
    images = pixels.noise(pixels.BATCH, *pixels.SIZE)
    found = pixels.with_numbers(images, colour.rescale(factor=-3.5))
    np.testing.assert_allclose(found, images * -3.5, rtol=0, atol=SLACK)
    mean, std = (120, 110, 100), (60.5, 61, 62)
    found = pixels.with_numbers(images, colour.standardise(mean=mean, std=std))
    np.testing.assert_allclose(found, (images - np.array(mean)) / np.array(std), rtol=0, atol=8 * 8 * pixels.ULP)
    assert colour.rescale().slots == colour.standardise().slots == (Matrix(clip=False),)


def blended(one: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    return (one * (1 - factor) + other * factor).clip(0, 255)


@pytest.mark.parametrize("factors", [(0.6, 1.4, 0.6), (1.4, 0.6, 1.4), (1.0, 1.0, 1.0)])
def test_colour_jitter_is_brightness_contrast_saturation_hue_in_this_order(factors: tuple[float, float, float]):
    images = pixels.PICTURES["64x48"]
    bright, contrast, saturation = factors
    numbers = {"brightness": bright, "contrast": contrast, "saturation": saturation}
    found = pixels.with_numbers(images, colour.colour_jitter(), **numbers, degrees=0)

    def luma(image):
        return (image @ np.array([19595, 38470, 7471]) / 65536)[..., None]

    expected = blended(0, images.astype(np.float64), bright)
    mean = np.round(np.floor(luma(expected) + 0.5).mean(axis=(1, 2, 3), keepdims=True))
    expected = blended(mean, expected, contrast)
    expected = blended(luma(expected), expected, saturation)
    # Where float32 and float64 round luma to other levels, the mean may be another level, too.
    np.testing.assert_allclose(found, expected, rtol=0, atol=abs(1 - contrast) + SLACK)
    turned = pixels.with_numbers(images, colour.colour_jitter(), **numbers, degrees=30)
    assert (turned.max(axis=(1, 2, 3)) <= 255).all() and (turned != found).any()
    if factors == (1, 1, 1):
        np.testing.assert_array_equal(found, images)
        hue = pixels.with_numbers(images, colour.hue(degrees=30), degrees=30)
        np.testing.assert_allclose(turned, hue, rtol=0, atol=SLACK)


def test_colour_jitter_takes_what_torchvisions_takes():
    jitter = colour.colour_jitter(brightness=0.4, contrast=(0.5, 0.6), saturation=1.5, hue=0.1)
    found = pixels.drawn(jitter, 4000, (8, 8))
    ends = {"brightness": (0.6, 1.4), "contrast": (0.5, 0.6), "saturation": (0, 2.5), "degrees": (-36, 36)}
    assert set(found) == set(ends)
    for name, (low, high) in ends.items():
        # 4000 draws leave out less than a hundredth at either end, but for one in e**40.
        near = (high - low) / 100
        assert low <= found[name].min() < low + near and high - near < found[name].max() <= high


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_passed_over_examples_keep_their_bits(operation):
    pixels.assert_passes_over(operation)


def test_an_example_has_the_same_bits_in_every_batch():
    pixels.assert_same_bits_in_every_batch(*ALL[:4], ALL[8], ALL[6], ALL[7])


@pytest.mark.parametrize("operation", [ALL[0], ALL[8]], ids=lambda operation: operation.name)
def test_another_batch_needs_no_other_program(operation):
    pixels.assert_nothing_is_compiled_in(operation)


@pytest.mark.parametrize(
    "make",
    [
        lambda: colour.brightness(low=-1),
        lambda: colour.brightness(low=1.3),
        lambda: colour.saturation(high="2"),
        lambda: colour.hue(degrees=181),
        lambda: colour.hue(degrees=None),
        lambda: colour.channel_shift(intensity=-1),
        lambda: colour.channel_shift(joint=1),
        lambda: colour.grey(probability=1.1),
        lambda: colour.rescale(factor=float("nan")),
        lambda: colour.standardise(std=0),
        lambda: colour.standardise(mean=(1, 2)),
        lambda: colour.standardise(mean="0"),
        lambda: colour.colour_jitter(hue=0.6),
        lambda: colour.colour_jitter(hue=(-0.1, 0.1)),
        lambda: colour.colour_jitter(brightness=-0.1),
        lambda: colour.colour_jitter(contrast=(1.2, 0.8)),
        lambda: colour.colour_jitter(saturation=(1, 2, 3)),
    ],
)
def test_wrong_arguments_are_the_users_errors(make, complaint):
    with complaint("gin binding", "expected"):
        make()
