"""`ImageDataGenerator` does what Keras' class does, on arrays and from files.

A tie is a point where the smallest error of a coordinate or a value decides between two answers that are far apart:
with order 0 a point half way between pixels; with `constant` and `wrap` a point on the border of the image, within
EDGE; with brightness a value just below a whole level, within TIE. Parity is claimed away from ties, and they are few.
"""

import os
import warnings
from pathlib import Path

import gin
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator as Keras
from PIL import Image

from data.augment.apply import EDGE, FILLS
from data.augment.imagedatagenerator import ImageDataGenerator
from data.augment.imagedatagenerator_flow import InMemory
from data.augment.imagedatagenerator_slots import TIE
from data.augment.policy import Policy, policy
from data.errors import UserError
from trainer import session  # noqa: F401  registers what recipes name
from trainer.launch import parse_gin

# Most images are not square, and have one shape: programs that are compiled for it serve many tests.
HEIGHT, WIDTH = 13, 19
CVAL = 30.5
# The entries of the matrix, the products and the sums are float32: a coordinate, of terms that add up to at most 100
# pixels in size, is wrong by at most 4 * 2**-24 of that. Interpolated noise of 0..255 changes by at most 255 a pixel in
# x and in y.
COORDINATE = 4 * 2.0**-24 * 100
PIXEL = 2 * 255 * COORDINATE

ALONE = {
    "theta": 33.0,
    "tx": 3.25,
    "ty": -4.5,
    "shear": 18.0,
    "zx": 0.7,
    "zy": 1.4,
    "flip_horizontal": True,
    "flip_vertical": True,
    "channel_shift_intensity": 41.5,
    "brightness": 1.3,
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def picture(kind: str, *, channels: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Levels, or floats of another range."""
    noise = np.random.default_rng(seed).uniform(0, 256, (height, width, channels))
    return np.float32(np.floor(noise)) if kind == "levels" else np.float32(noise * 3 - 200)


def coordinates(drawn: dict, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where Keras' `apply_affine_transform` takes each pixel from: rows and columns, before anything is filled."""
    theta, shear = np.deg2rad(drawn.get("theta", 0)), np.deg2rad(drawn.get("shear", 0))
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, drawn.get("tx", 0)], [0, 1, drawn.get("ty", 0)], [0, 0, 1]])
    sheared = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([drawn.get("zx", 1), drawn.get("zy", 1), 1])
    centre = np.array([[1, 0, height / 2 - 0.5], [0, 1, width / 2 - 0.5], [0, 0, 1]])
    matrix = centre @ rotation @ shift @ sheared @ zoom @ np.linalg.inv(centre)
    y, x = np.mgrid[:height, :width]
    y = height - 1 - y if drawn.get("flip_vertical") else y
    x = width - 1 - x if drawn.get("flip_horizontal") else x
    column, row, _ = np.moveaxis(np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T, -1, 0)
    return row, column


def near(values: np.ndarray, step: float, start: float, within: float) -> np.ndarray:
    """Which values are close to start + a multiple of step."""
    return np.abs((values - start + step / 2) % step - step / 2) <= within


def is_tie(drawn: dict, *, fill: str, order: int, height: int, width: int) -> np.ndarray:
    """[H, W] bool: ties of the geometry."""
    ties = np.zeros((height, width), bool)
    for at, side in zip(coordinates(drawn, height, width), (height, width), strict=True):
        if fill in ("constant", "wrap"):
            period = side - 1 if fill == "wrap" else 1e9
            border = near(at, period, 0, EDGE + COORDINATE) | near(at, period, side - 1, EDGE + COORDINATE)
            # A border that stays in its place is within the image for both.
            ties |= border & (at != 0) & (at != side - 1)
        if order == 0:
            ties |= near(at, 1, 0.5, COORDINATE)
    return ties


def assert_as_keras(image: np.ndarray, drawn: dict, **options) -> tuple[int, int]:
    """Returns how many pixels were ties, and how many there were."""
    keras, own = Keras(**options), ImageDataGenerator(**options)
    allowed = PIXEL * max(1.0, np.ptp(image) / 255) * (4 if options.get("interpolation_order", 1) > 1 else 1) + 1e-3
    moved = drawn | {"brightness": None, "channel_shift_intensity": None}
    ends = [(warped.min(), warped.max()) for warped in (one.apply_transform(image, moved) for one in (keras, own))]
    if not np.allclose(*ends, rtol=0, atol=allowed):
        # A tie is the least or the largest number, which decides over the colours of the whole image.
        drawn = moved
    found, expected = own.apply_transform(image, drawn), keras.apply_transform(image, drawn)
    height, width, _ = image.shape
    fill, order = options.get("fill_mode", "nearest"), options.get("interpolation_order", 1)
    ties = is_tie(drawn, fill=fill, order=order, height=height, width=width)
    ties = np.repeat(ties[..., None], image.shape[2], axis=2)
    if drawn.get("brightness") is not None:
        level = keras.apply_transform(image, drawn | {"brightness": None})
        if level.min() < 0 or level.max() > 255:
            level = (level - level.min()) / np.ptp(level) * 255
        # Whole levels, which flat areas have, are none: that is what TIE is for.
        ties |= near(level, 1, -TIE / 2, TIE / 2 + PIXEL) & (level != np.round(level))
    wrong = np.abs(found - expected) > allowed
    assert found.shape == expected.shape
    assert not (wrong & ~ties).any(), f"{drawn} {options}: {np.abs(found - expected)[~ties].max()}"
    return int(ties.sum()), ties.size


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ALONE)
def test_each_number_alone_changes_pixels_as_keras_does(name: str, fill: str):
    for kind in ("levels", "floats"):
        image = picture(kind, channels=3, seed=1)
        ties, total = assert_as_keras(image, {name: ALONE[name]}, fill_mode=fill, cval=CVAL)
        assert ties < 0.03 * total
        found = ImageDataGenerator(fill_mode=fill, cval=CVAL).apply_transform(image, {name: ALONE[name]})
        assert not np.array_equal(found, image)


