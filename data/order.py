"""Position -> (epoch, example). The stream is endless, an epoch shows each example as often as asked, without state."""

import dataclasses

import numpy as np
import tensorflow as tf

from data import draws
from data.errors import UserError
from data.examples import Examples

# With TensorFlow's default of 4 rounds neighbours are correlated by 0.41 at a million examples.
ROUNDS = 8
# RandomIndexShuffle walks through 2**16 places for any smaller size: half a millisecond a position for two examples.
# Up to this size sorting hashes is faster.
SORTED = 16
GOLDEN = (5**0.5 - 1) / 2
# Cumulative factors are computed in float64, exact up to 2**53.
BITS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The shuffled, endless stream over a table whose examples may be shown more or less than once an epoch.

    Epoch `e` of `M` positions is systematic sampling: the factors laid end to end make a line of length M; a comb of
    M teeth at distance 1, moved by an offset u_e in [0, 1), picks the example under each tooth. So an example of
    factor r is shown floor(r) or ceil(r) times in every epoch, and a class that lies in one piece gets its share to
    within one. The offsets follow the golden ratio, so that over many epochs the counts stay close to e * r. The
    order of the teeth is `permute`.

    Attributes:
        epoch_length: M, the sum of the factors rounded to a whole number, at least 1.
        seed: the run's seed.
        ends: [N] int64, where each interval of the line ends, in units of 2**-bits; None: each example once.
        laid: [N] int64, row of the table at each interval; None likewise.
        bits: factors are rounded to multiples of 2**-bits.
    """

    epoch_length: int
    seed: int
    ends: np.ndarray | None = None
    laid: np.ndarray | None = None
    bits: int = 0

    @classmethod
    def of(cls, examples: Examples, *, factors: np.ndarray, seed: int) -> "Order":
        """Lays the examples of a training set on the line, sources of a mixture and classes each in one piece.

        Args:
            examples: the train split.
            factors: [N], at least 0, how often an epoch shows each example, see `data.sampling`.
            seed: the run's seed; another seed gives another order.

        Raises:
            UserError: the factors do not fit the table, are negative or not finite, or too far apart.
        """
        factors = np.asarray(factors, np.float64)
        total = float(factors.sum()) if factors.shape == (len(examples),) else 0.0
        if not (np.isfinite(total) and (factors >= 0).all() and 0 < total < 2.0 ** (BITS - 1)):
            shown = f"from {factors.min()} to {factors.max()}" if factors.size else "none"
            raise _unfit(f"factors of shape {factors.shape}, {shown}, sum {factors.sum()}", len(examples))
        length = max(1, round(total))
        bits = min(30, BITS - length.bit_length())
        laid = _lay(examples, seed)
        line = np.cumsum(factors[laid])
        ends = np.rint(line * (length / line[-1]) * 2.0**bits).astype(np.int64)
        ends[-1] = length << bits
        widths = np.diff(ends, prepend=0)
        if (widths == 1 << bits).all():
            return cls(epoch_length=length, seed=seed)
        if (widths[factors[laid] > 0] <= 0).any():
            raise _unfit(f"factors from {factors[factors > 0].min()} to {factors.max()}", len(examples))
        return cls(epoch_length=length, seed=seed, ends=ends, laid=laid, bits=bits)

    def rows(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Looks up which example stands at each position; TensorFlow operations only.

        Args:
            positions: [B] int64, at least 0; may span any number of epochs.

        Returns:
            epochs [B] int64 and rows of the table [B] int64.
        """
        epochs, slots = permute(positions, examples=self.epoch_length, seed=self.seed)
        if self.ends is None:
            return epochs, slots
        unit = 1 << self.bits
        first, stride = draws.key(self.seed, "sampling") % unit, round(GOLDEN * unit) | 1
        offsets = (first + epochs % unit * stride) % unit
        intervals = tf.searchsorted(self.ends, slots * unit + offsets, side="right", out_type=tf.int64)
        return epochs, tf.gather(self.laid, intervals)


def permute(positions: tf.Tensor, *, examples: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Looks up which example stands at each position of the shuffled stream that shows each once an epoch.

    Args:
        positions: [B] int64, at least 0; may span any number of epochs.
        examples: size of the training set, at least 1.
        seed: the run's seed; another seed gives another order.

    Returns:
        epochs [B] int64 and examples [B] int64 in [0, examples).
    """
    epochs = positions // examples
    places = positions % examples
    key = tf.constant(draws.key(seed, "order"), tf.uint64)
    if examples <= SORTED:
        lanes = epochs[:, None] * examples + tf.range(examples, dtype=tf.int64)
        hashes = tf.bitcast(draws.mix(tf.cast(lanes, tf.uint64) + key), tf.int64)
        shuffled = tf.argsort(hashes, axis=1, stable=True)
        return epochs, tf.cast(tf.gather(shuffled, places, batch_dims=1), tf.int64)
    words = draws.mix(tf.cast(epochs[:, None] * 3 + tf.range(3, dtype=tf.int64), tf.uint64) + key)

    def shuffle(index: tf.Tensor, largest: int) -> tf.Tensor:
        each = tf.fill(tf.shape(index), tf.constant(largest, tf.int64))
        return tf.raw_ops.RandomIndexShuffle(index=index, seed=words, max_index=each, rounds=ROUNDS)

    largest = examples - 1
    if largest & (largest - 1):
        return epochs, shuffle(places, largest)
    # Where the largest index is a power of two RandomIndexShuffle takes it for 0. It shuffles one place more without
    # fault; whoever lands on that place goes on to where it leads.
    shuffled, onward = shuffle(places, examples), shuffle(tf.zeros_like(places) + examples, examples)
    return epochs, tf.where(shuffled == examples, onward, shuffled)


def _lay(examples: Examples, seed: int) -> np.ndarray:
    """[N] int64, the rows by source and class, pseudo-random within, so that a comb picks no regular pattern."""
    keys = tf.range(len(examples), dtype=tf.int64)
    hashes = draws.mix(tf.cast(keys, tf.uint64) + tf.constant(draws.key(seed, "layout"), tf.uint64)).numpy()
    classes = [examples.labels] if examples.labels.ndim == 1 else []
    return np.lexsort((hashes, *classes, examples.origins))


def _unfit(found: str, count: int) -> UserError:
    return UserError(
        found,
        where="train.sampling",
        expected=f"a factor for each of {count} training examples, at least 0, not all 0, none vanishing beside others",
        do="correct the sampling, its weights or the column `repeats` of the source",
    )
