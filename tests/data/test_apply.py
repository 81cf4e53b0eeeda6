"""The kernel samples each output pixel once, and alike whatever the batch or the replica."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import pipeline, sources
from data.augment import colour, crops, curves, geometry
from data.augment.apply import EDGE, FILLS, INTERPOLATIONS, Rendering, as_rows, render
from data.augment.policy import Policy
from data.augment.slots import Matrix
from data.decode import Decoding
from data.order import Order
from trainer import devices

ULP = 2.0**-24  # largest relative error of one float32 operation
PLAIN = np.eye(3, 4, dtype=np.float32)
CAPACITY = 400


def rendered(canvas, sizes, matrices, arrays=(), **static) -> np.ndarray:
    columns = (tf.constant(array) for array in (canvas, np.int32(sizes), np.float32(matrices)))
    arrays = tuple(tf.constant(array, tf.float32) for array in arrays)
    return render(*columns, arrays, rendering=Rendering(**static)).numpy()


def one(image: np.ndarray, matrix: np.ndarray, **static) -> np.ndarray:
    """Renders one image through a canvas with rubbish behind it."""
    canvas = np.full((1, CAPACITY * 3), 222, np.uint8)
    canvas[0, : image.size] = image.reshape(-1)
    return rendered(canvas, [image.shape[:2]], [matrix], **static)[0]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def points_of(matrix: np.ndarray, side: int, samples: int = 1) -> tuple[np.ndarray, ...]:
    """x and y [P] that a matrix leads to, and how far float32 may be from them.

    A coordinate is a sum of three products and a quotient: its error is at most 5 roundings of the sum of their sizes.
    """
    matrix = np.float64(np.float32(matrix))
    grid = (np.arange(side * samples) + 0.5) / samples - 0.5
    out_y, out_x = np.meshgrid(grid, grid, indexing="ij")
    point = np.stack([out_x, out_y, np.ones_like(out_x)], axis=-1)
    x, y, w = np.moveaxis(point @ matrix.T, -1, 0)
    # samples = 3 is not exact in binary: three roundings of the grid itself.
    grid_error = 0.0 if samples in (1, 2, 4) else 3 * ULP * side
    spread = 5 * ULP * (np.abs(point) @ np.abs(matrix).T) + grid_error * np.abs(matrix[:, :2]).sum(axis=1)
    x_error, y_error, w_error = np.moveaxis(spread, -1, 0)
    error = (x_error + y_error) / w + (np.abs(x) + np.abs(y)) / w**2 * w_error
    return x / w, y / w, error


def folded(at: np.ndarray, length: int, fill: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a coordinate is taken from, and its distance to the nearest place where that jumps.

    Bilinear interpolation is continuous there but for `constant` at the border and `wrap` at a period's end.
    """
    last = length - 1
    if fill == "nearest":
        return np.clip(at, 0, last), np.full(at.shape, np.inf)
    if fill == "reflect":
        turned = np.mod(at + 0.5, 2 * length)
        return np.clip(np.minimum(turned, 2 * length - turned) - 0.5, 0, last), np.full(at.shape, np.inf)
    if fill == "wrap":
        period = max(last, 1)
        jump = np.abs(at - np.round(at / period) * period)
        inside = (at >= 0) & (at <= last)
        return np.clip(np.where(inside, at, np.mod(at, period)), 0, last), jump
    return np.clip(at, 0, last), np.minimum(np.abs(at), np.abs(at - last))


