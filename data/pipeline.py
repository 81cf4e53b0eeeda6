"""The only place that builds a `tf.data.Dataset`."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data import decode
from data.augment import geometry
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order

# Rows that are tried, one after the other, when an image breaks while a session trains.
ATTEMPTS = 8
# Batches whose rows and draws are computed in one go: for small arrays TensorFlow's cost is that of the call.
BLOCK = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How canvases become the network's square.

    Attributes:
        image_size: side of the square.
        fit: `stretch`, `cover`, `contain` or `native`, see `data.augment.geometry.fit`.
        crop: share of the fitted square that is seen.
        colour: [3, 4] float32, the backbone's normalisation.
        decoding: how files become canvases.
        capacity: pixels of a canvas.
        uniform: whether every canvas is full, which spares the padding.
    """

    image_size: int
    fit: str
    crop: float
    colour: np.ndarray
    decoding: Decoding
    capacity: int
    uniform: bool = False


def train_batches(
    examples: Examples, *, order: Order, start: int, batch: int, seed: int, policy: Policy, view: View
) -> tf.data.Dataset:
    """The endless training stream in batches.

    A file that cannot be read or decoded any more is replaced by the next row of the table that can.

    Args:
        order: which example stands at which position.
        start: position of the first example, a multiple of `batch`.
        batch: examples an element. With R replicas each takes every R-th element.
        seed: of what the policy draws.

    Returns:
        dataset of dict(canvas [batch, capacity * 3] uint8, size [batch, 2] int32, geometry [batch, 3, 3] float32,
        colour [batch, 3, 4] float32, label [batch] int32 or [batch, K] float32, weight [batch] float32,
        position [batch] int64, example [batch] int64, row of the table, replaced [batch] bool).
    """

    def choose(positions):
        return order.rows(positions)[1]

    def draw(positions):
        return policy.matrices(positions, seed=seed, image_size=view.image_size)

    return _batches(examples, choose, draw, first=start // batch, batch=batch, view=view, attempts=ATTEMPTS)


def evaluation_batches(
    examples: Examples, *, batch: int, replicas: int = 1, view: View, start: int = 0
) -> tf.data.Dataset:
    """Each example once in the order of the table, the tail padded with weight 0; so is an image that broke.

    Args:
        batch: examples an element; the number of elements is a multiple of `replicas`.
        start: first element, a multiple of `replicas`.

    Returns:
        dataset of the same dicts as `train_batches` gives, without augmentation.
    """
    elements = evaluation_elements(len(examples), batch=batch, replicas=replicas)

    def choose(positions):
        return tf.minimum(positions, len(examples) - 1)

    def draw(positions):
        return tf.eye(3, batch_shape=tf.shape(positions), dtype=tf.float64)

    def mask(element):
        inside = element["position"] < len(examples)
        weight = tf.where(inside, element["weight"], 0.0)
        return element | {"weight": weight, "replaced": element["replaced"] & inside}

    batches = _batches(examples, choose, draw, first=start, batch=batch, view=view, attempts=1)
    return batches.take(elements - start).map(mask)


def evaluation_elements(examples: int, *, batch: int, replicas: int) -> int:
    """Number of elements of `evaluation_batches`."""
    return -(-examples // (batch * replicas)) * replicas


def _batches(
    examples: Examples,
    choose: Callable[[tf.Tensor], tf.Tensor],
    draw: Callable[[tf.Tensor], tf.Tensor],
    *,
    first: int,
    batch: int,
    view: View,
    attempts: int,
) -> tf.data.Dataset:
    """Positions -> rows -> canvases, beside positions -> what is drawn for them; joined batch by batch, without end.

    Args:
        choose: [M] int64 positions -> [M] int64 rows of the table.
        draw: [M] int64 positions -> [M, 3, 3] float64.
        first: number of the batch to begin with.
    """
    labels, weights = tf.constant(examples.labels), tf.constant(examples.weights)
    orientations = tf.constant(examples.orientations)
    colour = tf.constant(np.broadcast_to(view.colour, (batch, 3, 4)))

    def block(index):
        return (first + index * BLOCK) * batch + tf.range(BLOCK * batch, dtype=tf.int64)

    def by_batch(columns):
        return tf.nest.map_structure(lambda column: tf.reshape(column, [BLOCK, batch, *column.shape[1:]]), columns)

    blocks = tf.data.Dataset.range(np.iinfo(np.int64).max // (BLOCK * batch) - first).map(block)
    drawn = blocks.map(lambda positions: by_batch((positions, draw(positions)))).unbatch()
    rows = blocks.map(choose)
    full = view.capacity * 3
    if examples.store is None and examples.pixels is not None:
        together = _in_memory(examples)
    else:
        together = _stored_equal(examples, full) if examples.store and examples.store.length == full else None
    if together is not None:
        found = rows.map(by_batch).unbatch().map(together, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    else:
        read = _stored(examples) if examples.store is not None else _decoded(examples, view, attempts)
        each = rows.unbatch().map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if view.uniform:
            found = each.batch(batch, drop_remainder=True)
        else:
            shapes = ([], [], [full], [2])
            found = each.padded_batch(batch, padded_shapes=shapes, drop_remainder=True)

    def join(drawing, image):
        position, augmentation = drawing
        row, shown, canvas, size = image
        source = tf.maximum(shown, 0)
        upright_size, turned = geometry.upright(size, tf.gather(orientations, source))
        fitted = turned @ geometry.fit(upright_size, image_size=view.image_size, rule=view.fit, crop=view.crop)
        return {
            "canvas": tf.ensure_shape(canvas, [batch, full]),
            "size": size,
            "geometry": tf.cast(fitted @ augmentation, tf.float32),
            "colour": colour,
            "label": tf.gather(labels, source),
            "weight": tf.where(shown < 0, 0.0, tf.gather(weights, source)),
            "position": position,
            "example": row,
            "replaced": shown != row,
        }

    batches = tf.data.Dataset.zip(drawn, found).map(join).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = 2**30
    return batches.with_options(options)


# Row of the table, or [batch] of them -> that row, the one whose image it shows (-1: none), canvas and size.
Read = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]]


def _in_memory(examples: Examples) -> Read:
    pixels = tf.constant(examples.pixels.reshape(len(examples), -1))
    size = tf.constant(np.int32(examples.pixels.shape[1:3]))
    return lambda rows: (rows, rows, tf.gather(pixels, rows), tf.tile(size[None], [tf.size(rows), 1]))


def _stored_equal(examples: Examples, length: int) -> Read:
    canvases, places = examples.store.equal_canvases(length), tf.constant(examples.store_rows)
    return lambda rows: (rows, rows, *canvases(tf.gather(places, rows)))


def _stored(examples: Examples) -> Read:
    canvas, rows = examples.store.canvases(), tf.constant(examples.store_rows)
    return lambda row: (row, row, *canvas(tf.gather(rows, row)))


def _decoded(examples: Examples, view: View, attempts: int) -> Read:
    known = np.full(len(examples), decode.ANY) if examples.kinds is None else examples.kinds
    names, kinds = tf.constant(examples.names), tf.constant(known, tf.int32)
    root = os.path.join(os.fsencode(examples.root), b"")
    present = tuple(np.unique(known).tolist())

    def read(row):
        canvas, size = decode.read_canvas(
            root + tf.gather(names, row),
            tf.gather(kinds, row),
            kinds=present,
            decoding=view.decoding,
            capacity=view.capacity,
            exactly=view.uniform,
        )
        return row, canvas, size

    def first_that_decodes(row):
        rows = (row + tf.range(min(attempts, len(examples)), dtype=tf.int64)) % len(examples)
        good = tf.data.Dataset.from_tensor_slices(rows).map(read).ignore_errors()
        blank = tf.data.Dataset.from_tensors(
            (tf.constant(-1, tf.int64), tf.zeros([view.capacity * 3], tf.uint8), tf.ones([2], tf.int32))
        )
        return row, *good.concatenate(blank).take(1).get_single_element()

    return first_that_decodes
