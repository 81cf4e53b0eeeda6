"""All architectures of `keras.applications`: preprocessing, native size, blocks and ImageNet weights of each."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from data.augment.colour import normalisation
from data.errors import UserError
from trainer.models.naming import numbered_from_zero
from trainer.models.weights import WeightReport, assign, named_variables

Shape = tuple[int | None, int | None, int]

# The modes of `keras.applications.imagenet_utils.preprocess_input`, and networks that hold their preprocessing inside.
INSIDE = np.eye(3, 4, dtype=np.float32)
TENSORFLOW = normalisation(mean=127.5, scale=127.5)
TORCH = normalisation(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))
CAFFE = normalisation(mean=(123.68, 116.779, 103.939), scale=1.0)[::-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Architectures of one design.

    Attributes:
        module: of `keras.applications`, whose `preprocess_input` is `colour`.
        colour: [3, 4] float32, 0..255 RGB -> what the networks want.
        block: of `trainer.models.backbones.Backbone`.
        members: Keras' function -> native size, parameters without the classifier, blocks.
    """

    module: str
    colour: np.ndarray
    block: str
    members: Mapping[str, tuple[int, int, int]]


def _numbered(ends: Mapping[str, int], *, kinds: str = "conv2d|batch_normalization") -> str:
    """Expression of layers that Keras numbered: those of a block go up to, without, its number.

    The name of a block becomes the name of a group.
    """
    groups, start = [], 0
    for block, end in ends.items():
        numbers = [f"_{number}" if number else "" for number in range(start, end)]
        groups.append(f"(?P<{block}>(?:{kinds})(?:{'|'.join(numbers)})$)")
        start = end
    return "|".join(groups)


def _counted(name: str, count: int, *, start: int, layers: int) -> dict[str, int]:
    """`name_1` to `name_COUNT` of so many numbered layers each."""
    return {f"{name}_{block}": start + block * layers for block in range(1, count + 1)}


FAMILIES: Sequence[Family] = (
    Family(
        module="convnext",
        colour=INSIDE,
        block=r"convnext_\w+?_(stem|stage_\d+_block_\d+|downsampling_block_\d+)|layer_normalization",
        members={
            "ConvNeXtTiny": (224, 27_820_128, 23),
            "ConvNeXtSmall": (224, 49_454_688, 41),
            "ConvNeXtBase": (224, 87_566_464, 41),
            "ConvNeXtLarge": (224, 196_230_336, 41),
            "ConvNeXtXLarge": (224, 348_147_968, 41),
        },
    ),
    Family(
        module="densenet",
        colour=TORCH,
        block=r"(conv\d+_block\d+)_|conv1|pool\d+|bn",
        members={
            "DenseNet121": (224, 7_037_504, 63),
            "DenseNet169": (224, 12_642_880, 87),
            "DenseNet201": (224, 18_321_984, 103),
        },
    ),
    Family(
        module="efficientnet",
        colour=INSIDE,
        block=r"(?P<stem>normalization|stem)|block\d+[a-z]+|top",
        members={
            "EfficientNetB0": (224, 4_049_571, 18),
            "EfficientNetB1": (240, 6_575_239, 25),
            "EfficientNetB2": (260, 7_768_569, 25),
            "EfficientNetB3": (300, 10_783_535, 28),
            "EfficientNetB4": (380, 17_673_823, 34),
            "EfficientNetB5": (456, 28_513_527, 41),
            "EfficientNetB6": (528, 40_960_143, 47),
            "EfficientNetB7": (600, 64_097_687, 57),
        },
    ),
    Family(
        module="efficientnet_v2",
        colour=INSIDE,
        block=r"stem|block\d+[a-z]+|top",
        members={
            "EfficientNetV2B0": (224, 5_919_312, 23),
            "EfficientNetV2B1": (240, 6_931_124, 29),
            "EfficientNetV2B2": (260, 8_769_374, 30),
            "EfficientNetV2B3": (300, 12_930_622, 34),
            "EfficientNetV2S": (384, 20_331_360, 42),
            "EfficientNetV2M": (480, 53_150_388, 59),
            "EfficientNetV2L": (480, 117_746_848, 81),
        },
    ),
    Family(
        module="inception_resnet_v2",
        colour=TENSORFLOW,
        block=r"(block\d+_\d+)_conv|conv_7b|"
        + _numbered(
            {"stem": 5, "mixed_5b": 12}
            | _counted("block35", 10, start=12, layers=6)
            | {"mixed_6a": 76}
            | _counted("block17", 20, start=76, layers=4)
            | {"mixed_7a": 163}
            | _counted("block8", 10, start=163, layers=4)
        ),
        members={"InceptionResNetV2": (299, 54_336_736, 45)},
    ),
    Family(
        module="inception_v3",
        colour=TENSORFLOW,
        block=_numbered(
            {"stem": 5, "mixed0": 12, "mixed1": 19, "mixed2": 26, "mixed3": 30, "mixed4": 40}
            | {"mixed5": 50, "mixed6": 60, "mixed7": 70, "mixed8": 76, "mixed9": 85, "mixed10": 94}
        ),
        members={"InceptionV3": (299, 21_802_784, 12)},
    ),
    Family(
        module="mobilenet",
        colour=TENSORFLOW,
        block=r"conv_[dp]w_(\d+)|conv1",
        members={"MobileNet": (224, 3_228_864, 14)},
    ),
    Family(
        module="mobilenet_v2",
        colour=TENSORFLOW,
        block=r"(?:bn_)?(Conv1)|expanded_conv|block_\d+|Conv_1",
        members={"MobileNetV2": (224, 2_257_984, 19)},
    ),
    Family(
        module="mobilenet_v3",
        colour=INSIDE,
        block=r"(expanded_conv(?:_\d+)?)_|conv_1|conv",
        members={"MobileNetV3Small": (224, 939_120, 13), "MobileNetV3Large": (224, 2_996_352, 17)},
    ),
    Family(
        module="nasnet",
        colour=TENSORFLOW,
        block=r"(stem)_(?:conv|bn)1$|.*?_(stem_\d+|reduce_\d+|\d+)$",
        members={"NASNetMobile": (224, 4_269_716, 17), "NASNetLarge": (331, 84_916_818, 23)},
    ),
    Family(
        module="resnet",
        colour=CAFFE,
        block=r"(conv\d+_block\d+)_|conv1",
        members={
            "ResNet50": (224, 23_587_712, 17),
            "ResNet101": (224, 42_658_176, 34),
            "ResNet152": (224, 58_370_944, 51),
        },
    ),
    Family(
        module="resnet_v2",
        colour=TENSORFLOW,
        block=r"(conv\d+_block\d+)_|conv1|post",
        members={
            "ResNet50V2": (224, 23_564_800, 18),
            "ResNet101V2": (224, 42_626_560, 35),
            "ResNet152V2": (224, 58_331_648, 52),
        },
    ),
    Family(module="vgg16", colour=CAFFE, block=r"block\d+", members={"VGG16": (224, 14_714_688, 5)}),
    Family(module="vgg19", colour=CAFFE, block=r"block\d+", members={"VGG19": (224, 20_024_384, 5)}),
    Family(
        module="xception",
        colour=TENSORFLOW,
        # The four convolutions beside the blocks have no name of their own.
        block=r"block\d+|" + _numbered({"block2": 1, "block3": 2, "block4": 3, "block13": 4}),
        members={"Xception": (299, 20_861_480, 14)},
    ),
)


