"""What the network sees of a few examples: as they are, as training draws them, and each operation by its magnitude.

Everything goes through the pipeline and the kernel of the training. Only the order and what is drawn are put in place.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import pipeline
from data.augment.apply import Rendering
from data.augment.operation import Numbers, Operation, Size
from data.augment.policy import Policy
from data.examples import SPLITS, Examples
from data.names import printable
from data.order import Order
from data.splits import TRAIN
from trainer import rendering
from trainer.preview_captions import done, label, said, spoken, variants
from trainer.preview_material import Material
from trainer.preview_range import GREYS, Spread, linear, misfit, out_of_range
from trainer.recipe import Recipe

# Pictures rendered at a time; even, so that partners are together.
BATCH = 8
# What all random numbers of an operation are set to; the last is the largest that is drawn.
MAGNITUDES = (0.0, 0.25, 0.5, 0.75, 1 - 2.0**-24)


class Picture(NamedTuple):
    """[H, W, 3] uint8, and what is said below it."""

    pixels: np.ndarray
    lines: tuple[str, ...]


class Row(NamedTuple):
    """Pictures side by side."""

    title: str
    pictures: list[Picture]


class Section(NamedTuple):
    """Rows of one kind."""

    title: str
    note: str
    rows: list[Row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    """All that a page shows.

    Attributes:
        facts: name and value.
        warnings: a sentence each.
        sections: of pictures.
        spreads: what -> the numbers of each channel.
    """

    facts: list[tuple[str, str]]
    warnings: list[str]
    sections: list[Section]
    spreads: dict[str, Spread]


class _Shown(NamedTuple):
    """[H, W, 3] float32 before and after the normalisation, share of the own label, whether it does not decode."""

    pixels: np.ndarray
    network: np.ndarray
    share: float = 1.0
    broken: bool = False


class _Ranges:
    """Of pixels before the normalisation, of what the network sees, and of that by the backbone's own normalisation."""

    def __init__(self, colour: np.ndarray):
        self._colour = colour
        self.pixels, self.network, self.own = Spread(), Spread(), Spread()

    def add(self, shown: _Shown) -> None:
        self.pixels.add(shown.pixels)
        self.network.add(shown.network)
        self.own.add(linear(shown.pixels, self._colour))


def make(recipe: Recipe, material: Material, *, split: str, magnitudes: bool = True) -> Preview:
    """Renders all pictures.

    Args:
        split: of the examples shown.
        magnitudes: whether each operation is shown alone as well.
    """
    policy = rendering.training_policy(recipe, material.stage.stage)
    augmenting, backbone = material.policy, recipe.model.backbone
    plain, drawn = _Ranges(backbone.colour), _Ranges(backbone.colour)
    views = list(_evaluated(recipe, material, plain))
    draws = list(_drawn(recipe, material, policy, drawn))
    rows = [
        Row(printable(bytes(material.examples.names[row])), [seen[0], *shown] if any(draws) else seen)
        for row, seen, shown in zip(material.shown, views, draws, strict=True)
    ]
    by_magnitude, alone = [], {}
    for operation in augmenting.operations if magnitudes else ():
        spread = alone.setdefault(operation.name, Spread())
        by_magnitude += _magnitudes(recipe, material, operation, spread)
    ranges = drawn if any(draws) else plain
    spreads = {"what the network sees": ranges.network}
    if recipe.normalisation is not None:
        spreads[f"the same images by the normalisation of {backbone.name}"] = ranges.own
    spreads[f"black to white by the normalisation of {backbone.name}"] = Spread([linear(GREYS, backbone.colour)])
    originals = [seen[0].pixels for seen in views]
    sections = [Section("Examples", _note(material, split), rows)]
    if by_magnitude:
        note = "Each operation alone, all of its random numbers at 0, 1/4, 1/2, 3/4 or just below 1."
        sections.append(Section("Operations by magnitude", note, by_magnitude))
    return Preview(
        facts=_facts(recipe, material, split),
        warnings=[*misfit(recipe, originals), *out_of_range(ranges.pixels, plain.pixels, alone)],
        sections=sections,
        spreads=spreads,
    )


def _note(material: Material, split: str) -> str:
    if split != SPLITS[TRAIN]:
        return f"Images of {split} are never augmented. Each is shown in all views of an evaluation."
    if not material.policy.operations:
        return "Nothing augments in this stage: training shows every image plain."
    return (
        "Each image as an evaluation sees it, then as the stage shows it from its beginning. Draws past the end of the "
        "stage are what it would go on with."
    )


