"""Positions of the stream become examples by a permutation of each epoch."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import order


def stream(start: int, count: int, *, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    epochs, rows = order.permute(tf.range(start, start + count, dtype=tf.int64), examples=examples, seed=seed)
    return epochs.numpy(), rows.numpy()


@pytest.mark.parametrize("examples", [1, 2, 3, 7, 1000, 99_991])
def test_every_epoch_shows_each_example_once(examples: int):
    epochs, rows = stream(0, 3 * examples, examples=examples, seed=5)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(rows[epochs == epoch]), np.arange(examples))
    np.testing.assert_array_equal(epochs, np.arange(3 * examples) // examples)


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
    chunk = 2 * examples if examples < 500_000 else examples
    lookup = tf.function(lambda positions: order.permute(positions, examples=examples, seed=1)[1])
    positions = tf.range(2_000_000 // chunk * chunk, dtype=tf.int64)
    rows = np.concatenate([lookup(part) for part in tf.reshape(positions, [-1, chunk])]).astype(np.float64)
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
