"""Positions of the stream become examples by a permutation of each epoch, shown as often as their factors say."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import order
from data.examples import Examples
from data.order import Order


def stream(start: int, count: int, *, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    epochs, rows = order.permute(tf.range(start, start + count, dtype=tf.int64), examples=examples, seed=seed)
    return epochs.numpy(), rows.numpy()


@functools.cache
def two_million(examples: int) -> np.ndarray:
    """[epochs, examples] of the first two million positions, up to the last whole epoch."""
    epochs, rows = stream(0, 2_000_000 // examples * examples, examples=examples, seed=1)
    np.testing.assert_array_equal(epochs, np.arange(len(rows)) // examples)
    return rows.reshape(-1, examples)


def table(labels: list[int] | np.ndarray) -> Examples:
    labels = np.asarray(labels)
    classes = [f"class{label}" for label in range(int(labels.max()) + 1)]
    names = [b"%06d" % row for row in range(len(labels))]
    return Examples.of(names=names, labels=labels, class_names=classes, root="/photos")


def epochs_of(chosen: Order, count: int, *, first: int = 0) -> np.ndarray:
    """[count, M] rows of whole epochs."""
    length = chosen.epoch_length
    epochs, rows = chosen.rows(tf.range(first * length, (first + count) * length, dtype=tf.int64))
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(first, first + count), length))
    return rows.numpy().reshape(count, length)


@pytest.mark.parametrize("examples", [1, 2, 3, 7, 1000, 99_991])
def test_every_epoch_of_two_million_positions_shows_each_example_once(examples: int):
    shown = np.sort(two_million(examples), axis=1)
    np.testing.assert_array_equal(shown, np.broadcast_to(np.arange(examples), shown.shape))


@pytest.mark.parametrize("examples", [2**16 + 1, 2**18 + 1, 2**20 + 1])
def test_sizes_at_which_random_index_shuffle_repeats_an_example_show_each_once(examples: int):
    plain = tf.raw_ops.RandomIndexShuffle(
        index=tf.range(examples, dtype=tf.int64),
        seed=tf.constant([1, 2, 3], tf.uint64),
        max_index=tf.constant(examples - 1, tf.int64),
        rounds=order.ROUNDS,
    )
    # Once TensorFlow is mended, `permute` need not work around it.
    assert len(np.unique(plain)) < examples
    _, rows = stream(0, examples, examples=examples, seed=5)
    np.testing.assert_array_equal(np.sort(rows), np.arange(examples))


@pytest.mark.parametrize("examples", [2, 7, 16])
def test_every_example_comes_first_equally_often_in_small_sets(examples: int):
    epochs = 2000
    first = stream(0, epochs * examples, examples=examples, seed=3)[1].reshape(epochs, examples)[:, 0]
    # 5 standard deviations of a binomial.
    spread = 5 * np.sqrt(epochs / examples)
    assert (np.abs(np.bincount(first, minlength=examples) - epochs / examples) < spread).all()


@settings(max_examples=60, deadline=None)
@given(examples=st.integers(1, 3000), epoch=st.integers(0, 10**9), seed=st.integers(0, 2**63 - 1))
def test_any_epoch_of_any_size_under_any_seed_is_a_permutation(examples: int, epoch: int, seed: int):
    epochs, rows = stream(epoch * examples, examples, examples=examples, seed=seed)
    assert (epochs == epoch).all()
    np.testing.assert_array_equal(np.sort(rows), np.arange(examples))


@settings(max_examples=30, deadline=None)
@given(
    examples=st.integers(1, 50), start=st.integers(0, 300), count=st.integers(1, 200), seed=st.integers(0, 2**32 - 1)
)
@example(examples=5, start=3, count=64, seed=0)
def test_a_batch_across_many_epochs_equals_its_positions_looked_up_alone(
    examples: int, start: int, count: int, seed: int
):
    epochs, rows = stream(start, count, examples=examples, seed=seed)
    alone = [stream(position, 1, examples=examples, seed=seed) for position in range(start, start + count, 7)]
    np.testing.assert_array_equal(epochs[::7], np.concatenate([epoch for epoch, _ in alone]))
    np.testing.assert_array_equal(rows[::7], np.concatenate([row for _, row in alone]))


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 1001, 12_345, 10**13 + 7])
def test_the_stream_is_the_same_from_any_start(start: int):
    _, whole = stream(start // 1000 * 1000, 4000, examples=1000, seed=9)
    skipped = start % 1000
    _, rows = stream(start, 2500, examples=1000, seed=9)
    np.testing.assert_array_equal(rows, whole[skipped : skipped + 2500])


def test_the_stream_is_the_same_traced_and_eager():
    traced = tf.function(lambda positions: order.permute(positions, examples=37, seed=2)[1])
    positions = tf.range(20, 120, dtype=tf.int64)
    np.testing.assert_array_equal(traced(positions).numpy(), stream(20, 100, examples=37, seed=2)[1])


@pytest.mark.parametrize("examples", [1000, 99_991, 1_000_000])
def test_neighbours_are_uncorrelated(examples: int):
    # 2 million positions: the standard error of a correlation is 0.0007, four rounds of the shuffle give 0.41.
    rows = two_million(examples).ravel().astype(np.float64)
    assert len(rows) > 1_900_000
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.01


def test_places_and_examples_are_uncorrelated():
    # Of 100,000 places; 5 standard errors.
    _, rows = stream(0, 100_000, examples=100_000, seed=1)
    assert abs(np.corrcoef(np.arange(100_000), rows)[0, 1]) < 5 / np.sqrt(100_000)


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [stream(epoch * 1000, 1000, examples=1000, seed=seed)[1] for seed in range(4) for epoch in range(4)]
    for index, one in enumerate(orders):
        for other in orders[:index]:
            # Two independent permutations agree in 1 place on average; 12 or more has probability 1e-9.
            assert (one == other).sum() < 12


FACTORS = st.lists(
    st.tuples(st.one_of(st.floats(0.01, 6.0), st.integers(1, 4)), st.integers(0, 3)), min_size=1, max_size=60
)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=80)
@given(pairs=FACTORS, seed=SEEDS, first=st.integers(0, 10**9))
@example(pairs=[(0.3, 0)], seed=0, first=0)
@example(pairs=[(0.3, 0), (0.1, 1)], seed=0, first=10**12)
def test_every_epoch_shows_an_example_as_often_as_its_factor_and_a_class_as_its_share(pairs, seed: int, first: int):
    factors, labels = np.array(pairs, np.float64).T
    examples = table(labels.astype(int))
    chosen = Order.of(examples, factors=factors, seed=seed)
    assert chosen.epoch_length == max(1, round(factors.sum()))
    wanted = factors * chosen.epoch_length / factors.sum()
    for rows in epochs_of(chosen, 3, first=first):
        shown = np.bincount(rows, minlength=len(examples))
        assert (np.floor(wanted - 1e-6) <= shown).all() and (shown <= np.ceil(wanted + 1e-6)).all()
        share = np.bincount(examples.labels, weights=wanted)
        assert (np.abs(np.bincount(examples.labels[rows], minlength=len(share)) - share) < 1 + 1e-6).all()


@settings(max_examples=40)
@given(pairs=FACTORS, seed=SEEDS)
def test_over_many_epochs_an_example_is_shown_its_factor_times_their_number(pairs, seed: int):
    factors, labels = np.array(pairs, np.float64).T
    chosen = Order.of(table(labels.astype(int)), factors=factors, seed=seed)
    wanted = factors * chosen.epoch_length / factors.sum()
    shown = np.bincount(epochs_of(chosen, 100).ravel(), minlength=len(factors))
    # Independent offsets would miss by 5 and more (the standard deviation at a factor of one half).
    assert (np.abs(shown - 100 * wanted) < 4).all()


@settings(max_examples=60)
@given(pairs=FACTORS, seed=SEEDS, start=st.integers(0, 10**12), count=st.integers(1, 40))
def test_a_weighted_stream_is_the_same_from_any_start(pairs, seed: int, start: int, count: int):
    factors, labels = np.array(pairs, np.float64).T
    chosen = Order.of(table(labels.astype(int)), factors=factors, seed=seed)
    epochs, rows = chosen.rows(tf.range(start, start + count, dtype=tf.int64))
    later = chosen.rows(tf.range(start + count // 2, start + count, dtype=tf.int64))
    np.testing.assert_array_equal(rows[count // 2 :], later[1])
    np.testing.assert_array_equal(epochs[count // 2 :], later[0])


@settings(max_examples=30)
@given(count=st.integers(1, 200), factor=st.sampled_from([1.0, 1.0 + 2**-40]), seed=SEEDS, start=st.integers(0, 10**6))
def test_with_all_factors_one_the_stream_is_the_plain_permutation(count: int, factor: float, seed: int, start: int):
    chosen = Order.of(table(np.arange(count) % 3), factors=np.full(count, factor), seed=seed)
    assert chosen.epoch_length == count
    positions = tf.range(start, start + 300, dtype=tf.int64)
    for one, other in zip(chosen.rows(positions), order.permute(positions, examples=count, seed=seed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_weighted_stream_is_the_same_inside_a_dataset():
    chosen = Order.of(table(np.arange(50) % 3), factors=np.linspace(0.1, 3, 50), seed=4)
    batches = tf.data.Dataset.range(10).map(lambda step: chosen.rows(step * 32 + tf.range(32, dtype=tf.int64))[1])
    np.testing.assert_array_equal(np.concatenate(list(batches)), chosen.rows(tf.range(320, dtype=tf.int64))[1])


def test_examples_of_factor_zero_are_never_shown():
    chosen = Order.of(table([0] * 6), factors=np.array([1, 0, 2.5, 0, 0.5, 0]), seed=0)
    assert chosen.epoch_length == 4
    assert set(epochs_of(chosen, 50).ravel().tolist()) == {0, 2, 4}


def test_half_of_a_class_is_no_regular_pattern_of_the_table():
    chosen = Order.of(table([0] * 2000), factors=np.full(2000, 0.5), seed=0)
    epochs = epochs_of(chosen, 8)
    # Every second row would be steps of 2 alone; a random half has steps of 1 in half of the places, 5 standard errors.
    assert abs((np.diff(np.sort(epochs[0])) == 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)
    assert len(np.unique(epochs)) == 2000


def test_seeds_choose_and_order_differently():
    one, other = (Order.of(table([0] * 1000), factors=np.full(1000, 0.5), seed=seed) for seed in (1, 2))
    assert len(np.setdiff1d(epochs_of(one, 1), epochs_of(other, 1))) > 100


def test_an_epoch_of_ten_thousand_million_positions_does_not_overflow():
    count, repeats = 100_000, 100_000
    chosen = Order.of(table(np.arange(count) % 7), factors=np.linspace(0.5, 1.5, count) * repeats, seed=3)
    assert chosen.epoch_length == count * repeats
    start = 10**7 * chosen.epoch_length - 50_000
    epochs, rows = chosen.rows(tf.range(start, start + 100_000, dtype=tf.int64))
    np.testing.assert_array_equal(epochs, np.repeat([10**7 - 1, 10**7], 50_000))
    assert rows.numpy().min() >= 0 and rows.numpy().max() < count
    # The mean row of a density that rises from 0.5 to 1.5, in shares of the table: 1/2 + 1/12; 5 standard errors.
    assert abs(rows.numpy().mean() / count - 7 / 12) < 5 * 0.28 / np.sqrt(100_000)


@pytest.mark.parametrize(
    "factors, culprit",
    [
        (np.ones(3), "(3,)"),
        (np.array([1, 1, 1, -0.5]), "-0.5"),
        (np.array([1, 1, 1, np.nan]), "nan"),
        (np.array([1, 1, 1, np.inf]), "inf"),
        (np.zeros(4), "sum 0.0"),
        (np.array([1, 1, 1, 1e-12]), "1e-12"),
        (np.full(4, 1e15), "1000000000000000.0"),
    ],
)
def test_factors_that_make_no_epoch_are_the_users_error(factors: np.ndarray, culprit: str, complaint):
    with complaint(culprit, "train.sampling", "4 training examples"):
        Order.of(table([0] * 4), factors=factors, seed=0)


def test_a_tooth_at_the_end_of_an_interval_belongs_to_the_next():
    chosen = Order(epoch_length=3, seed=0, ends=np.array([0, 2, 3]), laid=np.array([5, 6, 7]), bits=0)
    assert np.sort(epochs_of(chosen, 1)[0]).tolist() == [6, 6, 7]
