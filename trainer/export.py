"""A session's network as files that other programs load: plain Keras, from pixels in 0..255 to logits."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data.errors import RunFailure, UserError
from trainer import checkpoints, init_from, manifest, rendering
from trainer.checkpoints import Checkpoints
from trainer.models.naming import NORMALISATION
from trainer.models.network import Network
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.workdir import read_json, write_json

# How far the logits of what was written and read again may be from the network's, relative to the largest, at least 1.
TOLERANCE = 1e-5
_IMAGES = 4

# [B, S, S, 3] float32 in 0..255 -> logits [B, outputs].
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network ready to be written.

    Attributes:
        recipe: of the session.
        meaning: what the outputs stand for.
        prefix: the checkpoint.
        group: `model` or `ema`, which weights of it.
        colour: [3, 4] float64, from (red, green, blue, 1) in 0..255 to the network's input.
        network: in float32, with Keras' own batch normalisation.
        model: its layers behind the normalisation: [B, S, S, 3] float32 in 0..255, RGB -> logits [B, outputs] float32.
    """

    recipe: Recipe
    meaning: Meaning
    prefix: Path
    group: str
    colour: np.ndarray
    network: Network
    model: keras.Model

    def blank(self) -> tuple[Network, keras.Model]:
        """Network and model of this kind with fresh weights."""
        return _built(self.recipe, self.meaning, self.colour)


def prepare(recipe: Recipe, prefix: Path, meaning: Meaning, *, weights: str | None = None) -> Exported:
    """Builds the network of a session with the weights of a checkpoint.

    Args:
        weights: `raw` or `ema`, see `checkpoints.weights_group`.

    Raises:
        UserError: the checkpoint does not fit, or the normalisation is no matrix.
    """
    colour = rendering.colour_matrix(recipe)
    if colour is None:
        raise UserError(
            f"a normalisation that is no matrix of colours: {list(recipe.normalisation)}",
            where="gin binding train.normalisation",
            expected="linear operations, such as rescale and standardise, which an exported model can hold as a layer",
            do="train with such a normalisation",
        )
    group = checkpoints.weights_group(prefix, weights)
    network, model = _built(recipe, meaning, colour)
    checkpoints.restore_group(prefix, group, network.values())
    return Exported(recipe, meaning, prefix, group, colour, network, model)


