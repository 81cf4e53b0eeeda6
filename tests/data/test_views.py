"""Views of test-time augmentation are matrices on the plain evaluation image."""

import gin
import numpy as np
import pytest
import tensorflow as tf

from data.augment import geometry
from data.augment.views import Views, five_crop, views

SIZES = pytest.mark.parametrize("size", [(1, 1), (8, 8), (11, 7), (160, 224)])


def edges(size) -> np.ndarray:
    """[2, 2, 2]: x and y of the outer corners of an image, by row and column."""
    right, lower = size[1] - 0.5, size[0] - 0.5
    return np.array([[[-0.5, -0.5], [right, -0.5]], [[-0.5, lower], [right, lower]]])


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    np.testing.assert_array_equal(matrix[2], [0, 0, 1])
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def close(size) -> dict[str, float]:
    # Coordinates below the longer side, and 16 operations with their share of cancellation.
    return {"rtol": 0, "atol": 16 * max(size) * 2.0**-52}


@SIZES
def test_by_default_there_is_one_view_the_plain_image(size):
    for one in (Views(), views(flip=False), five_crop(share=1)):
        np.testing.assert_array_equal(one.matrices(size)[0], np.eye(3))
    found = Views().matrices(size)
    assert found.shape == (1, 3, 3) and found.dtype == np.float64 and len(Views()) == 1


@SIZES
def test_a_flipped_view_is_the_flipped_image(size):
    found = views().matrices(size)
    assert len(found) == len(views()) == 2
    np.testing.assert_array_equal(found[0], np.eye(3))
    (mirror,) = geometry.flip(horizontal=1.0).draw(tf.constant([[0.5, 0.5]], tf.float64), size)
    np.testing.assert_array_equal(found[1], mirror[0])


@SIZES
def test_turned_views_are_the_quarter_turns(size):
    found = views(flip=False, turns=True).matrices(size)
    (turns,) = geometry.quarter_turn().draw(tf.constant([[0.0], [0.25], [0.5], [0.75]], tf.float64), size)
    np.testing.assert_allclose(found, turns, **close(size))
    for quarters, matrix in enumerate(found):
        np.testing.assert_allclose(mapped(matrix, edges(size)), np.rot90(edges(size), -quarters), **close(size))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 7), (224, 224)])
def test_turns_and_flips_of_a_square_keep_every_pixel(size):
    found = views(turns=True).matrices(size)
    assert len(np.unique(found, axis=0)) == 8
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    pixels = np.stack([x, y], axis=-1)
    for matrix, turn, mirrored in zip(found, np.repeat(range(4), 2), [False, True] * 4, strict=True):
        expected = np.rot90(pixels, -turn)
        np.testing.assert_array_equal(mapped(matrix, pixels), expected[:, ::-1] if mirrored else expected)


@SIZES
def test_scales_show_so_much_of_the_image_about_its_centre(size):
    found = views(flip=False, scales=(1.0, 0.8, 1.25)).matrices(size)
    np.testing.assert_array_equal(found[0], np.eye(3))
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    for scale, matrix in zip((1.0, 0.8, 1.25), found, strict=True):
        expected = centre + scale * (edges(size) - centre)
        np.testing.assert_allclose(mapped(matrix, edges(size)), expected, **close(size))


def test_every_combination_is_a_view_of_its_own():
    found = views(flip=True, scales=[1, 0.9, 0.8], turns=True)
    assert len(found) == 3 * 4 * 2 == len(np.unique(found.matrices((11, 7)), axis=0))
    assert found == views(flip=True, scales=(1.0, 0.9, 0.8), turns=True) != views()
    assert hash(found) == hash(views(flip=True, scales=(1.0, 0.9, 0.8), turns=True))


@SIZES
@pytest.mark.parametrize("share", [0.875, 0.5])
def test_five_crops_touch_the_four_corners_and_the_centre(size, share: float):
    found = five_crop(share=share).matrices(size)
    assert found.shape == (5, 3, 3)
    whole = edges(size)
    extent = whole[1, 1] - whole[0, 0]
    for matrix, (row, column) in zip(found, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=False):
        seen = mapped(matrix, whole)
        np.testing.assert_allclose(seen[row, column], whole[row, column], **close(size))
        np.testing.assert_allclose(seen[1, 1] - seen[0, 0], share * extent, **close(size))
    (zoomed,) = geometry.zoom(low=share, high=share).draw(tf.constant([[0.5, 0.5]], tf.float64), size)
    np.testing.assert_allclose(found[4], zoomed[0], **close(size))


@SIZES
def test_ten_crops_are_the_five_each_with_its_mirror_image(size):
    five, ten = five_crop(share=0.8).matrices(size), five_crop(share=0.8, flip=True).matrices(size)
    np.testing.assert_array_equal(ten[::2], five)
    mirror = views().matrices(size)[1]
    np.testing.assert_allclose(ten[1::2], five @ mirror, **close(size))


@pytest.mark.parametrize(
    "binding, value",
    [
        ("views.flip", "1"),
        ("views.flip", "'yes'"),
        ("views.turns", "0.5"),
        ("views.scales", "()"),
        ("views.scales", "0.9"),
        ("views.scales", "(1.0, 0)"),
        ("views.scales", "[1.0, 'half']"),
        ("five_crop.share", "0"),
        ("five_crop.share", "1.5"),
        ("five_crop.share", "'most'"),
        ("five_crop.flip", "2"),
    ],
)
def test_a_wrong_argument_is_the_users_error(binding: str, value: str, complaint):
    name, argument = binding.split(".")
    gin.parse_config(f"{binding} = {value}")
    with complaint(argument, name):
        {"views": views, "five_crop": five_crop}[name]()
