"""How often an epoch shows each training example (`data.order` does it), and how much each counts in the loss.

A rule takes the table of the train split and returns factors: [N] float64. Their sum is the length of an epoch.
"""

from collections.abc import Mapping, Sequence

import gin
import numpy as np

from data import draws
from data.errors import UserError
from data.examples import Examples
from data.splits import name_hashes

# What float32 holds, with room for a sum.
LARGEST = 1e30


@gin.configurable
def natural(examples: Examples) -> np.ndarray:
    """As the source says: its column `repeats`, and the shares of a mixture.

    In a mixture an epoch is as long as without the shares; a source shows its examples in proportion to `repeats`.

    Returns:
        [N] float64, above 0.

    Raises:
        UserError: a source of the mixture has no example in the train split.
    """
    repeats = examples.repeats.astype(np.float64)
    if not examples.shares:
        return repeats
    sources = np.bincount(examples.origins, weights=repeats, minlength=len(examples.shares))
    shares = np.asarray(examples.shares)
    empty = np.flatnonzero((sources == 0) & (shares > 0))
    if len(empty):
        raise UserError(
            f"source {empty[0]} of the mixture has a share of {shares[empty[0]]:g} and no training example",
            where="train.source, train.split",
            expected="training examples of every source",
            do="leave the source out of the mixture, or hold out less of it",
        )
    return repeats * (shares * repeats.sum() / np.where(sources, sources, 1))[examples.origins]


@gin.configurable
def balanced(examples: Examples, *, power: float = 1.0) -> np.ndarray:
    """Every class gets the same share of an epoch of N positions; within a class as `natural` says.

    Args:
        examples: single_label or binary.
        power: a class of n examples gets a share in proportion to n ** (1 - power): 1 is balanced, 0.5 is square-root
            sampling, 0 changes nothing.

    Returns:
        [N] float64, above 0, of sum N.

    Raises:
        UserError: the task has no classes that exclude each other, `power` is not in 0..1.
    """
    _check_task(examples, where="balanced")
    if not (isinstance(power, int | float) and 0 <= power <= 1):
        raise UserError(
            f"power = {power!r}", where="gin binding balanced.power", expected="a number in 0..1", do="correct it"
        )
    factors = natural(examples)
    sizes = np.bincount(examples.labels, weights=factors)[examples.labels]
    return _to_length(factors / sizes**power, len(examples))


@gin.configurable
def weighted(examples: Examples, *, column: str = "weights") -> np.ndarray:
    """In proportion to a column of the table, in an epoch of N positions. A weight of 0 is never shown.

    The loss goes on using `weights`. Where they are meant for sampling alone, let the source put them into `repeats`.

    Args:
        examples: any task.
        column: `weights` or `repeats`.

    Returns:
        [N] float64, at least 0, of sum N.

    Raises:
        UserError: no such column, a negative number in it, or nothing but zeros.
    """
    if column not in ("weights", "repeats"):
        raise UserError(
            f"column = {column!r}", where="gin binding weighted.column", expected="weights or repeats", do="correct it"
        )
    values = getattr(examples, column).astype(np.float64)
    if (values < 0).any() or not values.any():
        raise UserError(
            f"{column} from {values.min():g} to {values.max():g}",
            where=f"gin binding weighted.column, the column {column} of the train split",
            expected="numbers of at least 0, some above",
            do="correct the weights of the source",
        )
    return _to_length(values, len(examples))


@gin.configurable
def by_class(examples: Examples, *, factors: Mapping[str, float] | None = None) -> np.ndarray:
    """Shows the named classes more or less often than `natural`; an epoch becomes longer or shorter by that.

    Args:
        examples: single_label or binary.
        factors: name of a class -> number above 0; 1 for classes that are not named.

    Returns:
        [N] float64, above 0.

    Raises:
        UserError: an unknown class, a factor that is not above 0, a task without classes.
    """
    return natural(examples) * _of_classes(examples, factors, where="by_class.factors")[examples.labels]