def _facts(recipe: Recipe, material: Material, split: str) -> list[tuple[str, str]]:
    policy, (height, width) = material.policy, material.training_view.image_size
    during = {name: f" ({start:.0%} to {stop:.0%} of training)" for name, (start, stop) in policy.during.items()}
    operations = [f"{operation.name}{during.get(operation.name, '')}" for operation in policy.operations]
    normalisation = f"that of {recipe.model.backbone.name}"
    if recipe.normalisation is not None:
        normalisation = ", ".join(operation.name for operation in recipe.normalisation) or "none"
    return [
        ("data", f"{printable(material.examples.root or recipe.source.__name__)}, {split}"),
        ("stage", f"{material.stage.stage.name}, steps {material.stage.start:,} to {material.stage.stop:,}"),
        ("policy", ", ".join(operations) or "none"),
        ("image", f"{height} x {width}, {recipe.fit}, {recipe.interpolation}, fill {recipe.fill}"),
        ("normalisation", normalisation),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Listed(Order):
    """Shows these rows one after the other, and then again."""

    listed: np.ndarray

    def rows(self, positions):
        return tf.zeros_like(positions), tf.gather(self.listed, positions % len(self.listed))


@dataclasses.dataclass(frozen=True)
class _Elsewhere(Policy):
    """Draws what the policy draws at these positions, one after the other."""

    seats: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))

    def draw(self, positions, *, seed, size, length=None):
        return super().draw(tf.gather(self.seats, positions % len(self.seats)), seed=seed, size=size, length=length)


@dataclasses.dataclass(frozen=True)
class _Numbered(Policy):
    """Gives its operation the number of each position."""

    def uniform(self, index, positions, *, seed):
        return tf.cast(positions, tf.float64)[:, None]


def _rendered(
    recipe: Recipe, material: Material, rows: Sequence[int], policy: Policy, *, length: int | None = None, plain: int
) -> Iterator[_Shown]:
    """What training makes of these rows of the table.

    Args:
        plain: steps of the policy's program that come before the normalisation.
    """
    batches = pipeline.train_batches(
        material.examples,
        order=_Listed(epoch_length=len(rows), seed=recipe.seed, listed=np.array(rows, np.int64)),
        start=0,
        batch=BATCH,
        seed=recipe.seed,
        policy=policy,
        view=material.training_view,
        length=length,
    )
    network = rendering.rendering(recipe, policy, samples=recipe.samples, stage=material.stage.stage)
    for start, batch in zip(range(0, len(rows), BATCH), batches, strict=False):
        shares = batch["share"].numpy() if "share" in batch else np.ones(BATCH)
        broken = batch["replaced"].numpy()
        if policy.mixes:
            broken = broken | broken.reshape(-1, 2)[:, ::-1].reshape(-1)
        yield from map(_Shown, *_both(batch, network, plain, len(rows) - start), shares, broken)


