"""Splits depend on the hash of a name or group and on nothing around it; or they are those of Keras."""

import os

import gin
import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from keras.src.trainers.data_adapters.array_slicing import train_validation_split

from data import splits
from data.errors import UserError
from data.examples import Examples
from data.sources.folder import folder
from data.splits import TEST, TRAIN, VALIDATION


def table(
    names: list[bytes],
    labels: list[int] | np.ndarray | None = None,
    stated: list[int] | None = None,
    groups: list[bytes] | None = None,
) -> Examples:
    labels = np.zeros(len(names), int) if labels is None else np.asarray(labels)
    classes = [f"class{label}" for label in range(int(labels.max()) + 1)]
    return Examples.of(
        names=names, labels=labels, class_names=classes, root="/photos", stated_split=stated, groups=groups
    )


def numbered(count: int) -> list[bytes]:
    return [b"cat/%05d.jpg" % number for number in range(count)]


def placed(examples: Examples, split: np.ndarray) -> dict[bytes, int]:
    return dict(zip(examples.names.tolist(), split.tolist(), strict=True))


NAMES = st.lists(st.binary(min_size=1, max_size=8).map(lambda name: name.replace(b"\0", b"0")), min_size=1, unique=True)


@settings(max_examples=60, deadline=None)
@given(names=NAMES, kept=st.data(), seed=st.integers(0, 2**40))
def test_by_hash_a_file_stays_where_it_is_whatever_comes_or_goes(names: list[bytes], kept, seed: int):
    # Shares that leave most in train; one more name makes sure that some example is.
    names = [*names, *numbered(20)]
    few = [name for name in names if kept.draw(st.booleans()) or name.startswith(b"cat/")]
    before = table(few)
    after = table(names[::-1])
    one = placed(before, splits.split_by_hash(before, validation=0.2, test=0.2, seed=seed))
    other = placed(after, splits.split_by_hash(after, validation=0.2, test=0.2, seed=seed))
    assert one == {name: other[name] for name in one}


def test_by_hash_raising_the_share_of_validation_leaves_test_alone():
    examples = table(numbered(2000))
    small = splits.split_by_hash(examples, validation=0.1, test=0.2)
    large = splits.split_by_hash(examples, validation=0.3, test=0.2)
    np.testing.assert_array_equal(small == TEST, large == TEST)
    assert (large[small == VALIDATION] == VALIDATION).all()


def test_by_hash_the_shares_are_met_within_the_binomial_spread():
    count = 20_000
    split = splits.split_by_hash(table(numbered(count)), validation=0.1, test=0.25)
    for index, share in ((TRAIN, 0.65), (VALIDATION, 0.1), (TEST, 0.25)):
        # 5 standard deviations.
        assert abs((split == index).sum() - share * count) < 5 * np.sqrt(count * share * (1 - share))


def test_seeds_cut_differently_and_the_same_seed_alike():
    examples = table(numbered(1000))
    for rule in (splits.split_by_hash, splits.split_per_class):
        one = rule(examples, validation=0.2, test=0.2, seed=1)
        np.testing.assert_array_equal(one, rule(examples, validation=0.2, test=0.2, seed=1))
        assert (one != rule(examples, validation=0.2, test=0.2, seed=2)).any()


def test_hashes_are_even_and_of_their_own_for_each_seed():
    names = np.array(numbered(10_000))
    hashes = splits.name_hashes(names, seed=0)
    assert hashes.dtype == np.uint64 and len(np.unique(hashes)) == 10_000
    # The mean of 10,000 uniform numbers, 5 standard errors.
    assert abs((hashes / 2.0**64).mean() - 0.5) < 5 / np.sqrt(12 * 10_000)
    other = splits.name_hashes(names, seed=1)
    assert abs(np.corrcoef(hashes / 2.0**64, other / 2.0**64)[0, 1]) < 5 / np.sqrt(10_000)


