"""Factors say how often an epoch shows each example; class weights say how much each counts."""

import dataclasses

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from data import sampling
from data.examples import Examples
from data.order import Order

CLASSES = ("cat", "dog", "owl", "elk")


def table(labels: list[int] | np.ndarray, *, origins=None, shares: tuple[float, ...] = (), **columns) -> Examples:
    names = [b"%06d" % row for row in range(len(labels))]
    task = columns.get("task", "single_label")
    classes = CLASSES[:2] if task == "binary" else CLASSES
    examples = Examples.of(names=names, labels=np.asarray(labels), class_names=classes, root="/photos", **columns)
    origins = examples.origins if origins is None else np.asarray(origins, np.int16)
    return dataclasses.replace(examples, origins=origins, shares=shares)


def several_labels(task: str) -> Examples:
    return table(np.eye(4, dtype=np.float32), task=task)


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=80)
REPEATS = st.floats(0.25, 8.0, width=32)


@given(labels=LABELS, repeats=st.data())
def test_naturally_an_epoch_shows_each_example_as_its_repeats_say(labels: list[int], repeats):
    drawn = repeats.draw(st.lists(REPEATS, min_size=len(labels), max_size=len(labels)))
    factors = sampling.natural(table(labels, repeats=drawn))
    assert factors.dtype == np.float64
    np.testing.assert_array_equal(factors, np.float32(drawn))


@given(pairs=st.lists(st.tuples(st.integers(0, 2), REPEATS), max_size=60), share=st.floats(0.05, 0.9))
def test_a_mixture_gives_each_source_its_share_and_keeps_the_length_of_an_epoch(pairs, share: float):
    origins, repeats = zip(*[(0, 1.0), (1, 1.0), (2, 1.0), *pairs], strict=True)
    shares = (share, (1 - share) / 4, (1 - share) * 3 / 4)
    examples = table([0] * len(origins), repeats=repeats, origins=origins, shares=shares)
    factors = sampling.natural(examples)
    total = examples.repeats.sum(dtype=np.float64)
    np.testing.assert_allclose(np.bincount(examples.origins, weights=factors), np.array(shares) * total)
    for origin in range(3):
        within = factors[examples.origins == origin] / examples.repeats[examples.origins == origin]
        np.testing.assert_allclose(within, within[0])


@given(labels=LABELS, power=st.floats(0, 1))
def test_balanced_gives_a_class_a_share_by_a_power_of_its_size(labels: list[int], power: float):
    factors = sampling.balanced(table(labels), power=power)
    assert (factors > 0).all()
    sizes = np.bincount(labels).astype(np.float64)
    shares = np.where(sizes, sizes ** (1 - power), 0)
    shares[sizes == 0] = 0
    np.testing.assert_allclose(np.bincount(labels, weights=factors), shares / shares.sum() * len(labels))


def test_balanced_all_classes_have_the_same_share_and_repeats_count_within_them():
    factors = sampling.balanced(table([0, 0, 0, 1], repeats=[1, 1, 2, 5]))
    np.testing.assert_allclose(factors, [0.5, 0.5, 1, 2])


def test_weighted_shows_examples_in_proportion_to_a_column():
    examples = table([0, 1, 2, 3], weights=[0, 1, 2, 5], repeats=[3, 1, 1, 3])
    np.testing.assert_allclose(sampling.weighted(examples), [0, 0.5, 1, 2.5])
    np.testing.assert_allclose(sampling.weighted(examples, column="repeats"), [1.5, 0.5, 0.5, 1.5])


def test_by_class_shows_the_named_classes_more_often():
    examples = table([0, 1, 1, 2], repeats=[1, 1, 2, 1])
    factors = sampling.by_class(examples, factors={"dog": 3.0, "owl": 0.5})
    np.testing.assert_array_equal(factors, [1, 3, 6, 0.5])
    assert Order.of(examples, factors=factors, seed=0).epoch_length == 10


def test_gin_chooses_a_rule_and_its_arguments():
    gin.parse_config("by_class.factors = {'cat': 2.0}\nbalanced.power = 0.5")
    np.testing.assert_array_equal(sampling.by_class(table([0, 1])), [2, 1])
    np.testing.assert_allclose(sampling.balanced(table([0, 0, 0, 0, 1])), [5 / 6] * 4 + [5 / 3])


