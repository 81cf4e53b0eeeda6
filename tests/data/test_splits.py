"""Splits depend on the hash of a name and on nothing around it."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import splits
from data.examples import Examples
from data.splits import TEST, TRAIN, VALIDATION


def table(
    names: list[bytes], labels: list[int] | np.ndarray | None = None, stated: list[int] | None = None
) -> Examples:
    labels = np.zeros(len(names), int) if labels is None else np.asarray(labels)
    classes = [f"class{label}" for label in range(int(labels.max()) + 1)]
    return Examples.of(names=names, labels=labels, class_names=classes, root="/photos", stated_split=stated)


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
