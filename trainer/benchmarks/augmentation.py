"""Files to augmented float batches: this project against the usual ways, with the same four operations.

Rotation by 20 degrees, shifts by a tenth, zoom by a fifth, horizontal flip; 0..1 pixels.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data import pipeline
from data.augment import geometry
from data.augment.apply import Rendering
from data.augment.policies import rand_augment
from data.augment.policy import Policy
from data.frozen import Frozen
from data.order import Order
from trainer import data_setup, devices
from trainer.benchmarks import inputs
from trainer.benchmarks.inputs import Cost
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import packed
from trainer.benchmarks.windows import range_of, ratio
from trainer.recipe import Recipe
from trainer.reports.console import Console

AFFINE, STORED = "affine policy, from files", "affine policy, from a store"
RAND = "RandAugment, from files"
GENERATOR, LAYERS, OPENCV = "ImageDataGenerator", "Keras layers", "OpenCV"
# What the peers are given.
PEERS = {
    GENERATOR: "flow_from_directory(interpolation='bilinear'), rescale=1/255, as its documentation uses it",
    LAYERS: "image_dataset_from_directory().repeat(), RandomRotation, RandomTranslation, RandomZoom, RandomFlip "
    "(fill_mode='nearest'), Rescaling in map(num_parallel_calls=AUTOTUNE), prefetch(2)",
    OPENCV: "imread, one warpAffine (INTER_LINEAR, BORDER_REPLICATE) an image, as many threads as cores, "
    "setNumThreads(1); draws made beforehand",
}
DEGREES, SHIFT, ZOOM = 20, 0.1, 0.2
# Batches after which the draws of OpenCV begin again.
DRAWN_AHEAD = 128
UNIT = tuple(tuple(row) for row in (np.eye(3, 4) / 255).tolist())


def run(settings: Settings, console: Console) -> Result:
    """--part=augment."""
    images, recipe = settings.images, settings.recipe()
    devices.set_up(settings.devices, reduce_by=recipe.reduction, threads=recipe.threads)
    files = inputs.photos(recipe, inputs.indexed(recipe), count=images)
    with tempfile.TemporaryDirectory(prefix="onward-store-") as folder:
        pipelines = contestants(recipe, files, packed(files, Path(folder)))
        timing = {"images": images, "batch": recipe.batch_size, "repeats": settings.repeats}
        measured = inputs.costs(pipelines, report=console.say, **timing)
        del pipelines
    title = f"{images} JPEG files, {recipe.image_size} px, batch {recipe.batch_size}"
    rows, ratios = inputs.compare(measured, against=AFFINE), compare(measured)
    given = {name: told for name, told in PEERS.items() if name in measured}
    figures = {"title": title, "rows": rows, "rates": inputs.rates(measured), "ratios": ratios, "settings": given}
    tables = [inputs.table(title, rows, against="the affine policy"), times_as_fast(ratios)]
    return Result(figures=figures, tables=tables, sentences=[f"{name}: {told}" for name, told in given.items()])


def times_as_fast(rows: list[dict]) -> Table:
    """Rows of `compare` for people."""
    by = {"wall": "on the clock", "cpu": "per CPU second"}
    cells = [
        (row["contestant"], row["against"], f"{row['ratio']:.2f} {by[row['measure']]}", range_of(row),
         f"{row['wanted']:.2f}")
        for row in rows
    ]  # fmt: skip
    return Table("", ("", "against", "times as fast", "over the rounds", "at least"), cells)


def affine() -> Policy:
    """The four operations."""
    return Policy(
        (
            geometry.rotation(degrees=DEGREES),
            geometry.shift(width=SHIFT, height=SHIFT),
            geometry.zoom(low=1 - ZOOM, high=1 + ZOOM),
            geometry.flip(horizontal=0.5, vertical=0.0),
        )
    )


def contestants(recipe: Recipe, files: Frozen, stored: Frozen) -> dict[str, Iterator]:
    """Endless iterators over float batches [B, S, S, 3] in memory of the host.

    Args:
        recipe: its image_size, batch_size, fit and seed count.
        files, stored: the same photos, to be decoded each time and out of a store.
    """
    size, batch = (recipe.image_size, recipe.image_size), recipe.batch_size
    rand = Policy((geometry.flip(horizontal=0.5, vertical=0.0), rand_augment(layers=2, magnitude=9, bins=31)))
    found = {
        AFFINE: ours(recipe, files, affine()),
        STORED: ours(recipe, stored, affine()),
        RAND: ours(recipe, files, rand),
        "RandAugment, from a store": ours(recipe, stored, rand),
        GENERATOR: image_data_generator(files.examples.root, size=size, batch=batch),
        LAYERS: keras_layers(files.examples.root, size=size, batch=batch),
    }
    opencv = open_cv(files, size=size, batch=batch)
    return found | ({OPENCV: opencv} if opencv else {})


def ours(recipe: Recipe, frozen: Frozen, policy: Policy) -> Iterator[np.ndarray]:
    """The project's own pipeline and kernel, on the host."""
    examples, order = data_setup.training_part(recipe, frozen.parts()["train"])
    view = data_setup.view(recipe, frozen)
    arguments = {"order": order, "start": 0, "batch": recipe.batch_size, "seed": recipe.seed, "view": view}
    rendering = Rendering(size=view.image_size, program=policy.program, colour=UNIT)
    batches = pipeline.train_batches(examples, policy=policy, rendering=rendering, **arguments)
    return (batch["image"] for batch in batches.as_numpy_iterator())


