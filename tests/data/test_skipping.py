"""A stream without some of its positions is the same stream, but for those."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from data import skipping

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8)


def listed(ranges):
    left_out = ()
    for start, length in ranges:
        left_out = skipping.adding(left_out, start, start + length)
    return left_out


@given(RANGES)
def test_what_is_shown_is_every_position_that_is_not_left_out_in_order(ranges):
    gone = {position for start, length in ranges for position in range(start, start + length)}
    expected = list(itertools.islice((p for p in itertools.count() if p not in gone), 100))
    assert skipping.shown(tf.range(100, dtype=tf.int64), listed(ranges)).numpy().tolist() == expected


@given(RANGES, st.randoms())
def test_ranges_are_the_same_in_whatever_order_they_came_and_do_not_touch(ranges, random):
    left_out = listed(ranges)
    random.shuffle(ranges)
    assert listed(ranges) == left_out
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(left_out))


def test_where_nothing_is_left_out_there_is_no_operation():
    indexes = tf.range(4, dtype=tf.int64)
    assert skipping.shown(indexes, ()) is indexes


@pytest.mark.parametrize("far", [2**40, 2**62])
def test_it_is_as_exact_far_out(far):
    left_out = ((8, 16), (far, far + 24))
    found = skipping.shown(tf.constant([far - 9, far - 8, far], tf.int64), left_out).numpy()
    np.testing.assert_array_equal(found, [far - 1, far + 24, far + 32])
