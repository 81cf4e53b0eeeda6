"""The formats of an export: how each is written, and what has to be told to read it without this project."""

import contextlib
import dataclasses
import importlib.util
import logging as standard_logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data.errors import UserError
from trainer import checkpoints, quiet
from trainer.checkpoints import Checkpoints
from trainer.exporting import alone
from trainer.exporting.network import Exported
from trainer.prediction import Meaning

# Packages that write and run ONNX.
ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
OPSET = 17


def _nothing(exported: Exported) -> dict[str, object]:
    return {}


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to write a network.

    Attributes:
        name: as `--format` and `alone.LOADERS` call it.
        suffix: of the file; empty where it is a folder.
        write: (exported, path).
        facts: (exported) -> what `alone.LOADERS` needs to know beside the path.
        rebuild: (exported, path) -> what the weights in the file say in this project's own network, for layers that
            Keras alone cannot make; None: the format is more than weights.
        rounded: whether the weights are whole numbers of eight bits, which only have to agree on the best class.
        calibrated: whether it has to see training images.
    """

    name: str
    suffix: str
    write: Callable[[Exported, Path], object]
    facts: Callable[[Exported], dict[str, object]] = _nothing
    rebuild: Callable[[Exported, Path], alone.Predict] | None = None
    rounded: bool = False
    calibrated: bool = False


def _write_legacy(exported: Exported, path: Path) -> None:
    verbosity = logging.get_verbosity()
    # Keras would recommend another format.
    logging.set_verbosity(logging.ERROR)
    try:
        exported.model.save(path)
    finally:
        logging.set_verbosity(verbosity)


def _architecture(exported: Exported) -> dict[str, object]:
    return {"architecture": exported.model.to_json()}


def _rebuilt_weights(exported: Exported, path: Path) -> alone.Predict:
    _, model = exported.blank()
    model.load_weights(path)
    return lambda pixels: np.asarray(model(pixels, training=False))


def _write_saved_model(exported: Exported, path: Path) -> None:
    model, preprocessing = exported.model, exported.preprocessing
    pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="pixels")
    images = tf.TensorSpec([None], tf.string, name="images")
    answers = answering(exported.meaning)
    saved = tf.Module()
    plain = {"autograph": False}
    saved.answer = tf.function(
        lambda images: answers(model(preprocessing.batch(images), training=False)), input_signature=[images], **plain
    )
    saved.prepare = tf.function(
        lambda images: {"pixels": preprocessing.batch(images)}, input_signature=[images], **plain
    )
    saved.predict = tf.function(
        lambda pixels: {"logits": model(pixels, training=False)}, input_signature=[pixels], **plain
    )
    # Under the names of a checkpoint: what reads weights finds them, and runs nothing.
    for group, named in exported.groups().items():
        setattr(saved, group, named)
    signatures = {"serving_default": saved.answer, "pixels": saved.prepare, "logits": saved.predict}
    tf.saved_model.save(saved, str(path), signatures=signatures)


def answering(meaning: Meaning) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A function (logits [B, outputs]) -> what a SavedModel says of images.

    `classes` [B, K] string, all names in their order, and `probabilities` [B, K] float32, of a binary task those of
    both classes; where one class is right also `class` [B] string, the most probable. Of a regression `names` [B, K]
    and `values` [B, K].
    """
    names = tf.constant([name.encode(errors="surrogateescape") for name in meaning.names])

    def answer(logits: tf.Tensor) -> dict[str, tf.Tensor]:
        named = tf.tile(names[None], [tf.shape(logits)[0], 1])
        if meaning.task == "regression":
            return {"names": named, "values": logits}
        if meaning.task == "multi_label":
            return {"classes": named, "probabilities": tf.sigmoid(logits)}
        both = tf.concat([-logits, logits], axis=1) if meaning.task == "binary" else logits
        probabilities = tf.sigmoid(both) if meaning.task == "binary" else tf.nn.softmax(logits)
        best = tf.gather(names, tf.argmax(both, axis=1))
        return {"class": best, "classes": named, "probabilities": probabilities}

    return answer


def _write_checkpoint(exported: Exported, path: Path) -> None:
    step = int(exported.prefix.name.rpartition("-")[2])
    Checkpoints(path, exported.groups(), keep=1).save(step)