# At most 0.8 together, so that of three examples one is left to train on.
SHARES = st.tuples(st.integers(0, 45), st.integers(0, 35)).map(lambda shares: (shares[0] / 100, shares[1] / 100))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=1, max_size=4), shares=SHARES, seed=st.integers(0, 2**40), mix=st.data()
)
@example(sizes=[10, 20, 5], shares=(0.2, 0.2), seed=0, mix=None)
def test_per_class_the_counts_are_exact(sizes: list[int], shares: tuple[float, float], seed: int, mix):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if mix is not None:
        labels = np.array(mix.draw(st.permutations(labels.tolist())))
    test, validation = shares
    split = splits.split_per_class(table(numbered(len(labels)), labels), validation=validation, test=test, seed=seed)
    for label, size in enumerate(sizes):
        counts = np.bincount(split[labels == label], minlength=3)
        assert counts.sum() == size
        # Each boundary is the nearest whole number to its share; the sum of two shares may miss a tie by one rounding.
        assert abs(counts[TEST] - test * size) <= 0.5
        assert abs(counts[TEST] + counts[VALIDATION] - (test + validation) * size) <= 0.5 + 1e-9


@settings(max_examples=100, deadline=None)
@given(count=st.integers(3, 60), shares=SHARES, seed=st.integers(0, 2**40), added=st.binary(min_size=1, max_size=6))
@example(count=8, shares=(0.4, 0.35), seed=0, added=b"x")
@example(count=8, shares=(0.35, 0.35), seed=3, added=b"y")
def test_per_class_a_new_file_moves_at_most_one_other_at_each_boundary(
    count: int, shares: tuple[float, float], seed: int, added: bytes
):
    test, validation = shares
    before, after = table(numbered(count)), table([*numbered(count), added.replace(b"\0", b"0")])
    old = splits.split_per_class(before, validation=validation, test=test, seed=seed)
    new = splits.split_per_class(after, validation=validation, test=test, seed=seed)[:count]
    assert ((old == TEST) != (new == TEST)).sum() <= 1
    assert ((old == TRAIN) != (new == TRAIN)).sum() <= 1


@pytest.mark.parametrize("rule", [splits.split_by_hash, splits.split_per_class])
def test_every_example_is_in_exactly_one_split(rule):
    split = rule(table(numbered(500)), validation=0.2, test=0.2)
    assert split.shape == (500,) and split.dtype == np.int8
    assert set(split.tolist()) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("rule", [splits.split_by_hash, splits.split_per_class])
@pytest.mark.parametrize("stated_part, free_part", [(TEST, VALIDATION), (VALIDATION, TEST)])
def test_a_stated_part_is_kept_and_the_other_is_cut_from_train(rule, stated_part: int, free_part: int):
    stated = np.where(np.arange(500) % 5 == 0, stated_part, TRAIN)
    split = rule(table(numbered(500), stated=stated), validation=0.2, test=0.2)
    np.testing.assert_array_equal(split == stated_part, stated == stated_part)
    assert (split == free_part).any() and (split == TRAIN).any()


def test_per_class_the_shares_are_those_of_what_no_split_states():
    stated = np.where(np.arange(500) % 5 == 0, TEST, TRAIN)
    split = splits.split_per_class(table(numbered(500), stated=stated), validation=0.25, test=0.2)
    assert np.bincount(split).tolist() == [300, 100, 100]


@pytest.mark.parametrize("rule", [splits.split_by_hash, splits.split_per_class])
def test_when_all_three_are_stated_nothing_is_cut(rule):
    stated = np.arange(300) % 3
    np.testing.assert_array_equal(rule(table(numbered(300), stated=stated), validation=0.3, test=0.3), stated)


@pytest.mark.parametrize("rule", [splits.split_by_hash, splits.split_per_class])
@pytest.mark.parametrize("validation, test", [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.1)])
def test_impossible_shares_are_the_users_error(rule, validation: float, test: float, complaint):
    with complaint(str(validation), str(test), f"{rule.__name__}.validation"):
        rule(table(numbered(10)), validation=validation, test=test)


def test_a_split_without_training_examples_is_the_users_error(complaint):
    with complaint("no example is left to train on", "'test': 4"):
        splits.split_by_hash(table(numbered(4), stated=[TEST] * 4), validation=0.0, test=0.0)


def whole(groups: list[bytes], split: np.ndarray) -> bool:
    """Whether every group is in one split."""
    return len(set(zip(groups, split.tolist(), strict=True))) == len(set(groups))


def subjects(sizes: list[int]) -> list[bytes]:
    return [b"subject%d" % subject for subject, size in enumerate(sizes) for _ in range(size)]


# Twenty groups beside the drawn ones make sure that train is never empty.
SIZES = st.lists(st.integers(1, 9), max_size=12).map(lambda sizes: sizes + [1] * 20)


