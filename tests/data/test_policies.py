"""Named policies do what their papers say, to every example what it drew, and to no other."""

from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from data.augment import colour, curves, filters, geometry, policies, statistics
from data.augment.apply import Rendering, render
from data.augment.autoaugment import TABLES
from data.augment.operation import Operation, chosen_from, one_of, sometimes
from data.augment.policy import Policy, policy
from trainer import launch
from trainer.recipe import Recipe

SIZE = (32, 24)
# Images at once: one number, so that a program is compiled once.
COUNT = 32
RECIPES = sorted((Path(__file__).parents[2] / "configs" / "policies").glob("*.gin"))
NAMED = {
    "rand_augment": lambda: policies.rand_augment(),
    "trivial_augment": lambda: policies.trivial_augment(),
    "auto_augment imagenet": lambda: policies.auto_augment(table="imagenet"),
    "auto_augment cifar10": lambda: policies.auto_augment(table="cifar10"),
    "three_augment": lambda: policies.three_augment(),
}
WHOLE = {name: getattr(policies, name) for name in ("light", "medium", "strong")} | {
    name: lambda make=make: policy(operations=[make()]) for name, make in NAMED.items()
}
# Magnitudes 0, 9, 15 and 30 of 31, in the positive direction: Cubuk et al. 2019, table 6, as in torchvision's
# RandAugment._augmentation_space(31, (32, 24)); factors of colour are 1 more than there, translations shares of a side.
RAND_AUGMENT = {
    "shear_x": ("factor", (0, 0.09, 0.15, 0.3)),
    "shear_y": ("factor", (0, 0.09, 0.15, 0.3)),
    "translate_x": ("fraction", (0, 0.13595166, 0.22658610, 0.45317221)),
    "translate_y": ("fraction", (0, 0.13595166, 0.22658610, 0.45317221)),
    "rotation": ("degrees", (0, 9, 15, 30)),
    "brightness": ("factor", (1, 1.27, 1.45, 1.9)),
    "saturation": ("factor", (1, 1.27, 1.45, 1.9)),
    "contrast": ("factor", (1, 1.27, 1.45, 1.9)),
    "sharpness": ("factor", (1, 1.27, 1.45, 1.9)),
    "posterize": ("bits", (8, 7, 6, 4)),
    "solarize": ("threshold", (255, 178.5, 127.5, 0)),
}
# Müller & Hutter 2021, the same four of 31 in TrivialAugmentWide._augmentation_space(31); 32 pixels are 4/3 of 24.
TRIVIAL_AUGMENT = {
    "shear_x": ("factor", (0, 0.297, 0.495, 0.99)),
    "shear_y": ("factor", (0, 0.297, 0.495, 0.99)),
    "translate_x": ("fraction", (0, 0.4, 2 / 3, 4 / 3)),
    "translate_y": ("fraction", (0, 0.3, 0.5, 1)),
    "rotation": ("degrees", (0, 40.5, 67.5, 135)),
    "brightness": ("factor", (1, 1.297, 1.495, 1.99)),
    "saturation": ("factor", (1, 1.297, 1.495, 1.99)),
    "contrast": ("factor", (1, 1.297, 1.495, 1.99)),
    "sharpness": ("factor", (1, 1.297, 1.495, 1.99)),
    "posterize": ("bits", (8, 6, 5, 2)),
    "solarize": ("threshold", (255, 178.5, 127.5, 0)),
}
UNSIGNED = ("posterize", "solarize")
# What magnitude 9 of 31 does.
DONE = {name: values[1] for name, (_, values) in RAND_AUGMENT.items()}


def uniform_of(operation: Operation, count: int, *, seed: int = 1) -> tf.Tensor:
    positions = tf.range(count, dtype=tf.int64)
    return Policy((operation,)).uniform(0, positions, seed=seed)


def numbers_of(operation: Operation, count: int, *, seed: int = 1) -> dict[str, np.ndarray]:
    drawn = operation.numbers(uniform_of(operation, count, seed=seed), SIZE)
    assert all(value.dtype == tf.float64 and value.shape == (count,) for value in drawn.values())
    return {name: value.numpy() for name, value in drawn.items()}


