"""Policies with a name: what others have found to work, and three presets.

`rand_augment`, `trivial_augment`, `auto_augment` and `three_augment` are one operation each, to be listed among others:
`policy.operations = [@flip(), @rand_augment()]`. `light`, `medium` and `strong` are whole policies:
`train.policy = @medium()`. `configs/policies` has a recipe for each.

What the largest magnitude means (s is a random sign, the strength m is 0..1, the share of the largest magnitude):

| operation                  | number               | rand_augment, auto_augment | trivial_augment  |
|----------------------------|----------------------|----------------------------|------------------|
| shear_x, shear_y           | factor               | 0.3 s m                    | 0.99 s m         |
| translate_x, translate_y   | fraction of the side | 150 / 331 s m              | 32 pixels s m    |
| rotation                   | degrees              | 30 s m                     | 135 s m          |
| brightness, saturation,    |                      |                            |                  |
| contrast, sharpness        | factor               | 1 + 0.9 s m                | 1 + 0.99 s m     |
| posterize                  | bits                 | 8 - round(4 m)             | 8 - round(6 m)   |
| solarize                   | threshold            | 255 - 255 m                | 255 - 255 m      |
| autocontrast, equalize     | none                 |                            |                  |
| invert                     | none                 | auto_augment only          |                  |
| identity                   | none                 | rand_augment only          |                  |

These are the ranges of Cubuk et al. 2019 (arXiv:1805.09501, table 6) and of Müller & Hutter 2021 (arXiv:2103.10158, the
wide space) as torchvision's `transforms.autoaugment` has them; `saturation` is Pillow's Color. Two things differ from
torchvision: all geometry is one warp before the first colour, and what it uncovers is filled as the recipe says.
"""

from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from data.augment.autoaugment import TABLES
from data.augment.colour import brightness, colour_jitter, grey, saturation
from data.augment.crops import random_resized_crop
from data.augment.curves import invert, posterize, solarize
from data.augment.erasing import random_erasing
from data.augment.filters import blur, sharpness
from data.augment.geometry import flip, rotation, shear_x, shear_y, shift, translate_x, translate_y, whole, zoom
from data.augment.mixing import cutmix, mixup
from data.augment.operation import (
    Numbers,
    Operation,
    Size,
    arrays_of_chosen,
    check_number,
    check_whole,
    chosen_from,
    named,
    numbers_of_all,
    one_of,
    unnamed,
)
from data.augment.policy import Policy, policy
from data.augment.statistics import autocontrast, contrast, equalize
from data.errors import UserError

# The 14 operations of rand_augment and trivial_augment.
OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "rotation",
    "solarize",
    "saturation",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
# Layers of rand_augment: each is another pass over the pixels.
MOST_LAYERS = 16
# Magnitudes that can be told apart, at most.
MOST_BINS = 1001
# Magnitudes of AutoAugment's tables.
TABLE_BINS = 10
# Without the bindings of the recipe, which are of its own choice and policy, and may hold what is made of these here.
choice_of, policy_of = unwrap(one_of), unwrap(policy)
# ([B] in 0..1, the same with random signs, size) -> [B].
Level = Callable[[tf.Tensor, tf.Tensor, Size], tf.Tensor]


class Member(NamedTuple):
    """An operation whose one number is made of a magnitude.

    Attributes:
        operation: what takes the number.
        number: its name; None where the operation has no magnitude.
        level: the number.
    """

    operation: Operation
    number: str | None = None
    level: Level | None = None

    def numbers(self, strength: tf.Tensor, signs: tf.Tensor, size: Size) -> Numbers:
        """The numbers of a strength [B] in 0..1 and signs [B], each 1 or -1."""
        if self.level is None:
            return self.operation.numbers(tf.zeros([tf.shape(strength)[0], self.operation.count], tf.float64), size)
        return {self.number: self.level(strength, strength * signs, size)}


