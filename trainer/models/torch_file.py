"""A legacy `torch.save` file as numpy arrays, without torch and without running what the file asks for."""

import math
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: str
    count: int


class _Tensor(NamedTuple):
    """A window on a storage; the numbers come later in the file. Offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """What `torch._utils._rebuild_tensor_v2` becomes. No attribute of it can be set by the file."""

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *_) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor stands on something that is no storage")
        return _Tensor(storage, _count(offset), tuple(map(_count, size)), tuple(map(_count, stride)))


class _StateUnpickler(pickle.Unpickler):
    """Knows `OrderedDict`, `_rebuild_tensor_v2` and the storage types; every other global is refused."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise UserError(
            f"the file asks for {module}.{name}; refused, and nothing of the file was run",
            where=str(self._path),
            expected="a state dict: OrderedDict, torch._utils._rebuild_tensor_v2 and torch storages only",
            do="save model.state_dict() alone, and take weight files only from people you trust",
        )

    def persistent_load(self, pid: Any) -> _Storage:
        tag, dtype, key, _location, count, view = pid
        if tag != "storage" or dtype not in _DTYPES.values() or not isinstance(key, str) or view is not None:
            raise ValueError(f"unknown storage record {pid!r}")
        return _Storage(key, dtype, _count(count))


def read_torch_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dict of a legacy (pre-zip) `torch.save` file.

    Returns:
        Entry name -> array, C-contiguous, in the file's order and with the tensor's own shape and dtype
        (float16/32/64, int8/16/32/64, uint8, bool).

    Raises:
        UserError: the file is absent, in another format, damaged, holds something else than named tensors, or
            its pickle asks for any global that is not on the list.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] == b"PK":
                raise _unreadable(path, "it is a zip file, the newer torch format")
            tensors = _read_pickles(file, path)
            storages = _read_storages(file, tensors)
        return {name: _array(name, tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except UserError:
        raise
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no such file") from error
    except Exception as error:  # a hostile or damaged pickle can raise any type
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error


def _read_pickles(file: BinaryIO, path: Path) -> dict[str, _Tensor]:
    def load() -> Any:
        return _StateUnpickler(file, path).load()

    if load() != _MAGIC:
        raise ValueError("the magic number is wrong")
    if (protocol := load()) != _PROTOCOL:
        raise ValueError(f"protocol {protocol!r}, known is {_PROTOCOL}")
    if load().get("little_endian") is not True:
        raise ValueError("written on a big-endian machine")
    state = load()
    if not isinstance(state, dict):
        raise ValueError(f"the file holds a {type(state).__name__}, not a state dict")
    tensors = dict(dict.items(state))
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"entry {name!r} is no named tensor but a {type(tensor).__name__}")
    return tensors


def _read_storages(file: BinaryIO, tensors: dict[str, _Tensor]) -> dict[str, np.ndarray]:
    """The raw tail: a pickled list of storage keys, then for each an int64 element count and the elements."""
    wanted = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if any(tensor.storage != wanted[tensor.storage.key] for tensor in tensors.values()):
        raise ValueError("two tensors disagree about the storage they share")
    keys = _KeyUnpickler(file).load()
    if not isinstance(keys, list) or len(set(keys)) != len(keys) or set(keys) != set(wanted):
        raise ValueError("the list of storages does not fit the tensors")
    storages = {}
    for key in keys:
        storage = wanted[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storage.count:
            raise ValueError(f"storage {key} holds {count} elements, its tensors say {storage.count}")
        size = count * np.dtype(storage.dtype).itemsize
        content = file.read(size)
        if len(content) != size:
            raise EOFError(f"the file ends inside storage {key}")
        storages[key] = np.frombuffer(content, storage.dtype)
    if file.read(1):
        raise ValueError("bytes follow after the last storage")
    return storages


class _KeyUnpickler(pickle.Unpickler):
    """A list of strings needs no global at all."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the list of storages asks for {module}.{name}")


def _array(name: str, tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    _, offset, size, stride = tensor
    if len(size) != len(stride) or math.prod(size) > storage.size:
        raise ValueError(f"{name}: size {size} and stride {stride} do not fit {storage.size} elements")
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.size:
        raise ValueError(f"{name}: reaches element {last} of a storage of {storage.size}")
    steps = [step * storage.itemsize for step in stride]
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False), order="C")


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"cannot read the torch weights: {' '.join(why.split())}",
        where=str(path),
        expected="a state dict of torch.save in its legacy format (_use_new_zipfile_serialization=False)",
        do="check the path, download or install the file again, or convert it to a .weights.h5",
    )