def combination(rng: np.random.Generator) -> dict:
    ranges = {
        "theta": (-180, 180),
        "tx": (-9, 9),
        "ty": (-40, 9),
        "shear": (-30, 30),
        "zx": (0.5, 1.7),
        "zy": (0.5, 1.7),
        "channel_shift_intensity": (-60, 60),
        "brightness": (0.2, 1.8),
    }
    drawn = {name: rng.uniform(*ends) for name, ends in ranges.items() if rng.random() < 0.6}
    return drawn | {name: bool(rng.random() < 0.5) for name in ("flip_horizontal", "flip_vertical")}


@pytest.mark.parametrize("order", [1, 0])
@pytest.mark.parametrize("fill", FILLS)
def test_random_combinations_are_within_a_fraction_of_a_level_of_keras(fill: str, order: int):
    rng = np.random.default_rng([order, FILLS.index(fill)])
    ties = total = 0
    for index in range(24 if order else 12):
        image = picture(("levels", "floats")[index % 2], channels=3 if order else 1, seed=index)
        counts = assert_as_keras(image, combination(rng), fill_mode=fill, cval=CVAL, interpolation_order=order)
        ties, total = ties + counts[0], total + counts[1]
    assert ties < 0.03 * total


@pytest.mark.parametrize(("order", "fill"), [(2, "wrap"), (3, "reflect"), (4, "constant"), (5, "nearest")])
def test_splines_are_those_of_scipy(order: int, fill: str):
    rng = np.random.default_rng(order)
    for index in range(6):
        image = picture(("levels", "floats")[index % 2], channels=1, seed=index, height=17, width=17)
        drawn = combination(rng) | {"brightness": None}
        assert_as_keras(image, drawn, fill_mode=fill, cval=-12.0, interpolation_order=order)


def test_alpha_keeps_its_brightness():
    for seed, factor in enumerate((0.0, 0.4, 1.0, 1.9)):
        assert_as_keras(picture("levels", channels=4, seed=seed), {"brightness": factor})


SHIFTS = {
    "fractions": {"height_shift_range": 0.3, "width_shift_range": 0.2},
    "pixels": {"height_shift_range": 5.0, "width_shift_range": 2.5},
    "whole numbers": {"height_shift_range": 4, "width_shift_range": 1},
    "lists of pixels": {"height_shift_range": [1, 5, 7], "width_shift_range": [-3, 0.5]},
    "lists of fractions": {"height_shift_range": [0.1, 0.3], "width_shift_range": (0.2,)},
}


@pytest.mark.parametrize("shifts", SHIFTS)
def test_numbers_are_distributed_as_keras_draws_them(shifts: str):
    options = {
        "rotation_range": 30,
        "shear_range": 12,
        "zoom_range": 0.3 if shifts == "fractions" else [0.6, 0.9],
        "horizontal_flip": True,
        "vertical_flip": shifts == "pixels",
        "channel_shift_range": 20,
        "brightness_range": (0.4, 1.1),
        **SHIFTS[shifts],
    }
    np.random.seed(0)
    keras, size, count = Keras(**options), (50, 80), 3000
    expected = [keras.get_random_transform((*size, 3)) for _ in range(count)]
    found = ImageDataGenerator(**options).draw(np.arange(count), seed=1, size=size)
    assert set(found) == set(expected[0])
    for name, values in found.items():
        theirs = np.array([drawn[name] for drawn in expected], float)
        assert set(np.unique(values)) == set(np.unique(theirs)) or len(np.unique(theirs)) > 20
        # Ten numbers and five settings: once in 1,000 a correct one would fail, but the seeds are fixed.
        assert scipy.stats.ks_2samp(values, theirs).pvalue > 0.01, name
    assert abs(np.corrcoef(found["zx"], found["zy"])[0, 1]) < 0.06


def test_a_generator_that_changes_nothing_draws_what_keras_draws():
    assert ImageDataGenerator().get_random_transform((5, 6, 3), 1) == Keras().get_random_transform((5, 6, 3), 1)


STANDARDS = {
    "rescale": {"rescale": 1 / 255},
    "samplewise": {"samplewise_center": True, "samplewise_std_normalization": True},
    "featurewise": {"featurewise_center": True, "featurewise_std_normalization": True, "rescale": 0.5},
    "function": {"preprocessing_function": lambda image: np.sqrt(image) - image.mean(axis=(0, 1)), "rescale": 2},
    "all": {
        "preprocessing_function": lambda image: image[::-1],
        "rescale": 1 / 100,
        "samplewise_std_normalization": True,
        "featurewise_std_normalization": True,
    },
}


