"""Random numbers that are a pure function of (seed, position, operation): nothing to save, nothing to restore."""

import hashlib

import numpy as np
import tensorflow as tf


def _constant(value) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def mix(x: tf.Tensor) -> tf.Tensor:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): uint64 -> uint64, a bijection that scatters every bit."""
    x = x + _constant(0x9E3779B97F4A7C15)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(30))) * _constant(0xBF58476D1CE4E5B9)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(27))) * _constant(0x94D049BB133111EB)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(31)))


def key(seed: int, operation: str) -> int:
    """64-bit key of a named use of a seed, so that adding an operation changes no other operation's draws."""
    digest = hashlib.blake2b(f"{seed}/{operation}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def uniform(seed: int, positions: tf.Tensor, operation: str, count: int) -> tf.Tensor:
    """Draws `count` numbers for each position, in [0, 1) on a grid of 2**-24.

    Args:
        seed: the run's seed.
        positions: [B] int64, indexes in the training stream.
        operation: name of the operation that draws.
        count: numbers wanted per position.

    Returns:
        [B, count] float32, the same for a position whatever the batch around it.
    """
    streams = mix(tf.cast(positions, tf.uint64) + _constant(key(seed, operation)))
    # Not a list of Python's integers, which in a graph becomes float64 on the way.
    lanes = tf.constant(np.array([0xD1B54A32D192ED03 * lane % 2**64 for lane in range(1, count + 1)], np.uint64))
    bits = mix(streams[:, None] + lanes[None, :])
    return tf.cast(tf.bitwise.right_shift(bits, _constant(40)), tf.float32) * 2.0**-24
