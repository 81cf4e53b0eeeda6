"""Crops are those of torchvision, and lie inside the image."""

import math

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from data.augment import crops, geometry
from data.augment.apply import Rendering, render
from data.augment.operation import Operation, one_of, sometimes
from data.augment.policy import Policy, policy

ATTEMPTS = 10
UNIFORM = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 2**24, (4, 22)) / 2**24)


def drawn(operation: Operation, uniform: np.ndarray, size=(32, 24)) -> np.ndarray:
    (array,) = operation.draw(tf.constant(uniform, tf.float64), size)
    assert array.dtype == tf.float64
    return array.numpy()


def boxes(rows: np.ndarray, shown) -> np.ndarray:
    return crops.boxes(tf.constant(rows), tf.constant(shown, tf.int32)).numpy()


def box_of_torchvision(row: np.ndarray, height: int, width: int, ratio) -> tuple[int, int, int, int]:
    """`RandomResizedCrop.get_params` for drawn numbers: left, top, width, height."""
    for share, aspect in zip(row[:ATTEMPTS], row[ATTEMPTS : 2 * ATTEMPTS], strict=True):
        target = height * width * share
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(row[20] * (width - w + 1)), math.floor(row[21] * (height - h + 1)), w, h
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    # torchvision fails where nothing is left of a side.
    w, h = max(w, 1), max(h, 1)
    return (width - w) // 2, (height - h) // 2, w, h


SIDES = st.integers(1, 3000)
SCALES = st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(lambda ends: tuple(sorted(ends)))
RATIOS = st.tuples(st.floats(-4, 4), st.floats(-4, 4)).map(lambda ends: tuple(math.exp(end) for end in sorted(ends)))


@settings(max_examples=150, deadline=None)
@given(height=SIDES, width=SIDES, scale=SCALES, ratio=RATIOS, uniform=UNIFORM)
@example(480, 640, (0.08, 1.0), (3 / 4, 4 / 3), np.full((4, 22), 0.5))
@example(1, 1, (0.08, 0.08), (3 / 4, 4 / 3), np.zeros((4, 22)))
@example(3000, 1, (0.9, 1.0), (3 / 4, 4 / 3), np.full((4, 22), 1 - 2.0**-24))
@example(1, 3000, (1.0, 1.0), (1.0, 1.0), np.full((4, 22), 0.5))
@example(100, 100, (1.0, 1.0), (50.0, 50.0), np.full((4, 22), 0.5))
def test_the_box_is_that_of_torchvision_and_inside(height: int, width: int, scale, ratio, uniform):
    rows = drawn(crops.random_resized_crop(scale=scale, ratio=ratio), uniform)
    found = boxes(rows, [[height, width]] * 4)
    np.testing.assert_array_equal(found, [box_of_torchvision(row, height, width, ratio) for row in rows])
    left, top, box_width, box_height = found.T
    assert (left >= 0).all() and (top >= 0).all() and (box_width >= 1).all() and (box_height >= 1).all()
    assert (left + box_width <= width).all() and (top + box_height <= height).all()


@pytest.mark.parametrize(
    "shown, expected",
    [((100, 900), (383, 0, 133, 100)), ((900, 100), (0, 383, 100, 133)), ((90, 100), (0, 0, 100, 90))],
)
def test_where_nothing_fits_it_is_the_largest_box_in_the_centre(shown, expected):
    # All of the area, and an aspect that no attempt can have.
    rows = drawn(crops.random_resized_crop(scale=(1, 1)), np.full((1, 22), 0.123))
    np.testing.assert_array_equal(boxes(rows, [shown]), [expected])


def test_the_first_attempt_that_fits_is_taken():
    rows = drawn(crops.random_resized_crop(scale=(0.5, 0.5), ratio=(1, 1)), np.full((1, 22), 0.0))
    shown = [[100, 200]]
    np.testing.assert_array_equal(boxes(rows, shown), [[0, 0, 100, 100]])
    rows[0, :4] = [1.0, 0.9, 0.02, 0.18]
    np.testing.assert_array_equal(boxes(rows, shown), [[0, 0, 20, 20]])