@pytest.mark.parametrize("name", STANDARDS)
def test_standardising_is_that_of_keras(name: str):
    images = np.stack([picture("levels", channels=3, seed=seed, height=8, width=8) for seed in range(20)])
    keras, own = Keras(**STANDARDS[name]), ImageDataGenerator(**STANDARDS[name])
    for generator in (keras, own):
        generator.fit(images)
    if keras.mean is not None:
        np.testing.assert_allclose(own.mean, keras.mean, rtol=1e-5)
        np.testing.assert_allclose(own.std, keras.std, rtol=1e-5)
    for image in images[:4]:
        # Numbers of a few units, each a handful of float32 operations on numbers of up to 255 / 70 units.
        expected = keras.standardize(image.copy())
        np.testing.assert_allclose(own.standardize(image), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(own.standardize(images[:2])[1], own.standardize(images[1]))


def test_statistics_that_are_set_take_effect_and_are_written_out_once():
    image = picture("levels", channels=3, seed=0, height=8, width=8)
    own = ImageDataGenerator(featurewise_std_normalization=True)
    for mean, std in (([1, 2, 3], 2.0), (np.full((8, 8, 3), 7.0), np.array([[[1.0, 2.0, 4.0]]]))):
        own.mean, own.std = mean, std
        np.testing.assert_allclose(own.standardize(image), (image - mean) / (np.asarray(std) + 1e-6), rtol=1e-5)
        np.testing.assert_array_equal(own.mean, np.float32(mean))
        assert own._standardise(image.shape).mean is own._standardise(image.shape).mean
        with pytest.raises(ValueError, match="read-only"):
            own.mean += 1
    own.mean = None
    np.testing.assert_allclose(own.standardize(image), image / (np.asarray(std) + 1e-6), rtol=1e-5)


def test_whitening_is_that_of_keras():
    # More images than numbers in one, so that no singular value is rounding alone.
    images = np.random.default_rng(0).uniform(0, 1, (200, 4, 4, 3)).astype(np.float32)
    keras, own = Keras(zca_whitening=True), ImageDataGenerator(zca_whitening=True)
    for generator in (keras, own):
        generator.fit(images)
    np.testing.assert_allclose(own.zca_whitening_matrix, keras.zca_whitening_matrix, atol=1e-3)
    own.zca_whitening_matrix, own.mean = keras.zca_whitening_matrix, keras.mean
    np.testing.assert_allclose(own.standardize(images[0]), keras.standardize(images[0].copy()), atol=1e-4)
    whitened = own.standardize(images).reshape(200, -1)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(48), atol=0.05)


def test_statistics_may_be_those_of_augmented_images():
    images, _ = labelled(30)
    options = {"width_shift_range": 0.5, "fill_mode": "constant", "cval": CVAL, "rescale": 2}
    own = ImageDataGenerator(featurewise_std_normalization=True, **options)
    own.fit(images, augment=True, rounds=2, seed=4)
    seen = [
        own.apply_transform(images[k % 30] * 2.0, own.get_random_transform(images.shape[1:], 4, position=k))
        for k in range(60)
    ]
    seen = np.array(seen, float)
    np.testing.assert_allclose(own.mean, np.mean(seen, axis=(0, 1, 2), keepdims=True)[0], rtol=1e-5)
    np.testing.assert_allclose(own.std, np.std(seen, axis=(0, 1, 2), keepdims=True)[0], rtol=1e-5)


def labelled(count: int, *, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, HEIGHT, WIDTH, channels), dtype=np.uint8), np.arange(count)


EVERYTHING = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": [0.1, 0.2],
    "shear_range": 10,
    "zoom_range": 0.3,
    "channel_shift_range": 30,
    "brightness_range": (0.5, 1.5),
    "horizontal_flip": True,
    "rescale": 1 / 255,
    "samplewise_std_normalization": True,
}


def test_an_example_is_the_same_bits_in_any_batch_and_what_the_single_calls_give():
    images, labels = labelled(70)
    own = ImageDataGenerator(**EVERYTHING, zca_whitening=True)
    own.fit(images)

    def epoch(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        flow = own.flow(images, labels, batch_size=batch_size, seed=1)
        batches = [next(flow) for _ in range(len(flow))]
        return tuple(np.concatenate(part) for part in zip(*batches, strict=True))

    shown, order = epoch(64)
    assert sorted(order) == list(range(70)) and list(order) != list(range(70))
    again, same_order = epoch(1)
    np.testing.assert_array_equal(same_order, order)
    np.testing.assert_array_equal(again, shown)
    for position, row in enumerate(order[:10]):
        drawn = own.get_random_transform(images[row].shape, 1, position=position)
        expected = own.standardize(own.apply_transform(images[row], drawn))
        # 741 products with numbers of a few units.
        np.testing.assert_allclose(shown[position], expected, atol=1e-4)


def test_a_flow_is_endless_and_every_epoch_shows_each_example_once_in_another_order():
    images, labels = labelled(20)
    flow = ImageDataGenerator().flow(images, labels, batch_size=8, seed=0)
    assert (len(flow), flow.n, flow.samples, flow.batch_size, flow.image_shape) == (3, 20, 20, 8, (HEIGHT, WIDTH, 3))
    epochs = [[next(flow) for _ in range(3)] for _ in range(2)]
    orders = [np.concatenate([labels for _, labels in epoch]) for epoch in epochs]
    assert [len(part) for part, _ in epochs[0]] == [8, 8, 4]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20)) and list(orders[0]) != list(orders[1])
    for epoch in epochs:
        for shown, order in epoch:
            np.testing.assert_array_equal(shown, images[order])
    flow.reset()
    np.testing.assert_array_equal(next(flow)[1], orders[0][:8])
    for (shown, order), (expected, rows) in zip(flow.dataset.take(3), epochs[0], strict=True):
        np.testing.assert_array_equal(shown, expected)
        np.testing.assert_array_equal(order, rows)


