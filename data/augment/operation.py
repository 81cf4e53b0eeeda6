"""One operation of a policy: numbers drawn for an example, and the small arrays that the kernel makes of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf

from data.augment.slots import WAYS, Geometry, Levels, Matrix, Pixels, Slot
from data.errors import UserError

# Height and width of what the network sees.
Size = tuple[int, int]
# What is drawn for a batch: name -> [B] float64, in the unit that a person would name.
Numbers = dict[str, tf.Tensor]
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a policy.

    Attributes:
        name: keys its random numbers; what `policy.during` and reports call it.
        count: random numbers wanted per example.
        slots: what it changes, in this order.
        numbers: (uniform [B, count] float64 in [0, 1), size) -> what these draw.
        arrays: (numbers, size) -> one float64 array [B, *shape] for each slot.
        paired: the positions 2k and 2k + 1 draw the same.
    """

    name: str
    count: int
    slots: tuple[Slot, ...]
    numbers: Callable[[tf.Tensor, Size], Numbers]
    arrays: Callable[[Numbers, Size], Sequence[tf.Tensor]]
    paired: bool = False

    def __repr__(self) -> str:
        return f"@{self.name}()"

    def draw(self, uniform: tf.Tensor, size: Size) -> Sequence[tf.Tensor]:
        """One array [B, *shape] float64 for each slot."""
        return self.arrays(self.numbers(uniform, size), size)