def test_shares_aspects_and_places_are_spread_as_in_torchvision():
    """Where every attempt fits; 4,000 fixed draws, of which one set in a thousand would fail a test."""
    side, count = 20_000, 4000
    operation = crops.random_resized_crop(scale=(0.1, 0.5))
    (index,) = (at for at, one in enumerate(policy([operation]).operations) if one.name == operation.name)
    uniform = policy([operation]).uniform(index, tf.range(count, dtype=tf.int64), seed=3).numpy()
    left, top, width, height = boxes(drawn(operation, uniform), [[side, side]] * count).T
    # Whole pixels of a side of at least 5,000 shift a share by less than 1/1000 of the range.
    assert stats.kstest(width * height / side**2, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    logarithms = stats.uniform(np.log(3 / 4), np.log(4 / 3) - np.log(3 / 4))
    assert stats.kstest(np.log(width / height), logarithms.cdf).pvalue > 1e-3
    assert stats.kstest(left / (side - width), stats.uniform().cdf).pvalue > 1e-3
    assert stats.kstest(top / (side - height), stats.uniform().cdf).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, image_size=st.tuples(st.integers(1, 600), st.integers(1, 600)), uniform=UNIFORM)
def test_the_edges_of_the_output_are_those_of_the_box(height: int, width: int, image_size, uniform):
    rows, shown = drawn(crops.random_resized_crop(), uniform), tf.constant([[height, width]] * 4)
    found = crops.crop_matrix(tf.constant(rows), shown, image_size)
    assert found.dtype == tf.float64
    left, top, box_width, box_height = boxes(rows, shown).T
    # Coordinates below 3,000, and 8 operations with their share of cancellation.
    close = {"rtol": 0, "atol": 8 * 3000 * 2.0**-52}
    np.testing.assert_allclose(
        found.numpy() @ [-0.5, -0.5, 1], np.stack([left - 0.5, top - 0.5, np.ones(4)], axis=-1), **close
    )
    lower_right = np.stack([left + box_width - 0.5, top + box_height - 0.5, np.ones(4)], axis=-1)
    np.testing.assert_allclose(found.numpy() @ [image_size[1] - 0.5, image_size[0] - 0.5, 1], lower_right, **close)


@pytest.mark.parametrize("shown", [(1, 1), (28, 28), (97, 130)])
def test_a_crop_of_everything_at_equal_size_is_exactly_the_identity(shown):
    aspect = shown[1] / shown[0]
    rows = drawn(crops.random_resized_crop(scale=(1, 1), ratio=(aspect, aspect)), np.full((1, 22), 0.5))
    np.testing.assert_array_equal(
        crops.crop_matrix(tf.constant(rows), tf.constant([shown]), shown).numpy(), [np.eye(3)]
    )


def test_rows_without_a_crop_are_known_and_harm_nothing():
    operation = crops.random_resized_crop()
    uniform = np.random.default_rng(0).random((200, 23))
    rows = drawn(sometimes(operation, 0.3), uniform)
    without = uniform[:, 0] >= 0.3
    assert 0 < without.sum() < 200 and not rows[without].any()
    np.testing.assert_array_equal(crops.is_crop(tf.constant(rows)), ~without)
    np.testing.assert_array_equal(rows[~without], drawn(operation, uniform[~without, 1:]))
    assert np.isfinite(crops.crop_matrix(tf.constant(rows), tf.constant([[30, 50]] * 200), (8, 9))).all()
    assert not crops.is_crop(tf.constant(drawn(sometimes(operation, 0), uniform))).numpy().any()


def test_a_policy_draws_crops_beside_the_geometry():
    operations = [(crops.random_resized_crop(), 0.5), geometry.flip()]
    found = policy(operations)
    assert found.program == ()
    positions = tf.range(50, dtype=tf.int64)
    both = found.draw(positions, seed=4, size=(16, 12))
    assert both.crop.shape == (50, 24) and both.crop.dtype == tf.float64
    assert 0 < np.sum(crops.is_crop(both.crop)) < 50
    np.testing.assert_array_equal(
        both.geometry, Policy((geometry.flip(),)).draw(positions, seed=4, size=(16, 12)).geometry
    )
    either = policy([one_of(operations=[crops.random_resized_crop(), geometry.flip()])])
    drawn_either = either.draw(positions, seed=4, size=(16, 12))
    assert 0 < np.sum(crops.is_crop(drawn_either.crop)) < 50


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 2**62), count=st.integers(1, 40), cut=st.integers(0, 40), height=SIDES, width=SIDES)
def test_a_position_gets_the_same_bits_in_any_batch(start: int, count: int, cut: int, height: int, width: int):
    every = Policy((crops.random_resized_crop(), crops.centre_crop(), crops.random_crop(padding=4)))

    def found(first: int, last: int) -> list[np.ndarray]:
        once = every.draw(tf.range(first, last, dtype=tf.int64), seed=1, size=(11, 7))
        shown = tf.constant([[height, width]] * (last - first), tf.int32, [last - first, 2])
        return [once.geometry.numpy(), once.crop.numpy(), crops.crop_matrix(once.crop, shown, (11, 7)).numpy()]

    middle = start + min(cut, count)
    for part, rest, together in zip(
        found(start, middle), found(middle, start + count), found(start, start + count), strict=True
    ):
        np.testing.assert_array_equal(np.concatenate([part, rest]), together)


