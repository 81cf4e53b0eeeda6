"""The kernel samples each output pixel once, and alike whatever the batch or the replica."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.augment import colour, geometry
from data.augment.apply import FILLS, render
from data.augment.policy import Policy
from trainer import devices

ULP = 2.0**-24  # largest relative error of one float32 operation
PLAIN = np.eye(3, 4, dtype=np.float32)
CAPACITY = 400


def rendered(canvas, size, matrices, colours, **options) -> np.ndarray:
    arrays = (tf.constant(array) for array in (canvas, np.int32(size), np.float32(matrices), np.float32(colours)))
    return render(*arrays, **options).numpy()


def one(image: np.ndarray, matrix: np.ndarray, colour_matrix: np.ndarray = PLAIN, **options) -> np.ndarray:
    """Renders one image through a canvas with rubbish behind it."""
    canvas = np.full((1, CAPACITY * 3), 222, np.uint8)
    canvas[0, : image.size] = image.reshape(-1)
    return rendered(canvas, [image.shape[:2]], [matrix], [colour_matrix], **options)[0]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(
    image: np.ndarray, matrix: np.ndarray, colour_matrix: np.ndarray, *, image_size: int, samples: int = 1, fill: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same in float64, and how far float32 may be from it.

    A coordinate is a sum of three products and a quotient: its error is at most 5 roundings of the sum of their sizes.
    Bilinear interpolation changes by at most 255 a pixel in x and in y. Weights, their products and the sum of four
    are 8 roundings of at most 255, the mean over s*s samples s*s + 1 more; the colour matrix multiplies all that, and
    adds 5 roundings of the sum of the sizes of its terms.
    """
    matrix, colour_matrix = np.float64(np.float32(matrix)), np.float64(np.float32(colour_matrix))
    grid = (np.arange(image_size * samples) + 0.5) / samples - 0.5
    out_y, out_x = np.meshgrid(grid, grid, indexing="ij")
    point = np.stack([out_x, out_y, np.ones_like(out_x)], axis=-1)
    x, y, w = np.moveaxis(point @ matrix.T, -1, 0)
    # samples = 3 is not exact in binary: three roundings of the grid itself.
    grid_error = 0.0 if samples in (1, 2, 4) else 3 * ULP * image_size
    spread = 5 * ULP * (np.abs(point) @ np.abs(matrix).T) + grid_error * np.abs(matrix[:, :2]).sum(axis=1)
    x_error, y_error, w_error = np.moveaxis(spread, -1, 0)
    error = (x_error + y_error) / w + (np.abs(x) + np.abs(y)) / w**2 * w_error
    x, y = x / w, y / w
    height, width = image.shape[:2]
    left, top = np.floor(x), np.floor(y)
    total = np.zeros((*x.shape, 3))
    for right in (0, 1):
        for lower in (0, 1):
            column, row = left + right, top + lower
            share = np.abs(1 - right - (x - left)) * np.abs(1 - lower - (y - top))
            if fill == "constant":
                share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
            rows, columns = (np.clip(at, 0, size - 1).astype(int) for at, size in ((row, height), (column, width)))
            total += share[..., None] * image[rows, columns]

    def mean(values: np.ndarray) -> np.ndarray:
        return values.reshape(image_size, samples, image_size, samples, -1).mean(axis=(1, 3))

    colours = mean(total)
    bound = 255 * mean(error) + (8 + samples**2 + 1) * ULP * 255
    sizes = np.abs(colour_matrix[:, :3]).sum(axis=1)
    tolerance = bound * sizes + 5 * ULP * (255 * sizes + np.abs(colour_matrix[:, 3]))
    return colours @ colour_matrix[:, :3].T + colour_matrix[:, 3], tolerance


def assert_renders(image, matrix, colour_matrix=PLAIN, **options):
    expected, tolerance = reference(image, matrix, colour_matrix, **options)
    found = one(image, matrix, colour_matrix, **options)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert (np.abs(found - expected) <= tolerance).all(), np.abs(found - expected).max()


@pytest.mark.parametrize("fill", FILLS)
def test_the_identity_gives_every_pixel_exactly(fill: str):
    image = picture(13, 13)
    np.testing.assert_array_equal(one(image, np.eye(3), image_size=13, fill=fill), image)


