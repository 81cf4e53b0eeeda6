"""Weights in the formats of Keras 3 (`.weights.h5`, `.keras`) and before (`.h5`), by the names of a model's layers."""

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np
from keras.src.saving.saving_lib import H5IOStore, _save_state

from data.errors import UserError
from data.names import natural
from trainer.models.stored import Array, Reading, best, named, stored_layers
from trainer.models.weights import named_variables

_DAMAGE = (OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, zipfile.BadZipFile)
_ARCHIVE_MEMBER = "model.weights.h5"
_ARCHIVE_EXPANSION = 100
_KERAS_2_LAYERS = "_layer_checkpoint_dependencies"
_TRAINING_STATE = re.compile(r"^(optimizer|metrics|_metrics)/|(^|/)seed_generator[^/]*/")
_UNNAMED_DENSE = re.compile(r"layers/dense(_\d+)?/vars/\d+")


@contextlib.contextmanager
def opened(model: keras.Model, path: Path) -> Iterator[Reading]:
    """Opens `.weights.h5`, `.keras` or legacy `.h5`, whichever the content turns out to be.

    Only arrays and names are read: nothing of the file's configuration is deserialised or run, and links or
    data outside the file are refused. States of the optimizer, metrics and seeds in the file are left out.

    Layers are found as Keras finds them: in Keras 3 files by class and order, in legacy ones by name, those
    that Keras numbered by the order of their numbers. Layers of a legacy file that the model does not know by
    name go by their place in it. When the model is found as a nested model in the file, all around it is
    `outside`, and so are surplus `Dense` layers of a `.weights.h5` without layer names (early Keras 3).

    Raises:
        UserError: the file is in no known format, damaged or unsafe; reading an array may say so too.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path):
            file = stack.enter_context(_open(path))
            reading = _read(model, _content(file, path), path)
        yield reading


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (*_DAMAGE, zlib.error) as error:
        raise _bad_file(path, f"the file is damaged: {' '.join(str(error).split())}") from error


class _Content(NamedTuple):
    """All of an HDF5 file by path; the file itself is the group ''."""

    groups: dict[str, h5py.Group]
    arrays: dict[str, Array]


def _open(path: Path) -> h5py.File:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(b"PK\x03\x04"):
        return h5py.File(_weights_of_archive(path), "r")
    if start != b"\x89HDF\r\n\x1a\n":
        raise _bad_file(path, "the file is neither HDF5 nor a .keras archive")
    return h5py.File(path, "r")


def _weights_of_archive(path: Path) -> io.BytesIO:
    with zipfile.ZipFile(path) as archive:
        if _ARCHIVE_MEMBER not in archive.namelist():
            raise _bad_file(path, f"the archive has no {_ARCHIVE_MEMBER}")
        member = archive.getinfo(_ARCHIVE_MEMBER)
        if member.file_size > _ARCHIVE_EXPANSION * member.compress_size:
            raise _bad_file(path, f"{_ARCHIVE_MEMBER} unpacks to {member.file_size:,} bytes, more than weights do")
        return io.BytesIO(archive.read(member))


def _content(file: h5py.File, path: Path) -> _Content:
    """What the file holds, once it is sure to stand alone: every link in it a plain one, every number inside."""
    content = _Content({"": file}, {})
    addresses = {h5py.h5o.get_info(file.id).addr}
    pending = [("", file)]
    while pending:
        prefix, group = pending.pop()
        for name in group:
            where = f"{prefix}/{name}".lstrip("/")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _bad_file(path, f"{where} is a link to somewhere else; refused")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _bad_file(path, f"{where} keeps its numbers in another file; refused")
                content.arrays[where] = Array(tuple(item.shape), partial(_values, item, path))
            elif isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in addresses:
                    raise _bad_file(path, f"{where} is a second name of another group; refused")
                addresses.add(address)
                content.groups[where] = item
                pending.append((where, item))
    return content


def _read(model: keras.Model, content: _Content, path: Path) -> Reading:
    base = "model_weights" if "model_weights" in content.groups else ""
    if _attribute(content.groups[base], "layer_names"):
        readings = _legacy_readings(model, content, base)
    elif any(name.split("/")[-2:-1] == ["vars"] for name in content.arrays):
        readings = _keras_readings(model, content)
    else:
        raise _bad_file(path, "the HDF5 file holds no Keras weights")
    return best(model, readings, source=str(path))


def _values(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    with _explained(path):
        if dataset.attrs.get("dtype") == "bfloat16":
            return (np.asarray(dataset).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return np.asarray(dataset)


def _attribute(group: h5py.Group, name: str) -> list[str]:
    """A list of names; Keras splits a long one into `name0`, `name1`, ..."""
    chunks = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(chunks)}" in group.attrs:
        chunks.append(group.attrs[f"{name}{len(chunks)}"])
    return [item.decode() if isinstance(item, bytes) else str(item) for chunk in chunks for item in chunk]


def _bad_file(path: Path, found: str) -> UserError:
    return UserError(
        found,
        where=str(path),
        expected="weights that Keras saved: .weights.h5, .keras or legacy .h5",
        do="check the path, or save or download the file again",
    )


class _Recorder(H5IOStore):
    """Stands where Keras would write a file, and keeps by path the variables that Keras hands over."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, keras.Variable]] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict | None = None) -> dict[str, keras.Variable]:
        return self.groups.setdefault(path, {})


