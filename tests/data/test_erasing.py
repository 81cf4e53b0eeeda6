"""Boxes are filled where they are drawn, with what the position alone decides."""

import numpy as np
import pytest
import scipy.stats

from data.augment import erasing
from tests import pixels

ALL = (
    erasing.random_erasing(),
    erasing.random_erasing(fill="colour"),
    erasing.cutout(),
)
COUNT = 4000


def boxes(operation, size: tuple[int, int] = (40, 100), count: int = COUNT) -> tuple[np.ndarray, ...]:
    """Top, left, bottom and right of many boxes."""
    found = pixels.drawn(operation, count, size)
    return tuple(found[edge] for edge in erasing.EDGES)


@pytest.mark.parametrize("size", [(40, 100), (64, 48), (7, 7)])
def test_a_random_box_lies_inside_and_has_the_wanted_area_and_aspect(size: tuple[int, int]):
    top, left, bottom, right = boxes(erasing.random_erasing(scale=(0.1, 0.3), ratio=(0.5, 2.0)), size)
    height, width = bottom - top, right - left
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= size[0]).all() and (right <= size[1]).all()
    assert (height < size[0]).all() and (width < size[1]).all()
    # Both sides are rounded to whole pixels; so are area and aspect, by half a pixel of each.
    drawn = height > 0
    assert drawn.mean() > 0.99
    height, width = height[drawn], width[drawn]
    assert ((height + 0.5) * (width + 0.5) >= 0.1 * size[0] * size[1]).all()
    assert ((height - 0.5) * (width - 0.5) <= 0.3 * size[0] * size[1]).all()
    assert ((height + 0.5) / (width - 0.5) >= 0.5).all() and ((height - 0.5) / (width + 0.5) <= 2).all()
    assert (height == np.round(height)).all() and (width == np.round(width)).all()


def test_areas_aspects_and_places_are_drawn_evenly():
    side = 4000
    top, left, bottom, right = boxes(erasing.random_erasing(scale=(0.02, 0.1), ratio=(0.5, 2)), (side, side))
    height, width = bottom - top, right - left
    uniform = (
        (height * width / side**2 - 0.02) / 0.08,
        np.log(height / width) / np.log(4) + 0.5,
        top / (side - height),
        left / (side - width),
    )
    for values in uniform:
        # A false alarm once in a hundred thousand, and the seed is fixed; pixels are rounded to 1 / 4000.
        assert scipy.stats.kstest(values, "uniform").pvalue > 1e-5


def test_an_image_without_room_for_a_box_stays_as_it_is():
    top, left, bottom, right = boxes(erasing.random_erasing(), (1, 1), 50)
    assert (bottom == top).all() and (right == left).all()
    images = pixels.PICTURES["1x1"]
    found = pixels.with_numbers(images, erasing.random_erasing(), top=top[0], left=0, bottom=top[0], right=0, key=1)
    np.testing.assert_array_equal(found, images)


def test_a_box_is_taken_whenever_one_of_ten_fits():
    # Lower than the image half of the time by its area of 0.5 alone: 1 of 2**10 fails; five standard deviations.
    top, _, bottom, _ = boxes(erasing.random_erasing(scale=(0.5, 0.5), ratio=(1.0, 4.0)), (1000, 1000))
    height = 1000 * np.sqrt(0.5 * np.array([1.0, 4.0]))
    fits = np.log(1000 / height[0]) / np.log(height[1] / height[0])
    failed = (1 - fits) ** 10
    assert abs((bottom == top).mean() - failed) <= 5 * np.sqrt(failed / COUNT)


def inside(images: np.ndarray, edges: tuple) -> np.ndarray:
    """[B, H, W] bool."""
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    top, left, bottom, right = (np.array(edge)[:, None, None] for edge in edges)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


BOXES = ([0, 2, 3, 10, 0, 5], [0, 4, 3, 12, 0, 5], [11, 9, 4, 11, 1, 5], [13, 5, 13, 13, 1, 9])


def erased(operation, images: np.ndarray, **numbers) -> tuple[np.ndarray, np.ndarray]:
    """What is inside of BOXES, [N, 3], after a check that nothing else has changed."""
    box = inside(images, BOXES)
    found = pixels.with_numbers(images, operation, **dict(zip(erasing.EDGES, BOXES, strict=True)), **numbers)
    np.testing.assert_array_equal(found[~box], images[~box])
    return found, box


@pytest.mark.parametrize(
    ("fill", "expected"), [("mean", (125, 122, 114)), (7, (7, 7, 7)), ((1, 2.5, 255), (1, 2.5, 255)), (0.0, (0, 0, 0))]
)
def test_a_box_has_the_given_colour(fill, expected: tuple):
    images = pixels.fractions(pixels.BATCH, *pixels.SIZE)
    for operation in (erasing.random_erasing(fill=fill), erasing.cutout(fill=fill)):
        found, box = erased(operation, images)
        np.testing.assert_array_equal(found[box], np.broadcast_to(np.float32(expected), found[box].shape))