def test_a_flow_is_a_dataset_of_keras_with_random_access():
    images, labels = labelled(20)
    flow = ImageDataGenerator(horizontal_flip=True).flow(images, labels % 2, batch_size=8, seed=0)
    alone = [flow[index] for index in (2, 0, 1)]
    in_order = [next(flow) for _ in range(3)]
    for index, batch in zip((2, 0, 1), alone, strict=True):
        for mine, theirs in zip(batch, in_order[index], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    flow.reset()
    flow.on_epoch_end()
    second = [flow[index] for index in range(3)]
    assert not np.array_equal(second[0][0], in_order[0][0])
    for batch in second:
        np.testing.assert_array_equal(next(flow)[0], batch[0])
    with pytest.raises(IndexError, match="batch 3"):
        flow[3]

    model = tf.keras.Sequential(
        [tf.keras.layers.Rescaling(1 / 255), tf.keras.layers.Flatten(), tf.keras.layers.Dense(2)]
    )
    model.compile(loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    flow.reset()
    losses = model.fit(flow, epochs=2, verbose=0).history["loss"]
    losses += model.fit(flow.dataset, steps_per_epoch=len(flow), epochs=2, verbose=0).history["loss"]
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert not np.array_equal(flow[0][0], in_order[0][0])
    ordered = ImageDataGenerator().flow(images, batch_size=8, shuffle=False)
    np.testing.assert_allclose(model.predict(ordered, verbose=0), model(images.astype(np.float32)), atol=1e-5)


def test_other_inputs_labels_and_weights_go_with_their_images_and_are_no_part_of_a_graph():
    images, rows = labelled(20)
    labels = np.random.default_rng(0).normal(size=(20, 5000))
    flow = ImageDataGenerator().flow((images, labels * 2), labels, sample_weight=rows / 4, batch_size=8, seed=0)
    (shown, other), label, weight = next(flow)
    order = (weight * 4).astype(int)
    for mine, expected in ((shown, images), (label, labels), (other, labels * 2)):
        np.testing.assert_array_equal(mine, expected[order])
    dataset = flow.dataset
    sizes = [function.function.graph.as_graph_def().ByteSize() for function in dataset._functions()]
    assert sizes and sum(sizes) < 20_000 < labels.nbytes
    (again, other_again), label_again, weight_again = next(iter(dataset))
    for mine, theirs in ((again, shown), (other_again, other), (label_again, label), (weight_again, weight)):
        np.testing.assert_array_equal(mine, theirs)


def test_without_a_seed_numpys_global_seed_decides():
    images, labels = labelled(20)
    orders = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        orders.append(next(ImageDataGenerator().flow(images, labels, batch_size=8))[1].tolist())
    assert orders[0] == orders[1] != orders[2]


def test_the_validation_part_of_arrays_comes_first():
    images, labels = labelled(20)
    own, keras = ImageDataGenerator(validation_split=0.4), Keras(validation_split=0.4)
    for subset in ("training", "validation"):
        options = {"subset": subset, "shuffle": False, "ignore_class_split": True, "batch_size": 8}
        expected, found = (generator.flow(images, labels, **options) for generator in (keras, own))
        assert len(found) == len(expected)
        for index in range(len(expected)):
            for mine, theirs in zip(found[index], expected[index], strict=True):
                np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UserError, match="subset"):
        own.flow(images, labels, subset="validation")


GEOMETRY = {"rotation_range": 30, "zoom_range": 0.3, "width_shift_range": 0.3, "horizontal_flip": True}


def test_two_generators_with_one_seed_keep_images_and_masks_together():
    images, _ = labelled(10, channels=1)
    # The masks' generator has no colour to draw, and batches of another size: their numbers are the same all the same.
    pictures = ImageDataGenerator(**GEOMETRY, interpolation_order=0, channel_shift_range=0.001)
    masks = ImageDataGenerator(**GEOMETRY, interpolation_order=0)
    one, two = pictures.flow(images, batch_size=10, seed=8), masks.flow(images, batch_size=5, seed=8)
    for _ in range(2):
        image = next(one)
        np.testing.assert_allclose(np.concatenate([next(two), next(two)]), image, atol=0.0011)
    assert not np.array_equal(image.round(), images)


def test_masks_share_the_geometry_of_their_images_and_nothing_else():
    images, labels = labelled(10, channels=1)
    own = ImageDataGenerator(**GEOMETRY, interpolation_order=0, channel_shift_range=0.4)
    masks = images.astype(np.int32) * 1000
    shown, mask = next(own.flow(images, masks=masks, seed=3))
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, np.round(shown).astype(np.int32) * 1000)
    assert not np.array_equal(shown, np.round(shown))
    again, (label, same) = next(own.flow(images, labels, masks=masks, seed=3))
    np.testing.assert_array_equal(again, shown)
    np.testing.assert_array_equal(same, mask)
    assert sorted(label) == list(range(10))


