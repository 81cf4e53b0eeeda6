"""Presets of keras-hub as backbones, where that package is installed."""

import contextlib
import types
from collections.abc import Iterator

import keras
import numpy as np

from data.errors import UserError

PREFIX = "hub:"


def read(preset: str, weights: bool) -> keras.Model:
    """The backbone of a preset; downloads what it needs.

    Args:
        preset: a name that keras-hub knows, a `kaggle://` or `hf://` handle, or a folder of `save_to_preset`.

    Raises:
        UserError: keras-hub is not installed, or cannot give it.
    """
    with _explained(preset):
        return _package().models.Backbone.from_preset(preset, load_weights=weights)


def images(preset: str) -> tuple[np.ndarray, int | None]:
    """What the image converter of a preset does.

    Returns:
        [3, 4] float32, 0..255 RGB -> what the network wants; and the side of the images, None where it keeps theirs.

    Raises:
        UserError: as `read` does; the preset has no image converter.
    """
    with _explained(preset):
        converter = _package().layers.ImageConverter.from_preset(preset)
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    colour = np.zeros((3, 4), np.float32)
    colour[:, :3] = np.diag(np.broadcast_to(np.asarray(scale, np.float32), 3))
    colour[:, 3] = offset
    return colour, converter.image_size and max(converter.image_size)


def _package() -> types.ModuleType:
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(
            f"keras-hub cannot be imported: {error}",
            where="gin binding model.backbone (backbone)",
            expected="the package keras-hub, the extra `hub`",
            do="pip install 'onward[hub]'",
        ) from error
    return keras_hub


@contextlib.contextmanager
def _explained(preset: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"keras-hub cannot load the preset {preset}: {' '.join(str(error).split())[:400]}",
            where=f"gin binding model.backbone (backbone): {PREFIX}{preset}",
            expected="a preset of an image backbone with its image converter, and a connection or a local folder",
            do="check the name, or give the folder of a preset that was downloaded elsewhere",
        ) from error