def test_a_box_has_the_drawn_colour():
    images = pixels.fractions(pixels.BATCH, *pixels.SIZE)
    red = np.arange(pixels.BATCH) * 40
    found, box = erased(erasing.random_erasing(fill="colour"), images, red=red, green=3, blue=255)
    for row in range(pixels.BATCH):
        colours = np.broadcast_to(np.float32([red[row], 3, 255]), found[row][box[row]].shape)
        np.testing.assert_array_equal(found[row][box[row]], colours)
    levels = pixels.drawn(erasing.random_erasing(fill="colour"), COUNT, (9, 9))
    for name in erasing.COLOURS:
        assert set(np.unique(levels[name])) == set(range(256))


def murmur(bits: np.ndarray) -> np.ndarray:
    """MurmurHash3's fmix32, as its author wrote it."""
    bits = bits.astype(np.uint32)
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x85EBCA6B)
    bits ^= bits >> np.uint32(13)
    bits *= np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))


def test_noise_is_a_hash_of_key_and_place():
    images = pixels.fractions(pixels.BATCH, *pixels.SIZE)
    key = np.array([0, 1, 2**24 - 1, 5, 5, 5])
    found, box = erased(erasing.random_erasing(), images, key=key)
    place = np.arange(11 * 13 * 3, dtype=np.uint32).reshape(11, 13, 3)
    expected = murmur(murmur(key)[:, None, None, None] + place) >> 24
    np.testing.assert_array_equal(found[box], expected[box])


def test_noise_is_even_and_each_pixel_its_own():
    images = np.zeros((2, 64, 48, 3), np.uint8)
    numbers = {"top": 0, "left": 0, "bottom": 64, "right": 48, "key": [77, 78]}
    one, other = pixels.with_numbers(images, erasing.random_erasing(), **numbers)
    counts = np.unique(one, return_counts=True)[1]
    # A false alarm once in a hundred thousand, and the keys are fixed.
    assert len(counts) == 256 and scipy.stats.chisquare(counts).pvalue > 1e-5
    pairs = ((one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[..., 0], one[..., 2]))
    for first, second in pairs:
        # Five standard deviations of the correlation of independent numbers.
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize(("side", "pixels_of_it"), [(0.5, 20), (8, 8), (9, 9), (0.33, 13), (1, 1)])
def test_cutout_is_a_square_around_any_pixel_cut_off_at_the_border(side: float, pixels_of_it: int):
    height, width = 40, 100
    top, left, bottom, right = boxes(erasing.cutout(side=side), (height, width))
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= height).all() and (right <= width).all()
    whole = (top > 0) & (left > 0) & (bottom < height) & (right < width)
    assert set((bottom - top)[whole]) == set((right - left)[whole]) == {pixels_of_it}
    # A pixel in the corner is the centre, too: the smallest box is the least half of a side.
    assert (bottom - top).min() == (right - left).min() == (pixels_of_it + 1) // 2
    # Where no border cuts the box off, its centre is any of the rows.
    free = (top > 0) & (bottom < height)
    last = height - pixels_of_it
    assert set(top[free]) == set(range(1, last))


def test_the_side_of_a_cutout_is_drawn_from_a_range():
    top, _, bottom, _ = boxes(erasing.cutout(side=(3, 6)), (1000, 1000))
    assert set(bottom - top) >= {3, 4, 5, 6} and (bottom - top).max() == 6


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: str(operation.slots))
def test_passed_over_examples_keep_their_bits(operation):
    pixels.assert_passes_over(operation)


def test_an_example_has_the_same_bits_in_every_batch():
    pixels.assert_same_bits_in_every_batch(*ALL)


@pytest.mark.parametrize("operation", ALL[:2], ids=lambda operation: str(operation.slots))
def test_another_batch_needs_no_other_program(operation):
    pixels.assert_nothing_is_compiled_in(operation)


@pytest.mark.parametrize(
    "make",
    [
        lambda: erasing.random_erasing(scale=(0.3, 0.1)),
        lambda: erasing.random_erasing(scale=(0, 1.1)),
        lambda: erasing.random_erasing(scale=0.2),
        lambda: erasing.random_erasing(ratio=(0, 1)),
        lambda: erasing.random_erasing(fill="noises"),
        lambda: erasing.random_erasing(fill=256),
        lambda: erasing.random_erasing(fill=(1, 2)),
        lambda: erasing.random_erasing(fill=None),
        lambda: erasing.cutout(side=-1),
        lambda: erasing.cutout(side=(0.5, 3)),
        lambda: erasing.cutout(side="half"),
        lambda: erasing.cutout(fill="noise"),
    ],
)
def test_wrong_arguments_are_the_users_errors(make, complaint):
    with complaint("gin binding", "expected"):
        make()
