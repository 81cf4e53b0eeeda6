"""What the input pipeline costs: images a second and processor time an image, against reading and decoding alone."""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import decode, packing, pipeline
from data.decode import DCT_RATIOS
from data.errors import UserError
from data.examples import Examples
from data.frozen import Frozen
from data.inspection import inspect
from data.order import Order
from trainer import data_setup
from trainer.recipe import Recipe
from trainer.rendering import training_policy

ALONE = "read and decode alone"
# Batches that a contestant goes through before its clock starts: those that it has made ready while others ran.
LEAD = 16
# Seconds in which next to nothing is done once all others are at rest.
IDLE = 0.3


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one round of one contestant: seconds on the clock and of all cores, an image."""

    wall: float
    cpu: float


def photos(recipe: Recipe, examples: Examples, *, count: int) -> Frozen:
    """`count` examples spread evenly over a table of files, all in train.

    Raises:
        UserError: fewer good JPEG files than that, or images that are no files.
    """
    rows = np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
    if examples.root is None:
        raise UserError(
            "the images are no files",
            where="gin binding train.source",
            expected="a source of JPEG files, such as @folder",
            do="--gin_file=configs/extend.gin --gin_param=\"data_dir = 'photos'\"",
        )
    decoding = data_setup.decoding(recipe)
    chosen = examples.take(rows)
    seen = inspect(chosen, decoding=decoding)
    jpeg = np.flatnonzero(seen.kinds < decode.ANY)
    if len(jpeg) < count:
        raise UserError(
            f"{len(jpeg)} JPEG files that decode among {len(rows)} images",
            where=str(examples.root),
            expected=f"{count} of them",
            do="--images with a smaller number, or another folder",
        )
    chosen, seen = chosen.take(jpeg), seen.take(jpeg)
    chosen = dataclasses.replace(chosen, orientations=seen.orientations, kinds=seen.kinds)
    return Frozen(chosen, np.zeros(len(chosen), np.int8), seen, decoding)


def contestants(recipe: Recipe, frozen: Frozen, folder: Path) -> dict[str, Iterator]:
    """Endless iterators over batches: reading and decoding alone, the whole pipeline from files and from a store.

    Args:
        folder: where the store is packed.
    """
    packed = packing.pack(frozen.examples, folder, decoding=frozen.decoding).attach(frozen.examples)
    return {
        ALONE: iter(_alone(frozen.examples, batch=recipe.batch_size)),
        "pipeline, from files": iter(train_batches(recipe, frozen)),
        "pipeline, from a store": iter(train_batches(recipe, dataclasses.replace(frozen, examples=packed))),
    }


def train_batches(recipe: Recipe, frozen: Frozen, *, start: int = 0) -> tf.data.Dataset:
    """The recipe's training stream from a position on."""
    examples, order = data_setup.training_part(recipe, frozen.parts()["train"])
    return pipeline.train_batches(
        examples,
        order=order,
        start=start // recipe.batch_size * recipe.batch_size,
        batch=recipe.batch_size,
        seed=recipe.seed,
        policy=training_policy(recipe),
        view=data_setup.view(recipe, frozen),
    )


def _alone(examples: Examples, *, batch: int) -> tf.data.Dataset:
    """Files in a shuffled order, each decoded at the scale that the pipeline decodes it at; the pixels go nowhere."""
    order = Order.of(examples, factors=examples.repeats, seed=0)
    root = os.path.join(os.fsencode(examples.root), b"")
    names, kinds = tf.constant(examples.names), tf.constant(examples.kinds, tf.int32)
    branches = sorted(set(examples.kinds.tolist()))

    def read(row):
        encoded = tf.io.read_file(root + tf.gather(names, row))
        decoders = [
            lambda kind=kind: tf.io.decode_jpeg(
                encoded, channels=3, ratio=DCT_RATIOS[kind], dct_method="INTEGER_ACCURATE"
            )
            for kind in branches
        ]
        which = tf.searchsorted(branches, tf.gather(kinds, row)[None])[0]
        pixels = decoders[0]() if len(branches) == 1 else tf.switch_case(which, decoders)
        return tf.size(pixels)

    rows = tf.data.Dataset.range(np.iinfo(np.int64).max // batch).map(
        lambda element: order.rows(element * batch + tf.range(batch, dtype=tf.int64))[1]
    )
    return rows.unbatch().map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch)


def costs(
    contestants: dict[str, Iterator], *, images: int, batch: int, repeats: int, report: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Measures the contestants in turn, each in its steady state.

    Args:
        images: that a round goes through at least.
        batch: images a batch.
        repeats: rounds.

    Returns:
        contestant -> cost of each round.
    """
    batches = -(-images // batch)
    for batches_of in contestants.values():
        _go_through(batches_of, batches)
    measured: dict[str, list[Cost]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name, batches_of in contestants.items():
            _wait_until_idle()
            _go_through(batches_of, LEAD)
            wall, cpu = time.perf_counter(), time.process_time()
            _go_through(batches_of, batches)
            spent = Cost(time.perf_counter() - wall, time.process_time() - cpu)
            measured[name].append(Cost(spent.wall / (batches * batch), spent.cpu / (batches * batch)))
        last = ", ".join(f"{name} {all_[-1].cpu * 1e3:.2f} ms" for name, all_ in measured.items())
        report(f"round {repeat + 1} of {repeats}, processor time an image: {last}")
    return measured


def _wait_until_idle() -> None:
    """The contestant before goes on making batches ready until it has room for no more."""
    while True:
        before = time.process_time()
        time.sleep(IDLE)
        if time.process_time() - before < IDLE / 10:
            return


def _go_through(batches_of: Iterator, batches: int) -> None:
    for _ in range(batches):
        next(batches_of)


def compare(measured: dict[str, list[Cost]], *, against: str = ALONE) -> list[dict]:
    """One row a contestant: images a second, processor time an image (ms), and that against another contestant's
    (median and range over the rounds)."""
    rows = []
    for name, all_ in measured.items():
        ratios = [cost.cpu / other.cpu for cost, other in zip(all_, measured[against], strict=True)]
        rows.append(
            {
                "name": name,
                "images_per_second": 1 / statistics.median(cost.wall for cost in all_),
                "cpu_ms": 1e3 * statistics.median(cost.cpu for cost in all_),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows


def first_batch(recipe: Recipe, frozen: Frozen, *, positions: tuple[int, ...], repeats: int) -> dict[int, float]:
    """Seconds from nothing to the first batch at each position; the median of interleaved starts, tracing included."""
    seconds: dict[int, list[float]] = {position: [] for position in positions}
    for _ in range(repeats):
        for position in positions:
            began = time.perf_counter()
            next(iter(train_batches(recipe, frozen, start=position)))
            seconds[position].append(time.perf_counter() - began)
    return {position: statistics.median(all_) for position, all_ in seconds.items()}


def memory(recipe: Recipe, frozen: Frozen, *, epochs: int) -> list[int]:
    """Peak resident bytes of this process after each epoch of the training stream."""
    batches = iter(train_batches(recipe, frozen))
    peaks, seen = [], 0
    for epoch in range(1, epochs + 1):
        while seen < epoch * len(frozen.examples):
            next(batches)
            seen += recipe.batch_size
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return peaks