def space(
    *, shear: float, translate: Callable[[int], float], degrees: float, enhance: float, bits: int
) -> dict[str, Member]:
    """The operations by name, each with the number that it has at the largest magnitude, see above.

    Args:
        translate: side in pixels -> share of it.
    """
    nothing = Operation(
        name="identity", count=0, slots=(), numbers=lambda uniform, size: {}, arrays=lambda numbers, size: ()
    )
    members = [
        Member(nothing),
        Member(autocontrast()),
        Member(equalize()),
        Member(invert()),
        Member(shear_x(factor=shear), "factor", lambda _, signed, size: shear * signed),
        Member(shear_y(factor=shear), "factor", lambda _, signed, size: shear * signed),
        Member(translate_x(fraction=1), "fraction", lambda _, signed, size: translate(size[1]) * signed),
        Member(translate_y(fraction=1), "fraction", lambda _, signed, size: translate(size[0]) * signed),
        Member(rotation(degrees=degrees), "degrees", lambda _, signed, size: degrees * signed),
        Member(posterize(bits=8), "bits", lambda strength, _, size: 8 - tf.round(bits * strength)),
        Member(solarize(threshold=255), "threshold", lambda strength, _, size: 255 - 255 * strength),
    ]
    for make in (brightness, saturation, contrast, sharpness):
        operation = make(low=1 - enhance, high=1 + enhance)
        members.append(Member(operation, "factor", lambda _, signed, size: 1 + enhance * signed))
    return {member.operation.name: member for member in members}


def usual_space() -> dict[str, Member]:
    """That of AutoAugment and RandAugment."""
    return space(shear=0.3, translate=lambda side: 150 / 331, degrees=30, enhance=0.9, bits=4)


class Choice(NamedTuple):
    """What one layer does to B examples.

    Attributes:
        index: [B] int32, of its operations; -1 for none.
        strength: [B] float64 in 0..1, share of the largest magnitude.
        signs: [B] float64, 1 or -1.
    """

    index: tf.Tensor
    strength: tf.Tensor
    signs: tf.Tensor


def random_signs(uniform: tf.Tensor) -> tf.Tensor:
    """1 or -1, both alike, out of numbers in [0, 1)."""
    return 1 - 2 * whole(uniform, 2)


def in_layers(
    name: str, *, layers: Sequence[Sequence[Member]], count: int, choose: Callable[[tf.Tensor], Sequence[Choice]]
) -> Operation:
    """An operation that does one of several things to an example in each of its layers.

    Its numbers are `LAYER.chosen`, the index of the operation, and `LAYER.INDEX.OPERATION.NUMBER` for all of them.

    Args:
        layers: operations of each.
        count: random numbers wanted per example.
        choose: uniform [B, count] -> for each layer what it does.
    """
    operations = [[member.operation for member in members] for members in layers]

    def numbers(uniform, size):
        found = {}
        for layer, (members, choice) in enumerate(zip(layers, choose(uniform), strict=True)):
            drawn = [member.numbers(choice.strength, choice.signs, size) for member in members]
            inner = {"chosen": tf.cast(choice.index, tf.float64)} | named(operations[layer], drawn)
            found |= {f"{layer}.{key}": value for key, value in inner.items()}
        return found

    def arrays(numbers, size):
        parts: list[Numbers] = [{} for _ in layers]
        for key, value in numbers.items():
            layer, inner = key.split(".", 1)
            parts[int(layer)][inner] = value
        chosen = [tf.cast(part.pop("chosen"), tf.int32) for part in parts]
        return [
            array
            for members, index, part in zip(operations, chosen, parts, strict=True)
            for array in arrays_of_chosen(members, index, unnamed(members, part), size)
        ]

    slots = tuple(slot for members in operations for slot in chosen_from(members))
    return Operation(name=name, count=count, slots=slots, numbers=numbers, arrays=arrays)


