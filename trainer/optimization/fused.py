"""Keras' most used update rules in one operation a variable, where Keras has up to twenty."""

from collections.abc import Callable

import keras
import tensorflow as tf

# Function (optimizer of one variable, its gradient, the variable, scalar float32 learning rate).
Update = Callable[[keras.Optimizer, tf.Tensor, tf.Variable, tf.Tensor], object]


def update_of(optimizer: keras.Optimizer) -> Update:
    """What updates the variable of an optimizer that was built for it alone; in update context of a strategy.

    The same numbers as Keras' `update_step`, but for rounding.
    """
    if type(optimizer) is keras.optimizers.Adam and not optimizer.amsgrad:
        return _adam
    if type(optimizer) is keras.optimizers.SGD and optimizer.momentum:
        return _momentum
    return type(optimizer).update_step


def _adam(optimizer: keras.optimizers.Adam, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor):
    updates = tf.cast(optimizer.iterations.value, variable.dtype) + 1
    return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=optimizer._momentums[0].value.handle,
        v=optimizer._velocities[0].value.handle,
        beta1_power=optimizer.beta_1**updates,
        beta2_power=optimizer.beta_2**updates,
        lr=rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )


def _momentum(optimizer: keras.optimizers.SGD, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor):
    return tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=optimizer.momentums[0].value.handle,
        lr=rate,
        grad=gradient,
        momentum=optimizer.momentum,
        use_nesterov=optimizer.nesterov,
    )
