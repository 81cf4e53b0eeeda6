"""The backbones by name, each with its preprocessing, native size, blocks and pre-trained weights."""

import dataclasses
import difflib
from collections.abc import Callable

import keras
import numpy as np

from data.augment.colour import normalisation
from data.errors import UserError
from trainer.models.convnet import build_convnet
from trainer.models.keras_file import load_file
from trainer.models.lite0 import build_lite0, load_lite0_imagenet
from trainer.models.weights import WeightReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pre-trained feature extractor.

    Attributes:
        name: what recipes call it.
        build: (height, width, 3) -> Keras model from normalised pixels to a feature map [B, h, w, C], random weights.
        colour: [3, 4] float32, 0..255 RGB -> the pixels its weights were trained on.
        native_size: side of the images they were trained on.
        block: regular expression whose group, or else match, at the start of a layer's name is the block it belongs to.
        load_imagenet: fills a built model with ImageNet weights; None when there are none.
    """

    name: str
    build: Callable[[tuple[int, int, int]], keras.Model]
    colour: np.ndarray
    native_size: int
    block: str
    load_imagenet: Callable[[keras.Model], WeightReport] | None


def _mobilenetv2(alpha: float) -> Callable[[tuple[int, int, int]], keras.Model]:
    def build(input_shape):
        return keras.applications.MobileNetV2(input_shape=input_shape, alpha=alpha, include_top=False, weights=None)

    return build


def _load_mobilenetv2(alpha: float) -> Callable[[keras.Model], WeightReport]:
    def load(model):
        size = "1.0" if alpha == 1 else str(alpha)
        file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{size}_224_no_top.h5"
        return load_file(model, _download("mobilenet_v2", file))

    return load


def _download(application: str, file: str) -> str:
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/{application}/{file}"
    try:
        return keras.utils.get_file(file, url, cache_subdir="models")
    except Exception as error:
        raise UserError(
            f"the ImageNet weights cannot be downloaded: {error}",
            where=f"model.weights = 'imagenet', from {url}",
            expected="a connection, or the file in ~/.keras/models",
            do=f"fetch {file} where there is one and give its path as model.weights",
        ) from error


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="efficientnet_lite0",
            build=build_lite0,
            colour=normalisation(mean=127.0, scale=128.0),
            native_size=224,
            block=r"stem|block\d+|top",
            load_imagenet=load_lite0_imagenet,
        ),
        *(
            Backbone(
                name=name,
                build=_mobilenetv2(alpha),
                colour=normalisation(mean=127.5, scale=127.5),
                native_size=224,
                block=r"(?:bn_)?(Conv1)|expanded_conv|block_\d+|Conv_1",
                load_imagenet=_load_mobilenetv2(alpha),
            )
            for name, alpha in (("mobilenetv2", 1.0), ("mobilenetv2_035", 0.35))
        ),
        Backbone(
            name="convnet",
            build=build_convnet,
            colour=normalisation(mean=127.5, scale=127.5),
            native_size=32,
            block=r"block\d+",
            load_imagenet=None,
        ),
    )
}


def find(name: str) -> Backbone:
    """The backbone of this name.

    Raises:
        UserError: there is none; lists the nearest.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    nearest = difflib.get_close_matches(str(name).lower(), BACKBONES, cutoff=0.4)
    raise UserError(
        f"unknown backbone {name!r}",
        where="gin binding model.backbone (backbone)",
        expected=f"one of {', '.join(sorted(BACKBONES))}",
        do=f"did you mean {' or '.join(nearest)}?" if nearest else "choose one of them",
    )
