"""Weights out of TensorFlow checkpoints: those of a session, of a SavedModel, or of `save_weights` before Keras 3.

Arrays and names are read and nothing else: no function of a SavedModel is loaded or run.
"""

import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from data.errors import UserError
from trainer import checkpoints
from trainer.models.naming import NORMALISATION
from trainer.models.stored import Array, Reading, best, named, stored_layers

_DAMAGE = (tf.errors.OpError, DecodeError, OSError, RuntimeError, LookupError, ValueError, TypeError)
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# No weights of a saved object: state of the optimizer, metrics, and the second list that Keras 3 exports.
_OTHER = re.compile(
    r"(^|/)optimizer/(?!_trainable_variables/)|(^|/)_?(compile_)?metrics/|^(keras_api|_all_variables|save_counter)/"
    r"|OPTIMIZER_SLOT"
)
_SEED = re.compile(r"seed_generator|(^|/)random_state$")


def find_prefix(path: Path) -> Path | None:
    """The checkpoint that a path names: its prefix, one of its files, a SavedModel, or a folder with checkpoints."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return path / "variables" / "variables"
        steps = checkpoints.steps_in(path)
        return path / f"ckpt-{steps[-1]}" if steps else None
    prefix = path.with_name(re.sub(r"\.(index|manifest\.json|data-\d{5}-of-\d{5})$", "", path.name))
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def read(model: keras.Model, prefix: Path, *, weights: str | None = None) -> Reading:
    """The arrays of a backbone, and of the head around it where it is a session's.

    Args:
        prefix: as `find_prefix` gives it.
        weights: `raw` or `ema` of a session's checkpoint, see `checkpoints.weights_group`.

    Raises:
        UserError: it is damaged, has not those weights, or does not say the names of its variables.
    """
    reason = checkpoints.damage(prefix)
    if reason is not None:
        raise _bad(prefix, f"the checkpoint is damaged: {reason}")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        arrays = {
            key: Array(tuple(shape), lambda key=key: _values(reader, key, prefix))
            for key, shape in reader.get_variable_to_shape_map().items()
        }
        ours = {checkpoints.plain(key): array for key, array in sorted(arrays.items())}
        if any(name and name.startswith("model/backbone/") for name in ours):
            group = checkpoints.weights_group(prefix, weights)
            mine = {name.removeprefix(f"{group}/"): array for name, array in ours.items() if name}
            mine = {name: array for name, array in mine.items() if not _SEED.search(name)}
            parts = {
                part: [(name.removeprefix(part), each) for name, each in mine.items() if name.startswith(part)]
                for part in ("backbone/", "head/")
            }
            # Beside the network of an export.
            normalisation = {name: each for name, each in ours.items() if name and name.startswith(f"{NORMALISATION}/")}
            outside = dict(parts["head/"]) | normalisation
            return Reading(named(model, stored_layers(parts["backbone/"])), outside, nested=True)
        return _of_objects(model, reader, arrays, prefix)
    except UserError:
        raise
    except _DAMAGE as error:
        raise _bad(prefix, f"the checkpoint cannot be read: {' '.join(str(error).split())}") from error


def _of_objects(model: keras.Model, reader, arrays: dict[str, Array], prefix: Path) -> Reading:
    """By the names that TensorFlow keeps of the variables in the graph of saved objects."""
    if _GRAPH not in arrays:
        raise _nameless(prefix, "it has no graph of objects")
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
    variables = []
    for node in graph.nodes:
        for attribute in node.attributes:
            key, name = attribute.checkpoint_key, attribute.full_name
            if key in arrays and not _OTHER.search(key) and not _SEED.search(name):
                variables.append((name, arrays[key]))
    names = [name for name, _ in variables]
    nameless = [name for name in names if "/" not in name or names.count(name) > 1]
    if nameless or not names:
        shown = ", ".join(sorted(set(nameless))[:5])
        raise _nameless(prefix, f"{len(nameless)} of {len(names)} variables have no name of their own: {shown}")
    layers = stored_layers(variables)
    return best(model, [Reading(named(model, layers, by_order=each)) for each in (False, True)], source=str(prefix))


def _values(reader, key: str, prefix: Path) -> np.ndarray:
    try:
        return np.asarray(reader.get_tensor(key))
    except _DAMAGE as error:
        raise _bad(prefix, f"the checkpoint is damaged: {' '.join(str(error).split())}") from error


def _nameless(prefix: Path, found: str) -> UserError:
    return UserError(
        f"the names of its variables cannot be read: {found}",
        where=str(prefix),
        expected="a checkpoint of a session, or a SavedModel that Keras wrote",
        do="load it with the program that wrote it and save it as .keras or .weights.h5",
    )


def _bad(prefix: Path, found: str) -> UserError:
    return UserError(
        found,
        where=str(prefix),
        expected="a whole checkpoint: PREFIX.index and PREFIX.data-00000-of-00001 as they were written",
        do="check the path, or save or copy it again",
    )
