"""Geometric operations are matrices that agree with those of Keras, Pillow and torchvision."""

import itertools

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import image as keras_image
from PIL import Image
from scipy import stats

from data.augment import geometry
from data.augment.operation import Operation, sometimes
from data.augment.policy import Policy

SIZES = [(11, 11), (11, 7), (7, 11)]
SHAPES = st.sampled_from(SIZES)
UNIT = st.integers(0, 2**24 - 1).map(lambda bits: bits / 2**24)
# Coordinates below 64 through some 32 operations in float64, on either side.
CLOSE = {"rtol": 0, "atol": 2 * 32 * 64 * 2.0**-53}


def numbers(operation: Operation, uniform, size=(11, 7)) -> dict[str, np.ndarray]:
    drawn = operation.numbers(tf.constant(uniform, tf.float64), size)
    return {name: value.numpy() for name, value in drawn.items()}


def matrices(operation: Operation, uniform, size=(11, 7)) -> np.ndarray:
    (found,) = operation.draw(tf.constant(uniform, tf.float64), size)
    assert found.dtype == tf.float64
    return found.numpy()


def matrix(operation: Operation, *uniform: float, size=(11, 7)) -> np.ndarray:
    assert operation.count == len(uniform)
    return matrices(operation, [uniform], size)[0]


def evenly(count: int, columns: int = 1) -> np.ndarray:
    """The middles of so many equal parts of [0, 1), in every column."""
    return np.tile(((np.arange(count) + 0.5) / count)[:, None], [1, columns])