def image_data_generator(root: Path, *, size: tuple[int, int], batch: int) -> Iterator[np.ndarray]:
    """Keras' class, as its documentation uses it."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=DEGREES,
        width_shift_range=SHIFT,
        height_shift_range=SHIFT,
        zoom_range=ZOOM,
        horizontal_flip=True,
        rescale=1 / 255,
    )
    flow = generator.flow_from_directory(root, target_size=size, batch_size=batch, interpolation="bilinear")
    return (images for images, _ in flow)


def keras_layers(root: Path, *, size: tuple[int, int], batch: int) -> Iterator[np.ndarray]:
    """`image_dataset_from_directory` and preprocessing layers in parallel maps, as Keras' guide has it."""
    layers = keras.Sequential(
        [
            keras.layers.RandomRotation(DEGREES / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(SHIFT, SHIFT, fill_mode="nearest"),
            keras.layers.RandomZoom((-ZOOM, ZOOM), (-ZOOM, ZOOM), fill_mode="nearest"),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Rescaling(1 / 255),
        ]
    )
    dataset = keras.utils.image_dataset_from_directory(root, image_size=size, batch_size=batch, verbose=False).repeat()
    mapped = dataset.map(lambda images, labels: layers(images, training=True), num_parallel_calls=tf.data.AUTOTUNE)
    return iter(mapped.prefetch(2).as_numpy_iterator())


def open_cv(frozen: Frozen, *, size: tuple[int, int], batch: int) -> Iterator[np.ndarray] | None:
    """`imread` and one `warpAffine` an image, on all cores as the others; None where OpenCV is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)
    threads = ThreadPoolExecutor(os.cpu_count())
    examples = frozen.examples
    order = Order.of(examples, factors=examples.repeats, seed=0)
    root = os.fsencode(examples.root)
    # Drawn beforehand, over and over again: what is measured is OpenCV.
    positions = tf.range(DRAWN_AHEAD * batch, dtype=tf.int64)
    matrices = affine().draw(positions, seed=0, size=size).geometry.numpy().reshape(DRAWN_AHEAD, batch, 3, 3)
    rows = order.rows(positions)[1].numpy().reshape(DRAWN_AHEAD, batch)

    def batches() -> Iterator[np.ndarray]:
        for drawn, shown in itertools.cycle(zip(matrices, rows, strict=True)):
            out = np.empty((batch, *size, 3), np.float32)

            def warp(index: int, row: int, drawn: np.ndarray = drawn, out: np.ndarray = out) -> None:
                image = cv2.imread(os.fsdecode(os.path.join(root, examples.names[row])), cv2.IMREAD_COLOR)
                height, width = image.shape[:2]
                fitted = np.array([[width / size[1], 0, 0.5 * width / size[1] - 0.5],
                                   [0, height / size[0], 0.5 * height / size[0] - 0.5], [0, 0, 1]])  # fmt: skip
                warped = cv2.warpAffine(
                    image,
                    (fitted @ drawn[index])[:2],
                    size[::-1],
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                np.multiply(warped, 1 / 255, out=out[index], dtype=np.float32)

            list(threads.map(warp, range(batch), shown))
            yield out

    return batches()


# Contestant, against which, by which measure, and how many times as fast it should be.
WANTED = (
    (AFFINE, GENERATOR, "wall", 7.0),
    (AFFINE, LAYERS, "wall", 3.5),
    (STORED, GENERATOR, "wall", 15.0),
    (AFFINE, OPENCV, "cpu", 0.75),
    (STORED, OPENCV, "cpu", 1.5),
    (RAND, AFFINE, "wall", 1 / 2.5),
)


def compare(measured: dict[str, list[Cost]]) -> list[dict]:
    """One row for each of WANTED whose contestants took part: median and range over the rounds of how many times as
    fast, on the clock (`wall`) or by processor time (`cpu`), and what it should be at least."""
    rows = []
    for name, against, measure, wanted in WANTED:
        if name in measured and against in measured:
            own, other = ([getattr(cost, measure) for cost in measured[each]] for each in (name, against))
            row = {"name": f"{name} / {against}", "contestant": name, "against": against, "measure": measure}
            rows.append(row | ratio(other, own) | {"wanted": wanted})
    return rows
