"""Which example belongs to train, validation and test, by a hash of its name, so that adding files moves nothing.

A rule takes the table and returns [N] int8, indexes into `data.examples.SPLITS`. What the source states is kept, and
no group of the source is ever parted.
"""

import hashlib
import math
import os
from collections.abc import Sequence

import gin
import numpy as np

from data.errors import UserError, expect
from data.examples import SPLITS, Examples

TRAIN, VALIDATION, TEST = range(3)
# What Keras takes for images, by the ends of their names.
KERAS_FORMATS = {
    "imagedatagenerator": ("png", "jpg", "jpeg", "bmp", "ppm", "tif", "tiff"),
    "image_dataset_from_directory": (".bmp", ".gif", ".jpeg", ".jpg", ".png"),
}


def name_hashes(names: np.ndarray, *, seed: int) -> np.ndarray:
    """[N] uint64 hashes of [N] names, evenly spread, independent for each seed."""
    if not isinstance(seed, int):
        raise UserError(
            f"seed = {seed!r}", where="gin binding of the split's seed", expected="a whole number", do="correct it"
        )
    salt = b"%d/" % seed
    digests = b"".join(hashlib.blake2b(salt + name, digest_size=8).digest() for name in names.tolist())
    return np.frombuffer(digests, np.uint64)