def test_a_users_function_gets_one_image_at_a_time_between_augmentation_and_rescaling():
    images, _ = labelled(8)
    shapes = []

    def halved(image: np.ndarray) -> np.ndarray:
        shapes.append((image.shape, image.dtype))
        image /= 2
        return image.astype(np.float64)

    flow = ImageDataGenerator(preprocessing_function=halved, rescale=4).flow(images, shuffle=False)
    np.testing.assert_allclose(next(flow), images * 2.0, rtol=1e-6)
    assert shapes == [((HEIGHT, WIDTH, 3), np.float32)] * 8

    def broken(image: np.ndarray) -> np.ndarray:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        next(ImageDataGenerator(preprocessing_function=broken).flow(images))
    with pytest.raises(UserError, match="preprocessing_function made"):
        next(ImageDataGenerator(preprocessing_function=lambda image: image[:3]).flow(images))


def test_saved_images_lie_in_the_folder_and_only_there(tmp_path: Path):
    images, _ = labelled(20)
    own = ImageDataGenerator(preprocessing_function=lambda image: image / 255)
    flow = own.flow(images, batch_size=8, shuffle=False, save_to_dir=tmp_path, save_prefix="seen", save_format="png")
    for _ in range(3):
        next(flow)
    assert sorted(os.listdir(tmp_path)) == sorted(f"seen_{row}_{row}.png" for row in range(20))
    saved = np.asarray(Image.open(tmp_path / "seen_3_3.png"), float)
    # Least and largest level are stretched to 0 and 255, then cut to whole levels.
    stretched = (images[3] - images[3].min().astype(float)) / np.ptp(images[3]) * 255
    assert np.abs(saved - stretched).max() <= 1
    for wrong in ({"save_prefix": "../seen"}, {"save_format": "png/../../x"}, {"save_to_dir": tmp_path / "missing"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            own.flow(images, **{"save_to_dir": tmp_path, **wrong})


# Pillow resizes, so that pixels are those of Keras, and all batches but the last of an epoch have one shape.
AS_KERAS = {"target_size": (12, 15), "batch_size": 4, "shuffle": False, "interpolation": "box"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes, files of several kinds, in folders below the classes too, and some that are no images."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("beta", "Alpha", "gamma10")):
        for index in range(5 + label):
            folder = tmp_path / "photos" / name / ("" if index % 3 else "inner")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (14 + index, 19 - index, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"img{index}{('.png', '.JPG', '.bmp')[index % 3]}")
        (tmp_path / "photos" / name / "notes.txt").write_text("none")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_mode": "sparse", "subset": "training"},
        {"class_mode": "binary", "subset": "validation", "classes": ["gamma10", "beta"]},
        {"class_mode": None, "color_mode": "grayscale"},
        {"class_mode": "input", "color_mode": "rgba"},
    ],
    ids=str,
)
def test_directories_are_listed_as_keras_lists_them(tree: Path, options: dict):
    common = AS_KERAS | options
    expected = Keras(validation_split=0.4).flow_from_directory(str(tree), **common)
    found = ImageDataGenerator(validation_split=0.4).flow_from_directory(str(tree), **common)
    for name in ("n", "samples", "class_indices", "num_classes", "filenames", "filepaths", "image_shape", "batch_size"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.target_size == expected.target_size and found.class_mode == expected.class_mode
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert len(found) == len(expected)
    assert_same_batches(found, expected)


def test_files_in_one_warp_come_in_the_batches_of_keras(tree: Path):
    common = AS_KERAS | {"interpolation": "nearest"}
    found, expected = (generator().flow_from_directory(tree, **common) for generator in (ImageDataGenerator, Keras))
    assert_same_batches(found, expected, pixels=False)


def assert_same_batches(found, expected, *, pixels: bool = True):
    """Same shapes and types in every batch of an epoch, and the same numbers, those of the images if `pixels`."""
    for index in range(len(expected)):
        one, other = found[index], expected[index]
        assert type(one) is type(other)
        one, other = (batch if isinstance(batch, tuple) else (batch,) for batch in (one, other))
        assert len(one) == len(other) and one[0].shape == other[0].shape and one[0].dtype == other[0].dtype
        if pixels:
            np.testing.assert_array_equal(one[0], other[0])
        for mine, theirs in zip(one[1:], other[1:], strict=True):
            assert isinstance(mine, list) == isinstance(theirs, list)
            for one_of_mine, one_of_theirs in zip(
                *([x] if not isinstance(x, list) else x for x in (mine, theirs)), strict=True
            ):
                assert isinstance(one_of_mine, np.ndarray) and one_of_mine.dtype == np.asarray(one_of_theirs).dtype
                np.testing.assert_array_equal(one_of_mine, one_of_theirs)


def frame_of(tree: Path) -> pd.DataFrame:
    names = sorted(os.path.relpath(path, tree) for path in tree.rglob("*.*"))
    return pd.DataFrame(
        {
            "filename": names,
            "class": [name.split("/")[0] for name in names],
            "several": [[name.split("/")[0], "photo"] if index % 2 else ["photo"] for index, name in enumerate(names)],
            "x": np.arange(len(names)) / 2,
            "y": np.arange(len(names)),
            "weight": np.linspace(0, 1, len(names)),
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_mode": "sparse", "classes": ["gamma10", "beta"], "weight_col": "weight"},
        {"class_mode": "binary", "classes": ["gamma10", "beta"], "subset": "validation"},
        {"y_col": "several", "subset": "training"},
        {"class_mode": "raw", "y_col": ["x", "y"], "weight_col": "weight"},
        {"class_mode": "raw", "y_col": "class"},
        {"class_mode": "multi_output", "y_col": ["x", "y"]},
        {"class_mode": None, "weight_col": "weight"},
    ],
    ids=str,
)
def test_tables_are_read_as_keras_reads_them(tree: Path, options: dict):
    common = AS_KERAS | options
    expected = Keras(validation_split=0.4).flow_from_dataframe(frame_of(tree), str(tree), **common)
    found = ImageDataGenerator(validation_split=0.4).flow_from_dataframe(frame_of(tree), str(tree), **common)
    assert (found.n, found.filenames, found.filepaths) == (expected.n, expected.filenames, expected.filepaths)
    assert found.class_indices == getattr(expected, "class_indices", {})
    assert_same_batches(found, expected)
    if hasattr(expected, "classes"):
        assert list(found.classes) == list(expected.classes)
        assert list(found.labels) == list(expected.labels)


@pytest.mark.parametrize(
    ("interpolation", "color_mode", "keep"),
    [("lanczos", "rgb", False), ("nearest", "rgba", False), ("box", "grayscale", True), ("bicubic", "rgb", True)],
)
def test_files_that_pillow_resizes_give_the_pixels_of_keras(
    tree: Path, interpolation: str, color_mode: str, keep: bool
):
    options = {"interpolation": interpolation, "color_mode": color_mode, "keep_aspect_ratio": keep}
    found, expected = (
        generator().flow_from_directory(str(tree), **(AS_KERAS | options)) for generator in (ImageDataGenerator, Keras)
    )
    assert_same_batches(found, expected)


TARGET, SIZES = (24, 32), [(24, 32), (37, 40), (16, 50), (45, 33)]


@pytest.mark.parametrize("fill", ["nearest", "wrap", "constant"])
def test_files_are_sampled_once_from_their_own_pixels(tmp_path: Path, fill: str):
    """Against a float64 reference: the point that Keras' matrix leads to, in the image as it would be at target size,
    laid over the file, held or wrapped in it, and bilinear there; `constant` from half a pixel outside on, so that
    small files have no rim."""
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    height, width = TARGET
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SIZES]
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{index}.png")
    own = ImageDataGenerator(**GEOMETRY, height_shift_range=0.2, fill_mode=fill, cval=CVAL)
    # Coordinates of a file are at most 50 / 16 times as far apart.
    filled, outer = 0, 4 * COORDINATE
    shown = own.flow_from_directory(tmp_path, (height, width), class_mode=None, shuffle=False, seed=6)[0]
    for position, pixels in enumerate(pictures):
        drawn = own.get_random_transform((height, width), 6, position=position)
        places = zip(coordinates(drawn, height, width), pixels.shape, (height, width), strict=False)
        at, outside, ties = [], np.zeros((height, width), bool), np.zeros((height, width), bool)
        for place, side, target in places:
            there = (place + 0.5) * side / target - 0.5
            beyond = (there < -0.5) | (there > side - 0.5)
            outside |= beyond
            if fill == "constant":
                ties |= near(there, side, -0.5, outer)
            if fill == "wrap":
                # What is within half a pixel of the file is in it, beyond its last pixel comes the second again.
                ties |= near(there, side, -0.5, outer) | near(there, side - 1, 0, outer)
                there = np.where(beyond, there % (side - 1), there)
            at.append(np.clip(there, 0, side - 1))
        filled += outside.sum()
        low = [np.minimum(np.floor(there), side - 2).astype(int) for there, side in zip(at, pixels.shape, strict=False)]
        y, x = ((there - first)[..., None] for there, first in zip(at, low, strict=True))
        row, column = low
        upper = pixels[row, column] * (1 - x) + pixels[row, column + 1] * x
        lower = pixels[row + 1, column] * (1 - x) + pixels[row + 1, column + 1] * x
        expected = upper * (1 - y) + lower * y
        if fill == "constant":
            expected[outside] = CVAL
        assert ties.mean() < 0.03
        np.testing.assert_allclose(shown[position][~ties], expected[~ties], atol=4 * PIXEL)
    assert filled > 100


def test_smooth_files_differ_little_from_the_two_resamplings_of_keras(tmp_path: Path):
    (tmp_path / "a").mkdir()
    for index, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width] / np.reshape((height, width), (2, 1, 1)) * 2
        levels = 127 + 60 * np.sin(x)[..., None] * np.cos(y[..., None] + np.arange(3))
        Image.fromarray(np.uint8(levels)).save(tmp_path / "a" / f"{index}.png")
    options = {"class_mode": None, "target_size": TARGET, "interpolation": "bilinear", "shuffle": False}
    own, keras = ImageDataGenerator(rotation_range=20, zoom_range=0.2), Keras()
    found = own.flow_from_directory(tmp_path, seed=1, **options)[0]
    resized = keras.flow_from_directory(str(tmp_path), **options)[0]
    for position in range(len(SIZES)):
        drawn = own.get_random_transform(TARGET, 1, position=position)
        apart = np.abs(found[position] - keras.apply_transform(resized[position], drawn))
        # Levels change by at most 5 a target pixel; whole levels before the second resampling are 1 apart.
        assert apart.max() < 3 and apart.mean() < 0.6


