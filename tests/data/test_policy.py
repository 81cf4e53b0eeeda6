"""A policy draws for each position alone."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data import draws
from data.augment import geometry
from data.augment.policy import Policy, policy

ALL = (
    geometry.rotation(degrees=30),
    geometry.shift(width=0.2, height=0.1),
    geometry.zoom(low=0.8, high=1.3),
    geometry.flip(),
)


def matrices(operations: tuple, start: int, stop: int, *, seed: int = 1) -> np.ndarray:
    return Policy(operations).matrices(tf.range(start, stop, dtype=tf.int64), seed=seed, image_size=32).numpy()


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2**62), size=st.integers(1, 40), cut=st.integers(0, 40))
def test_a_position_gets_the_same_bits_in_any_batch(start: int, size: int, cut: int):
    cut = min(cut, size)
    whole = matrices(ALL, start, start + size)
    parts = [matrices(ALL, start, start + cut), matrices(ALL, start + cut, start + size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_position_gets_the_same_bits_traced():
    traced = tf.function(lambda positions: Policy(ALL).matrices(positions, seed=1, image_size=32))
    np.testing.assert_array_equal(traced(tf.range(5, 21, dtype=tf.int64)).numpy(), matrices(ALL, 5, 21))


def test_an_empty_policy_changes_nothing():
    np.testing.assert_array_equal(matrices((), 0, 5), np.broadcast_to(np.eye(3), (5, 3, 3)))


def test_the_product_runs_from_the_input_to_the_output_in_the_order_of_the_list():
    positions = tf.range(16, dtype=tf.int64)
    expected = np.broadcast_to(np.eye(3), (16, 3, 3))
    for operation in ALL:
        drawn = draws.uniform(1, positions, f"{operation.name}/0", operation.count)
        expected = expected @ operation.matrix(tf.cast(drawn, tf.float64), 32).numpy()
    # Entries below 64 through four products of three terms.
    np.testing.assert_allclose(matrices(ALL, 0, 16), expected, rtol=0, atol=12 * 64 * 2.0**-52)
    assert not np.allclose(matrices(ALL, 0, 16), matrices(ALL[::-1], 0, 16))


def test_one_more_operation_changes_nothing_that_the_others_draw():
    turn, mirror = matrices(ALL[:1], 0, 16), matrices(ALL[3:], 0, 16)
    # Entries below 64 through a product of three terms.
    close = {"rtol": 0, "atol": 6 * 64 * 2.0**-52}
    np.testing.assert_allclose(matrices((ALL[0], ALL[3]), 0, 16), turn @ mirror, **close)
    # In front of it, too: only the name of an operation keys its numbers.
    np.testing.assert_allclose(matrices((ALL[3], ALL[0]), 0, 16), mirror @ turn, **close)


def test_the_same_operation_twice_draws_twice():
    once, twice = matrices(ALL[:1], 0, 16), matrices((ALL[0], ALL[0]), 0, 16)
    assert (np.abs(twice - once @ once).max(axis=(1, 2)) > 1e-6).all()


def test_seeds_and_positions_draw_differently():
    assert (np.abs(matrices(ALL, 0, 50) - matrices(ALL, 0, 50, seed=2)).max(axis=(1, 2)) > 1e-6).all()
    assert len(np.unique(matrices(ALL, 0, 50), axis=0)) == 50


@pytest.mark.parametrize("count", [1, 15, 16, 17])
def test_as_many_matrices_as_positions(count: int):
    assert matrices(ALL, 0, count).shape == (count, 3, 3)


def test_the_configurable_makes_a_policy_of_any_sequence():
    assert policy() == Policy()
    assert policy(operations=list(ALL)).operations == ALL