def grid(size) -> np.ndarray:
    """[H, W, 2] float64: x and y of every pixel."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return np.stack([x, y], axis=-1)


def mapped(found: np.ndarray, points) -> np.ndarray:
    """Points [..., 2] through a matrix."""
    points = np.concatenate([points, np.ones((*np.shape(points)[:-1], 1))], axis=-1) @ found.T
    return points[..., :2] / points[..., 2:]


def sampled_by_matrix(found: np.ndarray, size) -> np.ndarray:
    """[H, W, 2]: x and y in the input for each pixel of the output, held inside as `nearest` does."""
    np.testing.assert_array_equal(found[2], [0, 0, 1])
    return np.clip(mapped(found, grid(size)), 0, [size[1] - 1, size[0] - 1])


def sampled_by_keras(size, **arguments) -> np.ndarray:
    """The same as Keras samples it: it warps a picture whose colours are its coordinates.

    An oblong picture is cut out of the middle of a square one, since Keras takes ((height - 1) / 2, (width - 1) / 2)
    for the (x, y) of a centre.
    """
    side = max(size)
    top, left = ((side - length) // 2 for length in size)
    square = keras_image.apply_affine_transform(
        grid((side, side)), row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest", **arguments
    )
    part = square[top : top + size[0], left : left + size[1]] - [left, top]
    return np.clip(part, 0, [size[1] - 1, size[0] - 1])


# -- as Keras --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(uniform=UNIT, degrees=st.floats(0.5, 180), size=SHAPES)
def test_rotation_is_that_of_keras(uniform: float, degrees: float, size):
    angle = -degrees + uniform * 2 * degrees
    found = matrix(geometry.rotation(degrees=degrees), uniform, size=size)
    # Keras counts the angle in the other direction; the range is the same on both sides.
    np.testing.assert_allclose(sampled_by_matrix(found, size), sampled_by_keras(size, theta=-angle), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(uniform=st.tuples(UNIT, UNIT), width=st.floats(0, 0.999), height=st.floats(0, 0.999), size=SHAPES)
def test_shift_is_that_of_keras(uniform: tuple[float, float], width: float, height: float, size):
    x, y = (uniform[0] * 2 - 1) * width * size[1], (uniform[1] * 2 - 1) * height * size[0]
    found = matrix(geometry.shift(width=width, height=height), *uniform, size=size)
    np.testing.assert_allclose(sampled_by_matrix(found, size), sampled_by_keras(size, tx=x, ty=y), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(uniform=UNIT, degrees=st.floats(0, 89), size=SHAPES)
def test_shear_is_that_of_keras(uniform: float, degrees: float, size):
    operation = geometry.shear(degrees=degrees)
    found = matrix(operation, uniform, size=size)
    angle = numbers(operation, [[uniform]])["degrees"][0]
    np.testing.assert_allclose(sampled_by_matrix(found, size), sampled_by_keras(size, shear=angle), **CLOSE)
    # The other axis is the same on the transposed picture.
    swapped = matrix(geometry.shear(degrees=degrees, axis="y"), uniform, size=size[::-1])
    np.testing.assert_array_equal(swapped, found[[1, 0, 2]][:, [1, 0, 2]])


@settings(max_examples=40, deadline=None)
@given(uniform=st.tuples(UNIT, UNIT), low=st.floats(0.1, 1), span=st.floats(0, 2), joint=st.booleans(), size=SHAPES)
def test_zoom_is_that_of_keras(uniform: tuple[float, float], low: float, span: float, joint: bool, size):
    x, y = (low + share * span for share in uniform)
    y = x if joint else y
    found = matrix(geometry.zoom(low=low, high=low + span, joint=joint), *uniform, size=size)
    np.testing.assert_allclose(sampled_by_matrix(found, size), sampled_by_keras(size, zx=x, zy=y), **CLOSE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("horizontal", [0.0, 1.0])
@pytest.mark.parametrize("vertical", [0.0, 1.0])
def test_flip_mirrors_as_keras_mirrors(horizontal: float, vertical: float, size):
    expected = grid(size)
    if horizontal:
        expected = keras_image.flip_axis(expected, 1)
    if vertical:
        expected = keras_image.flip_axis(expected, 0)
    found = matrix(geometry.flip(horizontal=horizontal, vertical=vertical), 0.3, 0.7, size=size)
    np.testing.assert_array_equal(sampled_by_matrix(found, size), expected)


@settings(max_examples=40, deadline=None)
@given(uniform=st.lists(UNIT, min_size=6, max_size=6), size=SHAPES)
def test_rotation_shift_shear_and_zoom_compose_as_in_keras(uniform: list[float], size):
    operations = (
        geometry.rotation(degrees=40),
        geometry.shift(width=0.3, height=0.2),
        geometry.shear(degrees=20),
        geometry.zoom(low=0.7, high=1.4),
    )
    product, drawn, rest = np.eye(3), {}, uniform
    for operation in operations:
        mine, rest = rest[: operation.count], rest[operation.count :]
        product = product @ matrix(operation, *mine, size=size)
        drawn[operation.name] = {name: value[0] for name, value in numbers(operation, [mine], size).items()}
    expected = sampled_by_keras(
        size,
        theta=-drawn["rotation"]["degrees"],
        tx=drawn["shift"]["x"],
        ty=drawn["shift"]["y"],
        shear=drawn["shear"]["degrees"],
        zx=drawn["zoom"]["x"],
        zy=drawn["zoom"]["y"],
    )
    np.testing.assert_allclose(sampled_by_matrix(product, size), expected, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    entries=st.lists(st.floats(-3, 3), min_size=4, max_size=4), height=st.integers(1, 500), width=st.integers(1, 500)
)
def test_about_the_centre_is_the_offset_of_keras(entries: list[float], height: int, width: int):
    a, b, c, d = entries
    given_matrix = np.array([[a, b, 0], [c, d, 0], [0, 0, 1]])
    found = geometry.about_centre(tf.constant(given_matrix[None]), (height, width)).numpy()[0]
    expected = keras_image.transform_matrix_offset_center(given_matrix, width, height)
    # Sums of five products of at most 3 * 250.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * 750 * 2**-52)
    centre = np.array([(width - 1) / 2, (height - 1) / 2, 1])
    np.testing.assert_allclose(found @ centre, centre, rtol=0, atol=10 * 750 * 2**-52)


# -- what is drawn ---------------------------------------------------------------------------------------------------


def drawn_by_keras(count: int, size=(11, 7), **arguments) -> dict[str, np.ndarray]:
    generator = keras_image.ImageDataGenerator(**arguments)
    np.random.seed(5)
    drawn = [generator.get_random_transform((*size, 3)) for _ in range(count)]
    return {name: np.array([one[name] for one in drawn]) for name in ("theta", "tx", "ty", "shear", "zx", "zy")}


@pytest.mark.parametrize("amount", [0.3, 0.999, 1.0, 2.5, 40.0])
def test_a_number_shifts_evenly_as_in_keras(amount: float):
    expected = drawn_by_keras(2000, width_shift_range=amount, height_shift_range=amount)
    found = numbers(geometry.shift(width=amount, height=amount), evenly(2000, 2))
    # Keras draws its tx from the height_shift_range and the height.
    for axis, keras_name in (("x", "ty"), ("y", "tx")):
        # Keras' 2,000 numbers, fixed, against an even spread over ours; one of 1,000 seeds would fail.
        assert stats.ks_2samp(found[axis], expected[keras_name]).pvalue > 1e-3


@pytest.mark.parametrize("amount", [1, 2, 5, [0.1, 0.25], (3, 8), [0.5, 2], [-4, 1], [-0.2], [1.0]])
def test_an_int_or_a_list_shifts_by_one_of_few_amounts_as_in_keras(amount):
    expected = drawn_by_keras(400, width_shift_range=amount, height_shift_range=amount)
    choices = amount if isinstance(amount, list | tuple) else range(amount)
    found = numbers(geometry.shift(width=amount, height=amount), evenly(2 * len(choices), 2))
    for axis, keras_name in (("x", "ty"), ("y", "tx")):
        np.testing.assert_array_equal(np.unique(found[axis]), np.unique(expected[keras_name]))
        # Each of the choices once to either side.
        np.testing.assert_array_equal(np.sort(found[axis]), np.sort(-found[axis]))
        assert len(np.unique(np.abs(found[axis]))) == len(choices)


def test_every_other_range_is_drawn_as_in_keras():
    expected = drawn_by_keras(2000, rotation_range=30, shear_range=12.5, zoom_range=(0.8, 1.3))
    spread = evenly(2000, 2)
    for keras_name, found in (
        ("theta", numbers(geometry.rotation(degrees=30), spread)["degrees"]),
        ("shear", numbers(geometry.shear(degrees=12.5), spread)["degrees"]),
        ("zx", numbers(geometry.zoom(low=0.8, high=1.3), spread)["x"]),
        ("zy", numbers(geometry.zoom(low=0.8, high=1.3), spread)["y"]),
    ):
        assert stats.ks_2samp(found, expected[keras_name]).pvalue > 1e-3


EVERY = [
    (geometry.rotation(degrees=30), {"degrees": (-30, 30)}),
    (geometry.rotation(degrees=(5, 10)), {"degrees": (5, 10)}),
    (geometry.shift(width=0.2, height=3.0), {"x": (-0.2 * 7, 0.2 * 7), "y": (-3, 3)}),
    (geometry.shift(width=[1, 4], height=3), {"x": (-4, 4), "y": (-2, 2)}),
    (geometry.shear(degrees=20), {"degrees": (-20, 20)}),
    (geometry.shear(degrees=(-5, 20), axis="y"), {"degrees": (-5, 20)}),
    (geometry.shear_x(factor=0.3), {"factor": (-0.3, 0.3)}),
    (geometry.shear_y(factor=[0.1, 0.3]), {"factor": (0.1, 0.3)}),
    (geometry.translate_x(fraction=0.45), {"fraction": (-0.45, 0.45)}),
    (geometry.translate_y(fraction=(0, 1)), {"fraction": (0, 1)}),
    (geometry.zoom(low=0.7, high=1.5), {"x": (0.7, 1.5), "y": (0.7, 1.5)}),
    (geometry.zoom(low=0.7, high=1.5, joint=True), {"x": (0.7, 1.5), "y": (0.7, 1.5)}),
    (geometry.flip(horizontal=0.5, vertical=0.25), {"horizontal": (0, 1), "vertical": (0, 1)}),
    (geometry.quarter_turn(), {"turns": (0, 3)}),
    (
        geometry.perspective(distortion=0.5),
        {f"{corner}_{axis}": (0, {"x": 1, "y": 2}[axis]) for corner in geometry.CORNERS for axis in "xy"},
    ),
]
BY_NAME = pytest.mark.parametrize("operation, ranges", EVERY, ids=[operation.name for operation, _ in EVERY])


@BY_NAME
def test_the_numbers_have_their_names_and_fill_their_ranges(operation: Operation, ranges):
    found = numbers(operation, evenly(4096, operation.count))
    assert list(found) == list(ranges)
    for name, (low, high) in ranges.items():
        assert found[name].dtype == np.float64 and found[name].shape == (4096,)
        assert low <= found[name].min() and found[name].max() <= high
        # The outermost of 4,096 even parts.
        np.testing.assert_allclose(
            [found[name].min(), found[name].max()], [low, high], rtol=0, atol=(high - low) / 4096
        )


@BY_NAME
def test_with_probability_0_nothing_moves(operation: Operation, ranges):
    uniform = np.random.default_rng(1).random((20, operation.count + 1))
    found = matrices(sometimes(operation, 0), uniform)
    np.testing.assert_array_equal(found, np.broadcast_to(np.eye(3), (20, 3, 3)))
    always = matrices(operation, uniform[:, 1:])
    assert np.abs(always - np.eye(3)).max(axis=(1, 2)).max() > 0.01
    np.testing.assert_array_equal(matrices(sometimes(operation, 0.999999), uniform), always)


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 2**62), count=st.integers(1, 40), cut=st.integers(0, 40))
def test_a_position_gets_the_same_bits_in_any_batch(start: int, count: int, cut: int):
    policy = Policy(tuple(operation for operation, _ in EVERY))

    def drawn(first: int, last: int) -> np.ndarray:
        return policy.draw(tf.range(first, last, dtype=tf.int64), seed=1, size=(11, 7)).geometry.numpy()

    middle = start + min(cut, count)
    np.testing.assert_array_equal(
        np.concatenate([drawn(start, middle), drawn(middle, start + count)]), drawn(start, start + count)
    )


def test_the_middle_of_every_even_range_changes_nothing():
    for operation, _ in EVERY[:1] + EVERY[2:3] + EVERY[4:5] + EVERY[6:7] + EVERY[8:9]:
        np.testing.assert_array_equal(matrix(operation, *[0.5] * operation.count), np.eye(3))
    np.testing.assert_array_equal(matrix(geometry.zoom(low=0.5, high=1.5), 0.5, 0.5), np.eye(3))


@settings(max_examples=40, deadline=None)
@given(
    uniform=st.tuples(UNIT, UNIT), side=st.integers(1, 600), amount=st.floats(0.01, 0.99), degrees=st.floats(0.1, 180)
)
def test_the_formula_of_a_recipe_is_this_one_to_the_bit(uniform, side: int, amount: float, degrees: float):
    """Sessions go on with the matrices that they began with."""
    first, second = uniform
    size = (side, side)
    middle = (side - 1) / 2

    def scaled(x: float, y: float) -> list:
        # In the order of two matrix products: there, the factors, back.
        return [[x, 0, x * -middle + middle], [0, y, y * -middle + middle], [0, 0, 1]]

    shifted = [-amount + share * (amount - -amount) for share in uniform]
    found = matrix(geometry.shift(width=amount, height=amount), *uniform, size=size)
    np.testing.assert_array_equal(found, [[1, 0, shifted[0] * side], [0, 1, shifted[1] * side], [0, 0, 1]])
    x, y = (amount + share * (1.5 - amount) for share in uniform)
    np.testing.assert_array_equal(matrix(geometry.zoom(low=amount, high=1.5), *uniform, size=size), scaled(x, y))
    np.testing.assert_array_equal(
        matrix(geometry.flip(horizontal=amount, vertical=0.5), *uniform, size=size),
        scaled(-1 if first < amount else 1, -1 if second < 0.5 else 1),
    )
    radians = np.pi / 180 * degrees
    angle = -radians + first * (radians - -radians)
    found = matrix(geometry.rotation(degrees=degrees), first, size=size)
    # The angle, below 4, is now drawn in degrees: four roundings of it, one of each cosine.
    np.testing.assert_allclose(
        found[:2, :2], [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], rtol=0, atol=6 * 4 * 2.0**-53
    )


def test_a_flip_happens_as_often_as_asked():
    found = matrices(geometry.flip(horizontal=0.25, vertical=0.5), np.tile(np.arange(100)[:, None] / 100, [1, 2]))
    assert (found[:, 0, 0] == -1).sum() == 25 and (found[:, 1, 1] == -1).sum() == 50
    assert (np.abs(found[:, 0, 0]) == 1).all()


# -- as Pillow -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    value=st.floats(-0.9, 0.9), size=SHAPES, name=st.sampled_from(["shear_x", "shear_y", "translate_x", "translate_y"])
)
def test_shears_and_translations_are_those_of_pillow(value: float, size, name: str):
    height, width = size
    coefficients = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * height),
    }[name]
    argument = "factor" if "shear" in name else "fraction"
    found = mapped(matrix(getattr(geometry, name)(**{argument: (value, value)}), 0.5, size=size), grid(size))
    inside = ((found >= 0) & (found <= [width - 1, height - 1])).all(axis=-1)
    for axis in range(2):
        picture = Image.fromarray(grid(size)[..., axis].astype(np.float32))
        sampled = np.asarray(picture.transform((width, height), Image.Transform.AFFINE, coefficients, Image.BILINEAR))
        # Pillow interpolates numbers below 16 in float64, and stores them in float32.
        np.testing.assert_allclose(found[inside][:, axis], sampled[inside], rtol=0, atol=16 * 2.0**-24)


# -- quarter turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 7, 224])
@pytest.mark.parametrize("turns", range(4))
def test_a_quarter_turn_of_a_square_moves_whole_pixels_clockwise(side: int, turns: int):
    found = matrix(geometry.quarter_turn(), (turns + 0.5) / 4, size=(side, side))
    np.testing.assert_array_equal(mapped(found, grid((side, side))), np.rot90(grid((side, side)), -turns))
    angle = 90 * turns
    turned = matrix(geometry.rotation(degrees=(angle, angle)), 0.5, size=(side, side))
    np.testing.assert_allclose(turned, found, rtol=0, atol=8 * side * 2.0**-52)


@pytest.mark.parametrize("size", [(11, 7), (7, 11), (1, 30), (160, 224)])
@pytest.mark.parametrize("turns", range(4))
def test_a_turned_oblong_still_fills_the_output_exactly(size, turns: int):
    found = matrix(geometry.quarter_turn(), (turns + 0.5) / 4, size=size)
    right, lower = size[1] - 0.5, size[0] - 0.5
    corners = np.array([[[-0.5, -0.5], [right, -0.5]], [[-0.5, lower], [right, lower]]])
    # Coordinates below 256, through ten operations.
    np.testing.assert_allclose(mapped(found, corners), np.rot90(corners, -turns), rtol=0, atol=10 * 256 * 2.0**-53)


# -- perspective -----------------------------------------------------------------------------------------------------


def corners_of(size, inward: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """torchvision's startpoints [4, 2] and endpoints [B, 4, 2]: upper left, upper right, lower right, lower left."""
    bottom, right = size[0] - 1, size[1] - 1
    start = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], float)
    columns = [[inward[f"{corner}_x"], inward[f"{corner}_y"]] for corner in geometry.CORNERS]
    return start, start + np.array(list(geometry.CORNERS.values())) * -np.moveaxis(np.array(columns), 2, 0)