def two_million(chosen: Order) -> np.ndarray:
    """[epochs, M] rows of the first two million positions, up to the last whole epoch."""
    length = chosen.epoch_length
    _, rows = chosen.rows(tf.range(2_000_000 // length * length, dtype=tf.int64))
    return rows.numpy().reshape(-1, length)


def neighbour_correlation(values: np.ndarray) -> float:
    return np.corrcoef(values.ravel()[:-1], values.ravel()[1:])[0, 1]


@pytest.mark.parametrize("count", [1000, 99_991])
def test_two_million_positions_of_balanced_sampling_keep_its_definition(count: int):
    # Classes of shares 0.7, 0.2, 0.09 and 0.01.
    labels = np.searchsorted([0.7, 0.9, 0.99], np.arange(count) / count, side="right")
    examples = table(np.random.RandomState(0).permutation(labels))
    factors = sampling.balanced(examples)
    chosen = Order.of(examples, factors=factors, seed=7)
    assert chosen.epoch_length == count
    shown = two_million(chosen)
    for rows in shown:
        assert (np.abs(np.bincount(examples.labels[rows]) - count / 4) <= 1).all()
        often = np.bincount(rows, minlength=count)
        assert (np.floor(factors) <= often).all() and (often <= np.ceil(factors)).all()
    # Offsets by the golden ratio: at most a few shows from the wanted number, however many epochs.
    assert np.abs(np.bincount(shown.ravel(), minlength=count) - len(shown) * factors).max() < 6
    assert abs(neighbour_correlation(shown)) < 0.01
    assert abs(neighbour_correlation(examples.labels[shown])) < 0.01


@pytest.mark.parametrize("count", [1000, 99_991])
def test_two_million_positions_of_a_mixture_keep_its_shares(count: int):
    origins = np.arange(count) * 3 // count
    shares = (0.5, 0.3, 0.2)
    examples = table(np.arange(count) % 4, origins=origins, shares=shares)
    factors = sampling.natural(examples)
    chosen = Order.of(examples, factors=factors, seed=7)
    assert chosen.epoch_length == count
    shown = two_million(chosen)
    for rows in shown:
        assert (np.abs(np.bincount(origins[rows]) - np.array(shares) * count) <= 1).all()
        often = np.bincount(rows, minlength=count)
        assert (np.floor(factors) <= often).all() and (often <= np.ceil(factors)).all()
    assert abs(neighbour_correlation(shown)) < 0.01
    assert abs(neighbour_correlation(origins[shown])) < 0.01


@settings(max_examples=60)
@given(labels=LABELS)
def test_balanced_class_weights_are_those_of_scikit_learn(labels: list[int]):
    weights = sampling.class_weights(table(labels), "balanced")
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", labels), rtol=1e-6)


def test_named_class_weights_are_those_of_scikit_learn_and_others_are_one():
    weights = sampling.class_weights(table([0, 1, 2, 1]), {"dog": 2.5})
    np.testing.assert_allclose(weights, compute_sample_weight({0: 1, 1: 2.5, 2: 1}, [0, 1, 2, 1]))


def test_binary_tables_are_weighted_and_balanced_like_any_other():
    examples = table([0, 0, 0, 1], task="binary")
    np.testing.assert_allclose(sampling.class_weights(examples, "balanced"), [2 / 3] * 3 + [2])
    np.testing.assert_allclose(sampling.balanced(examples), [2 / 3] * 3 + [2])


@pytest.mark.parametrize("task", ["multi_label", "regression"])
@pytest.mark.parametrize(
    "binding, rule",
    [
        ("balanced", sampling.balanced),
        ("by_class.factors", lambda examples: sampling.by_class(examples, factors={"cat": 2.0})),
        ("train.class_weights", lambda examples: sampling.class_weights(examples, "balanced")),
        ("train.class_weights", lambda examples: sampling.class_weights(examples, {"cat": 2.0})),
    ],
)
def test_rules_by_class_need_one_class_an_example(task: str, binding: str, rule, complaint):
    with complaint(task, binding):
        rule(several_labels(task))


@pytest.mark.parametrize(
    "numbers, culprit",
    [
        ({"cow": 2.0, "cat": 1.0}, "'cow'"),
        ({0: 2.0}, "0"),
        ({"cat": 0.0}, "{'cat': 0.0}"),
        ({"cat": -1}, "{'cat': -1}"),
        ({"cat": float("nan")}, "nan"),
        ({"cat": "2"}, "{'cat': '2'}"),
        ({"cat": True}, "True"),
        (["cat"], "['cat']"),
        ("balance", "'balance'"),
        (None, "None"),
    ],
)
def test_numbers_by_class_that_make_no_sense_are_the_users_error(numbers, culprit: str, complaint):
    with complaint(culprit, "by_class.factors"):
        sampling.by_class(table([0, 1]), factors=numbers)
    with complaint(culprit, "train.class_weights"):
        sampling.class_weights(table([0, 1]), numbers)


@pytest.mark.parametrize("power", [-0.1, 1.5, float("nan"), "half"])
def test_an_impossible_power_is_the_users_error(power, complaint):
    with complaint(repr(power), "balanced.power"):
        sampling.balanced(table([0, 1]), power=power)


def test_a_column_that_cannot_weigh_is_the_users_error(complaint):
    with complaint("'sizes'", "weights or repeats"):
        sampling.weighted(table([0, 1]), column="sizes")
    with complaint("from -1 to 2", "weights"):
        sampling.weighted(table([0, 1], weights=[-1, 2]))
    with complaint("from 0 to 0", "weights"):
        sampling.weighted(table([0, 1], weights=[0, 0]))


def test_a_source_of_a_mixture_without_training_examples_is_the_users_error(complaint):
    with complaint("source 1", "0.75", "train.split"):
        sampling.natural(table([0, 1], origins=[0, 0], shares=(0.25, 0.75)))


@given(labels=st.lists(st.integers(0, 3), min_size=4, max_size=80), share=st.floats(0, 1))
def test_replay_shows_all_of_the_new_classes_and_a_share_of_each_old_one(labels: list[int], share: float):
    labels = np.array([*labels, 0, 1])
    factors = sampling.replay(table(labels), old=["dog", "owl"], share=share)
    assert set(factors.tolist()) <= {0.0, 1.0}
    for label, name in enumerate(CLASSES):
        count = int((labels == label).sum())
        wanted = count if name not in ("dog", "owl") else max(1, round(share * count)) if share else 0
        assert factors[labels == label].sum() == min(wanted, count)


def test_replay_chooses_by_name_whatever_else_is_in_the_table():
    examples = table(np.arange(400) % 4, repeats=np.full(400, 2.0))
    factors = sampling.replay(examples, old=["cat", "elk"], share=0.05)
    replayed = set(examples.names[(factors > 0) & np.isin(examples.labels, (0, 3))].tolist())
    assert len(replayed) == 10 and set(factors.tolist()) == {0.0, 2.0}
    # Another order, and fewer images of the new classes.
    rows = np.random.default_rng(0).permutation(400)
    rows = rows[(examples.labels[rows] != 1) | (rows < 200)]
    fewer = examples.take(rows)
    factors = sampling.replay(fewer, old=["elk", "cat"], share=0.05)
    assert set(fewer.names[(factors > 0) & np.isin(fewer.labels, (0, 3))].tolist()) == replayed
    often = sampling.replay(examples, old=["cat", "elk"], share=0.05, repeats=20)
    assert set(examples.names[often == 40].tolist()) == replayed and often.sum() == examples.repeats.sum()
    others = sampling.replay(examples, old=["cat", "elk"], share=0.05, seed=1)
    assert set(examples.names[(others > 0) & np.isin(examples.labels, (0, 3))].tolist()) != replayed


def test_what_replay_leaves_out_is_in_no_epoch():
    examples = table(np.arange(80) % 4)
    factors = sampling.replay(examples, old=["cat", "dog"], share=0.1)
    order = Order.of(examples, factors=factors, seed=3)
    assert order.epoch_length == 44
    _, rows = order.rows(tf.range(44 * 5, dtype=tf.int64))
    np.testing.assert_array_equal(np.bincount(rows.numpy(), minlength=80), 5 * factors)


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        ({"old": ["cow"], "share": 0.5}, "'cow'"),
        ({"old": None, "share": 0.5}, "replay.old"),
        ({"old": "cat", "share": 0.5}, "replay.old"),
        ({"old": [], "share": 0.5}, "replay.old"),
        ({"old": ["cat"], "share": None}, "replay.share"),
        ({"old": ["cat"], "share": 1.5}, "1.5"),
        ({"old": ["cat"], "share": float("nan")}, "nan"),
        ({"old": ["cat"], "share": True}, "True"),
        ({"old": ["cat"], "share": 0.5, "repeats": 0}, "replay.repeats"),
        ({"old": ["cat"], "share": 0.5, "repeats": "2"}, "replay.repeats"),
        ({"old": ["cat", "dog"], "share": 0}, "replay.share"),
    ],
)
def test_an_impossible_replay_is_the_users_error(arguments, culprit: str, complaint):
    with complaint(culprit):
        sampling.replay(table([0, 1]), **arguments)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_replay_needs_one_class_an_example(task: str, complaint):
    with complaint(task, "replay"):
        sampling.replay(several_labels(task), old=["cat"], share=0.5)
