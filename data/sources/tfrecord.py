"""Files of `tf.train.Example`."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from data.errors import UserError
from data.examples import SPLITS, TASKS, Record, Stream
from data.names import natural
from data.sources import columns
from data.sources.folder import SPLIT_FOLDERS


@gin.configurable
def tfrecord(
    files: str | Sequence[str] | Mapping[str, str] | None = None,
    *,
    image: str = "image/encoded",
    label: str = "image/class/label",
    task: str = "single_label",
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    weight: str | None = None,
    repeat: str | None = None,
    split: str | None = None,
    group: str | None = None,
) -> Stream:
    """Records of `tf.train.Example` with an encoded image each; features are named by the arguments.

    Args:
        files: a pattern, a list of them, or one for each of train, validation and test; `.gz` files are unpacked.
        image: bytes feature, the content of an image file.
        label: single_label: a class index (int64) or name (bytes); binary: 0 or 1; multi_label: K numbers 0 and 1, or
            names; regression: K numbers.
        class_names: order of the outputs; None: the order of the numbers, or natural order of the names found.
            Has to be stated for multi_label and regression.
        name: bytes feature with a name of its own for each record; None: the file's name and the record's number.
        weight, repeat, split, group: features as the columns of the same names in `Examples`.

    Raises:
        UserError: no such files; while reading: a damaged file, a record without one of the features.
    """
    if task not in TASKS:
        raise UserError(
            f"task = {task!r}",
            where="gin binding tfrecord.task",
            expected=f"one of {', '.join(TASKS)}",
            do="correct it",
        )
    names = columns.stated_names(class_names, task=task, where="gin binding tfrecord.class_names")
    if names is None and task in ("multi_label", "regression"):
        raise UserError(
            f"no class_names with task = {task!r}",
            where="gin binding tfrecord.class_names",
            expected="the names of the outputs, in their order",
            do="tfrecord.class_names = ['NAME', ...]",
        )
    if names is None and task == "binary":
        names = ("0", "1")
    paths = _paths(files)
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    features = {"weight": weight, "repeat": repeat, "split": split, "group": group}

    def records() -> Iterator[Record]:
        for path, part in paths.items():
            for row, example in enumerate(_examples(path)):
                where = f"{path}, record {row}"
                read = _reader(example, where)
                made_up = f"{os.path.relpath(path, folder)}/{row:08d}"
                optional = {
                    key: _OPTIONAL[key](read(feature, one=True), where)
                    for key, feature in features.items()
                    if feature is not None
                }
                yield Record(
                    name=os.fsencode(made_up) if name is None else _bytes(read(name, one=True), where),
                    image=_image(read(image, one=True), image, where),
                    label=_label(read(label, one=task in ("single_label", "binary")), task, names, where),
                    **({"split": part} | optional),
                )

    facts = {path: os.stat(path) for path in paths}
    return Stream(
        records=records,
        title=f"{len(paths)} TFRecord files in {folder}",
        class_names=names,
        task=task,
        count=_count(list(paths)),
        fingerprint={path: f"{fact.st_size} bytes, {fact.st_mtime_ns}" for path, fact in facts.items()}
        | {"features": repr((image, label, task, names, name, features)), "splits": repr(list(paths.items()))},
    )


def _paths(files: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, int]:
    """Path -> index of the split it is stated to be, -1 if none, in natural order."""
    if isinstance(files, Mapping):
        unknown = sorted(set(files) - set(SPLIT_FOLDERS))
        if unknown:
            raise UserError(
                f"splits that are none: {', '.join(unknown)}",
                where="gin binding tfrecord.files",
                expected=f"out of {', '.join(SPLIT_FOLDERS)}",
                do="correct them",
            )
        patterns = [(pattern, SPLITS.index(SPLIT_FOLDERS[part])) for part, pattern in files.items()]
    else:
        patterns = [(pattern, -1) for pattern in ([files] if isinstance(files, str) else files or [])]
    paths: dict[str, int] = {}
    for pattern, part in patterns:
        found = glob.glob(os.path.abspath(os.path.expanduser(pattern)), recursive=True)
        found = [path for path in sorted(found, key=natural) if os.path.isfile(path)]
        twice = next((path for path in found if path in paths), None)
        if not found or twice:
            raise UserError(
                f"{twice} is there twice" if twice else f"no file matches {pattern}",
                where="gin binding tfrecord.files",
                expected="patterns of existing files, each file once",
                do="correct it, for example 'records/train-*.tfrecord'",
            )
        paths |= dict.fromkeys(found, part)
    if not paths:
        raise UserError(
            "no TFRecord files are named",
            where="gin binding tfrecord.files",
            expected="a pattern of files",
            do="tfrecord.files = 'records/train-*.tfrecord'",
        )
    return paths


def _count(paths: Sequence[str]) -> int | None:
    """Records in files that are not compressed, from their framing alone: length, checksum, content, checksum.

    None if nobody can tell: what is wrong with a file is told when it is read.
    """
    if any(path.endswith(".gz") for path in paths):
        return None
    count = 0
    for path in paths:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while len(header := file.read(12)) == 12:
                end = file.tell() + int.from_bytes(header[:8], "little") + 4
                if end > size:
                    return None
                file.seek(end)
                count += 1
    return count


def _examples(path: str) -> Iterator[tf.train.Example]:
    dataset = tf.data.TFRecordDataset(path, compression_type="GZIP" if path.endswith(".gz") else "")
    row = 0
    try:
        for serialized in dataset.as_numpy_iterator():
            yield tf.train.Example.FromString(serialized)
            row += 1
    except (tf.errors.OpError, DecodeError) as error:
        reason = "no tf.train.Example" if isinstance(error, DecodeError) else str(error.message).split(" [Op:")[0]
        raise UserError(
            f"cannot read record {row} of {path}: {reason}",
            where="gin binding tfrecord.files",
            expected="whole TFRecord files of tf.train.Example; gzip only if the name ends in .gz",
            do="write the file again, or leave it out",
        ) from error


def _reader(example: tf.train.Example, where: str) -> Callable[..., list]:
    features = example.features.feature

    def read(name: str, *, one: bool) -> list:
        """The values of a feature, exactly one if `one`."""
        # Asking a protobuf map for a key that it lacks adds the key.
        kind = features[name].WhichOneof("kind") if name in features else None
        values = list(getattr(features[name], kind).value) if kind else []
        if not values or (one and len(values) > 1):
            raise UserError(
                f"{where} has {len(values) or 'no'} values of {name!r}",
                where="gin bindings of tfrecord",
                expected=f"{'one value' if one else 'values'}; the features there are {', '.join(sorted(features))}",
                do="name the feature in the binding, for example tfrecord.image = 'image/encoded'",
            )
        return values if not one else values[0]

    return read


def _image(value: object, feature: str, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _odd(f"{where}: {feature!r} holds {type(value).__name__}", "the bytes of an image file")
    return value


def _bytes(value: object, where: str) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _weight(value: object, where: str) -> float:
    if not isinstance(value, (int, float)) or not np.isfinite(value) or value < 0:
        raise _odd(f"{where}: weight {value!r}", "a finite number, at least 0")
    return float(value)


def _repeat(value: object, where: str) -> float:
    if not isinstance(value, (int, float)) or not np.isfinite(value) or value <= 0:
        raise _odd(f"{where}: repeat factor {value!r}", "a finite number above 0")
    return float(value)


def _split(value: object, where: str) -> int:
    text = _bytes(value, where).decode("utf-8", "surrogateescape")
    if text not in SPLIT_FOLDERS:
        raise _odd(f"{where}: split {text!r}", f"one of {', '.join(SPLIT_FOLDERS)}")
    return SPLITS.index(SPLIT_FOLDERS[text])


_OPTIONAL = {"weight": _weight, "repeat": _repeat, "split": _split, "group": _bytes}


def _label(value: object, task: str, names: tuple[str, ...] | None, where: str) -> int | str | np.ndarray:
    if task in ("single_label", "binary"):
        label = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        if isinstance(label, str) and names is not None and label in names:
            label = names.index(label)
        if isinstance(label, float) or (names is not None and (isinstance(label, str) or not 0 <= label < len(names))):
            raise _odd(f"{where}: label {label!r}", f"an index or name of {', '.join(names or ())}")
        return label
    if isinstance(value[0], bytes):
        found = [member.decode("utf-8", "surrogateescape") for member in value]
        if task == "regression" or not set(found) <= set(names):
            raise _odd(f"{where}: labels {found}", f"names out of {', '.join(names)}")
        return np.isin(names, found).astype(np.float32)
    target = np.array(value, np.float32)
    good = np.isfinite(target).all() and (task == "regression" or np.isin(target, (0, 1)).all())
    if target.shape != (len(names),) or not good:
        raise _odd(f"{where}: labels {target.tolist()}", f"{len(names)} numbers, one for each of {', '.join(names)}")
    return target


def _odd(found: str, expected: str) -> UserError:
    return UserError(
        found, where="gin bindings of tfrecord", expected=expected, do="correct the records or the binding"
    )