def coefficients_of(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """torchvision's `_get_perspective_coeffs`: eight linear equations, the last entry 1."""
    equations, values = [], []
    for (u, v), (x, y) in zip(start, end, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(equations, values), 1).reshape(3, 3)


# Ten roundings of the terms of a corner in pixels, whose sizes add up to less than 64 times their sum: over all
# extremes of a distortion of 0.6 at most 40 times, at 20 pixels.
BENT = {"rtol": 0, "atol": 64 * 10 * 600 * 2.0**-52}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 600),
    width=st.integers(2, 600),
    distortion=st.floats(0, geometry.MOST_DISTORTION),
    uniform=st.lists(UNIT, min_size=8, max_size=8),
)
def test_the_output_shows_the_corners_of_the_input_where_they_have_moved_to(height, width, distortion, uniform):
    size, operation = (height, width), geometry.perspective(distortion=distortion)
    found, inward = matrix(operation, *uniform, size=size), numbers(operation, [uniform], size)
    start, (end,) = corners_of(size, inward)
    np.testing.assert_allclose(mapped(found, end), start, **BENT)


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (33, 20)])
def test_perspective_is_that_of_torchvision(size):
    operation = geometry.perspective(distortion=0.5)
    uniform = np.random.default_rng(2).random((50, 8))
    found, inward = matrices(operation, uniform, size), numbers(operation, uniform, size)
    start, ends = corners_of(size, inward)
    # Where a picture is seen, and away from the horizon.
    inside = np.array([[0.25, 0.25], [0.5, 0.25], [0.75, 0.5], [0.5, 0.5], [0.25, 0.75]]) * (size[1], size[0])
    for one, end in zip(found, ends, strict=True):
        expected = mapped(coefficients_of(start, end), inside)
        # The condition of the eight equations: products of coordinates, up to 224 * 224.
        np.testing.assert_allclose(mapped(one, inside), expected, rtol=0, atol=224**3 * 2.0**-52)
    for axis, side in (("x", size[1]), ("y", size[0])):
        for corner in geometry.CORNERS:
            drawn = numbers(operation, evenly(1024, 8), size)[f"{corner}_{axis}"]
            # torch.randint(0, int(0.5 * (side // 2)) + 1), and as far in from the other sides.
            values, counts = np.unique(drawn, return_counts=True)
            np.testing.assert_array_equal(values, np.arange(int(0.5 * (side // 2)) + 1))
            assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (10, 224), (33, 20)])
def test_no_perspective_folds_the_picture(size):
    """Every combination of the farthest corners: convex, and nothing inside lies beyond the horizon."""
    operation = geometry.perspective(distortion=geometry.MOST_DISTORTION)
    uniform = np.array(list(itertools.product([0, 1 - 2.0**-24], repeat=8)))
    found, inward = matrices(operation, uniform, size), numbers(operation, uniform, size)
    _, ends = corners_of(size, inward)
    assert np.isfinite(found).all()
    for one, end in zip(found, ends, strict=True):
        depths = np.concatenate([end, np.ones((4, 1))], axis=1) @ one[2]
        assert (depths > 0.05).all()
        if min(size) > 1:
            side, following = np.roll(end, -1, axis=0) - end, np.roll(end, -2, axis=0) - np.roll(end, -1, axis=0)
            assert (side[:, 0] * following[:, 1] - side[:, 1] * following[:, 0] > 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (11, 7), (224, 224), (97, 333)])
def test_without_distortion_perspective_is_exactly_the_identity(size):
    found = matrix(geometry.perspective(distortion=0), *[0.9] * 8, size=size)
    np.testing.assert_array_equal(found, np.eye(3))


# -- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "binding, value",
    [
        ("rotation.degrees", "'ten'"),
        ("rotation.degrees", "-1"),
        ("rotation.degrees", "True"),
        ("rotation.degrees", "(1, 2, 3)"),
        ("rotation.degrees", "(2, 1)"),
        ("rotation.degrees", "(1, 'two')"),
        ("shift.width", "-0.1"),
        ("shift.width", "None"),
        ("shift.width", "1e9"),
        ("shift.height", "[]"),
        ("shift.height", "[1, 'two']"),
        ("shift.height", "{'a': 1}"),
        ("shear.degrees", "'ten'"),
        ("shear.axis", "'z'"),
        ("shear.axis", "1"),
        ("shear_x.factor", "'much'"),
        ("shear_y.factor", "-0.3"),
        ("translate_x.fraction", "1.5"),
        ("translate_y.fraction", "(-2, 0)"),
        ("zoom.low", "0.0"),
        ("zoom.low", "-1"),
        ("zoom.low", "1.6"),
        ("zoom.high", "'big'"),
        ("zoom.joint", "'yes'"),
        ("flip.horizontal", "1.1"),
        ("flip.vertical", "'often'"),
        ("perspective.distortion", "0.7"),
        ("perspective.distortion", "[0.1, 0.2]"),
    ],
)
def test_a_wrong_argument_is_the_users_error(binding: str, value: str, complaint):
    name, argument = binding.split(".")
    needed = {"rotation.degrees": 5, "shear.degrees": 5, "zoom.low": 0.5, "zoom.high": 1.5}
    for key, plain in needed.items():
        gin.bind_parameter(key, plain)
    gin.parse_config(f"{binding} = {value}")
    with complaint(argument, name):
        getattr(geometry, name)()


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (1.2, 0.8)])
def test_an_impossible_zoom_is_the_users_error(low: float, high: float, complaint):
    with complaint("zoom.low", str(low), str(high)):
        geometry.zoom(low=low, high=high)