# -- crops of what the fit shows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (11, 7)])
def test_a_centre_crop_enlarges_the_centre_of_every_image_alike(size):
    operation = crops.centre_crop(share=0.875)
    assert operation.count == 0
    found = drawn(operation, np.zeros((3, 0)), size)
    zoomed = drawn(geometry.zoom(low=0.875, high=0.875), np.zeros((3, 2)), size)
    np.testing.assert_array_equal(found, zoomed)
    np.testing.assert_array_equal(drawn(crops.centre_crop(share=1), np.zeros((3, 0)), size), [np.eye(3)] * 3)
    fixed = Policy((operation,)).draw(tf.range(3, dtype=tf.int64), seed=0, size=size)
    np.testing.assert_array_equal(fixed.geometry, found)


def test_a_random_crop_takes_each_place_in_the_padded_image_alike():
    operation = crops.random_crop(padding=4)
    places = (np.arange(9) + 0.5) / 9
    uniform = np.stack(np.meshgrid(places, places), axis=-1).reshape(81, 2)
    found = drawn(operation, uniform)
    np.testing.assert_array_equal(found[:, :2, :2], [np.eye(2)] * 81)
    np.testing.assert_array_equal(found[:, 2], [[0, 0, 1]] * 81)
    offsets = {(int(x), int(y)) for x, y in found[:, :2, 2]}
    assert offsets == {(x, y) for x in range(-4, 5) for y in range(-4, 5)}
    np.testing.assert_array_equal(drawn(crops.random_crop(padding=0), uniform), [np.eye(3)] * 81)
    # The crop of a padded picture, as on CIFAR.
    image = np.random.default_rng(0).integers(1, 256, (12, 12, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    canvases = tf.constant(np.tile(image.reshape(1, -1), [81, 1]))
    rendering = Rendering(size=(12, 12), fill="constant")
    pictures = render(canvases, tf.constant([[12, 12]] * 81), tf.cast(found, tf.float32), rendering=rendering).numpy()
    for picture, (x, y) in zip(pictures, found[:, :2, 2].astype(int), strict=True):
        np.testing.assert_array_equal(picture, padded[4 + y : 16 + y, 4 + x : 16 + x])


@pytest.mark.parametrize("operation", [crops.centre_crop(share=0.5), crops.random_crop(padding=3)])
def test_with_probability_0_nothing_moves(operation: Operation):
    uniform = np.random.default_rng(1).random((20, operation.count + 1))
    np.testing.assert_array_equal(drawn(sometimes(operation, 0), uniform), [np.eye(3)] * 20)
    always = drawn(operation, uniform[:, 1:])
    np.testing.assert_array_equal(drawn(sometimes(operation, 0.999999), uniform), always)
    assert np.abs(always - np.eye(3)).max() > 0.1


# -- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "binding, value",
    [
        ("random_resized_crop.scale", "0.5"),
        ("random_resized_crop.scale", "(0, 1)"),
        ("random_resized_crop.scale", "(0.5, 1.5)"),
        ("random_resized_crop.scale", "(0.5, 'all')"),
        ("random_resized_crop.scale", "(0.9, 0.5)"),
        ("random_resized_crop.ratio", "(0, 1)"),
        ("random_resized_crop.ratio", "(0.5, 1, 2)"),
        ("random_resized_crop.ratio", "None"),
        ("centre_crop.share", "0"),
        ("centre_crop.share", "1.1"),
        ("centre_crop.share", "'half'"),
        ("random_crop.padding", "-1"),
        ("random_crop.padding", "4.0"),
        ("random_crop.padding", "True"),
        ("random_crop.padding", "'few'"),
        ("random_crop.padding", "(4, 4)"),
    ],
)
def test_a_wrong_argument_is_the_users_error(binding: str, value: str, complaint):
    name, argument = binding.split(".")
    gin.parse_config(f"{binding} = {value}")
    with complaint(argument, name):
        getattr(crops, name)()