def reference(image: np.ndarray, matrix: np.ndarray, *, side: int, samples: int = 1, fill: str):
    """The same in float64, how far float32 may be from it, and which pixels hang on a rounding (ties).

    Bilinear interpolation changes by at most 255 a pixel in x and in y. Weights, their products and the sum of four
    are 8 roundings of at most 255, folding a coordinate 4 of its size, the mean over s*s samples s*s + 1 more.
    """
    x, y, error = points_of(matrix, side, samples)
    height, width = image.shape[:2]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    (at_x, jump_x), (at_y, jump_y) = folded(x, width, fill), folded(y, height, fill)
    error = error + 4 * ULP * (np.abs(x) + np.abs(y) + width + height)
    tie = np.minimum(jump_x, jump_y) <= error + EDGE
    left, top = np.floor(at_x), np.floor(at_y)
    total = np.zeros((*x.shape, 3))
    for right in (0, 1):
        for lower in (0, 1):
            share = np.abs(1 - right - (at_x - left)) * np.abs(1 - lower - (at_y - top))
            rows = np.clip(top + lower, 0, height - 1).astype(int)
            columns = np.clip(left + right, 0, width - 1).astype(int)
            total += share[..., None] * image[rows, columns]
    if fill == "constant":
        total = np.where(inside[..., None], total, 0.0)

    def mean(values: np.ndarray) -> np.ndarray:
        return values.reshape(side, samples, side, samples, -1).mean(axis=(1, 3))

    return mean(total), 255 * mean(error) + (8 + samples**2 + 1) * ULP * 255, mean(tie * 1.0)[..., 0] > 0


def assert_renders(image, matrix, *, side: int, samples: int = 1, fill: str):
    expected, tolerance, ties = reference(image, matrix, side=side, samples=samples, fill=fill)
    found = one(image, matrix, size=(side, side), samples=samples, fill=fill)
    assert found.dtype == np.float32 and found.shape == expected.shape
    wrong = np.abs(found - expected) > tolerance
    assert not wrong[~ties].any(), np.abs(found - expected)[~ties].max()


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
    np.testing.assert_array_equal(one(image, np.array(matrices[name]), size=(13, 13), fill="constant"), expected)


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
    fill=st.sampled_from(FILLS),
    samples=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
@example(1, 1, [1.0, 0.0, 0.0, 1.0], (0.0, 0.0), (0.0, 0.0), "constant", 1, 0)
@example(20, 20, [-1.0, 0.0, 0.0, -1.0], (19.0, 19.0), (0.0, 0.0), "constant", 1, 0)
def test_any_warp_agrees_with_float64(height, width, linear, offset, tilt, fill, samples, seed):
    a, b, c, d = linear
    matrix = np.array([[a, b, offset[0]], [c, d, offset[1]], [*tilt, 1]])
    assert_renders(picture(height, width, seed), matrix, side=7, samples=samples, fill=fill)


@settings(max_examples=60, deadline=None)
@given(
    linear=st.lists(between(2), min_size=4, max_size=4),
    offset=st.tuples(between(40), between(40)),
    fill=st.sampled_from(FILLS),
    order=st.sampled_from([0, 1]),
    seed=st.integers(0, 100),
)
def test_fills_are_those_of_scipy(linear, offset, fill, order, seed):
    image = picture(9, 12, seed)
    a, b, c, d = linear
    matrix = np.float32([[a, b, offset[0]], [c, d, offset[1]], [0, 0, 1]])
    by_row = np.float64([[d, c], [b, a]])
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                image[..., channel].astype(np.float64), by_row, np.float64(matrix[1::-1, 2]), (7, 7), None, order, fill
            )
            for channel in range(3)
        ],
        axis=-1,
    )
    found = one(image, matrix, size=(7, 7), fill=fill, interpolation=INTERPOLATIONS[order])
    x, y, error = points_of(matrix, 7)
    (at_x, jump_x), (at_y, jump_y) = folded(x, 12, fill), folded(y, 9, fill)
    tie = np.minimum(jump_x, jump_y) <= error + EDGE
    if order == 0:
        half = np.minimum(*(np.abs(at + 0.5 - np.round(at + 0.5)) for at in (at_x, at_y)))
        tie |= half <= error + 1e-4
    tolerance = 255 * (error + 4 * ULP * (np.abs(x) + np.abs(y) + 21)) + 8 * ULP * 255
    assert (np.abs(found - expected).max(axis=-1) <= tolerance)[~tie].all()


