"""Heads: from the backbone's feature map to float32 logits. All their layers are named `head_...`."""

from collections.abc import Callable, Sequence

import gin
import keras

from data.errors import UserError

Head = Callable[[keras.KerasTensor, int], keras.KerasTensor]

POOLS = {
    "average": lambda: keras.layers.GlobalAveragePooling2D(name="head_pool"),
    "max": lambda: keras.layers.GlobalMaxPooling2D(name="head_pool"),
    "flatten": lambda: keras.layers.Flatten(name="head_flatten"),
}


def _pooled(features: keras.KerasTensor, pool: str) -> keras.KerasTensor:
    if pool not in POOLS:
        raise UserError(
            f"pool = {pool!r}", where="gin binding of the head", expected=f"one of {', '.join(POOLS)}", do="correct it"
        )
    return POOLS[pool]()(features)


def _logits(features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    return keras.layers.Dense(classes, dtype="float32", name="head_logits")(features)


@gin.configurable
def linear(*, pool: str = "average", dropout: float = 0.0) -> Head:
    """Pooling, dropout, one dense layer: [B, h, w, C] -> [B, classes] float32."""

    def head(features, classes):
        x = _pooled(features, pool)
        x = keras.layers.Dropout(dropout, name="head_dropout")(x) if dropout else x
        return _logits(x, classes)

    return head


@gin.configurable
def mlp(
    *, pool: str = "flatten", hidden: Sequence[int] = (256,), activation: str = "relu", dropout: float = 0.5
) -> Head:
    """Flatten (or pool), hidden dense layers each with dropout, then the logits: the classic VGG16 recipe."""

    def head(features, classes):
        x = _pooled(features, pool)
        for index, units in enumerate(hidden):
            x = keras.layers.Dense(units, activation=activation, name=f"head_hidden{index}")(x)
            x = keras.layers.Dropout(dropout, name=f"head_dropout{index}")(x) if dropout else x
        return _logits(x, classes)

    return head