@gin.configurable
def split_by_hash(examples: Examples, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> np.ndarray:
    """Cuts by the hash of each name, or group, alone: it stays where it is whatever is added or removed.

    A split that the source states (a train/validation/test level) is kept; a part that nobody states is cut from
    train. The shares are met on average, not exactly.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.

    Raises:
        UserError: impossible shares, nothing left to train on, or the stated splits part a group.
    """
    _check_shares(validation, test, where="split_by_hash")
    shares = _hashes(examples, seed=seed) / 2.0**64
    return _cut(examples, shares < test, (shares >= test) & (shares < test + validation))


@gin.configurable
def split_per_class(examples: Examples, *, validation: float = 0.0, test: float = 0.2, seed: int = 0) -> np.ndarray:
    """Cuts exactly per class: the lowest hashes of each class are test, the next validation.

    What the source states is kept, and the shares are those of what is left. A file that is added moves at most one
    other at each boundary.

    Groups are held out whole. In the order of their hashes, a group is test as long as the groups before it hold
    fewer examples of the class than wanted; then likewise validation. So the last one may bring in more than wanted.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.

    Raises:
        UserError: impossible shares, a task without classes, a group of several classes, a class that is left without
            training examples, or the stated splits part a group.
    """
    _check_shares(validation, test, where="split_per_class")
    if examples.task not in ("single_label", "binary"):
        raise UserError(
            f"an example of the task {examples.task} does not belong to one class",
            where="train.split = @split_per_class",
            expected="the task single_label or binary",
            do="train.split = @split_by_hash",
        )
    _check_one_class_a_group(examples)
    hashes = _hashes(examples, seed=seed)
    free = examples.stated_split <= TRAIN
    is_test = np.zeros(len(examples), bool)
    is_validation = np.zeros(len(examples), bool)
    for label in range(len(examples.class_names)):
        rows = np.flatnonzero((examples.labels == label) & free)
        before = np.searchsorted(np.sort(hashes[rows]), hashes[rows])
        # Rounded one by one, both could grow at once and move two examples over the second boundary.
        tests, held_out = round(test * len(rows)), round((test + validation) * len(rows))
        is_test[rows] = before < tests
        is_validation[rows] = (before >= tests) & (before < held_out)
    split = _cut(examples, is_test, is_validation)
    emptied = np.setdiff1d(examples.labels[free], examples.labels[split == TRAIN])
    if len(emptied):
        raise UserError(
            f"no example is left to train on in: {', '.join(examples.class_names[label] for label in emptied)}",
            where="train.split = @split_per_class",
            expected="training examples in every class",
            do="lower the shares of validation and test, or add images (groups are held out whole)",
        )
    return split


@gin.configurable
def split_k_fold(
    examples: Examples,
    *,
    fold: int | None = None,
    folds: int = 5,
    held_out: str = "validation",
    other: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Holds out one of `folds` parts, cut by the hash of each name or group; each part is held out once.

    Args:
        examples: the table.
        fold: which part, in [0, folds).
        folds: how many, at least 2.
        held_out: what the part becomes, `validation` or `test`.
        other: share of the rest that becomes the other one of the two, on average.
        seed: another seed cuts other parts.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.

    Raises:
        UserError: wrong arguments, an empty part, the source states what is to be held out, or its stated splits part
            a group.
    """
    cut = isinstance(folds, int) and folds >= 2
    expect("split_k_fold.folds", folds, cut, "a whole number of at least 2")
    expect("split_k_fold.fold", fold, isinstance(fold, int) and 0 <= fold < folds, f"a whole number below {folds}")
    expect("split_k_fold.held_out", held_out, held_out in SPLITS[1:], "validation or test")
    share = isinstance(other, int | float) and 0 <= other < 1
    expect("split_k_fold.other", other, share, "a share of at least 0, below 1")
    if (examples.stated_split == SPLITS.index(held_out)).any():
        raise UserError(
            f"the source states which examples are {held_out}",
            where="gin binding split_k_fold.held_out",
            expected=f"a source without {held_out}: folds are cut from what is left",
            do=f"split_k_fold.held_out = '{'test' if held_out == 'validation' else 'validation'}', or another split",
        )
    width = np.uint64(-(-(2**64) // folds))
    parts, places = np.divmod(_hashes(examples, seed=seed), width)
    in_fold = parts == fold
    free = examples.stated_split <= TRAIN
    if not (in_fold & free).any():
        raise UserError(
            f"fold {fold} of {folds} is empty",
            where="gin bindings split_k_fold.folds, split_k_fold.seed",
            expected=f"more examples or groups than {folds} folds need; here {len(np.unique(parts[free]))} have any",
            do="lower split_k_fold.folds, or try another seed",
        )
    in_other = ~in_fold & (places < other * float(width))
    is_test, is_validation = (in_fold, in_other) if held_out == "test" else (in_other, in_fold)
    return _cut(examples, is_test, is_validation)


@gin.configurable
def split_as_keras(
    examples: Examples,
    *,
    rule: str | None = None,
    validation: float = 0.2,
    seed: int | None = None,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Keras' `validation_split`, file for file, for a table of all images of a folder with a folder per class.

    Args:
        examples: the table; a test set that the source states does not count.
        rule: `imagedatagenerator`: of each class the first int(share * n) files (`flow_from_directory`; it knows no
            GIF, so those stay in train). `image_dataset_from_directory`: shuffled with `seed`, the last int(share * n).
            `fit`: the last rows of the table, from floor(n * (1 - share)) on; a session sorts its table by name.
        validation: Keras' `validation_split`.
        seed: Keras' `seed`; only `image_dataset_from_directory` uses it, and needs it.
        class_names: as given to `image_dataset_from_directory`; None: in alphabetic order, as there.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.

    Raises:
        UserError: wrong arguments, a task without classes, nothing to validate with, or a group is parted.
    """
    rules = (*KERAS_FORMATS, "fit")
    in_order = sorted(examples.class_names) if class_names is None else list(class_names)
    expect("split_as_keras.rule", rule, rule in rules, f"one of {', '.join(rules)}")
    share = isinstance(validation, float) and 0 < validation < 1
    expect("split_as_keras.validation", validation, share, "a share above 0, below 1")
    seeded = rule != "image_dataset_from_directory" or (isinstance(seed, int) and 0 <= seed < 2**32)
    expect("split_as_keras.seed", seed, seeded, "the seed given to Keras, below 2**32")
    known = ", ".join(examples.class_names)
    same = len(in_order) == len(examples.class_names) and set(in_order) == set(examples.class_names)
    expect("split_as_keras.class_names", class_names, same, f"the names {known} in the order given to Keras")
    if rule != "fit" and examples.task not in ("single_label", "binary"):
        raise UserError(
            f"an example of the task {examples.task} does not belong to one class",
            where="gin binding split_as_keras.rule",
            expected="the task single_label or binary",
            do="split_as_keras.rule = 'fit', or train.split = @split_by_hash",
        )
    rows = np.flatnonzero(examples.stated_split <= TRAIN)
    if rule == "fit":
        chosen = rows[math.floor(len(rows) * (1.0 - validation)) :]
    else:
        ranks = [in_order.index(name) for name in examples.class_names]
        rows = _as_keras_lists(examples, rows, ranks, formats=KERAS_FORMATS[rule])
        if rule == "imagedatagenerator":
            classes = [rows[examples.labels[rows] == label] for label in range(len(in_order))]
            chosen = np.concatenate([files[: int(validation * len(files))] for files in classes])
        else:
            np.random.RandomState(seed).shuffle(rows)
            chosen = rows[len(rows) - int(validation * len(rows)) :]
    if not len(chosen):
        raise UserError(
            f"a share of {validation} of {len(rows)} images holds none",
            where="gin binding split_as_keras.validation",
            expected="at least one image to validate with",
            do="raise it, or add images",
        )
    is_validation = np.zeros(len(examples), bool)
    is_validation[chosen] = True
    return _cut(examples, np.zeros(len(examples), bool), is_validation)


def _as_keras_lists(
    examples: Examples, rows: np.ndarray, ranks: Sequence[int], *, formats: tuple[str, ...]
) -> np.ndarray:
    """The rows that Keras finds, class by class, each sorted by the path of the folder, then by the file's name."""
    listed = []
    for row in rows.tolist():
        folder, file = os.path.split(os.fsdecode(bytes(examples.names[row])))
        if file.lower().endswith(formats):
            listed.append((ranks[examples.labels[row]], folder, file, row))
    return np.array([row for *_, row in sorted(listed)], np.int64)


def _units(examples: Examples) -> np.ndarray:
    """[N] bytes, what is never parted: the group, or the name of an example without one."""
    if examples.groups is None:
        return examples.names
    return np.where(examples.groups == b"", examples.names, examples.groups)


def _hashes(examples: Examples, *, seed: int) -> np.ndarray:
    return name_hashes(_units(examples), seed=seed)


def _cut(examples: Examples, is_test: np.ndarray, is_validation: np.ndarray) -> np.ndarray:
    stated = examples.stated_split
    split = np.maximum(stated, TRAIN)
    free = split == TRAIN
    if not (stated == TEST).any():
        split[free & is_test] = TEST
    if not (stated == VALIDATION).any():
        split[free & is_validation] = VALIDATION
    if not (split == TRAIN).any():
        counts = {name: int((split == index).sum()) for index, name in enumerate(SPLITS)}
        raise UserError(
            f"no example is left to train on: {counts}",
            where="train.split",
            expected="at least one example in train",
            do="lower the shares of validation and test, or add images",
        )
    _check_groups_whole(examples, split)
    return split.astype(np.int8)


def _check_groups_whole(examples: Examples, split: np.ndarray) -> None:
    parted = _groups_of_several(examples, split)
    if parted:
        raise UserError(
            f"{len(parted)} groups are in more than one split: {', '.join(parted[:5])}",
            where="train.split, and the splits that the source states",
            expected="every group in one split",
            do="state one split for all examples of a group, or none; use split_by_hash for the rest",
        )


def _check_one_class_a_group(examples: Examples) -> None:
    mixed = _groups_of_several(examples, examples.labels)
    if mixed:
        raise UserError(
            f"{len(mixed)} groups hold examples of several classes: {', '.join(mixed[:5])}",
            where="train.split = @split_per_class",
            expected="groups of one class: counts per class cannot be exact otherwise",
            do="train.split = @split_by_hash",
        )


def _groups_of_several(examples: Examples, values: np.ndarray) -> list[str]:
    """Groups whose examples differ in `values`."""
    if examples.groups is None:
        return []
    groups, first, members = np.unique(_units(examples), return_index=True, return_inverse=True)
    several = np.unique(members[values != values[first][members]])
    return [os.fsdecode(bytes(group)) for group in groups[several]]


def _check_shares(validation: float, test: float, *, where: str) -> None:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"shares validation = {validation}, test = {test}",
            where=f"gin bindings {where}.validation, {where}.test",
            expected="both at least 0, their sum below 1",
            do="correct the bindings",
        )