def test_bicubic_is_that_of_tensorflow_inside_the_image():
    image = picture(20, 20)
    expected = tf.image.resize(image.astype(np.float32), (40, 40), method="bicubic").numpy()
    found = one(image, np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]), size=(40, 40), interpolation="bicubic")
    inner = np.s_[4:-4, 4:-4]
    # Sixteen weights of at most 1.2, each of some 8 roundings, times 255; TensorFlow takes its weights from a table of
    # 1,024 places, which a quarter hits exactly.
    np.testing.assert_allclose(found[inner], np.clip(expected, 0, 255)[inner], rtol=0, atol=16 * 1.2 * 8 * 255 * ULP)


def test_all_interpolations_give_back_every_pixel_under_the_identity():
    image = picture(9, 12)
    for interpolation in INTERPOLATIONS:
        for fill in FILLS:
            found = one(image, np.eye(3), size=(9, 12), interpolation=interpolation, fill=fill)
            np.testing.assert_array_equal(found, image)


def test_a_constant_fills_with_its_colour():
    image = picture(5, 6)
    found = one(image, np.array([[1, 0, -2], [0, 1, 0], [0, 0, 1]]), size=(5, 8), fill="constant",
                fill_value=(7.0, 8.0, 9.0))  # fmt: skip
    np.testing.assert_array_equal(found[:, 2:], image)
    np.testing.assert_array_equal(found[:, :2], np.broadcast_to([7, 8, 9], (5, 2, 3)))


def test_the_output_need_not_be_square():
    image = picture(6, 9)
    np.testing.assert_array_equal(one(image, np.eye(3), size=(6, 9)), image)
    np.testing.assert_array_equal(one(image, np.eye(3), size=(4, 7)), image[:4, :7])


@pytest.mark.parametrize("samples", [2, 3])
def test_samples_are_averaged(samples: int):
    image = picture(18, 16)
    matrix = np.array([[2.2, 0.3, 1.1], [-0.2, 2.4, 2.3], [0, 0, 1]])
    assert_renders(image, matrix, side=7, samples=samples, fill="nearest")
    # As taking a finer picture and averaging its cells: the same points, so the same bounds twice.
    finer = matrix @ np.array([[1 / samples, 0, 0.5 / samples - 0.5], [0, 1 / samples, 0.5 / samples - 0.5], [0, 0, 1]])
    points, bound, _ = reference(image, finer, side=7 * samples, fill="nearest")
    means = points.reshape(7, samples, 7, samples, 3).mean(axis=(1, 3))
    _, tolerance, _ = reference(image, matrix, side=7, samples=samples, fill="nearest")
    # `finer` itself is rounded to float32 on the way, which its own bound covers.
    found = one(image, matrix, size=(7, 7), samples=samples)
    assert (np.abs(found - means) <= tolerance + bound.max()).all()


def test_shrinking_with_samples_at_the_pixels_is_the_mean_of_squares():
    image = picture(16, 16)
    expected = image.reshape(8, 2, 8, 2, 3).astype(np.float64).mean(axis=(1, 3))
    matrix = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    np.testing.assert_array_equal(one(image, matrix, size=(8, 8), samples=2), expected)


def test_the_normalisation_of_a_backbone_is_one_matrix():
    image = picture(9, 9)
    mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    found = one(image, np.eye(3), size=(9, 9), colour=as_rows(colour.normalisation(mean=mean, scale=scale)))
    expected = (image - np.array(mean)) / np.array(scale)
    # The matrix and three operations round: 5 times the sum of sizes, (255 + 124) / 57 < 7.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * 7 * ULP)
    same = colour.normalisation(mean=127.0, scale=128.0)
    np.testing.assert_array_equal(same, colour.normalisation(mean=(127.0,) * 3, scale=(128.0,) * 3))
    assert same.dtype == np.float32 and same.shape == (3, 4)


