"""The backbones by name, each with its preprocessing, native size, blocks and pre-trained weights."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import keras
import numpy as np

from data.augment.colour import normalisation
from data.errors import UserError
from trainer.models import applications, foreign, hub, model_file
from trainer.models.applications import FAMILIES, Shape
from trainer.models.convnet import build_convnet
from trainer.models.lite import LITES, build_lite, load_lite_imagenet
from trainer.models.weights import WeightReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pre-trained feature extractor.

    Attributes:
        name: what recipes call it.
        build: (height, width, 3) -> Keras model from normalised pixels to a feature map [B, h, w, C], random weights.
            Height and width may be None: any.
        colour: [3, 4] float32, 0..255 RGB -> the pixels its weights were trained on.
        native_size: side of the images they were trained on; None: not known.
        block: regular expression that matches at the start of the names of layers with variables. The block that a
            layer belongs to is the name of the group that matched, else what a group matched, else what it matched.
        load_imagenet: fills a built model with ImageNet weights, or what it has in place of them; None when there are
            none.
        parameters: numbers in its variables; None: not known before it is built.
        blocks: how many; None: not known before it is built.
        knows_colour: False where `colour` is only pixels as they are, because nobody knows better.
    """

    name: str
    build: Callable[[Shape], keras.Model]
    colour: np.ndarray
    native_size: int | None
    block: str
    load_imagenet: Callable[[keras.Model], WeightReport] | None
    parameters: int | None = None
    blocks: int | None = None
    knows_colour: bool = True

    def block_of(self, layer: str) -> str | None:
        """The block of a layer by the layer's name; None: it belongs to none."""
        match = re.match(self.block, layer)
        return match and (match.lastgroup or next(filter(None, match.groups()), match[0]))


def _lites() -> list[Backbone]:
    return [
        Backbone(
            name=lite.name,
            build=partial(build_lite, lite),
            colour=normalisation(mean=127.0, scale=128.0),
            native_size=lite.native_size,
            block=r"stem|block\d+|top",
            load_imagenet=partial(load_lite_imagenet, lite),
            parameters=lite.parameters,
            blocks=lite.blocks,
        )
        for lite in LITES
    ]


def _applications() -> list[Backbone]:
    found = [
        Backbone(
            name=applications.name_of(function),
            build=partial(applications.build, function),
            colour=family.colour,
            native_size=size,
            block=family.block,
            load_imagenet=partial(applications.load_imagenet, function, size),
            parameters=parameters,
            blocks=blocks,
        )
        for family in FAMILIES
        for function, (size, parameters, blocks) in family.members.items()
    ]
    whole = next(backbone for backbone in found if backbone.name == "mobilenetv2")
    narrow = dataclasses.replace(
        whole,
        name="mobilenetv2_035",
        build=partial(applications.build, "MobileNetV2", alpha=0.35),
        load_imagenet=partial(applications.load_imagenet, "MobileNetV2", 224, alpha=0.35),
        parameters=410_208,
    )
    return [*found, narrow]


CONVNET = Backbone(
    name="convnet",
    build=build_convnet,
    colour=normalisation(mean=127.5, scale=127.5),
    native_size=32,
    block=r"block\d+",
    load_imagenet=None,
    parameters=23_920,
    blocks=3,
)

BACKBONES = {backbone.name: backbone for backbone in (*_lites(), *_applications(), CONVNET)}


def find(name: str) -> Backbone:
    """The backbone of this name.

    Args:
        name: one of BACKBONES, the path of a `.keras` or `.h5` file that holds a whole model, or `hub:PRESET`. Of a
            file and a preset the weights are those that it holds.

    Raises:
        UserError: there is none; lists the nearest.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if str(name).startswith(hub.PREFIX):
        return _of_preset(name)
    if str(name).endswith(model_file.SUFFIXES):
        return _of_file(Path(name).expanduser())
    nearest = difflib.get_close_matches(str(name).lower(), BACKBONES, cutoff=0.4)
    raise UserError(
        f"unknown backbone {name!r}",
        where="gin binding model.backbone (backbone)",
        expected=f"a .keras or .h5 file, {hub.PREFIX}PRESET, or one of {', '.join(sorted(BACKBONES))}",
        do=f"did you mean {' or '.join(nearest)}?" if nearest else "choose one of them",
    )


def _of_file(path: Path) -> Backbone:
    layers = model_file.layers(path)
    shape = model_file.input_shape(layers)
    read = partial(model_file.read, path)
    return Backbone(
        name=path.name,
        build=partial(foreign.build, read, source=str(path)),
        colour=applications.INSIDE,
        native_size=shape and shape[1],
        block=_block_like(layer["name"] for layer in layers if "Conv" in layer["class_name"]),
        load_imagenet=partial(foreign.load, read, source=str(path)),
        knows_colour=model_file.preprocesses(layers),
    )


def _of_preset(name: str) -> Backbone:
    preset = name.removeprefix(hub.PREFIX)
    colour, size = hub.images(preset)
    read = partial(hub.read, preset)
    return Backbone(
        name=name,
        build=partial(foreign.build, read, source=name),
        colour=colour,
        native_size=size,
        block=r"(stack\d+_block\d+)_|conv\d+_block\d+|.*?block_?\d+[a-z]?|.+",
        load_imagenet=partial(foreign.load, read, source=name),
    )


def _block_like(layers: Iterable[str]) -> str:
    """The expression of the known backbone that names the most of these convolutions; else each layer is a block."""
    layers = list(layers)
    known = {backbone.block: backbone for backbone in BACKBONES.values()}

    def named(block: str) -> int:
        return sum(known[block].block_of(layer) is not None for layer in layers)

    best = max(known, key=named)
    return f"{best}|.+" if 2 * named(best) > len(layers) else ".+"
