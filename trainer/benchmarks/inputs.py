"""What the input pipeline costs: images a second and processor time an image, against reading and decoding alone."""

import dataclasses
import functools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import decode, packing, pipeline
from data.decode import DCT_RATIOS
from data.errors import UserError
from data.examples import Examples, Stream
from data.frozen import Frozen
from data.inspection import inspect
from data.order import Order
from trainer import data_setup, devices, launch
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.windows import range_of, ratio, take, wait_until_idle
from trainer.recipe import Recipe
from trainer.rendering import training_policy
from trainer.reports.console import Console

ALONE, FILES = "read and decode alone", "pipeline, from files"
# As far into the stream as the first batch is timed a second time.
FAR = 10_000_000


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one round of one contestant: seconds on the clock and of all cores, an image."""

    wall: float
    cpu: float


def run(settings: Settings, console: Console) -> Result:
    """--part=input."""
    images, repeats, recipe = settings.images, settings.repeats, settings.recipe()
    devices.set_up(settings.devices, reduce_by=recipe.reduction, threads=recipe.threads)
    frozen = photos(recipe, indexed(recipe), count=images)
    with tempfile.TemporaryDirectory(prefix="onward-store-") as folder:
        pipelines = contestants(recipe, frozen, Path(folder))
        measured = costs(pipelines, images=images, batch=recipe.batch_size, repeats=repeats, report=console.say)
        del pipelines
    rows = compare(measured)
    starts = first_batch(recipe, frozen, positions=(0, FAR), repeats=repeats)
    peaks = memory(recipe, frozen, epochs=settings.epochs)
    watched = {epoch: peaks[epoch - 1] for epoch in (1, len(peaks) // 2, len(peaks))}
    title = f"{images} JPEG files, {recipe.image_size} px, batch {recipe.batch_size}"
    figures = {"title": title, "rows": rows, "rates": rates(measured)}
    return Result(
        figures=figures | {"first_batch": starts, "peak_memory": peaks},
        tables=[table(title, rows)],
        sentences=[
            *(f"first batch at position {position:,}: {seconds:.2f} s" for position, seconds in starts.items()),
            f"peak memory after epoch {', '.join(map(str, watched))}: "
            + ", ".join(f"{peak / 1e6:.0f} MB" for peak in watched.values()),
        ],
    )


def table(title: str, rows: list[dict], *, against: str = "decoding") -> Table:
    """Rows of `compare` for people."""
    columns = ("", "images/s", "CPU ms an image", f"against {against}", "over the rounds")
    cells = [
        (row["name"], f"{row['images_per_second']:.0f}", f"{row['cpu_ms']:.2f}", f"{row['ratio']:.2f} x", range_of(row))
        for row in rows
    ]
    return Table(title, columns, cells)


def rates(measured: dict[str, list[Cost]]) -> dict[str, list[float]]:
    """Images a second of every round."""
    return {name: [1 / cost.wall for cost in all_] for name, all_ in measured.items()}


def indexed(recipe: Recipe) -> Examples:
    """The table of a recipe.

    Raises:
        UserError: a source that can only be read in sequence.
    """
    source = launch.call(recipe.source)
    if isinstance(source, Stream):
        raise UserError(
            f"{source.title} can only be read in sequence",
            where="gin binding train.source",
            expected="a source of JPEG files, such as @folder",
            do="--part=recipe, which packs such a source",
        )
    return source


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
        FILES: iter(train_batches(recipe, frozen)),
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
    contestants: dict[str, Iterator],
    *,
    images: int,
    batch: int | dict[str, int],
    repeats: int,
    report: Callable[[str], None],
) -> dict[str, list[Cost]]:
    """Measures the contestants in turn, each in its steady state.

    Args:
        images: that a round goes through at least.
        batch: images a batch, of all alike or by contestant.
        repeats: rounds.

    Returns:
        contestant -> cost of each round.
    """
    sizes = batch if isinstance(batch, dict) else dict.fromkeys(contestants, batch)
    batches = {name: -(-images // size) for name, size in sizes.items()}
    for name, batches_of in contestants.items():
        _go_through(batches_of, batches[name])
    measured: dict[str, list[Cost]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name, batches_of in contestants.items():
            wait_until_idle()
            one = functools.partial(next, batches_of)
            take(one, batches=1)
            wall, cpu = time.perf_counter(), time.process_time()
            # Small batches are made several at once: in a second the turns of that even out.
            count = take(one, batches=1, least=batches[name]) * sizes[name]
            spent = time.perf_counter() - wall, time.process_time() - cpu
            measured[name].append(Cost(*(seconds / count for seconds in spent)))
        last = ", ".join(f"{name} {all_[-1].cpu * 1e3:.2f} ms" for name, all_ in measured.items())
        report(f"round {repeat + 1} of {repeats}, processor time an image: {last}")
    return measured


def _go_through(batches_of: Iterator, batches: int) -> None:
    for _ in range(batches):
        next(batches_of)


def compare(measured: dict[str, list[Cost]], *, against: str = ALONE) -> list[dict]:
    """One row a contestant: images a second, processor time an image (ms), and that against another contestant's
    (median and range over the rounds)."""
    rows = []
    for name, all_ in measured.items():
        rows.append(
            {
                "name": name,
                "images_per_second": 1 / statistics.median(cost.wall for cost in all_),
                "cpu_ms": 1e3 * statistics.median(cost.cpu for cost in all_),
                **ratio([cost.cpu for cost in all_], [other.cpu for other in measured[against]]),
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