# -- fit: canvases of any shape over any output ----------------------------------------------------------------------


def fitted(height: int, width: int, *, image_size, rule: str, crop: float = 1.0) -> np.ndarray:
    return geometry.fit(tf.constant([[height, width]]), image_size=image_size, rule=rule, crop=crop).numpy()[0]


SIDES = st.integers(1, 2000)
OUTPUT = st.tuples(st.integers(1, 600), st.integers(1, 600))
RULES = st.sampled_from(geometry.FITS)
# Coordinates below 2,000 times the aspect of the output, and 16 float64 operations with their share of cancellation.


def near(image_size) -> dict[str, float]:
    return {"rtol": 0, "atol": 16 * 2100 * max(image_size) / min(image_size) * 2.0**-52}


@settings(max_examples=100, deadline=None)
@given(height=SIDES, width=SIDES, image_size=OUTPUT, rule=RULES, crop=st.floats(0.1, 1))
@example(height=28, width=28, image_size=(224, 224), rule="cover", crop=0.875)
@example(height=480, width=640, image_size=(224, 160), rule="cover", crop=0.875)
def test_the_edges_of_the_output_fall_where_the_rule_says(height: int, width: int, image_size, rule: str, crop: float):
    found = fitted(height, width, image_size=image_size, rule=rule, crop=crop)
    scales = height * crop / image_size[0], width * crop / image_size[1]
    scale_y, scale_x = {
        "stretch": scales,
        "cover": (min(scales),) * 2,
        "contain": (max(scales),) * 2,
        "native": (1, 1),
    }[rule]
    centre, middle = [(width - 1) / 2, (height - 1) / 2], [(image_size[1] - 1) / 2, (image_size[0] - 1) / 2]
    np.testing.assert_allclose(found @ [*middle, 1], [*centre, 1], **near(image_size))
    for sign in (-1, 1):
        # The outer edge of the outermost pixel, half a pixel beyond its centre.
        edge = [middle[0] + sign * image_size[1] / 2, middle[1] + sign * image_size[0] / 2]
        seen = [centre[0] + sign * scale_x * image_size[1] / 2, centre[1] + sign * scale_y * image_size[0] / 2]
        np.testing.assert_allclose(found @ [*edge, 1], [*seen, 1], **near(image_size))


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, side=st.integers(1, 600), rule=RULES, crop=st.floats(0.1, 1))
def test_on_a_square_the_formula_of_the_fit_is_this_one_to_the_bit(height, width, side, rule, crop):
    short, long = min(height, width), max(height, width)
    seen_y, seen_x = {"stretch": (height, width), "cover": (short, short), "contain": (long, long)}.get(rule, (0, 0))
    scale_x, scale_y = (1, 1) if rule == "native" else (seen_x * crop / side, seen_y * crop / side)
    x, y = (width - 1) / 2 - scale_x * (side - 1) / 2, (height - 1) / 2 - scale_y * (side - 1) / 2
    found = fitted(height, width, image_size=(side, side), rule=rule, crop=crop)
    np.testing.assert_array_equal(found, [[scale_x, 0, x], [0, scale_y, y], [0, 0, 1]])