@gin.configurable
def replay(
    examples: Examples,
    *,
    old: Sequence[str] | None = None,
    share: float | None = None,
    repeats: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """A fixed share of the examples of each old class, and all of the new ones, as often as `natural` says.

    For a network that knows the old classes and learns new ones. What is replayed of a class are the examples with the
    lowest hashes of their names: the same in every epoch and session.

    Args:
        examples: single_label or binary.
        old: names of the old classes.
        share: in 0..1 of the training examples of each old class; at least one example of each unless it is 0.
        repeats: above 0; how many times as often those few are shown: 1 / share makes up for their number.
        seed: another seed replays others.

    Returns:
        [N] float64, at least 0.

    Raises:
        UserError: an unknown class, a number out of range, a task without classes, or nothing is left to show.
    """
    _check_task(examples, where="replay")
    names = old if isinstance(old, list | tuple) else ()
    unknown = [name for name in names if name not in examples.class_names]
    if not names or unknown:
        raise UserError(
            f"no class of the name {', '.join(map(repr, unknown))}" if unknown else f"old = {old!r}",
            where="gin binding replay.old",
            expected=f"a list of names out of {', '.join(examples.class_names)}",
            do="name the classes that the network has learned before",
        )
    if not (isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1):
        raise UserError(
            f"share = {share!r}", where="gin binding replay.share", expected="a number in 0..1", do="correct it"
        )
    if not _is_positive(repeats):
        raise UserError(
            f"repeats = {repeats!r}",
            where="gin binding replay.repeats",
            expected="a finite number above 0",
            do="correct it",
        )
    factors = natural(examples)
    hashes = name_hashes(examples.names, seed=draws.key(seed, "replay"))
    for name in names:
        rows = np.flatnonzero(examples.labels == examples.class_names.index(name))
        kept = max(1, round(share * len(rows))) if share else 0
        first = rows[np.argsort(hashes[rows], kind="stable")]
        factors[first[:kept]] *= repeats
        factors[first[kept:]] = 0
    if not factors.any():
        raise UserError(
            f"no example is left to show: all of {len(examples)} belong to old classes",
            where="gin bindings replay.old, replay.share",
            expected="training examples of new classes, or a share above 0",
            do="name only the old classes",
        )
    return factors


def class_weights(examples: Examples, weights: str | Mapping[str, float]) -> np.ndarray:
    """Factors of the loss by class.

    Args:
        examples: the train split; single_label or binary.
        weights: `balanced` for N / (K * n) in a class of n examples, K classes having any (as scikit-learn's
            `compute_class_weight`); or name of a class -> number above 0, 1 for classes that are not named.

    Returns:
        [N] float32, above 0, to be multiplied with `examples.weights`.

    Raises:
        UserError: an unknown class, a weight that is not above 0, a task without classes.
    """
    if weights == "balanced":
        _check_task(examples, where="train.class_weights")
        sizes = np.bincount(examples.labels)
        return (len(examples) / (np.count_nonzero(sizes) * sizes[examples.labels])).astype(np.float32)
    return _of_classes(examples, weights, where="train.class_weights")[examples.labels].astype(np.float32)


def _of_classes(examples: Examples, numbers: Mapping[str, float] | str | None, *, where: str) -> np.ndarray:
    """[K] float64, 1 for classes that are not named."""
    _check_task(examples, where=where)
    example = f"{{{examples.class_names[0]!r}: 2.0}}"
    if not isinstance(numbers, Mapping):
        raise UserError(
            f"{where} = {numbers!r}",
            where=f"gin binding {where}",
            expected=f"a number for each name of a class, like {example}",
            do=f"{where} = {example}",
        )
    unknown = [name for name in numbers if name not in examples.class_names]
    if unknown:
        raise UserError(
            f"no class of the name {', '.join(map(repr, unknown))}",
            where=f"gin binding {where}",
            expected=f"names out of {', '.join(examples.class_names)}",
            do="correct the names",
        )
    wrong = {name: number for name, number in numbers.items() if not _is_positive(number)}
    if wrong:
        raise UserError(
            f"numbers {wrong}", where=f"gin binding {where}", expected="finite numbers above 0", do="correct them"
        )
    return np.array([numbers.get(name, 1.0) for name in examples.class_names], np.float64)


def _is_positive(number) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < LARGEST


def _check_task(examples: Examples, *, where: str) -> None:
    if examples.task not in ("single_label", "binary"):
        raise UserError(
            f"an example of the task {examples.task} does not belong to one class",
            where=f"gin binding {where}",
            expected="the task single_label or binary",
            do="use train.sampling = @weighted, or leave the binding out",
        )


def _to_length(factors: np.ndarray, length: int) -> np.ndarray:
    return factors * (length / factors.sum())
