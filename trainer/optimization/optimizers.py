"""Optimizers: Keras' update rules, one instance per variable, applied to gradients that are global already.

One instance per variable counts the updates of that variable alone, so that bias correction is right for layers that
start to train late, and its slots can be saved under the variable's name.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import gin
import keras
import tensorflow as tf

from data.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """What updates a variable.

    Attributes:
        make: a fresh Keras optimizer.
        weight_decay: decoupled (Loshchilov, Hutter 2019): variable -= learning rate * weight_decay * variable.
        decay_vectors: whether variables of rank 0 and 1 (biases, normalisation) decay too.
    """

    make: Callable[[], keras.Optimizer]
    weight_decay: float = 0.0
    decay_vectors: bool = False


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not (isinstance(value, int | float) and 0 <= value < 1):
            raise UserError(
                f"{name} = {value!r}",
                where=f"gin binding of the optimizer's {name}",
                expected="a number, at least 0 and below 1",
                do="correct it",
            )


@gin.configurable
def sgd(*, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> UpdateRule:
    """Stochastic gradient descent with momentum."""
    _check_shares(momentum=momentum)
    return UpdateRule(
        make=lambda: keras.optimizers.SGD(momentum=momentum, nesterov=nesterov), weight_decay=weight_decay
    )


@gin.configurable
def adam(*, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> UpdateRule:
    """Adam (Kingma, Ba 2015)."""
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    return UpdateRule(make=lambda: keras.optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon))


@gin.configurable
def adamw(
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 1e-2,
    decay_vectors: bool = False,
) -> UpdateRule:
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019)."""
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    return UpdateRule(
        make=lambda: keras.optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
    )


class Optimizer:
    """Update rules of all variables that train in any stage. Build it in the strategy's scope.

    Args:
        rule: what updates a variable.
        variables: by name.
    """

    def __init__(self, rule: UpdateRule, variables: Mapping[str, keras.Variable]):
        self._rule = rule
        self._extended = tf.distribute.get_strategy().extended
        self._model_variables = dict(variables)
        self._each: dict[str, keras.Optimizer] = {}
        for name, variable in variables.items():
            self._each[name] = rule.make()
            self._each[name].build([variable])

    def variables(self) -> dict[str, tf.Variable]:
        """Slots and update counts as `VARIABLE/SLOT`. The learning rate belongs to the step and is not among them."""
        named = {}
        for name, optimizer in self._each.items():
            prefix = self._model_variables[name].path.replace("/", "_") + "_"
            for slot in optimizer.variables:
                if slot is optimizer.iterations:
                    named[f"{name}/updates"] = slot.value
                elif slot is not optimizer._learning_rate:
                    named[f"{name}/{slot.name.removeprefix(prefix)}"] = slot.value
        return named

    def apply(self, names: Sequence[str], gradients: Sequence, learning_rate: tf.Tensor) -> None:
        """Updates variables on all replicas. Call it in cross-replica context.

        Args:
            names: which variables.
            gradients: one per name, the same on every replica.
            learning_rate: scalar float32.
        """
        for name, gradient in zip(names, gradients, strict=True):
            optimizer, variable = self._each[name], self._model_variables[name].value
            decay = self._rule.weight_decay if len(variable.shape) > 1 or self._rule.decay_vectors else 0.0

            def update(variable, gradient, learning_rate, optimizer=optimizer, decay=decay):
                if decay:
                    variable.assign_sub(variable * (learning_rate * decay))
                optimizer.update_step(gradient, variable, learning_rate)

            self._extended.update(variable, update, args=(gradient, learning_rate), group=False)
            optimizer.iterations.value.assign_add(1)
