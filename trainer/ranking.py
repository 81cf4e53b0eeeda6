"""Which evaluations were the best so far."""

import math

import numpy as np
import tensorflow as tf

# How many a checkpoint remembers, whatever is kept.
CAPACITY = 16


class Ranking:
    """The best evaluations by `trainer.metrics.merit`, the best one first, in variables.

    Build it in the strategy's scope.

    Args:
        keep: how many, 1 to CAPACITY.
        gain: by how much an evaluation has to be better than another one to go before it; equal ones stay as they are.
    """

    def __init__(self, *, keep: int, gain: float = 0.0):
        self._keep, self._gain = keep, gain
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self._merits = tf.Variable([-math.inf] * CAPACITY, dtype=tf.float64, **shared)
        self._steps = tf.Variable([-1] * CAPACITY, dtype=tf.int64, **shared)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {"merits": self._merits, "steps": self._steps}

    @property
    def steps(self) -> list[int]:
        """Steps of those that are kept, the best first."""
        return [step for step in self._steps.numpy()[: self._keep].tolist() if step >= 0]

    def take(self, step: int, merit: float) -> bool:
        """Takes note of an evaluation; one that has been seen before changes nothing.

        Returns:
            whether it is one of those that are kept.
        """
        merits, steps = self._merits.numpy(), self._steps.numpy()
        if step in steps:
            return False
        better = np.flatnonzero(merit > merits + self._gain)
        if not better.size:
            return False
        place = int(better[0])
        self._merits.assign(np.insert(merits, place, merit)[:CAPACITY])
        self._steps.assign(np.insert(steps, place, step)[:CAPACITY])
        return place < self._keep
