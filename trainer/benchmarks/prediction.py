"""The model of `trainer.scaling` against what this machine measures: replicas in one process, and processes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from trainer import launch, probing
from trainer.benchmarks.results import Table
from trainer.benchmarks.subject import Subject, chosen_stage, cores, sample
from trainer.proofs.ways import Way
from trainer.recipe import Recipe
from trainer.scaling import STRONG, WEAK, Link, StepTime, ring_seconds, shared_seconds, star_seconds

# Images that a step is fed from.
IMAGES = 64
# Parts of the batch that one replica is measured with: the lines through them are its step and its processor time.
PARTS = (1, 2, 4)
MILLI = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What one way to train took, in seconds.

    Attributes:
        steps: of a step on the clock, by the examples of all replicas together.
        processor: of all cores of one process, likewise.
        gradients: in which gradients were added up over the replicas; None of one replica.
        number: in which one number was; likewise.
        size: bytes of the gradients.
        cores: that the process might use.
    """

    steps: dict[int, float]
    processor: dict[int, float]
    gradients: float | None
    number: float | None
    size: int
    cores: int

    @classmethod
    def of(cls, document: Mapping) -> "Measured":
        """One that `dataclasses.asdict` and JSON have made text of."""
        by_batch = {name: {int(k): v for k, v in document[name].items()} for name in ("steps", "processor")}
        return cls(**{**document, **by_batch})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A step, measured and predicted, in seconds.

    Attributes:
        examples: of each replica.
        processor: of all cores and processes together, as measured.
        processors: the same, predicted: as many times that of one replica.
    """

    way: Way
    kind: str
    examples: int
    measured: float
    compute: float
    reduction: float
    processor: float
    processors: float

    @property
    def predicted(self) -> float:
        """Of the whole step."""
        return self.compute + self.reduction


def batches(way: Way, batch: int) -> list[int]:
    """The global batches to measure a way with: in weak and in strong scaling of one replica with this batch."""
    count = way.workers * way.replicas
    return [batch // part for part in PARTS] if count == 1 else [count * batch, batch]


def measure(recipe: Recipe, way: Way, strategy: tf.distribute.Strategy) -> Measured:
    """As one of the processes of a way: steps on batches that are there already, and reductions alone."""
    frozen = sample(recipe, count=IMAGES, folder=Path())
    stage = chosen_stage(recipe, None, examples=len(frozen.examples))
    recipe, batch = dataclasses.replace(recipe, stages=(stage,)), recipe.batch_size
    several = dataclasses.replace(recipe, batch_size=batch * strategy.num_replicas_in_sync)
    subject = Subject(several, frozen, strategy=strategy, stage=stage)
    launch.call(recipe.optimizer.make)
    launch.check_consumed()
    spent = {}
    for size in batches(way, batch):
        sized = dataclasses.replace(recipe, batch_size=size)
        spent[size] = probing.step(subject.state, sized, frozen, strategy=strategy)
    alone = strategy.num_replicas_in_sync == 1
    reductions = (None, None) if alone else probing.reduction(subject.state, recipe, strategy=strategy)
    return Measured(
        steps={size: each.wall for size, each in spent.items()},
        processor={size: each.processor for size, each in spent.items()},
        gradients=reductions[0],
        number=reductions[1],
        size=probing.gradient_bytes(subject.state, recipe),
        cores=cores(),
    )


def compare(found: Mapping[Way, Measured], *, batch: int) -> list[Row]:
    """Predicts every way from a step of one replica and a reduction between two.

    Replicas on CPUs share the cores of the machine, see `trainer.scaling.shared_seconds`; those in one process reduce
    on the first of them, those of several processes, and GPUs, in a ring.

    Args:
        found: with one process of one replica among them.
        batch: of one replica, global in strong scaling.
    """
    single = next(each for way, each in found.items() if way.workers * way.replicas == 1)
    step, processor = StepTime.of(single.steps), StepTime.of(single.processor)
    rows = []
    for way, measured in found.items():
        count = way.workers * way.replicas
        star = way.kind == "cpu" and way.workers == 1
        seconds = star_seconds if star else ring_seconds
        link = None if count == 1 else _link(_pair(found, way), star=star)
        for size in batches(way, batch):
            alone, spent = step.seconds(size / count), processor.seconds(size / count)
            if way.kind == "cpu":
                alone = shared_seconds(alone, spent, replicas=count, cores=single.cores)
            # The weight of the batch first, then its gradients.
            sums = 0.0 if link is None else sum(seconds(part, members=count, link=link) for part in (0, single.size))
            rows.append(
                Row(
                    way=way,
                    kind=STRONG if count > 1 and size == batch else WEAK,
                    examples=size // count,
                    measured=measured.steps[size],
                    compute=alone,
                    reduction=sums,
                    processor=way.workers * measured.processor[size],
                    processors=count * spent,
                )
            )
    return rows


def _pair(found: Mapping[Way, Measured], way: Way) -> Measured:
    """What two of the same kind measured."""
    return next(
        each for other, each in found.items()
        if other.workers * other.replicas == 2 and (other.workers > 1) == (way.workers > 1)
    )  # fmt: skip


def _link(pair: Measured, *, star: bool) -> Link:
    """What makes the formula say what two have measured."""
    latency = pair.number / 2
    share = 1 if star else 1 / 2
    return Link(share * pair.size / max(pair.gradients / 2 - latency, 1e-9), latency)


def table(rows: list[Row], *, title: str) -> Table:
    """For people."""

    def name(way: Way) -> str:
        if way.workers == 1:
            return f"{way.replicas} replica{'s' * (way.replicas > 1)}"
        return f"{way.workers} processes" + (f" of {way.replicas} replicas" if way.replicas > 1 else "")

    columns = (
        "",
        "scaling",
        "each",
        "measured, ms",
        "predicted",
        "= compute",
        "+ reduction",
        "off by",
        "processor, ms",
        "predicted",
    )
    cells = [
        (
            name(row.way),
            row.kind if row.way.workers * row.way.replicas > 1 else "",
            str(row.examples),
            *(f"{each / MILLI:.1f}" for each in (row.measured, row.predicted, row.compute, row.reduction)),
            f"{row.predicted / row.measured - 1:+.0%}",
            *(f"{each / MILLI:.1f}" for each in (row.processor, row.processors)),
        )
        for row in rows
    ]
    return Table(title, columns, cells)