def in_turn(name: str, members: Sequence[Operation]) -> Operation:
    """One operation that is several, one after the other; each draws for itself."""

    def arrays(numbers, size):
        parts = zip(members, unnamed(members, numbers), strict=True)
        return [array for member, part in parts for array in member.arrays(part, size)]

    return Operation(
        name=name,
        count=sum(member.count for member in members),
        slots=tuple(slot for member in members for slot in member.slots),
        numbers=lambda uniform, size: named(members, numbers_of_all(members, uniform, size)),
        arrays=arrays,
    )


@gin.configurable
def rand_augment(
    *, layers: int = 2, magnitude: int = 9, bins: int = 31, operations: Sequence[str] = OPERATIONS
) -> Operation:
    """One operation out of 14 in each of a few layers, all at one magnitude (Cubuk et al. 2020, arXiv:1909.13719).

    Each layer draws its operation evenly, and its sign. The ranges are in the table of `data.augment.policies`.

    Args:
        layers: how many operations an image gets, 1 to 16; called N in the paper.
        magnitude: 0 to bins - 1; called M in the paper.
        bins: how many magnitudes there are, 2 to 1001; the largest means the end of each range.
        operations: names out of OPERATIONS, and `invert`.

    Raises:
        UserError: a number out of its range, or an unknown name.
    """
    check_whole("layers", layers, where="gin binding rand_augment.layers", low=1, high=MOST_LAYERS)
    check_whole("bins", bins, where="gin binding rand_augment.bins", low=2, high=MOST_BINS)
    check_whole("magnitude", magnitude, where="gin binding rand_augment.magnitude", low=0, high=bins - 1)
    known = usual_space()
    names = tuple(operations) if isinstance(operations, list | tuple) else (operations,)
    if not names or not all(isinstance(name, str) and name in known for name in names):
        raise UserError(
            f"operations = {operations!r}",
            where="gin binding rand_augment.operations",
            expected=f"some of {', '.join(sorted(known))}",
            do="correct the names",
        )

    def choose(uniform):
        choices = []
        for layer in range(layers):
            which, sign = uniform[:, 2 * layer], uniform[:, 2 * layer + 1]
            strength = tf.fill(tf.shape(which), tf.constant(magnitude / (bins - 1), tf.float64))
            choices.append(Choice(tf.cast(whole(which, len(names)), tf.int32), strength, random_signs(sign)))
        return choices

    members = [known[name] for name in names]
    return in_layers("rand_augment", layers=[members] * layers, count=2 * layers, choose=choose)


@gin.configurable
def trivial_augment(*, bins: int = 31) -> Operation:
    """One operation out of 14, at a magnitude that is drawn, too (Müller & Hutter 2021, arXiv:2103.10158).

    The ranges are those of the wide space, in the table of `data.augment.policies`.

    Args:
        bins: how many magnitudes there are, 2 to 1001; all are equally frequent.

    Raises:
        UserError: no such number.
    """
    check_whole("bins", bins, where="gin binding trivial_augment.bins", low=2, high=MOST_BINS)
    wide = space(shear=0.99, translate=lambda side: 32 / side, degrees=135, enhance=0.99, bits=6)

    def choose(uniform):
        which, magnitude, sign = tf.unstack(uniform, num=3, axis=1)
        index = tf.cast(whole(which, len(OPERATIONS)), tf.int32)
        return [Choice(index, whole(magnitude, bins) / (bins - 1), random_signs(sign))]

    members = [wide[name] for name in OPERATIONS]
    return in_layers("trivial_augment", layers=[members], count=3, choose=choose)


