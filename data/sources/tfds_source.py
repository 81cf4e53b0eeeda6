"""Sets of TensorFlow Datasets."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
import numpy as np

from data.errors import UserError
from data.examples import SPLITS, TASKS, Record, Stream
from data.sources import columns
from data.sources.folder import SPLIT_FOLDERS

if TYPE_CHECKING:
    import tensorflow_datasets

IMAGE_FOLDER = "image_folder"


@gin.configurable
def tfds(
    name: str | None = None,
    split: str | Sequence[str] | Mapping[str, str] = "train",
    *,
    data_dir: str | None = None,
    builder_dir: str | None = None,
    module: str | None = None,
    image: str = "image",
    label: str = "label",
    name_feature: str | None = None,
    task: str = "single_label",
    class_names: Sequence[str] | None = None,
    download: bool = False,
) -> Stream:
    """A prepared set of TensorFlow Datasets; images keep the bytes they were stored with.

    Args:
        name: of the builder, perhaps with config and version: `my_set/config:1.0.0`; `image_folder` reads the folders
            SPLIT/CLASS/IMAGE in `data_dir`.
        split: 'train' or any split instruction: `train.split` cuts it; a list of names of splits, or
            {'train': 'train[:90%]', 'validation': 'train[90%:]'}: these splits are kept.
        data_dir: where sets are prepared; None: what TFDS takes, ~/tensorflow_datasets or TFDS_DATA_DIR.
        builder_dir: the folder of one prepared set, in place of a name.
        module: dotted path of the module with the builder's class, if it is not part of TFDS.
        image, label: names of the features. label is a class (ClassLabel, whole number or text); of a multi-label set
            a sequence of classes or K numbers 0 and 1; of a regression one or K numbers.
        name_feature: feature with a name of its own for each example; None: the id that TFDS gives, of an
            `image_folder` the path below `data_dir`.
        task: as in `Examples`.
        class_names: None: those of the ClassLabel feature.
        download: whether a set that is not prepared may be downloaded.

    Raises:
        UserError: no such set, split or feature, a set that is not prepared; while reading: an example without a label.
    """
    if task not in TASKS:
        raise UserError(
            f"task = {task!r}",
            where="gin binding tfds.task",
            expected=f"one of {', '.join(TASKS)}",
            do="correct it",
        )
    builder = _builder(name, data_dir, builder_dir, module, download)
    parts = _parts(split)
    counts = [_count(builder, instruction) for instruction, _ in parts]
    features = builder.info.features
    for binding, feature in (("image", image), ("label", label), ("name_feature", name_feature)):
        if feature is not None and feature not in features:
            raise UserError(
                f"{builder.info.full_name} has no feature {feature!r}",
                where=f"gin binding tfds.{binding}",
                expected=f"one of {', '.join(features)}",
                do=f"tfds.{binding} = 'NAME'",
            )
    encoded = _encoded(features[image], image)
    # A sequence of classes holds its ClassLabel as `feature`.
    classes = getattr(features[label], "feature", features[label])
    names = columns.stated_names(
        class_names or getattr(classes, "names", None), task=task, where="gin binding tfds.class_names"
    )
    if names is None and task in ("multi_label", "regression"):
        shape = features[label].shape
        outputs = 1 if not shape else shape[-1]
        if outputs is None:
            raise UserError(
                f"the feature {label!r} does not say how many outputs there are",
                where="gin binding tfds.class_names",
                expected="the names of the outputs, in their order",
                do="tfds.class_names = ['NAME', ...]",
            )
        names = (label,) if outputs == 1 else tuple(f"{label}{index}" for index in range(outputs))
    if names is None and task == "binary":
        names = ("0", "1")

    def records() -> Iterator[Record]:
        for instruction, stated in parts:
            for made_up, example in _read(builder, instruction, image if encoded else None):
                own = made_up if name_feature is None else _bytes(example[name_feature])
                pixels = example[image]
                yield Record(
                    name=own,
                    image=bytes(pixels) if isinstance(pixels, bytes) else pixels.reshape(*pixels.shape[:2], -1),
                    label=_label(
                        example[label],
                        task,
                        names,
                        classes=classes is not features[label],
                        where=f"{builder.info.full_name}, {own!r}",
                    ),
                    split=stated,
                )

    return Stream(
        records=records,
        title=f"{builder.info.full_name} of TFDS",
        count=sum(counts),
        class_names=names,
        task=task,
        fingerprint={
            "set": builder.info.full_name,
            "splits": repr(parts),
            "features": repr((image, label, name_feature, task, names)),
            **_files(builder.data_dir),
        },
    )


def _builder(
    name: str | None, data_dir: str | None, builder_dir: str | None, module: str | None, download: bool
) -> "tensorflow_datasets.core.DatasetBuilder":
    import tensorflow_datasets

    if (name is None) == (builder_dir is None):
        raise UserError(
            "no set is named" if name is None else "both a name and the folder of a set",
            where="gin bindings tfds.name, tfds.builder_dir",
            expected="one of them",
            do="tfds.name = 'NAME'",
        )
    data_dir = None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir))
    binding = "builder_dir" if name is None else "name"
    try:
        if module is not None:
            binding = "module"
            importlib.import_module(module)
            binding = "name"
        if name == IMAGE_FOLDER:
            binding = "data_dir"
            if data_dir is None or not os.path.isdir(data_dir):
                raise ValueError(f"{data_dir or 'tfds.data_dir'} is no folder of images")
            return tensorflow_datasets.ImageFolder(data_dir)
        if builder_dir is not None:
            return tensorflow_datasets.builder_from_directory(os.path.abspath(os.path.expanduser(builder_dir)))
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    # The builder is anybody's code.
    except Exception as error:
        raise UserError(
            f"cannot open the set {name or builder_dir}: {(str(error).strip() or repr(error)).splitlines()[0]}",
            where=f"gin binding tfds.{binding}",
            expected="a set of TFDS or of tfds.module, image_folder with tfds.data_dir, or a prepared set",
            do="correct the name, or the bindings tfds.data_dir and tfds.module",
        ) from error
    if not builder.is_prepared() and download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        argument = "" if data_dir is None else f", data_dir={data_dir!r}"
        needs = f"import {module}; " if module else ""
        raise UserError(
            f"the set {builder.info.full_name} is not prepared",
            where=str(builder.data_dir),
            expected="a prepared set: nothing is downloaded unless you say so",
            do=f'python -c "{needs}import tensorflow_datasets as tfds; '
            f'tfds.builder({name!r}{argument}).download_and_prepare()", or set tfds.download = True',
        )
    return builder


def _parts(split: str | Sequence[str] | Mapping[str, str]) -> list[tuple[str, int]]:
    """Split instructions, each with the index of the split it is stated to be, -1 if none."""
    if isinstance(split, str):
        return [(split, -1)]
    instructions = dict(split) if isinstance(split, Mapping) else {name: name for name in split}
    unknown = [name for name in instructions if name not in SPLIT_FOLDERS]
    if unknown or not instructions:
        raise UserError(
            f"splits that are none: {', '.join(unknown) or '(no split)'}",
            where="gin binding tfds.split",
            expected=f"out of {', '.join(SPLIT_FOLDERS)}; say what others are, "
            "as in {'train': 'train[:90%]', 'validation': 'train[90%:]'}",
            do="correct them",
        )
    return [(instruction, SPLITS.index(SPLIT_FOLDERS[name])) for name, instruction in instructions.items()]


def _count(builder: "tensorflow_datasets.core.DatasetBuilder", instruction: str) -> int:
    try:
        return builder.info.splits[instruction].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"{builder.info.full_name} has no split {instruction!r}",
            where="gin binding tfds.split",
            expected=f"one of {', '.join(builder.info.splits)}, or a part of it such as train[:90%]",
            do="correct it",
        ) from error


def _encoded(feature: Any, name: str) -> bool:
    """Whether the feature holds the bytes of image files."""
    import tensorflow_datasets

    if isinstance(feature, tensorflow_datasets.features.Image) and feature.np_dtype in (np.uint8, np.uint16):
        return True
    shape = feature.shape
    if feature.np_dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        return False
    if feature.np_dtype in (np.object_, np.bytes_, np.str_) and shape == ():
        return False
    raise UserError(
        f"the feature {name!r} holds {np.dtype(feature.np_dtype).name} of shape {list(shape)}",
        where="gin binding tfds.image",
        expected="an image of 8 or 16 bit, its encoded bytes, or uint8 [H, W], [H, W, 1] or [H, W, 3]",
        do="name the feature with the image",
    )


def _read(
    builder: "tensorflow_datasets.core.DatasetBuilder", instruction: str, encoded: str | None
) -> Iterator[tuple[bytes, dict]]:
    """Each example with a name that is its own, in the order in which it is stored."""
    import tensorflow_datasets

    decoders = {encoded: tensorflow_datasets.decode.SkipDecoding()} if encoded else None
    if isinstance(builder, tensorflow_datasets.ImageFolder):
        root = os.fsencode(builder.data_dir)
        for example in builder.as_dataset(split=instruction, decoders=decoders).as_numpy_iterator():
            yield os.path.relpath(example["image/filename"], root), example
        return
    if builder.info.file_format in tensorflow_datasets.core.file_adapters.FileFormat.with_random_access():
        source = builder.as_data_source(split=instruction, decoders=decoders)
        sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
        parts = tensorflow_datasets.core.ReadInstruction.from_spec(instruction).to_absolute(builder.info.splits)
        # By their places in the whole, so that parts which overlap give a name twice.
        names = [f"{part.splitname}/{row:08d}" for part in parts for row in range(part.from_ or 0, _end(part, sizes))]
        for row, name in enumerate(names):
            yield name.encode(), source[row]
        return
    config = tensorflow_datasets.ReadConfig(add_tfds_id=True, interleave_cycle_length=1, try_autocache=False)
    examples = builder.as_dataset(split=instruction, decoders=decoders, read_config=config, shuffle_files=False)
    for example in examples.as_numpy_iterator():
        yield example["tfds_id"], example


def _end(part: Any, sizes: dict[str, int]) -> int:
    return sizes[part.splitname] if part.to is None else part.to


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else os.fsencode(str(value))


def _label(
    value: Any, task: str, names: tuple[str, ...] | None, *, classes: bool, where: str
) -> int | str | np.ndarray:
    """A label as `Record` wants it.

    Args:
        classes: whether several whole numbers are class indexes, not one number for each output.
    """
    value = np.asarray(value)
    if value.dtype.kind in "OS":
        texts = [_bytes(member).decode("utf-8", "surrogateescape") for member in value.reshape(-1).tolist()]
        if names is None:
            return texts[0]
        value = np.array([names.index(text) if text in names else -1 for text in texts], np.int64).reshape(value.shape)
        classes = True
    most = np.inf if names is None else len(names)
    indexes = task in ("single_label", "binary") or (task == "multi_label" and classes)
    if indexes and not (value.dtype.kind in "iub" and ((value >= 0) & (value < most)).all()):
        raise _odd(value, where, "class indexes" if names is None else f"classes out of {len(names)}")
    if task in ("single_label", "binary"):
        if value.size != 1:
            raise _odd(value, where, "one class")
        return int(value.item())
    if indexes:
        return np.isin(np.arange(len(names)), value).astype(np.float32)
    target = value.reshape(-1).astype(np.float32)
    good = np.isfinite(target).all() and (task == "regression" or np.isin(target, (0, 1)).all())
    if target.shape != (len(names),) or not good:
        raise _odd(value, where, f"{len(names)} numbers" + (" 0 and 1" if task == "multi_label" else ""))
    return target


def _odd(value: np.ndarray, where: str, expected: str) -> UserError:
    return UserError(
        f"label {value.tolist()!r}",
        where=where,
        expected=expected,
        do="leave out splits without labels (tfds.split), or correct tfds.label, tfds.task and tfds.class_names",
    )


def _files(folder: str) -> dict[str, str]:
    facts = {}
    for path, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            fact = os.stat(os.path.join(path, name))
            facts[os.path.relpath(os.path.join(path, name), folder)] = f"{fact.st_size} bytes, {fact.st_mtime_ns}"
    return facts
