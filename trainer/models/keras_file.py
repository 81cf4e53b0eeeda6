"""Weights in the formats of Keras 3 (`.weights.h5`, `.keras`) and before (`.h5`), by the names of a model's layers."""

import io
import os
import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np
from keras.src.saving.saving_lib import H5IOStore, _save_state
from keras.src.utils.naming import to_snake_case

from data.errors import UserError
from trainer.models.weights import HEAD, WeightReport, compare, leaves, named_variables, write

_DAMAGE = (OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
_ARCHIVE_MEMBER = "model.weights.h5"
_ARCHIVE_EXPANSION = 100
_KERAS_2_LAYERS = "_layer_checkpoint_dependencies"
_TRAINING_STATE = re.compile(r"^(optimizer|metrics|_metrics)/|(^|/)seed_generator[^/]*/")
_UNNAMED_DENSE = re.compile(r"layers/dense(_\d+)?/vars/\d+")


def load_file(model: keras.Model, path: str | os.PathLike, *, head: str = HEAD) -> WeightReport:
    """Fills the model from `.weights.h5`, `.keras` or legacy `.h5`, whichever the content turns out to be.

    Only arrays and names are read: nothing of the file's configuration is deserialised or run, and links or
    data outside the file are refused. When the model is found as a nested model in the file, all around it
    counts as skipped, and so do surplus `Dense` layers of a `.weights.h5` without layer names (early
    Keras 3). States of the optimizer, metrics and seeds in the file are ignored.

    Layers are found as Keras finds them: in Keras 3 files by class and order, in legacy ones by name, those
    that Keras numbered by the order of their numbers. Layers of a legacy file that the model does not know by
    name go by their place in it. Every shape must agree.

    Args:
        model: a built model.
        path: the file.
        head: regular expression of the entries `layer/variable` that the model may lack.

    Raises:
        UserError: the file is absent, in no known format, damaged, unsafe, or of another architecture. The
            model is then untouched.
    """
    path = Path(path)
    try:
        with _open(path) as file:
            inside, outside, _ = _read(model, _content(file, path), path)
            shapes = {name: tuple(dataset.shape) for name, dataset in inside.items()}
            report = compare(model, shapes, source=str(path), head=head)
            values = {name: _values(inside[name]) for name in report.matched}
    except UserError:
        raise
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise _bad_file(path, f"the file is damaged: {' '.join(str(error).split())}") from error
    write(model, values, source=str(path))
    return replace(report, skipped=report.skipped + outside)


class _Content(NamedTuple):
    """All of an HDF5 file by path; the file itself is the group ''."""

    groups: dict[str, h5py.Group]
    datasets: dict[str, h5py.Dataset]


class _Reading(NamedTuple):
    """One way to understand a file: `inside` has the model's names where they fit, else the file's own."""

    inside: dict[str, h5py.Dataset]
    outside: tuple[str, ...] = ()
    nested: bool = False


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise _bad_file(path, "there is no such file")
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
                content.datasets[where] = item
            elif isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in addresses:
                    raise _bad_file(path, f"{where} is a second name of another group; refused")
                addresses.add(address)
                content.groups[where] = item
                pending.append((where, item))
    return content


def _read(model: keras.Model, content: _Content, path: Path) -> _Reading:
    """The reading under which most of the model's variables are found in their shape; of equals the first."""
    base = "model_weights" if "model_weights" in content.groups else ""
    if _attribute(content.groups[base], "layer_names"):
        readings = _legacy_readings(model, content, base)
    elif any(name.split("/")[-2:-1] == ["vars"] for name in content.datasets):
        readings = _keras_readings(model, content)
    else:
        raise _bad_file(path, "the HDF5 file holds no Keras weights")
    variables = named_variables(model)
    fits = [
        sum(name in variables and data.shape == tuple(variables[name].shape) for name, data in reading.inside.items())
        for reading in readings
    ]
    whole = [reading for reading, fit in zip(readings, fits, strict=True) if reading.nested and fit == len(variables)]
    if len(whole) > 1:
        raise _bad_file(path, f"the file holds {len(whole)} nested models that fit, and it is not said which one")
    return readings[fits.index(max(fits))]


def _values(dataset: h5py.Dataset) -> np.ndarray:
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


def _keras_readings(model: keras.Model, content: _Content) -> list[_Reading]:
    """A Keras 3 file as a whole, then each nested model in it. Layers are known by class and order."""
    paths = _keras_paths(model)
    stored: dict[str, tuple[str | None, h5py.Dataset]] = {}
    for path, dataset in content.datasets.items():
        group, _, index = path.rpartition("/")
        if _TRAINING_STATE.search(path) or not f"/{group}".endswith("/vars"):
            continue
        layer = content.groups[group].attrs.get("name")
        stored[path.replace(_KERAS_2_LAYERS, "layers")] = (layer and f"{layer}/{index}", dataset)
    roots = {path.replace(_KERAS_2_LAYERS, "layers").removesuffix("layers") for path in content.groups}
    readings = []
    for root in sorted(root for root in roots | {""} if f"/{root}".endswith("/")):
        inside, outside = {}, []
        for path, (name, dataset) in stored.items():
            relative = path.removeprefix(root)
            if path.startswith(root) and relative in paths:
                inside[paths[relative]] = dataset
            elif path.startswith(root) and (name or not _UNNAMED_DENSE.fullmatch(relative)):
                inside[path if name is None or name in inside else name] = dataset
            else:
                outside.append(name or path)
        readings.append(_Reading(inside, tuple(outside), nested=root != ""))
    return readings


class _StoredLayer(NamedTuple):
    """One layer of a legacy file: what the file calls it, the best name first, and its variables in order."""

    names: tuple[str, ...]
    variables: list[tuple[str, h5py.Dataset]]


def _legacy_readings(model: keras.Model, content: _Content, base: str) -> list[_Reading]:
    """Each nested model in a legacy file, then the whole file by name, then by name and order."""
    groups = {}
    for group in [*_attribute(content.groups[base], "layer_names"), "top_level_model_weights"]:
        path = f"{base}/{group}".lstrip("/")
        if path in content.groups:
            groups[group] = _stored_layers(group, path, content)
    readings = []
    for group, layers in groups.items():
        if len(layers) > 1:
            others = [layer for name, each in groups.items() if name != group for layer in each]
            outside = [f"{layer.names[0]}/{variable}" for layer in others for variable, _ in layer.variables]
            readings.append(_Reading(_legacy_names(model, layers), tuple(outside), nested=True))
    everything = [layer for layers in groups.values() for layer in layers]
    whole = [_Reading(_legacy_names(model, everything, by_order=each)) for each in (False, True)]
    return [*readings, *whole]


def _stored_layers(group: str, path: str, content: _Content) -> list[_StoredLayer]:
    layers: dict[str, list[tuple[str, h5py.Dataset]]] = {}
    for weight in _attribute(content.groups[path], "weight_names"):
        layer, _, variable = weight.rpartition("/")
        layers.setdefault(layer, []).append((re.sub(r":\d+$", "", variable), content.datasets[f"{path}/{weight}"]))
    stored = []
    for layer, variables in layers.items():
        parts = layer.split("/")
        names = ["/".join(parts[start:]) for start in range(len(parts))]
        stored.append(_StoredLayer((group, *names) if len(layers) == 1 else tuple(names), variables))
    return stored


def _legacy_names(model: keras.Model, stored: list[_StoredLayer], *, by_order: bool = False) -> dict[str, h5py.Dataset]:
    """Layers go by name; `by_order`, one of an unknown name goes to the layer at its place in the model."""
    places = _places(model)
    in_order = list(places) if by_order else []
    renamed = _automatic_names(model, stored)
    named: dict[str, h5py.Dataset] = {}
    for position, layer in enumerate(stored):
        candidates = [renamed.get(name, name) for name in layer.names]
        fallback = in_order[position] if position < len(in_order) else layer.names[0]
        target = next((name for name in candidates if name in places), fallback)
        _put(named, target, places.get(target, []), layer)
    return named


def _put(named: dict[str, h5py.Dataset], target: str, places: list[str], layer: _StoredLayer) -> None:
    """Variables go by name, or by position where Keras renamed them (`depthwise_kernel`)."""
    names = [f"{target}/{variable}" for variable, _ in layer.variables]
    if not set(names) <= set(places) and len(names) == len(places):
        names = places
    for name, (_, dataset) in zip(names, layer.variables, strict=True):
        named[f"{name} (again)" if name in named else name] = dataset


def _places(model: keras.Model) -> dict[str, list[str]]:
    """Layer -> names of its variables, in the order of the model."""
    places: dict[str, list[str]] = {}
    for name in named_variables(model):
        places.setdefault(name.rpartition("/")[0], []).append(name)
    return places


def _automatic_names(model: keras.Model, stored: list[_StoredLayer]) -> dict[str, str]:
    """File name -> model name of layers that Keras numbered (`conv2d_7`): the k-th of a class is the k-th."""
    numbered: dict[str, set[str]] = {}
    for layer in leaves(model):
        kind = to_snake_case(type(layer).__name__)
        if layer.weights and re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            numbered.setdefault(kind, set()).add(layer.name)

    def number(name: str) -> int:
        digits = name.rpartition("_")[2]
        return int(digits) if digits.isdigit() else 0

    renamed = {}
    for kind, ours in numbered.items():
        pattern = re.compile(rf"{kind}(_\d+)?")
        theirs = {name for layer in stored for name in layer.names if pattern.fullmatch(name)}
        renamed.update(zip(sorted(theirs, key=number), sorted(ours, key=number), strict=False))
    return renamed
