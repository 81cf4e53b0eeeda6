"""Dynamic loss scaling for float16 (Micikevicius et al. 2018), one scale for all replicas."""

import tensorflow as tf

LARGEST = 2.0**24


class LossScale:
    """Doubles after `patience` finite steps, halves after one that is not, stays between 1 and LARGEST.

    Build it in the strategy's scope. Without `dynamic` it is 1 and stays so.
    """

    def __init__(self, *, dynamic: bool, initial: float = 2.0**15, patience: int = 2000):
        self.dynamic = dynamic
        self._patience = patience
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.value = tf.Variable(initial if dynamic else 1.0, dtype=tf.float32, **shared)
        self._finite_steps = tf.Variable(0, dtype=tf.int32, **shared)

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {"value": self.value, "finite_steps": self._finite_steps}

    def update(self, finite: tf.Tensor) -> None:
        """Takes note of whether the step was finite (scalar bool). Call it in cross-replica context."""
        if not self.dynamic:
            return
        steps = tf.where(finite, self._finite_steps.read_value() + 1, 0)
        grown = steps >= self._patience
        scale = self.value.read_value()
        kept = tf.where(grown, tf.minimum(scale * 2.0, LARGEST), scale)
        self.value.assign(tf.where(finite, kept, tf.maximum(scale / 2.0, 1.0)))
        self._finite_steps.assign(tf.where(grown, 0, steps))