@pytest.mark.parametrize("name", ["flip", "transpose", "shift"])
def test_whole_pixel_moves_are_exact(name: str):
    image = picture(13, 13)
    matrices = {
        "flip": [[-1, 0, 12], [0, 1, 0], [0, 0, 1]],
        "transpose": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
        "shift": [[1, 0, 3], [0, 1, -2], [0, 0, 1]],
    }
    shifted = np.zeros_like(image)
    shifted[2:, :10] = image[:11, 3:]
    expected = {"flip": image[:, ::-1], "transpose": image.transpose(1, 0, 2), "shift": shifted}[name]
    np.testing.assert_array_equal(one(image, np.array(matrices[name]), image_size=13, fill="constant"), expected)


def between(limit: float) -> st.SearchStrategy[float]:
    """Numbers that float32 holds; no subnormal ones, which XLA takes for zero."""
    return st.floats(-limit, limit, width=32, allow_subnormal=False)


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    linear=st.lists(between(3), min_size=4, max_size=4),
    offset=st.tuples(between(40), between(40)),
    tilt=st.tuples(between(1 / 32), between(1 / 32)),
    colours=st.lists(between(2), min_size=12, max_size=12),
    fill=st.sampled_from(FILLS),
    samples=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
@example(1, 1, [1.0, 0.0, 0.0, 1.0], (0.0, 0.0), (0.0, 0.0), PLAIN.reshape(-1).tolist(), "constant", 1, 0)
@example(20, 20, [-1.0, 0.0, 0.0, -1.0], (19.0, 19.0), (0.0, 0.0), PLAIN.reshape(-1).tolist(), "constant", 1, 0)
def test_any_warp_and_colour_matrix_agrees_with_float64(
    height, width, linear, offset, tilt, colours, fill, samples, seed
):
    a, b, c, d = linear
    matrix = np.array([[a, b, offset[0]], [c, d, offset[1]], [*tilt, 1]])
    colour_matrix = np.array(colours).reshape(3, 4)
    assert_renders(picture(height, width, seed), matrix, colour_matrix, image_size=7, samples=samples, fill=fill)


@pytest.mark.parametrize("samples", [2, 3])
def test_samples_are_averaged(samples: int):
    image = picture(18, 16)
    matrix = np.array([[2.2, 0.3, 1.1], [-0.2, 2.4, 2.3], [0, 0, 1]])
    assert_renders(image, matrix, image_size=7, samples=samples, fill="nearest")
    # As taking a finer picture and averaging its cells: the same points, so the same bounds twice.
    finer = matrix @ np.array([[1 / samples, 0, 0.5 / samples - 0.5], [0, 1 / samples, 0.5 / samples - 0.5], [0, 0, 1]])
    points, bound = reference(image, finer, PLAIN, image_size=7 * samples, fill="nearest")
    means = points.reshape(7, samples, 7, samples, 3).mean(axis=(1, 3))
    _, tolerance = reference(image, matrix, PLAIN, image_size=7, samples=samples, fill="nearest")
    # `finer` itself is rounded to float32 on the way, which its own bound covers.
    found = one(image, matrix, image_size=7, samples=samples)
    assert (np.abs(found - means) <= tolerance + bound.max()).all()


def test_shrinking_with_samples_at_the_pixels_is_the_mean_of_squares():
    image = picture(16, 16)
    expected = image.reshape(8, 2, 8, 2, 3).astype(np.float64).mean(axis=(1, 3))
    matrix = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    np.testing.assert_array_equal(one(image, matrix, image_size=8, samples=2), expected)


def test_the_normalisation_of_a_backbone_is_one_matrix():
    image = picture(9, 9)
    mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    found = one(image, np.eye(3), colour.normalisation(mean=mean, scale=scale), image_size=9)
    expected = (image - np.array(mean)) / np.array(scale)
    # The matrix and three operations round: 5 times the sum of sizes, (255 + 124) / 57 < 7.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * 7 * ULP)
    same = colour.normalisation(mean=127.0, scale=128.0)
    np.testing.assert_array_equal(same, colour.normalisation(mean=(127.0,) * 3, scale=(128.0,) * 3))
    assert same.dtype == np.float32 and same.shape == (3, 4)


