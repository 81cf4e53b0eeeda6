"""Geometric operations are matrices that agree with those of Keras."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import image as keras_image

from data.augment import geometry

SIZE = 11
UNIT = st.integers(0, 2**24 - 1).map(lambda bits: bits / 2**24)
# Coordinates below 64 through some 32 operations in float64, on either side.
CLOSE = {"rtol": 0, "atol": 2 * 32 * 64 * 2.0**-53}


def matrix(operation: geometry.Operation, *uniform: float, size: int = SIZE) -> np.ndarray:
    assert operation.count == len(uniform)
    return operation.matrix(tf.constant([uniform], tf.float64), size).numpy()[0]


def sampled_by_matrix(found: np.ndarray, size: int = SIZE) -> np.ndarray:
    """[size, size, 2]: x and y in the input for each pixel of the output, held inside as `nearest` does."""
    y, x = np.mgrid[:size, :size]
    points = np.stack([x, y, np.ones_like(x)], axis=-1) @ found.T
    assert (points[..., 2] == 1).all()
    return np.clip(points[..., :2], 0, size - 1)


def sampled_by_keras(**arguments) -> np.ndarray:
    """The same as Keras samples it: it warps a picture whose colours are its coordinates."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    return keras_image.apply_affine_transform(
        np.stack([x, y], axis=-1), row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest", **arguments
    )