@given(sizes=SIZES, shares=SHARES, seed=st.integers(0, 2**40))
def test_no_rule_by_hash_parts_a_group(sizes: list[int], shares: tuple[float, float], seed: int):
    groups = subjects(sizes)
    examples = table(numbered(len(groups)), groups=groups)
    test, validation = shares
    assert whole(groups, splits.split_by_hash(examples, validation=validation / 2, test=test / 2, seed=seed))
    assert whole(groups, splits.split_per_class(examples, validation=validation / 2, test=test / 2, seed=seed))


def test_by_hash_a_group_goes_where_its_own_name_says_whatever_is_added_to_it():
    few = table(numbered(40), groups=subjects([1] * 40))
    many = table(numbered(120), groups=subjects([3] * 40))
    one = dict(zip(few.groups.tolist(), splits.split_by_hash(few).tolist(), strict=True))
    assert one == dict(zip(many.groups.tolist(), splits.split_by_hash(many).tolist(), strict=True))


def test_an_example_with_an_empty_group_stands_alone():
    names = numbered(300)
    alone = splits.split_by_hash(table(names), validation=0.2, test=0.2)
    np.testing.assert_array_equal(
        splits.split_by_hash(table(names, groups=[b""] * 300), validation=0.2, test=0.2), alone
    )


@given(sizes=SIZES, seed=st.integers(0, 2**40), shares=SHARES)
def test_per_class_groups_are_held_out_lowest_hash_first_until_the_wanted_count_is_reached(
    sizes: list[int], seed: int, shares: tuple[float, float]
):
    test, validation = shares[0] / 2, shares[1] / 2
    groups = subjects(sizes)
    split = splits.split_per_class(
        table(numbered(len(groups)), groups=groups), validation=validation, test=test, seed=seed
    )
    ranked = sorted(set(groups), key=lambda group: splits.name_hashes(np.array([group]), seed=seed)[0])
    taken, expected = 0, {}
    for group in ranked:
        wanted = round(test * len(groups)), round((test + validation) * len(groups))
        expected[group] = TEST if taken < wanted[0] else VALIDATION if taken < wanted[1] else TRAIN
        taken += groups.count(group)
    assert dict(zip(groups, split.tolist(), strict=True)) == expected


def test_per_class_a_group_of_several_classes_is_the_users_error(complaint):
    examples = table(numbered(4), [0, 1, 0, 1], groups=[b"ann", b"ann", b"bob", b"eve"])
    with complaint("1 groups", "ann", "@split_by_hash"):
        splits.split_per_class(examples)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_per_class_a_task_without_classes_is_the_users_error(task: str, complaint):
    targets = Examples.of(
        names=numbered(20), labels=np.ones((20, 2)), class_names=("a", "b"), task=task, root="/photos"
    )
    with complaint(task, "@split_by_hash"):
        splits.split_per_class(targets)
    assert set(splits.split_by_hash(targets, validation=0.3, test=0.3).tolist()) == {TRAIN, VALIDATION, TEST}


def test_per_class_a_binary_task_is_cut_like_any_other():
    labels = np.arange(100) % 4 == 0
    examples = Examples.of(names=numbered(100), labels=labels, class_names=("no", "yes"), task="binary", root="/photos")
    split = splits.split_per_class(examples, validation=0.2, test=0.2)
    for label in (0, 1):
        size = (labels == label).sum()
        assert np.bincount(split[labels == label]).tolist() == [size * 3 // 5, size // 5, size // 5]


def test_per_class_a_class_that_would_be_held_out_whole_is_the_users_error(complaint):
    groups = [b"ann"] * 5 + subjects([1] * 20)
    with complaint("class0", "train on"):
        splits.split_per_class(table(numbered(25), [0] * 5 + [1] * 20, groups=groups), test=0.2)


@pytest.mark.parametrize(
    "rule",
    [
        splits.split_by_hash,
        splits.split_per_class,
        lambda examples: splits.split_k_fold(examples, fold=0, folds=2),
        lambda examples: splits.split_as_keras(examples, rule="fit"),
    ],
)
def test_stated_splits_that_part_a_group_are_the_users_error(rule, complaint):
    stated = [TEST, TRAIN] + [TRAIN] * 20
    with complaint("1 groups", "ann", "more than one split"):
        rule(table(numbered(22), stated=stated, groups=[b"ann", b"ann", *subjects([1] * 20)]))


@settings(max_examples=60)
@given(
    sizes=SIZES,
    folds=st.integers(2, 4),
    held_out=st.sampled_from(["validation", "test"]),
    other=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**40),
)
def test_folds_are_disjoint_and_cover_everything(sizes: list[int], folds: int, held_out: str, other: float, seed: int):
    # Enough groups that no fold is empty.
    groups = subjects(sizes + [1] * 60)
    examples = table(numbered(len(groups)), groups=groups)
    parts = [
        splits.split_k_fold(examples, fold=fold, folds=folds, held_out=held_out, other=other, seed=seed)
        for fold in range(folds)
    ]
    index = {"validation": VALIDATION, "test": TEST}[held_out]
    np.testing.assert_array_equal(sum((part == index).astype(int) for part in parts), 1)
    for part in parts:
        assert whole(groups, part)
        if not other:
            assert not (part == VALIDATION + TEST - index).any()