def between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Scales numbers in [0, 1) to [low, high)."""
    return low + uniform * (high - low)


def drawn_from(ranges: Mapping[str, Range]) -> Callable[[tf.Tensor, Size], Numbers]:
    """`numbers` of an operation that draws each evenly from its range, in their order."""

    def numbers(uniform, size):
        return {name: between(uniform[:, index], *ends) for index, (name, ends) in enumerate(ranges.items())}

    return numbers


def operation(name: str, *, ranges: Mapping[str, Range], slot: Slot, array: Callable[..., tf.Tensor]) -> Operation:
    """An operation that draws each number evenly from its range and fills one slot.

    Args:
        array: (size, **numbers) -> [B, *slot.shape].
    """
    return Operation(
        name=name,
        count=len(ranges),
        slots=(slot,),
        numbers=drawn_from(ranges),
        arrays=lambda numbers, size: (array(size, **numbers),),
    )


def constant(name: str, *, slot: Slot, row: np.ndarray) -> Operation:
    """An operation that draws nothing and does the same to every example.

    Args:
        row: [*slot.shape].
    """

    def numbers(uniform, size):
        return {"always": tf.ones([tf.shape(uniform)[0]], tf.float64)}

    def arrays(numbers, size):
        return (tf.tensordot(numbers["always"], tf.constant(row, tf.float64), axes=0),)

    return Operation(name=name, count=0, slots=(slot,), numbers=numbers, arrays=arrays)


def geometric(name: str, *, ranges: Mapping[str, Range], matrix: Callable[..., tf.Tensor]) -> Operation:
    """An operation that moves pixels.

    Args:
        ranges: name -> lowest and highest of what is drawn.
        matrix: (size, **numbers [B] float64) -> [B, 3, 3] float64, pixel (x, y, 1) of the output -> pixel of the input;
            see `data.augment.geometry.rows` and `about_centre`.
    """
    return operation(name, ranges=ranges, slot=Geometry(), array=matrix)


def linear(name: str, *, ranges: Mapping[str, Range], matrix: Callable[..., tf.Tensor], clip: bool = True) -> Operation:
    """An operation that multiplies colours.

    Args:
        matrix: (size, **numbers) -> [B, 3, 4] float64: (red, green, blue, 1) in 0..255 -> red, green, blue.
        clip: whether the result is held in 0..255.
    """
    return operation(name, ranges=ranges, slot=Matrix(clip=clip), array=matrix)


def tone(name: str, *, ranges: Mapping[str, Range], curve: Callable[..., tf.Tensor]) -> Operation:
    """An operation that looks levels up.

    Args:
        curve: (size, **numbers) -> [B, 256] float64 in 0..255, the new level of each level.
    """

    def array(size, **numbers):
        found = curve(size, **numbers)
        return tf.concat([tf.fill([tf.shape(found)[0], 1], tf.cast(WAYS.index("curve"), tf.float64)), found], axis=1)

    return operation(name, ranges=ranges, slot=Levels(), array=array)


def pixelwise(name: str, *, ranges: Mapping[str, Range], pixels: Callable[..., tf.Tensor]) -> Operation:
    """An operation that does anything else to pixels; XLA compiles it.

    Args:
        pixels: (images [B, H, W, 3] float32 in 0..255, **numbers [B] float32) -> images. An example's pixels depend
            on that example alone.
    """
    names = tuple(ranges)

    def array(size, **numbers):
        return tf.stack([*(numbers[name] for name in names), tf.ones_like(numbers[names[0]])], axis=-1)

    if not names:
        raise ValueError("Received: ranges={}  Expected: at least one number that pixels() takes")
    return operation(name, ranges=ranges, slot=Pixels(pixels, names), array=array)


def blend_in(slot: Slot, chosen: tf.Tensor, array: tf.Tensor, otherwise: tf.Tensor | None, size: Size) -> tf.Tensor:
    """`array` where `chosen` [B] holds, elsewhere `otherwise`, or what changes nothing."""
    rest = tf.constant(slot.identity(size), tf.float64) if otherwise is None else otherwise
    return tf.where(tf.reshape(chosen, [-1] + [1] * len(slot.identity(size).shape)), array, rest)


def chosen_from(members: Sequence[Operation]) -> tuple[Slot, ...]:
    """The slots of a place that one of several operations takes: they hold those of each, shared, in its own order."""
    found: list[Slot] = []
    for member in members:
        at = 0
        for slot in member.slots:
            if slot not in found[at:]:
                found.append(slot)
            at = found.index(slot, at) + 1
    return tuple(found)


def arrays_of_chosen(
    members: Sequence[Operation], index: tf.Tensor, numbers: Sequence[Numbers], size: Size
) -> list[tf.Tensor]:
    """Arrays for the slots of `chosen_from(members)` that apply to each example the member of its index.

    Args:
        index: [B] int, -1 for none.
        numbers: of each member.
    """
    slots = chosen_from(members)
    arrays: list[tf.Tensor | None] = [None] * len(slots)
    for which, (member, drawn) in enumerate(zip(members, numbers, strict=True)):
        at = 0
        for slot, array in zip(member.slots, member.arrays(drawn, size), strict=True):
            at = slots.index(slot, at)
            arrays[at] = blend_in(slot, index == which, array, arrays[at], size)
            at += 1
    return arrays


def numbers_of_all(members: Sequence[Operation], uniform: tf.Tensor, size: Size) -> list[Numbers]:
    """What each member draws out of its own columns of `uniform` [B, sum of counts]."""
    parts = tf.split(uniform, [member.count for member in members], axis=1)
    return [member.numbers(part, size) for member, part in zip(members, parts, strict=True)]


def named(members: Sequence[Operation], numbers: Sequence[Numbers]) -> Numbers:
    """The numbers of several operations under `INDEX.OPERATION.NUMBER`."""
    return {
        f"{index}.{member.name}.{name}": value
        for index, (member, drawn) in enumerate(zip(members, numbers, strict=True))
        for name, value in drawn.items()
    }


def unnamed(members: Sequence[Operation], numbers: Numbers) -> list[Numbers]:
    """Undoes `named`."""
    found: list[Numbers] = [{} for _ in members]
    for key, value in numbers.items():
        index, _, name = key.split(".", 2)
        found[int(index)][name] = value
    return found


def sometimes(member: Operation, probability: float) -> Operation:
    """The operation with this probability, else nothing."""
    check_share("probability", probability, where=f"gin binding policy.operations, {member.name}")
    if probability == 1:
        return member

    def numbers(uniform, size):
        applied = tf.cast(uniform[:, 0] < probability, tf.float64)
        drawn = member.numbers(uniform[:, 1:], size).items()
        # It may itself be one that is applied sometimes.
        inner = {f"applied {name}" if name.startswith("applied") else name: value for name, value in drawn}
        return {"applied": applied} | inner

    def arrays(numbers, size):
        rest = {name.removeprefix("applied "): value for name, value in numbers.items() if name != "applied"}
        applied = numbers["applied"] > 0
        return [
            blend_in(slot, applied, array, None, size)
            for slot, array in zip(member.slots, member.arrays(rest, size), strict=True)
        ]

    return dataclasses.replace(member, count=member.count + 1, numbers=numbers, arrays=arrays)


@gin.configurable
def one_of(*, operations: Sequence[Operation], weights: Sequence[float] | None = None) -> Operation:
    """One operation out of several for each example.

    Args:
        operations: out of which one is drawn.
        weights: how often each is drawn, in any unit; None: all alike.

    Raises:
        UserError: none, other than operations, weights that are no shares, or pairs beside single images.
    """
    members = tuple(operations) if isinstance(operations, list | tuple) else ()
    where = "gin bindings one_of.operations, one_of.weights"
    if not members or not all(isinstance(member, Operation) for member in members):
        raise UserError(
            f"one_of.operations = {operations!r}", where=where, expected="operations", do="[@rotation(), @flip()]"
        )
    try:
        shares = np.ones(len(members)) if weights is None else np.asarray(weights, float)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if shares.shape != (len(members),) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise UserError(
            f"one_of.weights = {weights!r}", where=where, expected=f"{len(members)} numbers, not all 0", do="correct it"
        )
    if len({member.paired for member in members}) > 1:
        raise UserError(
            f"{', '.join(member.name for member in members)} in one choice",
            where=where,
            expected="operations on single images, or on pairs (mixup, cutmix)",
            do="make two choices of them",
        )
    ends = np.cumsum(shares / shares.sum())[:-1]

    def numbers(uniform, size):
        index = tf.searchsorted(tf.constant(ends, tf.float64), uniform[:, 0], side="right")
        drawn = numbers_of_all(members, uniform[:, 1:], size)
        return {"0.one_of.chosen": tf.cast(index, tf.float64)} | {
            f"1.{name}": value for name, value in named(members, drawn).items()
        }

    def arrays(numbers, size):
        inner = {name[2:]: value for name, value in numbers.items() if name.startswith("1.")}
        index = tf.cast(numbers["0.one_of.chosen"], tf.int32)
        return arrays_of_chosen(members, index, unnamed(members, inner), size)

    return Operation(
        name="one_of",
        count=1 + sum(member.count for member in members),
        slots=chosen_from(members),
        numbers=numbers,
        arrays=arrays,
        paired=members[0].paired,
    )


# Beyond it lies what no float holds, NaN included.
FARTHEST = 1e300


def is_number(value: object) -> bool:
    """Whether it is a number of Python's or NumPy's, and not a truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_switch(name: str, value: bool) -> None:
    """Refuses what is neither True nor False.

    Args:
        name: that of the binding, `CONFIGURABLE.ARGUMENT`.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} = {value!r}", where=f"gin binding {name}", expected="True or False", do="correct it")


def check_whole(name: str, value: int, *, where: str, low: int, high: int) -> None:
    """Refuses what is no whole number in low..high."""
    check_number(name, value, where=where, low=low, high=high)
    if not isinstance(value, int | np.integer):
        raise UserError(f"{name} = {value!r}", where=where, expected="a whole number", do="leave the point out")


def check_number(name: str, value: float, *, where: str, low: float = -np.inf, high: float = np.inf) -> None:
    """Refuses what is no finite number in [low, high]."""
    if is_number(value) and abs(value) < FARTHEST and low <= value <= high:
        return
    bounds = [text for text, end in ((f"at least {low}", low), (f"at most {high}", high)) if np.isfinite(end)]
    raise UserError(
        f"{name} = {value!r}", where=where, expected=f"a number {' and '.join(bounds)}".strip(), do="correct it"
    )


def check_share(name: str, value: float, *, where: str) -> None:
    """Refuses what is no number in 0..1."""
    check_number(name, value, where=where, low=0, high=1)


def check_range(name: str, value: Range, *, where: str, low: float = -np.inf, high: float = np.inf) -> Range:
    """A pair of numbers, the lower first, both in [low, high]; returned as a tuple."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(map(is_number, pair)):
        example = low if np.isfinite(low) else 0, high if np.isfinite(high) else max(low, 0) + 1
        raise UserError(
            f"{name} = {value!r}", where=where, expected="two numbers, lowest and highest", do=f"for example {example}"
        )
    for end in pair:
        check_number(name, end, where=where, low=low, high=high)
    if pair[0] > pair[1]:
        raise UserError(f"{name} = {value!r}", where=where, expected="the lower number first", do="swap them")
    return pair


def check_numbers(
    name: str, value: float | Range, *, where: str, low: float = -np.inf, high: float = np.inf
) -> tuple[float, float]:
    """One number in [low, high], which stands for a pair of equal ones, or such a pair, the lower first."""
    if isinstance(value, list | tuple):
        return check_range(name, value, where=where, low=low, high=high)
    check_number(name, value, where=where, low=low, high=high)
    return value, value


def check_ends(operation: str, low: float, high: float, *, least: float = 0.0, most: float = np.inf) -> Range:
    """The pair (low, high) of an operation's arguments of these names, in [least, most]."""
    where = f"gin bindings {operation}.low, {operation}.high"
    return check_range(f"{operation} (low, high)", (low, high), where=where, low=least, high=most)


def check_channels(
    name: str, value: float | Sequence[float], *, where: str, low: float = -np.inf, high: float = np.inf
) -> tuple[float, float, float]:
    """Three numbers in [low, high], or one for all three channels."""
    channels = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(channels) != 3:
        raise UserError(f"{name} = {value!r}", where=where, expected="one number or three", do=f"{name} = (0, 0, 0)")
    for channel in channels:
        check_number(name, channel, where=where, low=low, high=high)
    return channels
