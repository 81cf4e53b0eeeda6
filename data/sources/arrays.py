"""Images that stand in one NumPy array."""

import os
import zipfile
from collections.abc import Sequence

import gin
import numpy as np
import pandas as pd

from data.errors import UserError
from data.examples import TASKS, Examples
from data.sources import columns

# Bytes of float pixels that are converted at a time.
PIECE = 2**26

# Largest value of float images up to which it cannot be told whether white is 1 or 255.
AMBIGUOUS = 8.0


@gin.configurable
def arrays(
    images: str | np.ndarray | None = None,
    labels: str | np.ndarray | None = None,
    *,
    image_key: str = "images",
    label_key: str = "labels",
    names: str | np.ndarray | Sequence[str] | None = None,
    name_key: str | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Examples:
    """Images and labels as NumPy arrays or files of them.

    Args:
        images: [N, H, W], [N, H, W, 1] or [N, H, W, 3]; an array, a `.npy` file (memory-mapped where it is uint8), or a
            `.npz` file that holds it under `image_key`. uint8 is taken as it is; float in 0..1 or 0..255 is recognised
            and rounded to uint8; for anything else state `low` and `high`.
        labels: [N] whole numbers or names: classes; [N] or [N, K] float: regression; [N, K] of 0 and 1: multi-label.
            None: `label_key` of the `.npz` file that holds the images.
        names: [N], the identity of each image; None: `name_key` of that file, or numbers.
        task: as in `Examples`; None: as the labels look.
        class_names: order of the outputs; whole numbers are indexes into them.
        low, high: values of black and white; what lies outside is clipped.

    Raises:
        UserError: no such file, arrays that do not fit each other, values out of range.
    """
    if images is None:
        raise UserError(
            "no array of images is named",
            where="gin binding arrays.images",
            expected="a .npy or .npz file, or an array in Python",
            do="arrays.images = 'digits.npz'",
        )
    title = os.fspath(images) if isinstance(images, (str, os.PathLike)) else "the array of images"
    archive = title if title.lower().endswith(".npz") else None
    labels = archive if labels is None else labels
    names = archive if names is None and name_key is not None else names
    if labels is None:
        raise UserError(
            "no array of labels is named",
            where="gin binding arrays.labels",
            expected="a .npy or .npz file, or an array in Python",
            do="arrays.labels = 'labels.npy'",
        )
    pixels = _load(images, image_key, "arrays.images")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        raise UserError(
            f"images of shape {list(pixels.shape)}",
            where=title,
            expected="[N, H, W], [N, H, W, 1] or [N, H, W, 3], none of them 0",
            do="reshape the array",
        )
    pixels, notes = _to_bytes(pixels, low, high, title)
    targets = _load(labels, label_key, "arrays.labels")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim not in (1, 2) or len(targets) != len(pixels) or 0 in targets.shape:
        raise UserError(
            f"labels of shape {list(targets.shape)} for {len(pixels)} images",
            where="gin binding arrays.labels",
            expected=f"[{len(pixels)}] or [{len(pixels)}, K]",
            do="pass the labels of these images",
        )
    task = _task(targets) if task is None else task
    if task not in TASKS or (targets.ndim == 2 and task in ("single_label", "binary")):
        raise UserError(
            f"task = {task!r} with labels of shape {list(targets.shape)}",
            where="gin binding arrays.task",
            expected=f"one of {', '.join(TASKS)}; the first two with labels of shape [N]",
            do="correct it",
        )
    frame = pd.DataFrame(targets.astype(str) if targets.dtype.kind == "S" else targets)
    values, class_names = columns.labels(frame, task=task, class_names=class_names, where="gin binding arrays.labels")
    return Examples.of(
        names=_names(names, name_key, len(pixels)),
        labels=values,
        class_names=class_names,
        task=task,
        # A view: grey takes no more memory than it has.
        pixels=pixels if pixels.shape[3] == 3 else np.broadcast_to(pixels, (*pixels.shape[:3], 3)),
        notes=notes,
    )


def _load(source: str | np.ndarray | Sequence, key: str | None, binding: str) -> np.ndarray:
    if not isinstance(source, (str, os.PathLike)):
        return np.asarray(source)
    path = os.path.abspath(os.path.expanduser(source))
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if key in loaded.files:
                return loaded[key]
            there = ", ".join(loaded.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            where=f"gin binding {binding}",
            expected="a whole .npy or .npz file without Python objects",
            do="correct the path, or write it again with np.save or np.savez",
        ) from error
    raise UserError(
        f"no array {key!r} in {path}",
        where=f"gin binding {binding}",
        expected=f"one of {there or '(none)'}",
        do=f"arrays.{'label_key' if binding.endswith('labels') else 'image_key'} = 'NAME'",
    )


def _to_bytes(
    pixels: np.ndarray, low: float | None, high: float | None, title: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    if (low is None) != (high is None) or (low is not None and not low < high):
        raise UserError(
            f"low = {low}, high = {high}",
            where="gin bindings arrays.low, arrays.high",
            expected="both or none, low below high",
            do="correct them",
        )
    if low is None and pixels.dtype == np.uint8:
        return pixels, ()
    if pixels.dtype.kind not in "fiub":
        raise UserError(
            f"images of dtype {pixels.dtype}", where=title, expected="uint8, float or whole numbers", do="convert them"
        )
    if low is None:
        low, high = _range(pixels, title)
    count = len(pixels)
    rows = max(PIECE // (pixels[0].size * 8), 1)
    converted = np.empty(pixels.shape, np.uint8)
    largest = 0.0
    for start in range(0, count, rows):
        exact = (pixels[start : start + rows].astype(np.float64) - low) * (255 / (high - low))
        if not np.isfinite(exact).all():
            raise _not_finite(title)
        piece = np.rint(exact.clip(0, 255)).astype(np.uint8)
        largest = max(largest, float(np.abs(exact - piece).max()))
        converted[start : start + rows] = piece
    note = (
        f"{pixels.dtype} images, {low:g} as black and {high:g} as white, became uint8; "
        f"the largest change of a value is {largest:.2g} of 255"
    )
    return converted, (note,)


def _range(pixels: np.ndarray, title: str) -> tuple[float, float]:
    """Black and white of float pixels that lie in 0..1 or 0..255."""
    least, most = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not (np.isfinite(least) and np.isfinite(most)):
            raise _not_finite(title)
        # Just above 1 it is 0..1 with a rounding error, or 0..255 of pictures that are black.
        if least >= 0 and (most <= 1 or AMBIGUOUS < most <= 255):
            return 0.0, 1.0 if most <= 1 else 255.0
    raise UserError(
        f"{pixels.dtype} images with values from {least:g} to {most:g}",
        where=title,
        expected="uint8, or float in 0..1 or clearly in 0..255",
        do="state the values of black and white: arrays.low, arrays.high",
    )


def _not_finite(title: str) -> UserError:
    return UserError(
        "images with values that are not finite", where=title, expected="finite numbers", do="correct the array"
    )


def _task(labels: np.ndarray) -> str:
    if labels.ndim == 1:
        return "regression" if labels.dtype.kind == "f" else "single_label"
    return "multi_label" if labels.dtype.kind in "fiub" and np.isin(labels, (0, 1)).all() else "regression"


def _names(names: str | np.ndarray | Sequence[str] | None, key: str | None, count: int) -> np.ndarray:
    if names is None:
        # Padded, so that their order is the order of the rows.
        return np.array([b"%0*d" % (len(str(count - 1)), row) for row in range(count)])
    given = _load(names, key, "arrays.names")
    if given.shape != (count,):
        raise UserError(
            f"names of shape {list(given.shape)} for {count} images",
            where="gin binding arrays.names",
            expected=f"[{count}]",
            do="pass the names of these images",
        )
    return np.array([name if isinstance(name, bytes) else os.fsencode(str(name)) for name in given.tolist()])
