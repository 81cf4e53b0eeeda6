"""The same network for images of another size."""

import keras

from data.errors import UserError
from trainer.models.network import Network


def at_size(network: Network, size: int, *, where: str) -> keras.Model:
    """A model from pixels [B, size, size, 3] to logits that shares every layer, and so every variable, of the network.

    Layers that pad by the size of their input, as those of MobileNet do, pad as in the network.

    Args:
        where: the binding of the size, for messages.

    Raises:
        UserError: the network does not work at that size, such as a head that flattens.
    """
    model, backbone = network.model, network.backbone
    shape = (size, size, 3)
    if model.input_shape[1:] == shape:
        return model
    outer = keras.config.dtype_policy()
    keras.config.set_dtype_policy(model.dtype_policy)
    try:
        resized = keras.models.clone_model(backbone, keras.Input(shape, dtype="float32"), lambda layer: layer)
        return keras.models.clone_model(
            model,
            keras.Input(shape, dtype="float32"),
            lambda layer: resized if layer is backbone else layer,
        )
    except ValueError as error:
        raise UserError(
            f"the network for images of {model.input_shape[1]} x {model.input_shape[2]} does not work for "
            f"{size} x {size}: {' '.join(str(error).split())[:300]}",
            where=where,
            expected="a size it accepts, and a head that pools: @linear()",
            do="use the same image size in every stage, or a head that does not flatten",
        ) from error
    finally:
        keras.config.set_dtype_policy(outer)
