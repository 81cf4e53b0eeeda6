"""Exponential moving averages of the weights (Polyak, Juditsky 1992)."""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf


class Average:
    """Averages of the variables that train, and copies of all others. Build it in the strategy's scope.

    Args:
        variables: of a network, by name.
        averaged: names of those that train in any stage.
        decay: what an update leaves of the average, at least 0 and below 1.
        warmup: whether the first averages are of few updates: the decay is at most (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, variables: Mapping[str, keras.Variable], *, averaged: set[str], decay: float, warmup: bool):
        self._extended = tf.distribute.get_strategy().extended
        self._decay, self._warmup = decay, warmup
        self._pairs = {}
        for name, variable in variables.items():
            average = tf.Variable(
                variable.numpy(), dtype=variable.value.dtype, trainable=False, aggregation=variable.value.aggregation
            )
            self._pairs[name] = (variable.value, average)
        self._averaged = {name: pair for name, pair in self._pairs.items() if name in averaged}
        self._others = {name: pair for name, pair in self._pairs.items() if name not in averaged}
        self._exchange = tf.function(self._exchanged, autograph=False)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps, under the names of the network."""
        return {name: average for name, (_, average) in self._pairs.items()}

    def start(self) -> None:
        """Begins with the weights as they are now."""
        for value, average in self._pairs.values():
            self._extended.update(average, lambda average, value: average.assign(value), args=(value,))

    def update(self, step: tf.Tensor) -> None:
        """Takes in the weights after an update. Call it in cross-replica context.

        Args:
            step: scalar int64, steps done before.
        """
        share = tf.constant(1.0 - self._decay, tf.float32)
        if self._warmup:
            # The rest of (1 + n) / (10 + n).
            share = tf.maximum(share, 9.0 / (10.0 + tf.cast(step, tf.float32)))

        def follow(average, value, share):
            average.assign_add((value - average) * tf.cast(share, average.dtype))

        for value, average in self._averaged.values():
            self._extended.update(average, follow, args=(value, share), group=False)

    def copy_others(self) -> None:
        """Copies what is not averaged, such as moving statistics. Call it in cross-replica context."""
        for value, average in self._others.values():
            self._extended.update(average, lambda average, value: average.assign(value), args=(value,), group=False)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network holds the averages; afterwards its own weights again, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchanged(self) -> None:
        def exchange(average, value):
            mean, own = average.read_value(), value.read_value()
            average.assign(own)
            value.assign(mean)

        for value, average in self._averaged.values():
            self._extended.update(average, exchange, args=(value,), group=False)