def _keras_paths(model: keras.Model) -> dict[str, str]:
    """Where Keras stores each variable of this model (`layers/conv2d_3/vars/0`) -> the variable's name."""
    recorder = _Recorder()
    _save_state(model, recorder, None, "", set())
    names = {id(variable): name for name, variable in named_variables(model).items()}
    return {
        f"{path}/vars/{index}".lstrip("/"): names[id(variable)]
        for path, group in recorder.groups.items()
        for index, variable in group.items()
        if id(variable) in names
    }


def _keras_readings(model: keras.Model, content: _Content) -> list[Reading]:
    """A Keras 3 file as a whole, then each nested model in it. Layers are known by class and order."""
    paths = _keras_paths(model)
    stored: dict[str, tuple[str | None, Array]] = {}
    for path in sorted(content.arrays, key=natural):
        group, _, index = path.rpartition("/")
        if _TRAINING_STATE.search(path) or not f"/{group}".endswith("/vars"):
            continue
        layer = content.groups[group].attrs.get("name")
        stored[path.replace(_KERAS_2_LAYERS, "layers")] = (layer and f"{layer}/{index}", content.arrays[path])
    roots = {path.replace(_KERAS_2_LAYERS, "layers").removesuffix("layers") for path in content.groups}
    readings = []
    for root in sorted(root for root in roots | {""} if f"/{root}".endswith("/")):
        inside, outside = {}, {}
        for path, (name, array) in stored.items():
            relative = path.removeprefix(root)
            if path.startswith(root) and relative in paths:
                inside[paths[relative]] = array
            elif path.startswith(root) and (name or not _UNNAMED_DENSE.fullmatch(relative)):
                inside[path if name is None or name in inside else name] = array
            else:
                outside[path if name is None or name in outside else name] = array
        readings.append(Reading(inside, outside, nested=root != ""))
    return readings


def _legacy_readings(model: keras.Model, content: _Content, base: str) -> list[Reading]:
    """Each nested model in a legacy file, then the whole file by name, then by name and order."""
    groups = {}
    for group in [*_attribute(content.groups[base], "layer_names"), "top_level_model_weights"]:
        path = f"{base}/{group}".lstrip("/")
        if path in content.groups:
            weights = _attribute(content.groups[path], "weight_names")
            variables = ((name, content.arrays[f"{path}/{name}"]) for name in weights)
            groups[group] = stored_layers(variables, group=group)
    readings = []
    for group, layers in groups.items():
        if len(layers) > 1:
            others = [layer for name, each in groups.items() if name != group for layer in each]
            outside = {f"{each.names[0]}/{variable}": array for each in others for variable, array in each.variables}
            readings.append(Reading(named(model, layers), outside, nested=True))
    everything = [layer for layers in groups.values() for layer in layers]
    return [*readings, *(Reading(named(model, everything, by_order=each)) for each in (False, True))]