def member_number(numbers: dict[str, np.ndarray], layer: int, name: str, number: str) -> np.ndarray:
    (value,) = (
        value for key, value in numbers.items() if key.split(".")[0::2] == [str(layer), name] and key.endswith(number)
    )
    return value


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def through_the_kernel(images: np.ndarray, whole: Policy, positions: tf.Tensor) -> np.ndarray:
    drawn = whole.draw(positions, seed=3, size=SIZE)
    return render(
        tf.constant(images.reshape(len(images), -1)),
        tf.constant(np.tile(np.int32(SIZE), (len(images), 1))),
        tf.cast(drawn.geometry, tf.float32),
        drawn.arrays,
        rendering=Rendering(size=SIZE, program=whole.program),
    ).numpy()


class TestTheNumbersOf:
    @pytest.mark.parametrize("at", range(4))
    @pytest.mark.parametrize("name", RAND_AUGMENT)
    def test_rand_augment_are_those_of_the_paper(self, name: str, at: int):
        number, expected = RAND_AUGMENT[name]
        operation = policies.rand_augment(layers=2, magnitude=(0, 9, 15, 30)[at])
        found = numbers_of(operation, 64)
        for layer in range(2):
            value = member_number(found, layer, name, number)
            middle = expected[0]
            # The table has 8 digits.
            np.testing.assert_allclose(
                value if name in UNSIGNED else middle + np.abs(value - middle), expected[at], atol=1e-8
            )

    @pytest.mark.parametrize("name", TRIVIAL_AUGMENT)
    def test_trivial_augment_are_those_of_the_paper_at_every_magnitude(self, name: str):
        number, (start, *_, end) = TRIVIAL_AUGMENT[name]
        operation = policies.trivial_augment()
        # The middle of each magnitude's share, with both signs.
        uniform = np.array([(0.5, (bin + 0.5) / 31, sign) for bin in range(31) for sign in (0.25, 0.75)])
        value = member_number(operation.numbers(tf.constant(uniform), SIZE), 0, name, number).numpy().reshape(31, 2)
        positive, negative = value.T
        # Of the order of 1 in float64, through three roundings.
        for magnitude, expected in zip((0, 9, 15, 30), TRIVIAL_AUGMENT[name][1], strict=True):
            np.testing.assert_allclose(positive[magnitude], expected, rtol=1e-14)
        np.testing.assert_allclose(negative, positive if name in UNSIGNED else 2 * start - positive, atol=1e-13)
        if name == "posterize":
            # 8 - round(magnitude / 5), as torchvision rounds: no magnitude lies half way.
            np.testing.assert_array_equal(positive, 8 - (np.arange(31) + 2) // 5)
        else:
            np.testing.assert_allclose(np.diff(positive), (end - start) / 30, rtol=0, atol=1e-12)

    def test_trivial_augment_draw_every_magnitude_alike(self):
        degrees = member_number(numbers_of(policies.trivial_augment(), 31 * 400), 0, "rotation", "degrees")
        counts = np.bincount(np.rint(np.abs(degrees) * 30 / 135).astype(int), minlength=31)
        assert len(counts) == 31 and stats.chisquare(counts).pvalue > 0.001

    @pytest.mark.parametrize("bins", [2, 10, 31, 101])
    def test_the_largest_magnitude_is_the_same_whatever_their_number(self, bins: int):
        found = numbers_of(policies.rand_augment(layers=1, magnitude=bins - 1, bins=bins), 4)
        for name, (number, (middle, *_, end)) in RAND_AUGMENT.items():
            value = member_number(found, 0, name, number)
            np.testing.assert_allclose(np.abs(value - middle), abs(end - middle), atol=1e-8)


class TestADraw:
    MANY = 14 * 1000

    @pytest.mark.parametrize("make", [policies.rand_augment, policies.trivial_augment])
    def test_takes_every_operation_equally_often(self, make):
        found = numbers_of(make(), self.MANY)
        layers = [value for key, value in found.items() if key.endswith("chosen")]
        assert len(layers) == (2 if make is policies.rand_augment else 1)
        for chosen in layers:
            counts = np.bincount(chosen.astype(int), minlength=14)
            assert len(counts) == 14 and stats.chisquare(counts).pvalue > 0.001

    def test_has_signs_that_are_even_and_depend_on_nothing_else(self):
        found = numbers_of(policies.rand_augment(), self.MANY)
        signs = [np.sign(member_number(found, layer, "rotation", "degrees")) for layer in range(2)]
        assert set(np.unique(signs)) == {-1, 1}
        for sign in signs:
            assert stats.binomtest(int((sign > 0).sum()), self.MANY).pvalue > 0.001
        for layer in range(2):
            table = stats.contingency.crosstab(found[f"{layer}.chosen"], signs[layer]).count
            assert stats.chi2_contingency(table).pvalue > 0.001
        assert stats.chi2_contingency(stats.contingency.crosstab(*signs).count).pvalue > 0.001

    def test_of_one_layer_says_nothing_of_the_next(self):
        found = numbers_of(policies.rand_augment(layers=3), self.MANY)
        for one, other in ((0, 1), (1, 2), (0, 2)):
            table = stats.contingency.crosstab(found[f"{one}.chosen"], found[f"{other}.chosen"]).count
            assert table.shape == (14, 14) and stats.chi2_contingency(table).pvalue > 0.001

    @pytest.mark.parametrize("name", NAMED)
    @settings(max_examples=5, deadline=None)
    @given(start=st.integers(0, 2**62), size=st.integers(1, 40), cut=st.integers(0, 40))
    def test_is_the_same_in_any_batch(self, name: str, start: int, size: int, cut: int):
        whole, cut = Policy((NAMED[name](),)), min(cut, size)

        def drawn(first, last):
            found = whole.draw(tf.range(first, last, dtype=tf.int64), seed=1, size=SIZE)
            return [array.numpy() for array in (found.geometry, *found.arrays)]

        parts = zip(drawn(start, start + cut), drawn(start + cut, start + size), strict=True)
        for all_at_once, (first, rest) in zip(drawn(start, start + size), parts, strict=True):
            np.testing.assert_array_equal(np.concatenate([first, rest]), all_at_once)


def alone(name: str, value: float) -> Operation | None:
    """The operation by itself, with a constant for its number; None: nothing is done."""
    makers = {
        "shear_x": lambda: geometry.shear_x(factor=(value, value)),
        "shear_y": lambda: geometry.shear_y(factor=(value, value)),
        "translate_x": lambda: geometry.translate_x(fraction=(value, value)),
        "translate_y": lambda: geometry.translate_y(fraction=(value, value)),
        "rotation": lambda: geometry.rotation(degrees=(value, value)),
        "brightness": lambda: colour.brightness(low=value, high=value),
        "saturation": lambda: colour.saturation(low=value, high=value),
        "contrast": lambda: statistics.contrast(low=value, high=value),
        "sharpness": lambda: filters.sharpness(low=value, high=value),
        "posterize": lambda: curves.posterize(bits=value),
        "solarize": lambda: curves.solarize(threshold=value),
        "autocontrast": statistics.autocontrast,
        "equalize": statistics.equalize,
        "invert": curves.invert,
        "identity": lambda: None,
    }
    return makers[name]()


def assert_layers_do(operation: Operation, wanted: list[list[tuple[str, float] | None]], uniform: np.ndarray):
    """Each row of `uniform` does in each layer what is wanted there, (name, number) or None, and nothing else."""
    arrays = [array.numpy() for array in operation.draw(tf.constant(uniform), SIZE)]
    assert len(arrays) == len(operation.slots)
    for row, layers in enumerate(wanted):
        left = list(zip(operation.slots, (array[row] for array in arrays), strict=True))
        for entry in layers:
            single = None if entry is None else alone(*entry)
            if single is None:
                continue
            expected = [array[0].numpy() for array in single.draw(tf.zeros([1, single.count], tf.float64), SIZE)]
            for slot, array in zip(single.slots, expected, strict=True):
                places = [at for at, (other, found) in enumerate(left) if other == slot and np.allclose(found, array)]
                assert places, f"row {row}: no {entry}"
                # What lies before it belongs to earlier operations, or is passed over.
                for other, found in left[: places[0]]:
                    np.testing.assert_array_equal(found, other.identity(SIZE))
                del left[: places[0] + 1]
        for slot, found in left:
            np.testing.assert_array_equal(found, slot.identity(SIZE))


class TestAnOperationDrawn:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_does_what_it_does_alone_and_the_others_nothing(self, sign: int):
        operation = policies.rand_augment(layers=1)
        which = (np.arange(14) + 0.5) / 14
        uniform = np.stack([which, np.full(14, 0.25 if sign > 0 else 0.75)], axis=1)
        wanted = []
        for name in policies.OPERATIONS:
            value = DONE.get(name, 0.0)
            if name in RAND_AUGMENT and name not in UNSIGNED:
                middle = RAND_AUGMENT[name][1][0]
                value = middle + sign * (value - middle)
            wanted.append([(name, value)])
        assert_layers_do(operation, wanted, uniform)

    def test_in_the_second_layer_comes_after_that_of_the_first(self):
        operation = policies.rand_augment(layers=2, operations=["posterize", "saturation", "solarize"])
        places = {"posterize": 0.1, "saturation": 0.5, "solarize": 0.9}
        pairs = [(one, other) for one in places for other in places]
        uniform = np.array([(places[one], 0.25, places[other], 0.25) for one, other in pairs])
        wanted = [[(one, DONE[one]), (other, DONE[other])] for one, other in pairs]
        assert_layers_do(operation, wanted, uniform)

    def test_takes_few_slots(self):
        # One warp, one matrix, one look-up of levels, contrast and sharpness.
        assert len(policies.rand_augment(layers=1).slots) == 5
        assert len(policies.rand_augment(layers=3).slots) == 15

    def test_of_some_alone_may_be_chosen(self):
        found = numbers_of(policies.rand_augment(layers=1, operations=["invert", "rotation"]), 200)
        assert set(found) == {"0.chosen", "0.0.invert.always", "0.1.rotation.degrees"}
        assert set(found["0.chosen"]) == {0, 1}


class TestAutoAugment:
    @pytest.mark.parametrize("table", TABLES)
    def test_has_25_pairs_of_known_operations(self, table: str):
        known = policies.usual_space()
        assert len(TABLES[table]) == 25
        for pair in TABLES[table]:
            assert len(pair) == 2
            for name, probability, magnitude in pair:
                assert 0 <= probability <= 1 and round(probability * 10) == pytest.approx(probability * 10)
                assert (magnitude is None) == (known[name].level is None)
                assert magnitude is None or magnitude in range(10)

    # Of the tables as Google's (cifar10) and torchvision's (imagenet) sources have them, typed in apart.
    @pytest.mark.parametrize(
        ("table", "counts", "probabilities", "magnitudes"),
        [
            (
                "imagenet",
                {"posterize": 5, "rotation": 6, "solarize": 7, "autocontrast": 2, "equalize": 17, "saturation": 6}
                | {"invert": 3, "contrast": 2, "sharpness": 1, "shear_x": 1},
                4182,
                2641,
            ),
            (
                "cifar10",
                {"invert": 3, "contrast": 2, "rotation": 1, "translate_x": 2, "sharpness": 5, "shear_y": 2}
                | {"translate_y": 5, "autocontrast": 7, "equalize": 9, "posterize": 1, "saturation": 5, "brightness": 4}
                | {"solarize": 4},
                3630,
                3182,
            ),
        ],
    )
    def test_table_adds_up(self, table: str, counts: dict, probabilities: int, magnitudes: int):
        entries = [
            (row, column, *entry) for row, pair in enumerate(TABLES[table], 1) for column, entry in enumerate(pair, 1)
        ]
        names = [name for _, _, name, _, _ in entries]
        assert {name: names.count(name) for name in names} == counts
        assert sum(row * round(10 * probability) for row, _, _, probability, _ in entries) == probabilities
        assert sum(row * column * (magnitude or 0) for row, column, *_, magnitude in entries) == magnitudes

    @pytest.mark.parametrize("table", TABLES)
    def test_does_each_pair_in_its_order_at_its_magnitudes(self, table: str):
        ends = {name: (values[0], values[-1]) for name, (_, values) in RAND_AUGMENT.items()}
        wanted, uniform = [], []
        for row, pair in enumerate(TABLES[table]):
            # Below every probability but 0.
            uniform.append([(row + 0.5) / 25, 0.0, 0.25, 0.0, 0.25])
            wanted.append([])
            for name, probability, magnitude in pair:
                start, end = ends.get(name, (0, 0))
                value = start + (end - start) * (magnitude or 0) / 9
                value = 8 - np.rint(8 - value) if name == "posterize" else value
                wanted[-1].append((name, value) if probability else None)
        assert_layers_do(policies.auto_augment(table=table), wanted, np.array(uniform))

    @pytest.mark.parametrize("table", TABLES)
    def test_applies_each_operation_with_its_probability(self, table: str):
        count = 20000
        operation = policies.auto_augment(table=table)
        uniform = uniform_of(operation, count)
        found = {name: value.numpy() for name, value in operation.numbers(uniform, SIZE).items()}
        row = np.floor(uniform[:, 0].numpy() * 25).astype(int)
        assert stats.chisquare(np.bincount(row, minlength=25)).pvalue > 0.001
        tails = []
        for layer in range(2):
            applied = found[f"{layer}.chosen"] >= 0
            for pair in range(25):
                share = TABLES[table][pair][layer][1]
                of_pair = applied[row == pair]
                if share in (0, 1):
                    assert (of_pair == share).all()
                else:
                    tails.append(stats.binomtest(int(of_pair.sum()), len(of_pair), share).pvalue)
        # About 45 tests at once.
        assert min(tails) > 0.001 / len(tails)


class TestThreeAugment:
    def test_is_a_flip_then_one_of_three_then_jitter(self):
        count = 3000
        found = numbers_of(policies.three_augment(), count)
        assert set(np.unique(found["0.flip.horizontal"])) == {0, 1} and not found["0.flip.vertical"].any()
        chosen = found["1.one_of.0.one_of.chosen"]
        assert stats.chisquare(np.bincount(chosen.astype(int), minlength=3)).pvalue > 0.001
        (sigma,) = (value for key, value in found.items() if key.endswith("blur.sigma"))
        (threshold,) = (value for key, value in found.items() if key.endswith("solarize.threshold"))
        assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 0.001
        np.testing.assert_array_equal(threshold, 128)
        for name in ("brightness", "contrast", "saturation"):
            factor = found[f"2.colour_jitter.{name}"]
            assert stats.kstest(factor, stats.uniform(0.7, 0.6).cdf).pvalue > 0.001
        np.testing.assert_array_equal(found["2.colour_jitter.degrees"], 0)

    def test_without_jitter_gives_grey_images_where_grey_is_drawn(self):
        whole = policy(operations=[policies.three_augment(jitter=0.0)])
        positions = tf.range(COUNT, dtype=tf.int64)
        found = through_the_kernel(pictures(COUNT), whole, positions)
        drawn = whole.operations[0].numbers(whole.uniform(0, positions, seed=3), SIZE)
        grey = drawn["1.one_of.0.one_of.chosen"].numpy() == 1
        assert 0 < grey.sum() < COUNT
        spread = np.ptp(found, axis=-1).max(axis=(1, 2))
        # Saturation turns grey into grey: the weights of luma add up to 1 within 2 roundings of float32.
        assert (spread[grey] <= 255 * 2**-21).all() and (spread[~grey] > 1).all()


class TestAWholePolicy:
    @pytest.mark.parametrize("name", WHOLE)
    def test_keeps_pixels_in_their_range_and_changes_them(self, name: str):
        images = pictures(COUNT)
        found = through_the_kernel(images, WHOLE[name](), tf.range(COUNT, dtype=tf.int64))
        assert found.dtype == np.float32 and found.shape == images.shape
        assert found.min() >= 0 and found.max() <= 255
        changed = (found != images).any(axis=(1, 2, 3))
        assert changed.mean() > 0.5

    @pytest.mark.parametrize("name", NAMED)
    def test_leaves_an_image_exactly_alone_where_it_is_passed_over(self, name: str):
        images = pictures(COUNT)
        whole = policy(operations=[(NAMED[name](), 0.4)])
        positions = tf.range(COUNT, dtype=tf.int64)
        drawn = whole.operations[0].numbers(whole.uniform(0, positions, seed=3), SIZE)
        passed_over = drawn["applied"].numpy() == 0
        assert 8 < passed_over.sum() < 28
        found = through_the_kernel(images, whole, positions)
        np.testing.assert_array_equal(found[passed_over], images[passed_over])

    @pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
    def test_leaves_an_image_exactly_alone_where_identity_is_drawn(self, name: str):
        whole = policy(operations=[NAMED[name]()])
        positions = tf.range(200 * COUNT, dtype=tf.int64)
        drawn = whole.operations[0].numbers(whole.uniform(0, positions, seed=3), SIZE)
        chosen = np.stack([value.numpy() for key, value in drawn.items() if key.endswith("chosen")])
        nothing = np.flatnonzero((chosen == policies.OPERATIONS.index("identity")).all(axis=0))[: COUNT // 2]
        # The rest of the batch is changed.
        positions = tf.concat([positions[: COUNT // 2], tf.constant(nothing, tf.int64)], axis=0)
        images = pictures(COUNT)
        found = through_the_kernel(images, whole, positions)
        np.testing.assert_array_equal(found[COUNT // 2 :], images[COUNT // 2 :])

    def test_gives_the_same_pixels_in_any_batch(self):
        images, whole = pictures(COUNT), policies.strong()
        positions = tf.range(COUNT, dtype=tf.int64)
        together = through_the_kernel(images, whole, positions)
        for start in range(0, COUNT, 2):
            part = through_the_kernel(images[start : start + 2], whole, positions[start : start + 2])
            np.testing.assert_array_equal(part, together[start : start + 2])


class TestAPreset:
    def test_has_in_it_what_it_says(self):
        def names(preset):
            return [operation.name for operation in preset.operations]

        assert names(policies.light()) == ["flip", "shift", "zoom"]
        assert names(policies.medium()) == ["flip", "rotation", "shift", "zoom", "colour_jitter"]
        assert names(policies.strong()) == ["random_resized_crop", "flip", "rand_augment", "random_erasing", "one_of"]

    @pytest.mark.parametrize(
        ("name", "degrees", "share", "zoom"), [("light", 0, 0.05, 0.05), ("medium", 15, 0.1, 0.15)]
    )
    def test_moves_pixels_no_farther_than_it_says(self, name: str, degrees: float, share: float, zoom: float):
        preset = getattr(policies, name)()
        positions = tf.range(2000, dtype=tf.int64)
        found = {}
        for index, operation in enumerate(preset.operations):
            found[operation.name] = operation.numbers(preset.uniform(index, positions, seed=3), SIZE)
        if degrees:
            assert np.abs(found["rotation"]["degrees"]).max() == pytest.approx(degrees, rel=0.01)
        for axis, side in (("x", SIZE[1]), ("y", SIZE[0])):
            assert np.abs(found["shift"][axis]).max() == pytest.approx(share * side, rel=0.01)
        np.testing.assert_array_equal(found["zoom"]["x"], found["zoom"]["y"])
        assert np.abs(found["zoom"]["x"] - 1).max() == pytest.approx(zoom, rel=0.01)
        assert not found["flip"]["vertical"].numpy().any()

    def test_that_is_strong_mixes_until_the_last_tenth(self):
        whole = policies.strong()
        assert whole.mixes
        drawn = whole.draw(tf.range(1000, dtype=tf.int64), seed=1, size=SIZE, length=1000)
        share = drawn.share.numpy()
        assert (share[:900] < 1).mean() > 0.9
        np.testing.assert_array_equal(share[900:], 1)

    @pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
    def test_or_a_named_policy_is_a_second_recipe_away(self, recipe: Path, small: str):
        launch.parse_gin([small, str(recipe)], [])
        found = launch.call(Recipe).policy
        assert found.operations
        assert recipe.stem in WHOLE or recipe.stem in [operation.name for operation in found.operations]
        header = recipe.read_text().splitlines()
        assert header[0].startswith("# ") and header[2].startswith("# command: ") and recipe.name in header[2]


def test_a_recipe_may_choose_between_named_policies_by_a_choice_of_its_own():
    gin.parse_config("""
        policy.operations = [@one_of()]
        one_of.operations = [@three_augment(), @rand_augment()]
        one_of.weights = [1, 0]
    """)
    (choice,) = policy().operations
    found = numbers_of(choice, 100)
    assert not found["0.one_of.chosen"].any()
    assert set(np.unique(found["1.0.three_augment.1.one_of.0.one_of.chosen"])) == {0, 1, 2}


def test_a_preset_takes_nothing_from_the_policy_that_it_stands_for():
    gin.parse_config("policy.operations = [@one_of()]")
    assert len(policies.light().operations) == 3


def test_every_named_policy_has_its_recipe():
    assert {path.stem for path in RECIPES} == {name.split()[0] for name in WHOLE}


@pytest.mark.parametrize(
    ("make", "given_arguments", "culprit"),
    [
        (policies.rand_augment, {"layers": 0}, "layers"),
        (policies.rand_augment, {"layers": 17}, "layers"),
        (policies.rand_augment, {"layers": 2.0}, "layers"),
        (policies.rand_augment, {"layers": True}, "layers"),
        (policies.rand_augment, {"layers": None}, "layers"),
        (policies.rand_augment, {"magnitude": 31}, "magnitude"),
        (policies.rand_augment, {"magnitude": -1}, "magnitude"),
        (policies.rand_augment, {"magnitude": 9.5}, "magnitude"),
        (policies.rand_augment, {"magnitude": "9"}, "magnitude"),
        (policies.rand_augment, {"magnitude": 9, "bins": 9}, "magnitude"),
        (policies.rand_augment, {"bins": 1}, "bins"),
        (policies.rand_augment, {"bins": 1002}, "bins"),
        (policies.rand_augment, {"bins": [31]}, "bins"),
        (policies.rand_augment, {"operations": []}, "operations"),
        (policies.rand_augment, {"operations": ["rotate"]}, "rotate"),
        (policies.rand_augment, {"operations": [["rotation"]]}, "rotation"),
        (policies.rand_augment, {"operations": None}, "operations"),
        (policies.trivial_augment, {"bins": 1}, "bins"),
        (policies.trivial_augment, {"bins": "many"}, "bins"),
        (policies.auto_augment, {"table": "svhn"}, "svhn"),
        (policies.auto_augment, {"table": ["imagenet"]}, "table"),
        (policies.auto_augment, {"table": None}, "table"),
        (policies.three_augment, {"jitter": 1.1}, "jitter"),
        (policies.three_augment, {"jitter": -0.1}, "jitter"),
        (policies.three_augment, {"jitter": (0.1, 0.2)}, "jitter"),
    ],
)
def test_a_wrong_argument_is_the_users_error(make, given_arguments: dict, culprit: str, complaint):
    with complaint(culprit, make.__name__):
        make(**given_arguments)


def test_one_name_alone_stands_for_a_list_of_one():
    assert "0.0.rotation.degrees" in numbers_of(policies.rand_augment(layers=1, operations="rotation"), 4)


class TestSharedSlots:
    LIGHTER, WARMER = colour.brightness(low=1.5, high=1.5), colour.saturation(low=0.5, high=0.5)
    NEGATIVE = curves.invert()

    def test_hold_each_members_own_in_its_order(self):
        one = policies.in_turn("one", [self.LIGHTER, self.LIGHTER, self.NEGATIVE])
        other = policies.in_turn("other", [self.NEGATIVE, self.WARMER, self.NEGATIVE])
        shared = chosen_from([one, other])
        for member in (one, other):
            at = -1
            for slot in member.slots:
                at = shared.index(slot, at + 1)
        assert len(shared) == 5

    def test_give_an_example_what_the_member_alone_gives_it(self):
        members = [
            policies.in_turn("one", [self.LIGHTER, self.LIGHTER, self.NEGATIVE]),
            policies.in_turn("other", [self.NEGATIVE, self.WARMER, self.NEGATIVE]),
            policies.rand_augment(layers=2),
        ]
        choice = one_of(operations=members, weights=None)
        uniform = uniform_of(choice, 48)
        arrays = [array.numpy() for array in choice.draw(uniform, SIZE)]
        chosen = np.floor(3 * uniform[:, 0].numpy())
        ends = np.cumsum([1, *(member.count for member in members)])
        for index, member in enumerate(members):
            assert (chosen == index).any()
            left = {at: array[chosen == index] for at, array in enumerate(arrays)}
            at = -1
            for slot, array in zip(
                member.slots, member.draw(uniform[:, ends[index] : ends[index + 1]], SIZE), strict=True
            ):
                at = choice.slots.index(slot, at + 1)
                np.testing.assert_array_equal(left.pop(at), array.numpy()[chosen == index])
            for at, array in left.items():
                np.testing.assert_array_equal(array, np.broadcast_to(choice.slots[at].identity(SIZE), array.shape))


def test_a_probability_of_none_is_the_identity():
    operation = sometimes(policies.rand_augment(), 0.0)
    for slot, array in zip(operation.slots, operation.draw(uniform_of(operation, 16), SIZE), strict=True):
        np.testing.assert_array_equal(array, np.broadcast_to(slot.identity(SIZE), array.shape))