def test_swapping_channels_is_a_matrix_too():
    image = picture(9, 9)
    swap = PLAIN[::-1].copy()
    np.testing.assert_array_equal(one(image, np.eye(3), size=(9, 9), colour=as_rows(swap)), image[..., ::-1])


@pytest.mark.parametrize("far", [1e4, 3e9, 1e30])
@pytest.mark.parametrize("sign_x", [-1, 1])
@pytest.mark.parametrize("sign_y", [-1, 1])
def test_far_outside_is_the_nearest_corner_or_black(far: float, sign_x: int, sign_y: int):
    image = picture(5, 6)
    matrix = np.array([[1, 0, sign_x * far], [0, 1, sign_y * far], [0, 0, 1]])
    corner = image[0 if sign_y < 0 else -1, 0 if sign_x < 0 else -1]
    np.testing.assert_array_equal(one(image, matrix, size=(4, 4)), np.broadcast_to(corner, (4, 4, 3)))
    assert not one(image, matrix, size=(4, 4), fill="constant").any()


@pytest.mark.parametrize("scale", [1e5, 1e12, 1e37])
def test_a_huge_scale_stays_finite(scale: float):
    image = picture(5, 6)
    matrix = np.array([[scale, 0, -scale], [0, scale, -scale], [0, 0, 1]])
    found = one(image, matrix, size=(4, 4))
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
        found = rendered(canvases, [[5, 6]] * 2, [matrix] * 2, size=(7, 7), fill=fill)
        np.testing.assert_array_equal(found[0], found[1])


# -- the same bits ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, ...]:
    """Sixteen canvases of different sizes with drawn matrices, as the pipeline gives them."""
    random = np.random.default_rng(3)
    sizes = random.integers(5, 21, (16, 2), dtype=np.int32)
    canvases = random.integers(0, 256, (16, CAPACITY * 3), dtype=np.uint8)
    policy = Policy((geometry.rotation(degrees=25), geometry.zoom(low=0.7, high=1.3), geometry.flip()))
    drawn = policy.draw(tf.range(16, dtype=tf.int64), seed=0, size=(24, 20)).geometry
    fitted = geometry.fit(tf.constant(sizes), image_size=(24, 20), rule="cover", crop=0.9) @ drawn
    return canvases, sizes, tf.cast(fitted, tf.float32).numpy()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_gets_the_same_bits_in_batches_of_one_to_sixteen(batch, interpolation: str):
    static = {"size": (24, 20), "interpolation": interpolation, "colour": as_rows(PLAIN / 128)}
    whole = rendered(*batch, **static)
    assert np.isfinite(whole).all() and len(np.unique(whole)) > 200
    for size in (1, 2, 3, 5, 8, 13) if interpolation == "bilinear" else (1, 3, 8):
        for start in {0, (16 - size) // 2, 16 - size}:
            part = np.s_[start : start + size]
            np.testing.assert_array_equal(rendered(*(array[part] for array in batch), **static), whole[part])


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
        return render(*shares, rendering=Rendering(size=(24, 20)))

    run = tf.function(lambda arrays: strategy.run(on_replica, args=arrays))
    results = strategy.experimental_local_results(run(tuple(part(array) for array in batch)))
    assert len(placed) == replicas
    np.testing.assert_array_equal(
        np.concatenate([result.numpy() for result in results]), rendered(*batch, size=(24, 20))
    )


# -- the program -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    matrices=st.lists(st.lists(between(2), min_size=12, max_size=12), min_size=1, max_size=3),
    clips=st.lists(st.booleans(), min_size=3, max_size=3),
    seed=st.integers(0, 100),
)
def test_matrices_act_one_after_the_other_and_clip_where_they_should(matrices, clips, seed):
    image = picture(4, 5, seed)
    steps = [(np.reshape(np.float32(entries), (3, 4)), clip) for entries, clip in zip(matrices, clips, strict=False)]
    program = tuple(Matrix(clip=clip) for _, clip in steps)
    found = one(image, np.eye(3), size=(4, 5), program=program, arrays=[matrix[None] for matrix, _ in steps])
    expected, bound = image.astype(np.float64), 0.0
    for matrix, clip in steps:
        sizes = np.abs(np.float64(matrix[:, :3])).sum(axis=1).max()
        # Merged or not, at most ten roundings of the sum of the sizes of what is added up.
        largest = np.abs(expected).max() * sizes + np.abs(matrix[:, 3]).max()
        bound = bound * max(sizes, 1) + 10 * ULP * largest * max(sizes, 1)
        expected = expected @ np.float64(matrix[:, :3]).T + matrix[:, 3]
        expected = np.clip(expected, 0, 255) if clip else expected
    assert np.abs(found - expected).max() <= bound