def test_links_and_names_that_lead_out_are_refused(tree: Path, tmp_path: Path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    frame = pd.DataFrame({"filename": ["../secret.png"], "class": ["a"]})
    own = ImageDataGenerator()
    for name in ("../secret.png", str(outside), "beta/../../secret.png", "beta/im\0g1.JPG"):
        with pytest.raises(UserError, match="leads out"):
            own.flow_from_dataframe(frame.assign(filename=[name]), tree, class_mode=None)
    with pytest.raises(UserError, match="leads out"):
        own.flow_from_dataframe(frame, class_mode=None)
    assert own.flow_from_dataframe(frame.assign(filename=[str(outside)]), class_mode=None).n == 1
    with pytest.raises(UserError, match="classes"):
        own.flow_from_directory(tree, classes=["../photos/beta"])
    before = own.flow_from_directory(tree).n
    (tree / "beta" / "link.png").symlink_to(outside)
    with pytest.raises(UserError, match="leads out"):
        own.flow_from_directory(tree)
    assert own.flow_from_directory(tree, follow_links=True).n == before + 1
    (tree / "beta" / "round").symlink_to(tree / "beta")
    assert own.flow_from_directory(tree, follow_links=True).n == before + 1


def test_a_file_that_breaks_is_named(tree: Path):
    options = AS_KERAS | {"interpolation": "nearest"}
    first = tree / "Alpha" / "img1.JPG"
    flow = ImageDataGenerator().flow_from_directory(tree, **options)
    first.write_bytes(first.read_bytes()[:200])
    with pytest.raises(UserError, match=r"Alpha/img1\.JPG"):
        next(flow)
    with pytest.raises(UserError, match=r"Alpha/img1\.JPG"):
        next(ImageDataGenerator().flow_from_directory(tree, **options, color_mode="rgba"))
    first.write_bytes(b"text")
    with pytest.raises(UserError, match=r"Alpha/img1\.JPG"):
        ImageDataGenerator().flow_from_directory(tree, (12, 15))


@pytest.mark.parametrize(
    "options",
    [
        {"fill_mode": "mirror"},
        {"data_format": "channels_first"},
        {"validation_split": 1.0},
        {"zoom_range": (0.5, 1.0, 2.0)},
        {"zoom_range": "0.2"},
        {"brightness_range": 0.2},
        {"interpolation_order": 6},
        {"dtype": "uint8"},
        {"rotation_range": None},
        {"zoom_range": None},
        {"width_shift_range": "0.1"},
        {"height_shift_range": [[1]]},
        {"preprocessing_function": "square"},
        {"rotation_range": True},
        {"zoom_range": np.True_},
        {"rescale": "1/255"},
        {"height_shift_range": -0.1},
        {"width_shift_range": [[1], [2, 3]]},
    ],
    ids=str,
)
def test_arguments_out_of_their_range_are_the_users_errors(options: dict):
    with pytest.raises(UserError, match=next(iter(options))):
        ImageDataGenerator(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"class_mode": "several"},
        {"color_mode": "hsv"},
        {"target_size": 12},
        {"interpolation": "cubic"},
        {"subset": "test"},
        {"batch_size": 0},
        {"classes": ["delta"]},
    ],
    ids=str,
)
def test_arguments_of_a_flow_are_checked_before_it_starts(tree: Path, options: dict):
    with pytest.raises(UserError, match=next(iter(options))):
        ImageDataGenerator().flow_from_directory(tree, **options)


