"""Which files and labels `flow_from_directory` and `flow_from_dataframe` find: those that Keras' iterators find."""

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from data.errors import UserError

FORMATS = ("png", "jpg", "jpeg", "bmp", "ppm", "tif", "tiff")
DIRECTORY_MODES = ("categorical", "binary", "sparse", "input", None)
FRAME_MODES = (*DIRECTORY_MODES, "multi_output", "raw")
# Class modes whose labels are classes.
BY_CLASS = ("categorical", "binary", "sparse")
SUBSETS = ("training", "validation", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """N files with what is known of them.

    Attributes:
        names: as listed, relative to `directory`.
        paths: where they are.
        class_indices: class -> index; empty where labels are no classes.
        classes: [N] int32; a list where examples have several classes; None without classes.
        values: one array [N, ...] for each output of the class modes raw and multi_output.
        weights: [N], or None.
    """

    names: list[str]
    paths: list[str]
    class_indices: dict[str, int] = dataclasses.field(default_factory=dict)
    classes: np.ndarray | list | None = None
    values: tuple[np.ndarray, ...] = ()
    weights: np.ndarray | None = None


def wrong(argument: str, value, expected: str, do: str = "correct it", *, method: str) -> UserError:
    """The complaint about an argument."""
    return UserError(f"{argument} = {value!r}", where=f"ImageDataGenerator.{method}", expected=expected, do=do)


def check_whole(name: str, value: int, *, low: int, method: str) -> None:
    """Refuses what is no whole number of at least `low`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise wrong(name, value, f"a whole number of at least {low}", method=method)


def folder(directory: str | os.PathLike, *, method: str) -> str:
    """A folder that is there, `~` written out."""
    if not isinstance(directory, str | os.PathLike) or not os.path.isdir(os.path.expanduser(directory)):
        raise wrong("directory", directory, "a folder that is there", method=method)
    return os.path.expanduser(os.fspath(directory))


def share(subset: str | None, validation: float, *, method: str) -> tuple[float, float]:
    """Where a subset starts and stops: the validation part comes first, as in Keras.

    Raises:
        UserError: an unknown subset, or one without `validation_split`.
    """
    if subset not in SUBSETS:
        raise wrong("subset", subset, "'training', 'validation' or None", method=method)
    if subset is None:
        return 0.0, 1.0
    if not validation:
        raise wrong(
            "subset",
            subset,
            "a generator that splits",
            "ImageDataGenerator(validation_split=0.2)",
            method=method,
        )
    return (0.0, validation) if subset == "validation" else (validation, 1.0)


def in_directory(
    directory: str | os.PathLike,
    *,
    classes: Sequence[str] | None,
    class_mode: str | None,
    follow_links: bool,
    part: tuple[float, float],
) -> Listing:
    """A folder per class, files in it or below it.

    Args:
        classes: names of folders, in the order of their indexes; None: all, in alphabetic order.
        part: where the subset starts and stops in each class.

    Raises:
        UserError: no such folder, names that lead out of it, links where they are not followed, no image.
    """
    method = "flow_from_directory"
    if class_mode not in DIRECTORY_MODES:
        raise wrong("class_mode", class_mode, f"one of {', '.join(map(repr, DIRECTORY_MODES))}", method=method)
    directory = folder(directory, method=method)
    if classes is not None and not isinstance(classes, list | tuple):
        raise wrong("classes", classes, "a list of names of folders, or None", method=method)
    if not classes:
        names = sorted(name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name)))
    else:
        names = list(classes)
    for name in names:
        fits = isinstance(name, str) and name not in ("", ".", "..") and not {"/", os.sep} & set(name)
        if not fits or not os.path.isdir(os.path.join(directory, name)):
            raise wrong("classes", names, f"names of folders in {directory}; {name!r} is none", method=method)
    indices = {name: index for index, name in enumerate(names)}
    listed, labels = [], []
    for name in names:
        found = list(_below(directory, name, follow_links=follow_links))
        found = found[int(part[0] * len(found)) : int(part[1] * len(found))]
        listed += found
        labels += [indices[name]] * len(found)
    if not listed:
        raise wrong("directory", directory, f"images ({', '.join(FORMATS)}) below its class folders", method=method)
    return Listing(
        names=listed,
        paths=[os.path.join(directory, name) for name in listed],
        class_indices=indices,
        classes=np.array(labels, np.int32),
    )


def _below(directory: str, class_name: str, *, follow_links: bool) -> Iterator[str]:
    """Names relative to `directory`, by folder, then by name, as Keras lists them."""
    top, real = os.path.join(directory, class_name), os.path.realpath(directory)
    if os.path.islink(top) and not follow_links:
        raise _link(top)
    seen, folders = set(), []
    for folder, inner, files in os.walk(top, followlinks=follow_links):
        # A link to a folder above would lead round for ever.
        place = os.path.realpath(folder)
        if place in seen:
            inner.clear()
            continue
        seen.add(place)
        folders.append((folder, files))
    for folder, files in sorted(folders):
        for file in sorted(files):
            path = os.path.join(folder, file)
            if file.lower().endswith(FORMATS):
                if not follow_links and os.path.islink(path) and not _within(path, real):
                    raise _link(path)
                yield os.path.relpath(path, directory)


def _link(path: str) -> UserError:
    return UserError(
        f"a link that leads out of the folder: {path} -> {os.path.realpath(path)}",
        where="ImageDataGenerator.flow_from_directory",
        expected="files and folders, or links below the folder",
        do="follow_links=True, or remove the link",
    )


def _within(path: str, real_root: str) -> bool:
    return os.path.realpath(path).startswith(real_root.rstrip(os.sep) + os.sep)


def in_frame(
    frame: pd.DataFrame,
    *,
    directory: str | os.PathLike | None,
    x_col: str,
    y_col: str | Sequence[str],
    weight_col: str | None,
    classes: Sequence[str] | None,
    class_mode: str | None,
    validate: bool,
    part: tuple[float, float],
) -> Listing:
    """A row per file.

    Args:
        directory: what names start from and do not leave; None: names are absolute, or start from the working folder.
        validate: whether rows without an image file are left out.
        part: where the subset starts and stops in the table.

    Raises:
        UserError: no such column, labels that do not fit the class mode, names that lead out of `directory`, no image.
    """
    method = "flow_from_dataframe"
    if class_mode not in FRAME_MODES:
        raise wrong("class_mode", class_mode, f"one of {', '.join(map(repr, FRAME_MODES))}", method=method)
    if not isinstance(frame, pd.DataFrame):
        raise wrong("dataframe", type(frame).__name__, "a pandas.DataFrame", method=method)
    listed = class_mode == "multi_output"
    if listed != isinstance(y_col, list | tuple) and class_mode != "raw" and class_mode in (*BY_CLASS, "multi_output"):
        raise wrong("y_col", y_col, "a list of columns" if listed else "one column", method=method)
    wanted = [x_col, *([weight_col] if weight_col else [])]
    if class_mode not in ("input", None):
        wanted += list(y_col) if isinstance(y_col, list | tuple) else [y_col]
    for column in wanted:
        if column not in frame.columns:
            raise wrong("column", column, f"one of {', '.join(map(repr, frame.columns))}", method=method)
    if not all(isinstance(name, str) for name in frame[x_col]):
        raise wrong("x_col", x_col, "a column of strings, names of files", method=method)
    if weight_col and not pd.api.types.is_numeric_dtype(frame[weight_col]):
        raise wrong("weight_col", weight_col, "a column of numbers", method=method)
    root = "" if directory is None else folder(directory, method=method)
    _check_names(frame[x_col], root)
    frame = frame.copy()
    if validate:
        paths = [os.path.join(root, name) for name in frame[x_col]]
        good = np.array([path.lower().endswith(FORMATS) and os.path.isfile(path) for path in paths], bool)
        if not good.all():
            warnings.warn(f"{(~good).sum()} rows of {x_col!r} name no image file and are left out", stacklevel=3)
        frame = frame[good]
    indices: dict[str, int] = {}
    if class_mode in BY_CLASS:
        frame, indices = _by_class(frame, y_col, classes, class_mode)
    elif classes:
        warnings.warn(f"classes are of no use with class_mode={class_mode!r}", stacklevel=3)
    frame = frame.iloc[int(part[0] * len(frame)) : int(part[1] * len(frame))]
    if not len(frame):
        raise wrong("dataframe", f"{x_col} without images", "at least one row with an image file", method=method)
    found = None
    if indices:
        found = [_indices(label, indices) for label in frame[y_col]]
        found = found if any(isinstance(label, list) for label in found) else np.array(found, np.int32)
    values = {
        "raw": lambda: (frame[list(y_col) if isinstance(y_col, tuple) else y_col].to_numpy(),),
        "multi_output": lambda: tuple(np.array(frame[column].tolist()) for column in y_col),
    }
    names = frame[x_col].tolist()
    return Listing(
        names=names,
        paths=[os.path.join(root, name) for name in names],
        class_indices=indices,
        classes=found,
        values=values.get(class_mode, tuple)(),
        weights=frame[weight_col].to_numpy() if weight_col else None,
    )


def _check_names(names: pd.Series, root: str) -> None:
    real = os.path.realpath(root)
    for name in names:
        if "\0" in name:
            leaves = True
        elif root:
            leaves = not _within(os.path.join(real, name), real)
        else:
            leaves = not os.path.isabs(name) and ".." in name.split("/")
        if leaves:
            raise UserError(
                f"a name that leads out of the folder: {name!r}",
                where=f"ImageDataGenerator.flow_from_dataframe, column {names.name!r}",
                expected=f"files below {root or 'the working folder, or absolute paths'}",
                do="correct the name, or give the folder that holds all of them as directory",
            )


def _by_class(
    frame: pd.DataFrame, y_col: str, classes: Sequence[str] | None, class_mode: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that have a class, their labels reduced to the classes wanted; and the classes' indexes."""
    kinds = (str, list, tuple) if class_mode == "categorical" else str
    if not all(isinstance(label, kinds) for label in frame[y_col]):
        kind = "strings, or lists of them" if class_mode == "categorical" else "strings"
        raise wrong("y_col", y_col, f"a column of {kind} with class_mode={class_mode!r}", method="flow_from_dataframe")
    present = {name for label in frame[y_col] for name in ([label] if isinstance(label, str) else label)}
    names = list(dict.fromkeys(classes)) if classes else sorted(present)
    if class_mode == "binary" and len(names) != 2:
        raise wrong("classes", names, "two classes with class_mode='binary'", method="flow_from_dataframe")
    indices = {name: index for index, name in enumerate(names)}
    if classes:
        kept = [
            (label if label in indices else None)
            if isinstance(label, str)
            else [name for name in label if name in indices] or None
            for label in frame[y_col]
        ]
        frame = frame.assign(**{y_col: pd.Series(kept, index=frame.index, dtype=object)})
    return frame.dropna(subset=[y_col]), indices


def _indices(label: str | Sequence[str], indices: dict[str, int]) -> int | list[int]:
    return indices[label] if isinstance(label, str) else [indices[name] for name in label]
