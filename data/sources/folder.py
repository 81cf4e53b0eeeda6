"""A folder per class."""

import os
from collections.abc import Iterator, Sequence

import gin
import numpy as np

from data.errors import UserError
from data.examples import SPLITS, Examples
from data.names import SESSION_LOCK, STORE_LOCK, natural

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
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
def folder(
    *, root: str | None = None, class_names: Sequence[str] | None = None, split_level: bool | None = None
) -> Examples:
    """A folder per class, images in it or below it; above the classes perhaps one of train/validation/test.

    A link to a file below `root` is an image. Other links (out of `root`, to nothing, to a folder) and what is no file
    are not followed or opened, but put into `Examples.refused`.

    Args:
        root: the folder.
        class_names: the class folders wanted, in the order of the outputs; natural order of all when None.
        split_level: whether the first level is the split; None looks at the names.

    Raises:
        UserError: no such folder or an unreadable one, nothing in it, one class only, a class without images.
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
        linked = [top for top in tops if os.path.islink(os.path.join(root, top))]
        parts = [(top, SPLITS.index(SPLIT_FOLDERS[top])) for top in tops if top not in linked]
    else:
        linked, parts = [], [("", -1)]
    found = sorted(
        {name for part, _ in parts for name in _subfolders(os.path.join(root, part), where=root)}, key=natural
    )
    wanted = list(class_names) if class_names is not None else found
    _check_classes(root, wanted, found)
    names: list[bytes] = []
    labels: list[int] = []
    stated: list[int] = []
    ignored: list[str] = []
    refused = [entry for top in linked for entry in _files(root, top)]
    for label, class_name in enumerate(wanted):
        before, refused_before = len(names), len(refused)
        for part, split in parts:
            for path, reason in _files(root, os.path.join(part, class_name)):
                if reason is not None:
                    refused.append((path, reason))
                elif path.lower().endswith(IMAGE_SUFFIXES):
                    names.append(os.fsencode(path))
                    labels.append(label)
                    stated.append(split)
                else:
                    ignored.append(path)
        if len(names) == before:
            why = "".join(f"; {path!r} is {reason}" for path, reason in refused[refused_before : refused_before + 3])
            raise UserError(
                f"class folder without images: {class_name}{why}",
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
        names=names,
        labels=np.array(labels),
        class_names=wanted,
        root=root,
        stated_split=np.array(stated),
        refused=[(os.fsencode(path), reason) for path, reason in refused],
        notes=notes,
    )


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


def _is_ours(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, lock)) for lock in (SESSION_LOCK, STORE_LOCK))


def _subfolders(root: str, *, where: str) -> list[str]:
    """Folders and links to folders, hidden ones, workdirs and stores left out."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
            return sorted(name for name in names if not _is_ours(os.path.join(root, name)))
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


def _files(root: str, below: str) -> Iterator[tuple[str, str | None]]:
    """Paths relative to `root`, files before folders, each with the reason why it is refused or None.

    Hidden files are left out; files that are no images by their names are never refused.
    """
    top = os.path.join(root, below)
    if os.path.islink(top):
        yield below, f"a link to a folder, {os.path.realpath(top)}"
        return
    if not os.path.isdir(top):
        return
    try:
        with os.scandir(top) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"cannot list a folder: {error.strerror}",
            where=top,
            expected="a readable folder",
            do="correct its permissions",
        ) from error
    folders = []
    for entry in found:
        if _is_folder(entry):
            folders.append(entry.name)
        else:
            yield os.path.join(below, entry.name), _refusal(root, entry)
    for name in folders:
        yield from _files(root, os.path.join(below, name))


def _is_folder(entry: os.DirEntry) -> bool:
    """Also for links to folders. The entry's own method raises for a link that leads to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _refusal(root: str, entry: os.DirEntry) -> str | None:
    if entry.is_file(follow_symlinks=False) or not entry.name.lower().endswith(IMAGE_SUFFIXES):
        return None
    target = os.path.realpath(entry.path)
    if not target.startswith(os.path.realpath(root).rstrip(os.sep) + os.sep):
        return f"a link that leads out of the data folder, to {target}"
    if not os.path.exists(target):
        return f"a link to nothing, {target}"
    return None if os.path.isfile(target) else "no file but a pipe, socket or device"