FEW = np.zeros((4, 8, 8, 3), np.float32)


def standardised_with(**statistics) -> np.ndarray:
    own = ImageDataGenerator(featurewise_std_normalization="std" in statistics, featurewise_center=True)
    own.zca_whitening = "zca_whitening_matrix" in statistics
    for name, value in statistics.items():
        setattr(own, name, value)
    return own.standardize(FEW[0])


CALLS = {
    "rounds": lambda own, folder: own.fit(FEW, augment=True, rounds=0),
    "0 images": lambda own, folder: own.fit(FEW[:0]),
    "192 numbers": lambda own, folder: ImageDataGenerator(zca_whitening=True).fit([*FEW, FEW[0] + np.nan]),
    "seed": lambda own, folder: own.fit(FEW, augment=True, seed="1"),
    "y = ()": lambda own, folder: own.flow(FEW, 5),
    "masks = ()": lambda own, folder: own.flow(FEW, masks=5),
    "masks = .<U1": lambda own, folder: own.flow(FEW, masks=list("abcd")),
    "y = 'rows": lambda own, folder: own.flow(FEW, [[1], [2, 3], [4], [5]]),
    "save_format": lambda own, folder: own.flow(FEW, save_to_dir=folder, save_format="psd"),
    "save_prefix": lambda own, folder: own.flow(FEW, save_to_dir=folder, save_prefix=3),
    "save_to_dir": lambda own, folder: own.flow(FEW, save_to_dir=["here"]),
    "mean = .2,": lambda own, folder: standardised_with(mean=[1, 2]),
    "mean = .<U4": lambda own, folder: standardised_with(mean="much"),
    "std = .2, 8, 8, 3": lambda own, folder: standardised_with(mean=0, std=np.ones((2, 8, 8, 3))),
    "zca_whitening_matrix": lambda own, folder: standardised_with(zca_whitening_matrix=np.eye(3)),
    "preprocessing_function made": lambda own, folder: ImageDataGenerator(
        preprocessing_function=lambda image: image[:3]
    ).standardize(FEW),
    "x = .8, 8": lambda own, folder: own.apply_transform(FEW[0, :, :, 0], {}),
    "x = .8, 3": lambda own, folder: own.random_transform(FEW[0, 0]),
    "x = .3,": lambda own, folder: own.standardize(FEW[0, 0, 0]),
    "img_shape": lambda own, folder: own.get_random_transform(5),
    "directory": lambda own, folder: own.flow_from_dataframe(pd.DataFrame({"filename": ["a.png"]}), 5, class_mode=None),
    "classes": lambda own, folder: own.flow_from_directory(folder, classes=5),
}


