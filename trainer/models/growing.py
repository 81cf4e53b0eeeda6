"""A classifier that knew some classes becomes one for others: its last layer goes over by the names of the classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.errors import UserError
from data.names import printable

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the outputs of a network stand for.

    Attributes:
        task: one of `data.examples.TASKS`; None: unknown.
        names: of the classes or numbers, two for the one output of a binary task; None: unknown.
    """

    task: str | None
    names: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """What became of the classes of a source.

    Attributes:
        kept: names whose outputs went over, in our order.
        new: those of ours that start fresh.
        dropped: those of the source that have no place here.
        note: what else is to be said: why all start fresh, or that they were taken in order.
    """

    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    note: str = ""

    def summary(self) -> str:
        """One line."""
        told = [
            f"{len(names)} {word}" + (f" ({_first(names)})" if names else "")
            for word, names in (("kept", self.kept), ("new", self.new), ("dropped", self.dropped))
        ]
        return f"classes: {', '.join(told)}" + (f"; {self.note}" if self.note else "")


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the outputs of a source become ours; made by `growth`.

    Attributes:
        places: of each of our names, its index among the source's; None: it starts fresh.
        change: the same for people.
    """

    places: tuple[int | None, ...]
    change: ClassChange
    from_binary: bool = False
    to_binary: bool = False

    @property
    def columns(self) -> list[int]:
        """Our outputs that are taken over."""
        known = [index for index, place in enumerate(self.places) if place is not None]
        return ([0] if len(known) == 2 else []) if self.to_binary else known

    def apply(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """The last layer's kernel or bias.

        A sigmoid over z is the softmax over (0, z), and the softmax over (a, b) the sigmoid over b - a: a binary task
        and two classes change into each other without any change of the probabilities.

        Args:
            stored: [..., outputs of the source].
            fresh: [..., our outputs].

        Returns:
            [..., our outputs], a new array.
        """
        result = fresh.copy()
        if not self.columns:
            return result
        if self.from_binary:
            stored = np.concatenate([np.zeros_like(stored), stored], axis=-1)
        if self.to_binary:
            zero, one = self.places
            result[..., 0] = stored[..., one] - stored[..., zero]
        else:
            result[..., self.columns] = stored[..., [self.places[column] for column in self.columns]]
        return result


def growth(theirs: Outputs, ours: Outputs, *, outputs: int, source: str) -> Growth:
    """Decides, by the names of the classes, which outputs of a source go where.

    Where the source does not tell its names, outputs of the same number are taken in order. Outputs of another kind
    (independent classes against exclusive ones, numbers) are not taken.

    Args:
        theirs: of the source.
        ours: of the network that is to be filled, both fields known.
        outputs: of the last layer of the source.
        source: for messages.

    Raises:
        UserError: names that are there twice, or not as many as there are outputs.
    """
    for names, where in ((theirs.names, source), (ours.names, "the classes of this run")):
        twice = sorted({name for name in names or () if names.count(name) > 1})
        if twice:
            raise _clash(f"classes that are there twice: {_first(twice)}", where)

    def fresh(note: str) -> Growth:
        dropped = theirs.names or ()
        return Growth((None,) * len(ours.names), ClassChange(new=ours.names, dropped=dropped, note=note))

    task = theirs.task or _guessed(theirs, ours, outputs)
    binary, to_binary = task == "binary", ours.task == "binary"
    wanted = 1 if to_binary else len(ours.names)
    exclusive = ("binary", "single_label")
    if task != ours.task and not {task, ours.task} <= set(exclusive):
        return fresh(f"the source's outputs are {task}, ours {ours.task}, so the last layer starts fresh")
    if theirs.names is None:
        if outputs != wanted:
            return fresh(f"the source has {outputs} outputs and does not name them, so the last layer starts fresh")
        places = tuple(range(len(ours.names)))
        note = "the source does not name its classes: taken in order"
        return Growth(places, ClassChange(kept=ours.names, note=note), binary, to_binary)
    if outputs != (1 if binary else len(theirs.names)):
        raise _clash(f"{outputs} outputs, and the names of {len(theirs.names)} classes: {_first(theirs.names)}", source)
    index = {name: place for place, name in enumerate(theirs.names)}
    places = tuple(index.get(name) for name in ours.names)
    if to_binary and None in places:
        return fresh("a binary output needs both of its classes known, so it starts fresh")
    change = ClassChange(
        kept=tuple(name for name in ours.names if name in index),
        new=tuple(name for name in ours.names if name not in index),
        dropped=tuple(name for name in theirs.names if name not in ours.names),
    )
    return Growth(places, change, binary, to_binary)


def _guessed(theirs: Outputs, ours: Outputs, outputs: int) -> str:
    """The task of a source that does not tell it."""
    if outputs == 1 and (len(theirs.names) == 2 if theirs.names else ours.task == "binary"):
        return "binary"
    return "single_label" if ours.task == "binary" else ours.task


def _clash(found: str, where: str) -> UserError:
    return UserError(
        found,
        where=where,
        expected="a name of its own for every output",
        do="correct the list of classes (classes.json of the workdir, NAME.classes.json beside an export)",
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