def _both(
    batch: dict[str, tf.Tensor], network: Rendering, plain: int, count: int
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """The first images of a batch, before and after the normalisation."""
    before = dataclasses.replace(network, program=network.program[:plain], colour=None)
    pixels = before.images(batch | {"arrays": batch.get("arrays", ())[:plain]})
    return pixels.numpy()[:count], network.images(batch).numpy()[:count]


def _evaluated(recipe: Recipe, material: Material, ranges: _Ranges) -> Iterator[list[Picture]]:
    """Each example in the views of an evaluation."""
    policy, examples = rendering.evaluation_policy(recipe), material.examples.take(np.array(material.shown))
    network = rendering.rendering(recipe, policy, samples=recipe.evaluation_samples)
    views = recipe.evaluation_views.matrices(material.view.image_size)
    batches = pipeline.evaluation_batches(examples, batch=BATCH, view=material.view, policy=policy, views=views)
    for batch, start in zip(batches, range(0, len(examples), BATCH), strict=True):
        geometry, broken, count = batch["geometry"], batch["replaced"].numpy(), len(examples) - start
        by_view = [
            list(map(_Shown, *_both(batch | {"geometry": geometry[:, view]}, network, 0, count)))
            for view in range(len(views))
        ]
        for index, found in enumerate(zip(*by_view, strict=True)):
            for shown in found:
                ranges.add(shown)
            lines = ["original", printable(label(examples, start + index))]
            lines += ["does not decode any more"] if broken[index] else []
            others = [Picture(levels(shown.pixels), (f"view {at}",)) for at, shown in enumerate(found[1:], 2)]
            yield [Picture(levels(found[0].pixels), tuple(lines)), *others]


def _drawn(recipe: Recipe, material: Material, policy: Policy, ranges: _Ranges) -> Iterator[list[Picture]]:
    """Each example as the policy draws it."""
    seats = list(material.rows)
    elsewhere = _Elsewhere(policy.operations, policy.during, np.array(seats, np.int64))
    found = _rendered(
        recipe,
        material,
        list(material.rows.values()),
        elsewhere,
        length=material.length,
        plain=len(material.policy.program),
    )
    captions = _captions(recipe, material, seats)
    own = {position for listed in material.positions for position in listed}
    pictures = {}
    for position, shown in zip(seats, found if seats else (), strict=True):
        if position in own and not shown.broken:
            ranges.add(shown)
            late = " (past the end)" if position >= material.stage.stop * recipe.batch_size else ""
            heading = f"epoch {position // material.epoch}, position {position:,}{late}"
            partner = _partner(material.examples, shown.share, material.rows.get(position ^ 1))
            pictures[position] = Picture(levels(shown.pixels), (heading, *captions[position], *partner))
    for listed in material.positions:
        yield [pictures[position] for position in listed if position in pictures]


def _captions(recipe: Recipe, material: Material, positions: Sequence[int]) -> dict[int, list[str]]:
    """Of each position what was drawn, a line for each operation that does something."""
    lines: dict[int, list[str]] = {position: [] for position in positions}
    policy, where = material.policy, tf.constant(positions, tf.int64)
    for index, operation in enumerate(policy.operations if positions else ()):
        start, stop = policy.during.get(operation.name, (0.0, np.inf))
        uniform, size = policy.uniform(index, where, seed=recipe.seed), material.training_view.image_size
        drawn = {name: value.numpy() for name, value in operation.numbers(uniform, size).items()}
        for at, position in enumerate(positions):
            if start <= position / material.length < stop:
                lines[position] += spoken(operation.name, {name: value[at] for name, value in drawn.items()})
    return lines


def _partner(examples: Examples, share: float, row: int | None) -> list[str]:
    if row is None or share == 1:
        return []
    return [f"{said(100 * (1 - share))} % of {printable(bytes(examples.names[row]))}"]


def _magnitudes(recipe: Recipe, material: Material, operation: Operation, spread: Spread) -> list[Row]:
    """One example under the operation alone, a row for each thing that it can do."""
    uniform = np.repeat(np.array(MAGNITUDES)[:, None], operation.count, axis=1)
    drawn = operation.numbers(tf.constant(uniform), material.training_view.image_size)
    table, titles, headings = [], [], []
    for title, chosen in variants(operation.name, drawn):
        for at, magnitude in enumerate(MAGNITUDES):
            numbers = {name: float(value[at]) for name, value in drawn.items()} | chosen
            # What draws nothing is shown once.
            if at and done(operation.name, numbers) == done(operation.name, table[-1]):
                continue
            table.append(numbers)
            titles.append(title)
            headings.append(f"at {said(magnitude)}")
    alone, each = Policy((operation,)), 1
    rows = [material.shown[0]] * len(table)
    partner = material.shown[1 % len(material.shown)]
    if alone.mixes:
        each, rows = 2, [row for _ in table for row in (material.shown[0], partner)]
    policy = _Numbered((_by_number(operation, table, each=each),))
    found = list(_rendered(recipe, material, rows, policy, plain=len(policy.program)))[::each]
    by_title: dict[str, list[Picture]] = {title: [] for title in titles}
    for title, heading, numbers, shown in zip(titles, headings, table, found, strict=True):
        spread.add(shown.pixels)
        lines = (*spoken(operation.name, numbers), *_partner(material.examples, shown.share, partner))
        by_title[title].append(Picture(levels(shown.pixels), (heading, *lines)))
    return [Row(title.replace("_", " "), pictures) for title, pictures in by_title.items()]


def _by_number(operation: Operation, table: Sequence[dict[str, float]], *, each: int) -> Operation:
    """The operation with the numbers of a table, each row of it for some positions."""
    columns = {name: tf.constant([numbers[name] for numbers in table], tf.float64) for name in table[0]}

    def numbers(uniform: tf.Tensor, size: Size) -> Numbers:
        row = tf.cast(uniform[:, 0], tf.int32) // each % len(table)
        return {name: tf.gather(column, row) for name, column in columns.items()}

    return dataclasses.replace(operation, count=1, numbers=numbers)


def levels(pixels: np.ndarray) -> np.ndarray:
    """To show them, uint8."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