@pytest.mark.parametrize("found", CALLS)
def test_calls_that_mean_nothing_are_the_users_errors(found: str, tmp_path: Path):
    with pytest.raises(UserError, match=found):
        CALLS[found](ImageDataGenerator(), tmp_path)


def test_numbers_of_numpy_are_taken_like_those_of_python():
    plain = {
        "rotation_range": 20,
        "shear_range": 12.5,
        "zoom_range": 0.25,
        "brightness_range": (0.5, 1.5),
        "channel_shift_range": 8,
        "width_shift_range": 3,
        "height_shift_range": [0.25, 0.5],
        "rescale": 1 / 256,
        "cval": 9,
        "validation_split": 0.25,
        "interpolation_order": 1,
        "zca_epsilon": 0.5,
    }
    theirs = plain | {
        "rotation_range": np.uint8(20),
        "shear_range": np.float32(12.5),
        "zoom_range": np.float32(0.25),
        "brightness_range": np.float32([0.5, 1.5]),
        "channel_shift_range": np.uint8(8),
        "width_shift_range": np.int64(3),
        "height_shift_range": np.float16([0.25, 0.5]),
        "rescale": np.float32(1 / 256),
        "cval": np.int64(9),
        "validation_split": np.float64(0.25),
        "interpolation_order": np.int64(1),
        "zca_epsilon": np.float32(0.5),
    }
    one, other = ImageDataGenerator(**plain), ImageDataGenerator(**theirs)
    for name, values in one.draw(np.arange(50), seed=1, size=(8, 8)).items():
        np.testing.assert_array_equal(other.draw(np.arange(50), seed=1, size=(8, 8))[name], values)
    assert one.to_gin() == other.to_gin()
    assert one._look(InMemory(FEW)).rendering == other._look(InMemory(FEW)).rendering
    pair = ImageDataGenerator(
        zoom_range=[np.float32(0.5), np.int64(2)], brightness_range=(np.float16(0.5), np.int32(1))
    )
    assert (pair.zoom_range, pair.brightness_range) == ([0.5, 2], [0.5, 1])


RECIPES = {
    "everything": {
        "rotation_range": 20,
        "height_shift_range": 0.2,
        "width_shift_range": [3, 5],
        "shear_range": 12.0,
        "zoom_range": (0.7, 1.1),
        "horizontal_flip": True,
        "channel_shift_range": 25,
        "brightness_range": [0.5, 1.2],
        "fill_mode": "constant",
        "cval": 9,
        "rescale": 1 / 255,
        "featurewise_std_normalization": True,
        "validation_split": 0.25,
        "interpolation_order": 0,
    },
    "nothing": {},
    "what gin cannot say": {
        "preprocessing_function": np.sqrt,
        "zca_whitening": True,
        "zoom_range": 1.0,
        "interpolation_order": 3,
        "fill_mode": "constant",
        "cval": -1.0,
        "samplewise_center": True,
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_draws_what_the_generator_draws(name: str, tmp_path: Path):
    own = ImageDataGenerator(**RECIPES[name])
    own.fit(np.random.default_rng(0).uniform(0, 255, (5, 6, 6, 3)))
    text = own.to_gin()
    for prefix in ("", "# "):
        # The lines of the normalisation are comments; they hold as well.
        head, _, tail = text.partition("# train.normalisation")
        lines = f"train.normalisation{tail}".splitlines() if prefix else []
        (tmp_path / "recipe.gin").write_text("\n".join([head, *(line.removeprefix(prefix) for line in lines)]))
        parse_gin([str(tmp_path / "recipe.gin")], [])
    if name != "everything":
        for word in ("preprocessing_function", "zca_whitening", "zoom_range", "interpolation_order", "cval"):
            assert (word in text) == (word in RECIPES[name])
        return
    found = policy()
    assert [operation.name for operation in found.operations] == [
        "rotation", "shift", "shear", "zoom", "flip", "channel_shift", "brightness",
    ]  # fmt: skip
    positions, size = tf.range(3000, dtype=tf.int64), (32, 32)
    mine, theirs = (
        drawn.draw(positions, seed=seed, size=size).geometry.numpy()
        for seed, drawn in enumerate((found, Policy(own.operations)))
    )
    for row in range(2):
        for column in range(3):
            assert scipy.stats.ks_2samp(mine[:, row, column], theirs[:, row, column]).pvalue > 0.01, (row, column)
    constants = [gin.query_parameter("rescale.factor"), *gin.query_parameter("standardise.mean")]
    np.testing.assert_allclose(constants, [1 / 255, *own.mean.reshape(-1)])
    assert gin.query_parameter("split_as_keras.validation") == 0.25