@settings(max_examples=40, deadline=None)
@given(uniform=UNIT, degrees=st.floats(0.5, 180))
def test_rotation_is_that_of_keras(uniform: float, degrees: float):
    angle = -degrees + uniform * 2 * degrees
    found = matrix(geometry.rotation(degrees=degrees), uniform)
    # Keras counts the angle in the other direction; the range is the same on both sides.
    np.testing.assert_allclose(sampled_by_matrix(found), sampled_by_keras(theta=-angle), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(uniform=st.tuples(UNIT, UNIT), width=st.floats(0, 1), height=st.floats(0, 1))
def test_shift_is_that_of_keras(uniform: tuple[float, float], width: float, height: float):
    x, y = (uniform[0] * 2 - 1) * width * SIZE, (uniform[1] * 2 - 1) * height * SIZE
    found = matrix(geometry.shift(width=width, height=height), *uniform)
    np.testing.assert_allclose(sampled_by_matrix(found), sampled_by_keras(tx=x, ty=y), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(uniform=st.tuples(UNIT, UNIT), low=st.floats(0.1, 1), span=st.floats(0, 2), joint=st.booleans())
def test_zoom_is_that_of_keras(uniform: tuple[float, float], low: float, span: float, joint: bool):
    x, y = (low + share * span for share in uniform)
    y = x if joint else y
    found = matrix(geometry.zoom(low=low, high=low + span, joint=joint), *uniform)
    np.testing.assert_allclose(sampled_by_matrix(found), sampled_by_keras(zx=x, zy=y), **CLOSE)


@pytest.mark.parametrize("horizontal", [0.0, 1.0])
@pytest.mark.parametrize("vertical", [0.0, 1.0])
def test_flip_mirrors_as_keras_mirrors(horizontal: float, vertical: float):
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    expected = np.stack([x, y], axis=-1)
    if horizontal:
        expected = keras_image.flip_axis(expected, 1)
    if vertical:
        expected = keras_image.flip_axis(expected, 0)
    found = matrix(geometry.flip(horizontal=horizontal, vertical=vertical), 0.3, 0.7)
    np.testing.assert_array_equal(sampled_by_matrix(found), expected)


@settings(max_examples=40, deadline=None)
@given(uniform=st.lists(UNIT, min_size=5, max_size=5))
def test_rotation_then_shift_then_zoom_compose_as_in_keras(uniform: list[float]):
    turn, move, scale = (
        geometry.rotation(degrees=40),
        geometry.shift(width=0.3, height=0.2),
        geometry.zoom(low=0.7, high=1.4),
    )
    product = matrix(turn, uniform[0]) @ matrix(move, *uniform[1:3]) @ matrix(scale, *uniform[3:])
    expected = sampled_by_keras(
        theta=40 - 80 * uniform[0],
        tx=(uniform[1] * 2 - 1) * 0.3 * SIZE,
        ty=(uniform[2] * 2 - 1) * 0.2 * SIZE,
        zx=0.7 + 0.7 * uniform[3],
        zy=0.7 + 0.7 * uniform[4],
    )
    np.testing.assert_allclose(sampled_by_matrix(product), expected, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(entries=st.lists(st.floats(-3, 3), min_size=4, max_size=4), size=st.integers(1, 500))
def test_about_the_centre_is_the_offset_of_keras(entries: list[float], size: int):
    a, b, c, d = entries
    given_matrix = np.array([[a, b, 0], [c, d, 0], [0, 0, 1]])
    found = geometry.about_centre(tf.constant(given_matrix[None]), size).numpy()[0]
    expected = keras_image.transform_matrix_offset_center(given_matrix, size, size)
    # Sums of five products of at most 3 * 250.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * 750 * 2**-52)
    centre = np.array([(size - 1) / 2, (size - 1) / 2, 1])
    np.testing.assert_allclose(found @ centre, centre, rtol=0, atol=10 * 750 * 2**-52)


def test_the_middle_of_every_range_but_flips_changes_nothing():
    for operation in (
        geometry.rotation(degrees=30),
        geometry.shift(width=0.2, height=0.1),
        geometry.zoom(low=0.5, high=1.5),
    ):
        found = matrix(operation, *[0.5] * operation.count)
        np.testing.assert_array_equal(found, np.eye(3))


def test_a_flip_happens_as_often_as_asked():
    uniform = tf.constant(np.stack([np.arange(100) / 100, np.arange(100) / 100], axis=-1))
    found = geometry.flip(horizontal=0.25, vertical=0.5).matrix(uniform, SIZE).numpy()
    assert (found[:, 0, 0] == -1).sum() == 25 and (found[:, 1, 1] == -1).sum() == 50
    assert (np.abs(found[:, 0, 0]) == 1).all()


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (1.2, 0.8)])
def test_an_impossible_zoom_is_the_users_error(low: float, high: float, complaint):
    with complaint("zoom.low", str(low), str(high)):
        geometry.zoom(low=low, high=high)


# -- fit: canvases of any shape over a square ------------------------------------------------------------------------


def fitted(height: int, width: int, *, image_size: int, rule: str, crop: float = 1.0) -> np.ndarray:
    return geometry.fit(tf.constant([[height, width]]), image_size=image_size, rule=rule, crop=crop).numpy()[0]


SIDES = st.integers(1, 2000)
# Coordinates below 2,100, and 16 float64 operations with their share of cancellation.
NEAR = {"rtol": 0, "atol": 16 * 2100 * 2.0**-52}


@settings(max_examples=100, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    image_size=st.integers(1, 600),
    rule=st.sampled_from(geometry.FITS),
    crop=st.floats(0.1, 1),
)
@example(height=28, width=28, image_size=224, rule="cover", crop=0.875)
def test_the_edges_of_the_output_fall_where_the_rule_says(
    height: int, width: int, image_size: int, rule: str, crop: float
):
    found = fitted(height, width, image_size=image_size, rule=rule, crop=crop)
    seen = {
        "stretch": (width, height),
        "cover": (min(width, height), min(width, height)),
        "contain": (max(width, height), max(width, height)),
        "native": (image_size / crop, image_size / crop),
    }[rule]
    middle = (image_size - 1) / 2
    np.testing.assert_allclose(found @ [middle, middle, 1], [(width - 1) / 2, (height - 1) / 2, 1], **NEAR)
    for sign in (-1, 1):
        # The outer edge of the outermost pixel, half a pixel beyond its centre.
        edge = middle + sign * image_size / 2
        x = (width - 1) / 2 + sign * seen[0] * crop / 2
        y = (height - 1) / 2 + sign * seen[1] * crop / 2
        np.testing.assert_allclose(found @ [edge, edge, 1], [x, y, 1], **NEAR)


@pytest.mark.parametrize("rule", geometry.FITS)
@pytest.mark.parametrize("size", [1, 2, 3, 28, 96, 223, 224, 299])
def test_at_equal_size_every_rule_is_exactly_the_identity(rule: str, size: int):
    np.testing.assert_array_equal(fitted(size, size, image_size=size, rule=rule), np.eye(3))


def test_the_rules_differ_on_an_oblong():
    corners = {rule: fitted(100, 200, image_size=50, rule=rule) @ [-0.5, -0.5, 1] for rule in geometry.FITS}
    np.testing.assert_allclose(corners["stretch"], [-0.5, -0.5, 1], **NEAR)
    np.testing.assert_allclose(corners["cover"], [49.5, -0.5, 1], **NEAR)
    np.testing.assert_allclose(corners["contain"], [-0.5, -50.5, 1], **NEAR)


def test_each_canvas_of_a_batch_has_its_own_matrix():
    sizes = [[10, 20], [30, 5], [224, 224]]
    together = geometry.fit(tf.constant(sizes), image_size=64, rule="cover", crop=0.9).numpy()
    for size, found in zip(sizes, together, strict=True):
        np.testing.assert_array_equal(found, fitted(*size, image_size=64, rule="cover", crop=0.9))