def _built(recipe: Recipe, meaning: Meaning, colour: np.ndarray) -> tuple[Network, keras.Model]:
    architecture = dataclasses.replace(recipe.model, pretrained=None)
    size = {"image_size": recipe.image_size, "classes": meaning.outputs}
    network = architecture.build(**size, precision="float32", fused=False)
    normalise = keras.layers.Conv2D(3, 1, trainable=False, dtype="float32", name=NORMALISATION)
    normalise.build((None, None, None, 3))
    normalise.set_weights([colour[:, :3].T[None, None].astype(np.float32), colour[:, 3].astype(np.float32)])

    def call(layer, *arguments, **keywords):
        if layer is network.backbone:
            arguments = (normalise(arguments[0]), *arguments[1:])
        return layer(*arguments, **keywords)

    return network, keras.models.clone_model(network.model, clone_function=lambda layer: layer, call_function=call)


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to write a network.

    Attributes:
        suffix: of the file; empty where it is a folder.
        write: (exported, path).
        read: (exported, path) -> what the weights in the file predict.
    """

    suffix: str
    write: Callable[[Exported, Path], object]
    read: Callable[[Exported, Path], Predict]


def _write_legacy(exported: Exported, path: Path) -> None:
    verbosity = logging.get_verbosity()
    # Keras would recommend another format.
    logging.set_verbosity(logging.ERROR)
    try:
        exported.model.save(path)
    finally:
        logging.set_verbosity(verbosity)


def _read_keras(exported: Exported, path: Path) -> Predict:
    return _predict(keras.saving.load_model(path, compile=False))


def _read_weights(exported: Exported, path: Path) -> Predict:
    _, model = exported.blank()
    model.load_weights(path)
    return _predict(model)


def _groups(exported: Exported) -> dict[str, dict[str, tf.Variable]]:
    kernel, bias = exported.model.get_layer(NORMALISATION).weights
    return {"model": exported.network.values(), NORMALISATION: {"kernel": kernel.value, "bias": bias.value}}


def _write_saved_model(exported: Exported, path: Path) -> None:
    model = exported.model
    pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="pixels")
    saved = tf.Module()
    saved.serve = tf.function(lambda pixels: {"logits": model(pixels, training=False)}, input_signature=[pixels])
    # Under the names of a checkpoint: what reads weights finds them, and runs nothing.
    for group, named in _groups(exported).items():
        setattr(saved, group, named)
    tf.saved_model.save(saved, str(path), signatures={"serving_default": saved.serve})


def _read_saved_model(exported: Exported, path: Path) -> Predict:
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda pixels: served(pixels=tf.constant(pixels))["logits"].numpy()


def _write_checkpoint(exported: Exported, path: Path) -> None:
    step = int(exported.prefix.name.rpartition("-")[2])
    Checkpoints(path, _groups(exported), keep=1).save(step)


def _read_checkpoint(exported: Exported, path: Path) -> Predict:
    network, model = exported.blank()
    checkpoints.restore_group(checkpoints.find(path, "last"), "model", network.values())
    return _predict(model)


def _predict(model: keras.Model) -> Predict:
    return lambda pixels: np.asarray(model(pixels, training=False))


FORMATS = {
    "keras": Format(".keras", lambda exported, path: exported.model.save(path), _read_keras),
    "h5": Format(".h5", _write_legacy, _read_keras),
    "weights": Format(".weights.h5", lambda exported, path: exported.model.save_weights(path), _read_weights),
    "saved_model": Format("", _write_saved_model, _read_saved_model),
    "checkpoint": Format("", _write_checkpoint, _read_checkpoint),
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


def write(exported: Exported, output: Path, form: Format, *, overwrite: bool = False) -> float:
    """Writes a network beside its place, reads it again, compares, and only then moves it into place.

    What the outputs stand for goes with it, see `init_from.classes_file`.

    Returns:
        how far logits of random images were from those of the network.

    Raises:
        UserError: there is something already, the place cannot be written, or the network cannot be written so.
        RunFailure: no space, or what was read again predicts something else.
    """
    _check_place(output, form, overwrite=overwrite)
    with _beside(output) as folder:
        path = folder / output.name
        try:
            form.write(exported, path)
            predict = form.read(exported, path)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"this network cannot be written so: {' '.join(str(error).split())[:300]}",
                where=f"--output={output}",
                expected="layers that Keras can write and read again by itself",
                do="choose --format=weights, saved_model or checkpoint",
            ) from error
        difference = _difference(exported, predict)
        described = init_from.classes_file(path)
        write_json(described, _description(exported, path))
        if form.suffix:
            os.replace(described, init_from.classes_file(output))
        elif output.exists():
            os.replace(output, folder / "earlier")
        os.replace(path, output)
    return difference


def _difference(exported: Exported, predict: Predict) -> float:
    size = (_IMAGES, *exported.model.input_shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    normalised = pixels @ exported.colour[:, :3].T + exported.colour[:, 3]
    wanted = np.asarray(exported.network.model(normalised.astype(np.float32), training=False))
    difference = float(np.max(np.abs(predict(pixels) - wanted)))
    limit = TOLERANCE * max(1.0, float(np.max(np.abs(wanted))))
    if not difference <= limit:
        raise RunFailure(
            f"read again, logits of random images differ by {difference:g}",
            where=str(exported.prefix),
            expected=f"at most {limit:g}",
            do="choose another --format, and report this",
        )
    return difference


def _description(exported: Exported, path: Path) -> dict:
    recipe = exported.recipe
    return {
        "task": exported.meaning.task,
        "classes": list(exported.meaning.names),
        "outputs": "logits",
        "input": f"[B, {recipe.image_size}, {recipe.image_size}, 3] float32, RGB in 0..255",
        "fit": recipe.fit,
        "crop": recipe.crop,
        "backbone": recipe.model.backbone.name,
        "checkpoint": exported.prefix.name,
        "weights": "ema" if exported.group == "ema" else "raw",
        **({} if path.is_dir() else {"sha256": manifest.sha256(path)}),
    }


def _check_place(output: Path, form: Format, *, overwrite: bool) -> None:
    if not output.exists():
        return
    ours = output.is_file() if form.suffix else output.is_dir() and _is_export(output)
    if not overwrite or not ours:
        raise UserError(
            f"{output} is there already{'' if ours else ', and it is no export of this format'}",
            where="--output",
            expected="a new name, or --overwrite of an earlier export",
            do="choose another --output" + (", or add --overwrite" if ours else ""),
        )


def _is_export(folder: Path) -> bool:
    """Whether `write` made it; a session has a classes.json too, a plain list."""
    try:
        return "outputs" in read_json(folder / "classes.json")
    except UserError:
        return False


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A folder on the same disk, gone at the end."""
    folder = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(
            f"the export cannot be written: {error}",
            where="--output",
            expected="a name in a folder that is there and can be written",
            do="choose another --output",
        ) from error
    try:
        yield folder
    except (OSError, tf.errors.OpError) as error:
        raise RunFailure(
            f"the export cannot be written: {str(error).splitlines()[0]}",
            where=str(output),
            expected="space for it",
            do="make room, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