def test_folds_and_the_other_share_are_met_within_the_binomial_spread():
    count = 20_000
    examples = table(numbered(count))
    for fold in range(5):
        split = splits.split_k_fold(examples, fold=fold, held_out="test", other=0.25)
        for index, share in ((TEST, 0.2), (VALIDATION, 0.2), (TRAIN, 0.6)):
            # 5 standard deviations.
            assert abs((split == index).sum() - share * count) < 5 * np.sqrt(count * share * (1 - share))


def test_folds_stay_where_they_are_when_files_are_added():
    few, many = table(numbered(200)), table(numbered(400))
    np.testing.assert_array_equal(splits.split_k_fold(many, fold=2)[:200], splits.split_k_fold(few, fold=2))


def test_folds_are_cut_from_what_no_stated_test_takes():
    stated = np.where(np.arange(200) % 5 == 0, TEST, -1)
    parts = [splits.split_k_fold(table(numbered(200), stated=stated), fold=fold, folds=3) for fold in range(3)]
    for part in parts:
        np.testing.assert_array_equal(part == TEST, stated == TEST)
    np.testing.assert_array_equal(sum((part == VALIDATION).astype(int) for part in parts), stated != TEST)


@pytest.mark.parametrize(
    "arguments, culprits",
    [
        ({}, ("split_k_fold.fold = None", "below 5")),
        ({"fold": 5}, ("split_k_fold.fold = 5", "below 5")),
        ({"fold": -1}, ("split_k_fold.fold = -1",)),
        ({"fold": 0, "folds": 1}, ("split_k_fold.folds = 1", "at least 2")),
        ({"fold": 0, "folds": "five"}, ("split_k_fold.folds = 'five'",)),
        ({"fold": 0, "held_out": "train"}, ("split_k_fold.held_out = 'train'", "validation or test")),
        ({"fold": 0, "other": 1.0}, ("split_k_fold.other = 1.0",)),
        ({"fold": 0, "seed": "x"}, ("seed = 'x'",)),
    ],
)
def test_impossible_folds_are_the_users_error(arguments: dict, culprits: tuple[str, ...], complaint):
    with complaint(*culprits):
        splits.split_k_fold(table(numbered(50)), **arguments)


def test_a_fold_without_examples_is_the_users_error(complaint):
    one_group = table(numbered(50), groups=[b"ann"] * 50)
    empty = 1 - int(splits.name_hashes(np.array([b"ann"]), seed=0)[0] >> 63)
    with complaint(f"fold {empty} of 2 is empty", "split_k_fold.folds"):
        splits.split_k_fold(one_group, fold=empty, folds=2)


def test_folds_of_a_part_that_the_source_states_are_the_users_error(complaint):
    with complaint("states which examples are test", "split_k_fold.held_out = 'validation'"):
        splits.split_k_fold(table(numbered(50), stated=[TEST] * 5 + [-1] * 45), fold=0, held_out="test")


@pytest.fixture
def untidy(photos) -> str:
    """A folder whose order is another by number, by letter, by path and by Keras."""
    return str(
        photos(
            {
                **{f"class9/{number}.png": (2, 2) for number in range(12)},
                **{f"class10/img-{number}.JPG": (2, 2) for number in range(7)},
                **{
                    f"Zebra/{name}": (2, 2)
                    for name in ("b.png", "B.png", "ä.png", "sub/a.png", "sub-1/a.bmp", "sub/Z.gif")
                },
            }
        )
    )


def validation_names(examples: Examples, split: np.ndarray) -> set[str]:
    return {os.fsdecode(name) for name in examples.names[split == VALIDATION].tolist()}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7, 0.9])
