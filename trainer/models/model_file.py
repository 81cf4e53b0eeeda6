"""A whole model that Keras saved, as a backbone. What it is made of is read first, without building anything."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import keras
from keras.src.legacy.saving.legacy_h5_format import load_model_from_hdf5

from data.errors import UserError
from trainer.models.naming import NORMALISATION

SUFFIXES = (".keras", ".h5", ".hdf5")
# First layers that say that images come as they are, in 0..255.
_PREPROCESSING = ("Rescaling", "Normalization", "TrueDivide", "Divide", "Subtract", "Multiply", "GetItem")
_MOST_BYTES = 2**26


def layers(path: Path) -> list[Mapping]:
    """The configurations of a saved model's layers, from the input on, each with its `name`; those of nested models in
    their place.

    Raises:
        UserError: the file is absent, damaged or no whole model; the model is no network of layers, has a `Lambda`,
            whose code would have to be run, or does not take one image.
    """
    config = _config(path)
    try:
        return _checked(config, path)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(path, f"it describes no model: {type(error).__name__}: {error}") from error


def _checked(config: Mapping, path: Path) -> list[Mapping]:
    if config.get("class_name") not in ("Functional", "Sequential", "Model"):
        raise _bad(path, f"the model is a {config.get('class_name')}, whose code is not in the file")
    found = list(_opened(config))
    if not found:
        raise _bad(path, "the model has no layers")
    if any(layer["class_name"] == "Lambda" for layer in found):
        raise _bad(path, "the model has a Lambda layer, whose code would have to be run; refused")
    inputs = [each for each in config["config"]["layers"] if each["class_name"] == "InputLayer"]
    if len(inputs) > 1:
        raise _bad(path, f"the model has {len(inputs)} inputs")
    shape = input_shape(found)
    if shape is not None and (len(shape) != 4 or shape[3] not in (3, None)):
        raise _bad(path, f"the model's input is {tuple(shape)}")
    return found


def input_shape(found: list[Mapping]) -> list[int | None] | None:
    """[batch, height, width, channels] of the first layer's images; None where the file does not say."""
    config = found[0]["config"]
    return config.get("batch_shape") or config.get("batch_input_shape")


def preprocesses(found: list[Mapping]) -> bool:
    """Whether the model begins with a rescaling or normalisation of its own, random augmentation aside."""
    for layer in found:
        kind = layer["class_name"]
        if kind != "InputLayer" and not kind.startswith("Random"):
            return kind in _PREPROCESSING or layer["name"] == NORMALISATION
    return False


def _without_groups(layer: type[keras.layers.Layer]) -> type:
    """What Keras 2 wrote of a layer that never had groups: `groups: 1`, which Keras 3 does not know."""

    class WithoutGroups(layer):
        @classmethod
        def from_config(cls, config: dict) -> keras.layers.Layer:
            plain = {name: value for name, value in config.items() if (name, value) != ("groups", 1)}
            return layer.from_config(plain)

    return WithoutGroups


_OF_KERAS_2 = {
    layer.__name__: _without_groups(layer)
    for layer in (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D, keras.layers.Conv2DTranspose)
}


def read(path: Path, weights: bool) -> keras.Model:
    """The model. Runs no code that stands in the file: `safe_mode`, not compiled.

    Raises:
        UserError: Keras cannot build it.
    """
    plain = {"custom_objects": _OF_KERAS_2, "compile": False, "safe_mode": True}
    try:
        if zipfile.is_zipfile(path):
            return keras.saving.load_model(path, **plain)
        with h5py.File(io.BytesIO(path.read_bytes()), "r+") as file:
            if str(file.attrs.get("keras_version", "")).startswith("2."):
                config = json.loads(file.attrs["model_config"])
                _count_calls_from_zero(config)
                file.attrs["model_config"] = json.dumps(config)
            return load_model_from_hdf5(file, **plain)
    except Exception as error:
        raise _bad(path, f"Keras cannot build the model: {' '.join(str(error).split())[:400]}") from error


def _count_calls_from_zero(config: Mapping) -> None:
    """Keras 2 counts the making of a nested model as its first call, and Keras 3 does not."""
    layers = config["config"]["layers"]
    nested = {layer["config"]["name"] for layer in layers if "layers" in layer["config"]}
    for layer in layers:
        if layer["config"].get("name") in nested:
            _count_calls_from_zero(layer)
        for call in layer.get("inbound_nodes", []):
            for argument in call:
                if argument[0] in nested:
                    argument[1] -= 1


def _opened(config: Mapping) -> Iterator[Mapping]:
    for layer in config["config"]["layers"]:
        nested = layer["class_name"] in ("Functional", "Sequential", "Model")
        # A layer of one's own need not have its name in its configuration.
        name = layer["config"].get("name", layer.get("name", ""))
        yield from _opened(layer) if nested else [{**layer, "name": name}]


def _config(path: Path) -> Mapping:
    if not path.is_file():
        raise _bad(path, "there is no such file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo("config.json").file_size > _MOST_BYTES:
                    raise _bad(path, "its configuration is larger than any model's")
                return json.loads(archive.read("config.json"))
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise _bad(path, "the file holds weights, but no model")
            return json.loads(file.attrs["model_config"])
    except UserError:
        raise
    except Exception as error:
        raise _bad(path, f"the file cannot be read: {' '.join(str(error).split())}") from error


def _bad(path: Path, found: str) -> UserError:
    return UserError(
        found,
        where=f"gin binding model.backbone (backbone): {path}",
        expected="a .keras or .h5 file that holds a whole functional or sequential model of one RGB image",
        do="save it with model.save('name.keras'); weights alone go with a known backbone, as model.weights = 'FILE'",
    )