@pytest.mark.parametrize("rule", geometry.FITS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (28, 28), (96, 160), (223, 224), (299, 299)])
def test_at_equal_size_every_rule_is_exactly_the_identity(rule: str, size):
    np.testing.assert_array_equal(fitted(*size, image_size=size, rule=rule), np.eye(3))


def test_the_rules_differ_on_an_oblong():
    def corners(image_size) -> dict[str, np.ndarray]:
        return {
            rule: (fitted(100, 200, image_size=image_size, rule=rule) @ [-0.5, -0.5, 1])[:2] for rule in geometry.FITS
        }

    square, upright = corners((50, 50)), corners((50, 25))
    np.testing.assert_array_equal(square["stretch"], [-0.5, -0.5])
    np.testing.assert_array_equal(square["cover"], [49.5, -0.5])
    np.testing.assert_array_equal(square["contain"], [-0.5, -50.5])
    np.testing.assert_array_equal(square["native"], [74.5, 24.5])
    np.testing.assert_array_equal(upright["stretch"], [-0.5, -0.5])
    np.testing.assert_array_equal(upright["cover"], [74.5, -0.5])
    np.testing.assert_array_equal(upright["contain"], [-0.5, -150.5])
    np.testing.assert_array_equal(upright["native"], [87, 24.5])


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, image_size=OUTPUT, crop=st.floats(0.1, 1))
def test_cover_shows_nothing_but_the_image_and_contain_all_of_it(height, width, image_size, crop):
    ends = np.array([[-0.5, -0.5], [image_size[1] - 0.5, image_size[0] - 0.5]])
    slack = near(image_size)["atol"]
    first, last = mapped(fitted(height, width, image_size=image_size, rule="cover", crop=crop), ends)
    assert (first >= -0.5 - slack).all() and (last <= np.array([width, height]) - 0.5 + slack).all()
    first, last = mapped(fitted(height, width, image_size=image_size, rule="contain"), ends)
    assert (first <= -0.5 + slack).all() and (last >= np.array([width, height]) - 0.5 - slack).all()


def test_each_canvas_of_a_batch_has_its_own_matrix():
    sizes = [[10, 20], [30, 5], [224, 224]]
    together = geometry.fit(tf.constant(sizes), image_size=(64, 48), rule="cover", crop=0.9).numpy()
    for size, found in zip(sizes, together, strict=True):
        np.testing.assert_array_equal(found, fitted(*size, image_size=(64, 48), rule="cover", crop=0.9))