def test_as_imagedatagenerator_the_files_are_those_of_keras(untidy: str, share: float):
    generator = ImageDataGenerator(validation_split=share)
    expected = {
        part: set(generator.flow_from_directory(untidy, subset=part).filenames) for part in ("training", "validation")
    }
    examples = folder(root=untidy)
    split = splits.split_as_keras(examples, rule="imagedatagenerator", validation=share)
    assert validation_names(examples, split) == expected["validation"]
    gif = {"Zebra/sub/Z.gif"}
    assert {os.fsdecode(name) for name in examples.names[split == TRAIN].tolist()} == expected["training"] | gif


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 123456])
@pytest.mark.parametrize("class_names", [None, ["class9", "Zebra", "class10"]])
def test_as_image_dataset_from_directory_the_files_are_those_of_keras(
    untidy: str, share: float, seed: int, class_names: list[str] | None
):
    _, expected = keras.utils.image_dataset_from_directory(
        untidy, validation_split=share, subset="both", seed=seed, class_names=class_names, verbose=False
    )
    examples = folder(root=untidy)
    split = splits.split_as_keras(
        examples,
        rule="image_dataset_from_directory",
        validation=share,
        seed=seed,
        class_names=class_names,
    )
    assert validation_names(examples, split) == {os.path.relpath(path, untidy) for path in expected.file_paths}


@given(count=st.integers(2, 200), share=st.floats(0.01, 0.99))
@example(count=10, share=0.3)
@example(count=100, share=0.29)
def test_as_fit_the_rows_are_those_of_keras(count: int, share: float):
    examples = table(numbered(count))
    try:
        (expected,) = train_validation_split((np.arange(count),), share)[1]
    except ValueError:
        with pytest.raises(UserError):
            splits.split_as_keras(examples, rule="fit", validation=share)
    else:
        split = splits.split_as_keras(examples, rule="fit", validation=share)
        np.testing.assert_array_equal(np.flatnonzero(split == VALIDATION), expected)


def test_as_keras_a_stated_test_set_is_kept_and_does_not_count():
    stated = np.where(np.arange(100) % 2 == 0, TEST, TRAIN)
    split = splits.split_as_keras(table(numbered(100), stated=stated), rule="imagedatagenerator", validation=0.2)
    np.testing.assert_array_equal(split == TEST, stated == TEST)
    np.testing.assert_array_equal(np.flatnonzero(split == VALIDATION), np.arange(1, 20, 2))


@pytest.mark.parametrize(
    "arguments, culprits",
    [
        ({}, ("split_as_keras.rule = None", "imagedatagenerator, image_dataset_from_directory, fit")),
        ({"rule": "fit", "validation": 1.0}, ("split_as_keras.validation = 1.0",)),
        ({"rule": "fit", "validation": 0}, ("split_as_keras.validation = 0",)),
        ({"rule": "imagedatagenerator", "validation": 0.01}, ("0.01 of 50 images holds none",)),
        ({"rule": "image_dataset_from_directory"}, ("split_as_keras.seed = None", "2**32")),
        ({"rule": "image_dataset_from_directory", "seed": -1}, ("split_as_keras.seed = -1",)),
        (
            {"rule": "image_dataset_from_directory", "seed": 1, "class_names": ["class0", "cat"]},
            ("split_as_keras.class_names = ['class0', 'cat']", "class0"),
        ),
    ],
)
def test_what_keras_would_not_do_is_the_users_error(arguments: dict, culprits: tuple[str, ...], complaint):
    with complaint(*culprits):
        splits.split_as_keras(table(numbered(50)), **arguments)


def test_as_keras_a_parted_group_is_the_users_error(complaint):
    with complaint("1 groups", "ann"):
        splits.split_as_keras(table(numbered(50), groups=[b"ann"] * 50), rule="fit", validation=0.2)


def test_as_keras_targets_without_classes_are_cut_by_fit_alone(complaint):
    targets = Examples.of(
        names=numbered(20), labels=np.ones((20, 1)), class_names=("age",), task="regression", root="/photos"
    )
    with complaint("regression", "'fit'"):
        splits.split_as_keras(targets, rule="imagedatagenerator")
    assert np.bincount(splits.split_as_keras(targets, rule="fit")).tolist() == [16, 4]


def test_gin_chooses_the_fold():
    gin.parse_config("split_k_fold.folds = 3\nsplit_k_fold.fold = 2")
    examples = table(numbered(50))
    np.testing.assert_array_equal(splits.split_k_fold(examples), splits.split_k_fold(examples, folds=3, fold=2))
