"""Bounds on the global gradient: by its norm, by value, and adaptively, by the size of what it changes."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from trainer.models.network import Network, layer_of

# Of a unit of weights that are all 0, and of a gradient, as in the paper's code.
SMALLEST_WEIGHT, SMALLEST_GRADIENT = 1e-3, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipping:
    """What bounds a gradient; of the first three at most one.

    Attributes:
        norm: the global norm, over all variables.
        value: the size of each number.
        adaptive: the norm of each unit, as a share of the norm of that unit's weights (Brock et al. 2021).
        units: of `adaptive`: the axes over which the numbers of a unit lie, by the name of the variable. Variables
            that are not named are left alone.
    """

    norm: float | None = None
    value: float | None = None
    adaptive: float | None = None
    units: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    def scale(self, norm: tf.Tensor) -> tf.Tensor | None:
        """What every gradient is multiplied by where their global norm is `norm`; None where that is always 1."""
        return None if self.norm is None else self.norm / tf.maximum(norm, self.norm)

    def each(self, names: Sequence[str], gradients: Sequence[tf.Tensor], weights: Sequence) -> list[tf.Tensor]:
        """The unscaled gradients within the other bounds.

        Args:
            weights: the variables, one per name.
        """
        if self.value is not None:
            return [tf.clip_by_value(gradient, -self.value, self.value) for gradient in gradients]
        if self.adaptive is not None:
            return [
                self._adapted(gradient, tf.convert_to_tensor(weight), self.units[name])
                if name in self.units
                else gradient
                for name, gradient, weight in zip(names, gradients, weights, strict=True)
            ]
        return list(gradients)

    def _adapted(self, gradient: tf.Tensor, weight: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
        most = self.adaptive * tf.maximum(_norm(weight, axes), SMALLEST_WEIGHT)
        norm = _norm(gradient, axes)
        return gradient * tf.where(norm > most, most / tf.maximum(norm, SMALLEST_GRADIENT), 1.0)


def _norm(values: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(values), axis=list(axes), keepdims=True))


def units(network: Network) -> dict[str, tuple[int, ...]]:
    """The units of a network for adaptive clipping, without its last layer, as in the paper.

    A unit is what leads to one output: a column of a dense kernel, the kernel of one channel of a convolution; a vector
    of biases, scales or offsets is one unit.
    """
    layers = network.layers
    last = next(reversed(network.variables)).rsplit("/", 1)[0]
    found = {}
    for name, variable in network.variables.items():
        layer, rank = layers[layer_of(name)], len(variable.shape)
        each = isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)
        # Depthwise kernels end in (channel, multiplier), and lead from each channel to outputs of its own.
        kept = 2 if rank > 2 and (each or name.endswith("/depthwise_kernel")) else 1
        if name.rsplit("/", 1)[0] != last:
            found[name] = tuple(range(rank - kept)) if rank > 1 else tuple(range(rank))
    return found