def test_what_changes_nothing_changes_no_bit():
    images = np.random.default_rng(0).uniform(0, 255, (2, 9, 12, 3)).astype(np.float32)
    for slot in (Matrix(), Matrix(clip=False)):
        array = tf.constant(np.stack([slot.identity((9, 12))] * 2), tf.float32)
        np.testing.assert_array_equal(slot.apply(tf.constant(images), array), images)


# -- one warp --------------------------------------------------------------------------------------------------------

EVERY_GEOMETRY = (
    crops.random_resized_crop(),
    crops.random_crop(padding=2),
    crops.centre_crop(),
    geometry.rotation(degrees=30),
    geometry.shift(width=0.2, height=0.1),
    geometry.shear(degrees=10),
    geometry.shear_x(factor=0.3),
    geometry.shear_y(factor=0.3),
    geometry.translate_x(fraction=0.2),
    geometry.translate_y(fraction=0.2),
    geometry.zoom(low=0.8, high=1.3),
    geometry.flip(),
    geometry.quarter_turn(),
    geometry.perspective(distortion=0.3),
)
COLOURS = (colour.brightness(), curves.gamma())


def reads_of_canvases(operations: tuple, *, interpolation: str = "bilinear") -> int:
    """From the table to the network's pixels: nodes of the traced graph that pick levels of images by an index."""
    chosen = Policy(operations)
    rendering = Rendering(size=(8, 8), program=chosen.program, interpolation=interpolation)
    examples = sources.synthetic(examples=6, classes=2, height=9, width=11)
    order = Order.of(examples, factors=examples.repeats, seed=0)
    view = pipeline.View(image_size=(8, 8), fit="cover", crop=0.9, decoding=Decoding(9), capacity=99)

    def images():
        batches = pipeline.train_batches(examples, order=order, start=0, batch=4, seed=0, policy=chosen, view=view)
        return rendering.images(next(iter(batches)))

    functions = tf.function(images, autograph=False).get_concrete_function().graph.as_graph_def().library.function
    nodes = [node for function in functions for node in function.node_def]
    assert not [node.op for node in nodes if "Resize" in node.op or "Transform" in node.op]
    kinds = {"GatherV2": "Tparams", "GatherNd": "Tparams", "ResourceGather": "dtype", "StridedSlice": "T"}
    return sum(node.attr[kinds[node.op]].type == tf.uint8.as_datatype_enum for node in nodes if node.op in kinds)


@pytest.mark.parametrize("operations", [(), EVERY_GEOMETRY, EVERY_GEOMETRY + COLOURS], ids=["none", "all", "colours"])
def test_a_policy_of_any_geometric_operations_is_one_warp(operations):
    """A canvas is taken from the table, then four taps of one bilinear resampling are read from it."""
    assert reads_of_canvases(operations) == 1 + 4


@pytest.mark.parametrize(("interpolation", "taps"), [("nearest", 1), ("bicubic", 16)])
def test_another_interpolation_is_one_of_more_or_fewer_taps(interpolation: str, taps: int):
    assert reads_of_canvases(EVERY_GEOMETRY, interpolation=interpolation) == 1 + taps
