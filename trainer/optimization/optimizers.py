"""Optimizers: Keras' update rules, one instance per variable, applied to gradients that are global already.

One instance per variable counts the updates of that variable alone, so that bias correction is right for layers that
start to train late, and its slots can be saved under the variable's name.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import gin
import keras
import tensorflow as tf

from data.errors import UserError
from trainer.optimization import fused

# Slots that Keras gives no name of their own: the factors of Adafactor's second moment, in this order.
UNNAMED_SLOTS = ("row", "column")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """What updates a variable.

    Attributes:
        make: a fresh Keras optimizer, without a weight decay of its own.
        weight_decay: decoupled (Loshchilov, Hutter 2019): variable -= learning rate * weight_decay * variable, before
            the update, as all of Keras' optimizers do it.
        decay_vectors: whether variables of rank 0 and 1 (biases, normalisation) decay too.
        undecayed: regular expressions, searched in the names of variables, of what never decays.

    Raises:
        UserError: a weight decay below 0, or what is no regular expression.
    """

    make: Callable[[], keras.Optimizer]
    weight_decay: float = 0.0
    decay_vectors: bool = False
    undecayed: Sequence[str] = ()

    def __post_init__(self):
        _check_numbers(weight_decay=self.weight_decay)
        _check_flags(decay_vectors=self.decay_vectors)
        _check_patterns("undecayed", self.undecayed, example="^head/")

    def decay_of(self, name: str, shape: Sequence[int]) -> float:
        """The weight decay of a variable."""
        decays = (len(shape) > 1 or self.decay_vectors) and not any(re.search(each, name) for each in self.undecayed)
        return self.weight_decay if decays else 0.0


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        _expect(name, value, isinstance(value, int | float) and 0 <= value < 1, "a number, at least 0 and below 1")


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        _expect(name, value, isinstance(value, int | float) and 0 <= value < float("inf"), "a number, at least 0")


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        _expect(name, value, isinstance(value, bool), "True or False")


def _check_patterns(name: str, patterns: Sequence[str], *, example: str) -> None:
    listed = isinstance(patterns, list | tuple) and all(isinstance(each, str) for each in patterns)
    wrong = None if listed else f"{name} = {patterns!r}"
    for pattern in patterns if listed else ():
        try:
            re.compile(pattern)
        except re.error as error:
            wrong = f"{pattern!r} is no regular expression: {error}"
    if wrong:
        raise UserError(
            wrong,
            where=f"gin binding of the optimizer's {name}",
            expected="a list of regular expressions",
            do=f"for example [{example!r}]",
        )


def _expect(name: str, value, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(
            f"{name} = {value!r}",
            where=f"gin binding of the optimizer's {name}",
            expected=expected,
            do="correct it",
        )


@gin.configurable
def sgd(
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """Stochastic gradient descent with momentum."""
    _check_shares(momentum=momentum)
    _check_flags(nesterov=nesterov)
    return UpdateRule(
        make=lambda: keras.optimizers.SGD(momentum=momentum, nesterov=nesterov),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def adam(*, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> UpdateRule:
    """Adam (Kingma, Ba 2015)."""
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    _check_numbers(epsilon=epsilon)
    return UpdateRule(make=lambda: keras.optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon))


@gin.configurable
def adamw(
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 1e-2,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019)."""
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    _check_numbers(epsilon=epsilon)
    return UpdateRule(
        make=lambda: keras.optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def rmsprop(
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float = 0.0,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """RMSprop (Tieleman, Hinton 2012), as in Keras with epsilon below the root."""
    _check_shares(rho=rho, momentum=momentum)
    _check_numbers(epsilon=epsilon)
    _check_flags(centered=centered)
    return UpdateRule(
        make=lambda: keras.optimizers.RMSprop(rho=rho, momentum=momentum, epsilon=epsilon, centered=centered),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def lion(
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    weight_decay: float = 1e-2,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """Lion, the sign of a momentum (Chen et al. 2023): a third to a tenth of Adam's learning rate suits it.

    Raises:
        UserError: shares out of range; a beta_1 of 0 too, which Keras refuses.
    """
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    _expect("beta_1", beta_1, beta_1 > 0, "a number above 0 and below 1")
    return UpdateRule(
        make=lambda: keras.optimizers.Lion(beta_1=beta_1, beta_2=beta_2),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def lamb(
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 1e-2,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """LAMB, Adam at a length in proportion to that of the variable (You et al. 2020), for large batches.

    As in Keras the weight decay is decoupled: it is not part of the update whose length is set.
    """
    _check_shares(beta_1=beta_1, beta_2=beta_2)
    _check_numbers(epsilon=epsilon)
    return UpdateRule(
        make=lambda: keras.optimizers.Lamb(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def adafactor(
    *,
    beta_2_decay: float = -0.8,
    clip_threshold: float = 1.0,
    epsilon_2: float = 1e-3,
    weight_decay: float = 0.0,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """Adafactor (Shazeer, Stern 2018): second moments as a row and a column, steps in proportion to the variable.

    The learning rate is relative to the root mean square of a variable, which counts as at least `epsilon_2`, and at
    most 1 / sqrt(updates).
    """
    _expect("beta_2_decay", beta_2_decay, isinstance(beta_2_decay, int | float) and beta_2_decay < 0, "below 0")
    _check_numbers(epsilon_2=epsilon_2)
    _expect("clip_threshold", clip_threshold, isinstance(clip_threshold, int | float) and clip_threshold > 0, "above 0")
    return UpdateRule(
        make=lambda: keras.optimizers.Adafactor(
            beta_2_decay=beta_2_decay, clip_threshold=clip_threshold, epsilon_2=epsilon_2
        ),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


@gin.configurable
def muon(
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    by_adam: Sequence[str] = ("head_logits",),
    weight_decay: float = 1e-2,
    decay_vectors: bool = False,
    undecayed: Sequence[str] = (),
) -> UpdateRule:
    """Muon, momentum made orthogonal, for matrices (Jordan et al. 2024), as long as Adam's updates (Liu et al. 2025).

    Everything else, the kernels of convolutions too, follows Adam with the betas and epsilon given here.

    Args:
        by_adam: regular expressions, searched in Keras' paths such as `head_logits/kernel`, of matrices that follow
            Adam all the same; Muon is not meant for the last layer.
    """
    _check_shares(momentum=momentum, beta_1=beta_1, beta_2=beta_2)
    _check_numbers(epsilon=epsilon)
    _check_flags(nesterov=nesterov)
    _check_patterns("by_adam", by_adam, example="head_logits")
    return UpdateRule(
        make=lambda: keras.optimizers.Muon(
            momentum=momentum,
            nesterov=nesterov,
            adam_beta_1=beta_1,
            adam_beta_2=beta_2,
            epsilon=epsilon,
            exclude_layers=list(by_adam),
        ),
        weight_decay=weight_decay,
        decay_vectors=decay_vectors,
        undecayed=undecayed,
    )


class Optimizer:
    """Update rules of all variables that train in any stage. Build it in the strategy's scope.

    Args:
        rule: what updates a variable.
        variables: by name.

    Raises:
        UserError: an expression of `rule.undecayed` is found in no name.
    """

    def __init__(self, rule: UpdateRule, variables: Mapping[str, keras.Variable]):
        for pattern in rule.undecayed:
            if not any(re.search(pattern, name) for name in variables):
                raise UserError(
                    f"the pattern {pattern!r} matches no variable that trains",
                    where="gin binding of the optimizer's undecayed",
                    expected=f"an expression that matches names like {next(reversed(variables), 'head/x/kernel')}",
                    do="correct it, or leave it out",
                )
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
            unnamed = iter(UNNAMED_SLOTS)
            for slot in optimizer.variables:
                if slot is optimizer.iterations:
                    named[f"{name}/updates"] = slot.value
                elif slot.name.startswith(prefix):
                    named[f"{name}/{slot.name.removeprefix(prefix)}"] = slot.value
                # Vectors have no factors, but a number that stands in for them.
                elif slot is not optimizer._learning_rate and len(slot.shape):
                    named[f"{name}/{next(unnamed)}"] = slot.value
        return named

    def apply(
        self,
        names: Sequence[str],
        gradients: Sequence,
        learning_rate: tf.Tensor,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        """Updates variables on all replicas. Call it in cross-replica context.

        Args:
            names: which variables.
            gradients: one per name, the same on every replica.
            learning_rate: scalar float32.
            factors: of the learning rate, and so of the weight decay, by name; 1 where there is none.
        """
        for name, gradient in zip(names, gradients, strict=True):
            optimizer, variable = self._each[name], self._model_variables[name].value
            decay = self._rule.decay_of(name, variable.shape)
            factor, step = (factors or {}).get(name, 1.0), fused.update_of(optimizer)

            def update(variable, gradient, rate, optimizer=optimizer, decay=decay, step=step):
                if decay:
                    variable.assign_sub(variable * (rate * decay))
                step(optimizer, gradient, variable, rate)

            rate = learning_rate if factor == 1.0 else learning_rate * factor
            self._extended.update(variable, update, args=(gradient, rate), group=False)
            optimizer.iterations.value.assign_add(1)