def name_of(function: str) -> str:
    """`ResNet50V2` -> `resnet50v2`, `ConvNeXtTiny` -> `convnext_tiny`, `EfficientNetV2B0` -> `efficientnetv2_b0`."""
    return re.sub(r"(Tiny|Small|Base|XLarge|Large|Mobile|B\d|[SML])$", r"_\1", function).lower()


def build(function: str, input_shape: Shape, *, weights: str | None = None, **arguments) -> keras.Model:
    """The network without its classifier.

    EfficientNet has the layer that Keras gives it only together with its ImageNet weights: they were trained on pixels
    divided by the standard deviation, and its `Normalization` divides by the square root of that.

    Args:
        weights: `imagenet` downloads them.
        arguments: more for Keras' function.

    Returns:
        model from [B, h, w, 3] to a feature map; layers that Keras numbers are numbered as in a new process.

    Raises:
        ValueError: the size does not suit the network.
    """
    make = getattr(keras.applications, function)
    if make.__module__.endswith(".nasnet") and None in input_shape:
        raise ValueError("the layers that NASNet consists of depend on the size of its images")
    with numbered_from_zero():
        model = make(input_shape=input_shape, include_top=False, weights=weights, **arguments)
        rescales = any(layer.name == "rescaling_1" for layer in model.layers)
        if make.__module__.endswith(".efficientnet") and not rescales:
            return keras.models.clone_model(model, call_function=_rescaled_as_for_imagenet)
    return model


def _rescaled_as_for_imagenet(layer: keras.layers.Layer, *arguments, **options) -> keras.KerasTensor:
    outputs = layer(*arguments, **options)
    if isinstance(layer, keras.layers.Normalization):
        return keras.layers.Rescaling([deviation**-0.5 for deviation in (0.229, 0.224, 0.225)])(outputs)
    return outputs


def load_imagenet(function: str, size: int, model: keras.Model, **arguments) -> WeightReport:
    """Fills a model of `build` with the ImageNet weights that Keras downloads, or has downloaded before.

    Args:
        size: native size of the network.

    Raises:
        UserError: they cannot be had, or the model does not fit.
    """
    try:
        source = build(function, (size, size, 3), weights="imagenet", **arguments)
    except Exception as error:
        raise UserError(
            f"the ImageNet weights cannot be loaded: {' '.join(str(error).split())}",
            where=f"model.weights = 'imagenet', of keras.applications.{function}",
            expected="a connection to storage.googleapis.com, or the file in ~/.keras/models",
            do="fetch the file where there is a connection, and give its path as model.weights",
        ) from error
    arrays = {name: variable.numpy() for name, variable in named_variables(source).items()}
    return assign(model, arrays, source=f"the ImageNet weights of keras.applications.{function}")