def _keys(exported: Exported) -> dict[str, object]:
    """The key of each weight of the model in the checkpoint, in the order of `set_weights`."""
    named = {
        id(variable): (group, name) for group, found in exported.groups().items() for name, variable in found.items()
    }
    keys = [_key(*named[id(variable.value)]) for variable in exported.model.weights]
    return {**_architecture(exported), "names": keys}


def _key(group: str, name: str) -> str:
    """What TensorFlow calls a variable of a dictionary in a group; `checkpoints.plain` is the way back."""
    return f"{group}/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def _rebuilt_checkpoint(exported: Exported, path: Path) -> alone.Predict:
    network, model = exported.blank()
    checkpoints.restore_group(checkpoints.find(path, "last"), "model", network.values())
    return lambda pixels: np.asarray(model(pixels, training=False))


@contextlib.contextmanager
def _converter(exported: Exported) -> Iterator[tf.lite.TFLiteConverter]:
    """For one image at a time, as telephones ask; the only size that all their processors take."""
    model = exported.model
    pixels = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="pixels")
    saved = tf.Module()
    saved.groups = exported.groups()
    saved.predict = tf.function(
        lambda pixels: {"logits": model(pixels, training=False)}, input_signature=[pixels], autograph=False
    )
    # Of a function in memory, TensorFlow 2.21 leaves some of Keras' weights variables.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(saved, folder, signatures={"logits": saved.predict})
        yield tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["logits"])


def _write_lite(exported: Exported, path: Path) -> None:
    with _converter(exported) as converter:
        path.write_bytes(converter.convert())


def _write_int8(exported: Exported, path: Path) -> None:
    """Weights and what flows between layers in eight bits, by what training images make of it; floats in and out."""
    decode = exported.preprocessing.decoder()
    with _converter(exported) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([decode(image)] for image in exported.calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        path.write_bytes(converter.convert())


def _write_onnx(exported: Exported, path: Path) -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"not installed: {', '.join(missing)}",
            where="--output",
            expected="the packages that write and run ONNX",
            do="pip install 'onward[onnx]'",
        )
    model = exported.model
    spec = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name="pixels")
    model.export(str(path), format="onnx", verbose=False, input_signature=[spec], opset_version=OPSET)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps what converters say while they work away from people who cannot act on it; shows it if they fail."""
    disabled = standard_logging.root.manager.disable
    standard_logging.disable(standard_logging.ERROR)
    try:
        with quiet.stderr_aside():
            yield
    finally:
        standard_logging.disable(disabled)


FORMATS = {
    form.name: form
    for form in (
        Format("keras", ".keras", lambda exported, path: exported.model.save(path)),
        Format("h5", ".h5", _write_legacy),
        Format(
            "weights",
            ".weights.h5",
            lambda exported, path: exported.model.save_weights(path),
            facts=_architecture,
            rebuild=_rebuilt_weights,
        ),
        Format("saved_model", "", _write_saved_model),
        Format("checkpoint", "", _write_checkpoint, facts=_keys, rebuild=_rebuilt_checkpoint),
        Format("tflite", ".tflite", _write_lite),
        Format("tflite_int8", ".int8.tflite", _write_int8, rounded=True, calibrated=True),
        Format("onnx", ".onnx", _write_onnx),
    )
}


def chosen_format(output: Path, name: str | None) -> Format:
    """The format of this name; None: the one that the name of the output ends like, a folder being a SavedModel.

    Raises:
        UserError: no such format, or its files end otherwise.
    """
    # The longest ending first: `.weights.h5` ends in `.h5` too.
    suffixes = sorted((each.suffix for each in FORMATS.values()), key=len, reverse=True)
    ending = next(suffix for suffix in suffixes if output.name.endswith(suffix))
    found = next((known for known, each in FORMATS.items() if each.suffix == ending), None) if name is None else name
    if found not in FORMATS or FORMATS[found].suffix != ending or (name is None and not ending and output.suffix):
        raise UserError(
            f"--output={output}" + ("" if name is None else f" --format={name}"),
            where="command line",
            expected=", ".join(f"{each} ({format.suffix or 'a folder'})" for each, format in FORMATS.items()),
            do="name the output accordingly",
        )
    return FORMATS[found]