@gin.configurable
def auto_augment(*, table: str = "imagenet") -> Operation:
    """One of 25 learned pairs of operations, each of the two with its own probability (Cubuk et al. 2019).

    The pairs are drawn evenly, see `data.augment.autoaugment`; the ranges are in the table of `data.augment.policies`.

    Args:
        table: `imagenet` or `cifar10`, what the pairs were learned on.

    Raises:
        UserError: there is no such table.
    """
    if not isinstance(table, str) or table not in TABLES:
        raise UserError(
            f"table = {table!r}",
            where="gin binding auto_augment.table",
            expected=f"one of {', '.join(TABLES)}",
            do="auto_augment.table = 'imagenet'",
        )
    known, pairs = usual_space(), TABLES[table]
    # Each layer has the operations of its column alone: the fewer, the cheaper.
    columns = list(zip(*pairs, strict=True))
    names = [tuple(dict.fromkeys(name for name, _, _ in column)) for column in columns]

    def choose(uniform):
        row = tf.cast(whole(uniform[:, 0], len(pairs)), tf.int32)
        choices = []
        for layer, column in enumerate(columns):
            indices = np.array([names[layer].index(name) for name, _, _ in column], np.int32)
            shares = np.array([probability for _, probability, _ in column])
            strengths = np.array([(magnitude or 0) / (TABLE_BINS - 1) for _, _, magnitude in column])
            applied, sign = uniform[:, 1 + 2 * layer], uniform[:, 2 + 2 * layer]
            index = tf.where(applied < tf.gather(shares, row), tf.gather(indices, row), -1)
            choices.append(Choice(index, tf.gather(strengths, row), random_signs(sign)))
        return choices

    layers = [[known[name] for name in column] for column in names]
    return in_layers("auto_augment", layers=layers, count=5, choose=choose)


@gin.configurable
def three_augment(*, jitter: float = 0.3) -> Operation:
    """A flip, one of grey, solarize and blur, and a little jitter (DeiT III: Touvron et al. 2022, arXiv:2204.07118).

    In this order: `flip()`, with its own bindings; one of the three, drawn evenly: grey, every level from 128 on
    inverted, or a Gaussian blur with a standard deviation out of 0.1..2 pixels; brightness, contrast and saturation,
    each with a factor out of 1 - jitter ... 1 + jitter. The paper crops before; list `@random_resized_crop()` or
    `@random_crop()` in front.

    Raises:
        UserError: jitter is not in 0..1.
    """
    check_number("jitter", jitter, where="gin binding three_augment.jitter", low=0, high=1)
    three = [solarize(threshold=128), grey(probability=1.0), blur(low=0.1, high=2.0)]
    members = [
        flip(),
        choice_of(operations=three),
        colour_jitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=0.0),
    ]
    return in_turn("three_augment", members)


@gin.configurable
def light() -> Policy:
    """For few epochs, or where little may change: `flip()`, shifts of up to 5 % and zooms of up to 5 %.

    Mirrored left and right half the time, or as `flip.horizontal` and `flip.vertical` are bound. Zooms keep the aspect.
    """
    return policy_of([flip(), shift(width=0.05, height=0.05), zoom(low=0.95, high=1.05, joint=True)])


@gin.configurable
def medium() -> Policy:
    """For most photographs: `flip()`, up to 15 degrees, shifts of up to 10 %, zooms of up to 15 %, and jitter.

    Mirrored left and right half the time, or as `flip.horizontal` and `flip.vertical` are bound. Zooms keep the aspect.
    Brightness, contrast and saturation change by up to 20 %, the hue by up to 0.02 turns.
    """
    operations = [
        flip(),
        rotation(degrees=15),
        shift(width=0.1, height=0.1),
        zoom(low=0.85, high=1.15, joint=True),
        colour_jitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
    ]
    return policy_of(operations)


@gin.configurable
def strong() -> Policy:
    """For long training: `random_resized_crop()`, `flip()`, `rand_augment()`, `random_erasing()`, and mixing.

    A box is erased in a quarter of the images. Each image is mixed with its partner, equally often by `mixup()` and by
    `cutmix()`, except in the last tenth of the training; batches have to be even. All six take their own bindings:
    `rand_augment.magnitude = 15`.
    """
    mixing = choice_of(operations=[mixup(), cutmix()])
    operations = [random_resized_crop(), flip(), rand_augment(), (random_erasing(), 0.25), mixing]
    return policy_of(operations, {mixing.name: (0.0, 0.9)})
