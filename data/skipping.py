"""Positions that a run leaves out of its endless stream, and what it shows in their place: whatever comes next."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Sorted and disjoint: first position, and the one after the last.
Ranges = Sequence[tuple[int, int]]


def shown(indexes: tf.Tensor, left_out: Ranges) -> tf.Tensor:
    """Looks up which position of the stream a run shows as its 0th, 1st, 2nd, ...; TensorFlow operations only.

    Args:
        indexes: [M] int64, at least 0.
        left_out: as `adding` gives it. Where all begin and end at even positions partners (xor 1) stay together.

    Returns:
        [M] int64, the `indexes`-th of the positions that are not left out.
    """
    if not left_out:
        return indexes
    starts, stops = np.int64(left_out).T
    removed = np.cumsum(stops - starts)
    # A range moves whatever stands at its start once all before it are gone, and all that follows.
    moved = starts - np.concatenate([[0], removed[:-1]])
    ranges = tf.searchsorted(moved, indexes, side="right")
    return indexes + tf.gather(np.concatenate([[0], removed]), ranges)


def adding(left_out: Ranges, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    """The ranges with [start, stop) among them, in as few as it takes."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted([*left_out, (start, stop)]):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)