def test_swapping_channels_is_a_matrix_too():
    image = picture(9, 9)
    swap = PLAIN[::-1].copy()
    np.testing.assert_array_equal(one(image, np.eye(3), swap, image_size=9), image[..., ::-1])


@pytest.mark.parametrize("far", [1e4, 3e9, 1e30])
@pytest.mark.parametrize("sign_x", [-1, 1])
@pytest.mark.parametrize("sign_y", [-1, 1])
def test_far_outside_is_the_nearest_corner_or_black(far: float, sign_x: int, sign_y: int):
    image = picture(5, 6)
    matrix = np.array([[1, 0, sign_x * far], [0, 1, sign_y * far], [0, 0, 1]])
    corner = image[0 if sign_y < 0 else -1, 0 if sign_x < 0 else -1]
    np.testing.assert_array_equal(one(image, matrix, image_size=4), np.broadcast_to(corner, (4, 4, 3)))
    assert not one(image, matrix, image_size=4, fill="constant").any()


@pytest.mark.parametrize("scale", [1e5, 1e12, 1e37])
def test_a_huge_scale_stays_finite(scale: float):
    image = picture(5, 6)
    matrix = np.array([[scale, 0, -scale], [0, scale, -scale], [0, 0, 1]])
    found = one(image, matrix, image_size=4)
    # Output 0 is far to the upper left, 1 on the first pixel, 2 and 3 far to the lower right.
    np.testing.assert_array_equal(found[0, 0], image[0, 0])
    np.testing.assert_array_equal(found[1, 1], image[0, 0])
    np.testing.assert_array_equal(found[3, 3], image[-1, -1])


def test_what_lies_behind_the_image_in_the_canvas_is_never_seen():
    image = picture(5, 6)
    matrix = np.array([[3.1, 0.4, -4], [-0.3, 3.3, -3], [0, 0, 1]])
    canvases = np.full((2, CAPACITY * 3), [[0], [255]], np.uint8)
    canvases[:, : image.size] = image.reshape(-1)
    for fill in FILLS:
        found = rendered(canvases, [[5, 6]] * 2, [matrix] * 2, [PLAIN] * 2, image_size=7, fill=fill)
        np.testing.assert_array_equal(found[0], found[1])


# -- the same bits ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, ...]:
    """Sixteen canvases of different sizes with drawn matrices, as the pipeline gives them."""
    random = np.random.default_rng(3)
    sizes = random.integers(5, 21, (16, 2), dtype=np.int32)
    canvases = random.integers(0, 256, (16, CAPACITY * 3), dtype=np.uint8)
    policy = Policy((geometry.rotation(degrees=25), geometry.zoom(low=0.7, high=1.3), geometry.flip()))
    drawn = policy.matrices(tf.range(16, dtype=tf.int64), seed=0, image_size=24)
    fitted = geometry.fit(tf.constant(sizes), image_size=24, rule="cover", crop=0.9) @ drawn
    colours = random.uniform(-0.02, 0.02, (16, 3, 4)).astype(np.float32)
    return canvases, sizes, tf.cast(fitted, tf.float32).numpy(), colours


def test_an_image_gets_the_same_bits_in_batches_of_one_to_sixteen(batch):
    whole = rendered(*batch, image_size=24)
    assert np.isfinite(whole).all() and len(np.unique(whole)) > 1000
    for size in range(1, 17):
        for start in {0, (16 - size) // 2, 16 - size}:
            part = np.s_[start : start + size]
            np.testing.assert_array_equal(rendered(*(array[part] for array in batch), image_size=24), whole[part])


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_an_image_gets_the_same_bits_on_any_number_of_replicas(batch, replicas: int):
    strategy = devices.set_up(f"cpu:{replicas}")
    assert strategy.num_replicas_in_sync == replicas
    share = 16 // replicas

    def part(array: np.ndarray):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[context.replica_id_in_sync_group * share :][:share])
        )

    placed = set()

    def on_replica(*shares):
        placed.add(tf.identity(shares[0]).op.device)
        return render(*shares, image_size=24)

    run = tf.function(lambda arrays: strategy.run(on_replica, args=arrays))
    results = strategy.experimental_local_results(run(tuple(part(array) for array in batch)))
    assert len(placed) == replicas
    np.testing.assert_array_equal(
        np.concatenate([result.numpy() for result in results]), rendered(*batch, image_size=24)
    )
