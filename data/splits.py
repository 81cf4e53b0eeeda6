"""Which example belongs to train, validation and test, by a hash of its name, so that adding files moves nothing."""

import hashlib

import gin
import numpy as np

from data.errors import UserError
from data.examples import SPLITS, Examples

TRAIN, VALIDATION, TEST = range(3)


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
    """Cuts by the hash of each name alone: a file stays where it is whatever is added or removed.

    A split that the source states (a train/validation/test level) is kept; a part that nobody states is cut from
    train. The shares are met on average, not exactly.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.
    """
    _check_shares(validation, test, where="split_by_hash")
    shares = name_hashes(examples.names, seed=seed) / 2.0**64
    return _cut(examples, shares < test, (shares >= test) & (shares < test + validation))


@gin.configurable
def split_per_class(examples: Examples, *, validation: float = 0.0, test: float = 0.2, seed: int = 0) -> np.ndarray:
    """Cuts exactly per class: the lowest hashes of each class are test, the next validation.

    What the source states is kept, and the shares are those of what is left. A file that is added moves at most one
    other at each boundary.

    Returns:
        [N] int8, indexes into `data.examples.SPLITS`.
    """
    _check_shares(validation, test, where="split_per_class")
    hashes = name_hashes(examples.names, seed=seed)
    is_test = np.zeros(len(examples), bool)
    is_validation = np.zeros(len(examples), bool)
    for label in range(len(examples.class_names)):
        rows = np.flatnonzero((examples.labels == label) & (examples.stated_split <= TRAIN))
        rows = rows[np.argsort(hashes[rows], kind="stable")]
        # Rounded one by one, both could grow at once and move two examples over the second boundary.
        tests, held_out = round(test * len(rows)), round((test + validation) * len(rows))
        is_test[rows[:tests]] = True
        is_validation[rows[tests:held_out]] = True
    return _cut(examples, is_test, is_validation)


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
    return split.astype(np.int8)


def _check_shares(validation: float, test: float, *, where: str) -> None:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"shares validation = {validation}, test = {test}",
            where=f"gin bindings {where}.validation, {where}.test",
            expected="both at least 0, their sum below 1",
            do="correct the bindings",
        )
