"""The only place that builds a `tf.data.Dataset`."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data import decode
from data.augment import crops, geometry
from data.augment.apply import Rendering
from data.augment.operation import Size
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from data.read_crop import capacity_for, needs_files, read_crop

# Rows that are tried, one after the other, when an image breaks while a session trains.
ATTEMPTS = 8
# Batches whose rows and draws are computed in one go: for small arrays TensorFlow's cost is that of the call.
BLOCK = 8
UNCHANGED = Policy()
# There is no Python `if` or `for` over tensors here to rewrite, which would take most of the time of a start.
PLAIN = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How canvases become what the network sees.

    Attributes:
        image_size: height and width of that.
        fit: `stretch`, `cover`, `contain` or `native`, see `data.augment.geometry.fit`.
        crop: share of the fitted image that is seen.
        decoding: how files become canvases.
        capacity: pixels of a canvas.
        uniform: whether every canvas is full, which spares the padding.
    """

    image_size: Size
    fit: str
    crop: float
    decoding: Decoding
    capacity: int
    uniform: bool = False


@PLAIN
def train_batches(
    examples: Examples,
    *,
    order: Order,
    start: int,
    batch: int,
    seed: int,
    policy: Policy,
    view: View,
    length: int | None = None,
) -> tf.data.Dataset:
    """The endless training stream in batches.

    A file that cannot be read or decoded any more is replaced by the next row of the table that can.

    Args:
        order: which example stands at which position.
        start: position of the first example, a multiple of `batch`.
        batch: examples an element. With R replicas each takes every R-th element.
        seed: of what the policy draws.
        length: positions of the whole training, see `Policy.draw`.

    Returns:
        dataset of dict(canvas [batch, capacity * 3] uint8, size [batch, 2] int32, geometry [batch, 3, 3] float32,
        label [batch] int32 or [batch, K] float32, weight [batch] float32, position [batch] int64, example [batch]
        int64, row of the table, replaced [batch] bool); and as far as the policy has them: arrays, a tuple of one
        [batch, ...] float32 for each slot of its program, share [batch] float32, of its own label in a mixed example.

    Raises:
        UserError: crops that take their pixels from files, where images come from memory or a store.
    """
    file_crop = policy.file_crop

    def draw(positions):
        return policy.draw(positions, seed=seed, size=view.image_size, length=length).columns()

    def choose(positions):
        rows = order.rows(positions)[1]
        return rows if file_crop is None else (rows, draw(positions)["crop"])

    if file_crop is not None:
        if examples.root is None or examples.store is not None:
            raise needs_files("images in memory or in a store", where="train.source, train.store")
        room = capacity_for(view.image_size, aspect=file_crop.aspect)
        view = dataclasses.replace(view, capacity=max(view.capacity, room), uniform=False)
        # Called for the files and for the kernel, but traced once.
        draw = tf.function(draw, autograph=False)
    return _batches(examples, choose, draw, first=start // batch, batch=batch, view=view, attempts=ATTEMPTS)


@PLAIN
def evaluation_batches(
    examples: Examples,
    *,
    batch: int,
    replicas: int = 1,
    view: View,
    start: int = 0,
    policy: Policy = UNCHANGED,
    views: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Each example once in the order of the table, the tail padded with weight 0; so is an image that broke.

    Args:
        batch: examples an element; the number of elements is a multiple of `replicas`.
        start: first element, a multiple of `replicas`.
        policy: operations that draw nothing, such as a normalisation.
        views: [V, 3, 3] float64, see `data.augment.views`.

    Returns:
        dataset of the same dicts as `train_batches` gives, without augmentation; with `views` geometry is
        [batch, V, 3, 3].
    """
    elements = evaluation_elements(len(examples), batch=batch, replicas=replicas)

    def choose(positions):
        return tf.minimum(positions, len(examples) - 1)

    def draw(positions):
        drawn = policy.draw(positions, seed=0, size=view.image_size)
        geometry = drawn.geometry if views is None else tf.constant(views) @ drawn.geometry[:, None]
        return drawn._replace(geometry=geometry).columns()

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
    draw: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    *,
    first: int,
    batch: int,
    view: View,
    attempts: int,
) -> tf.data.Dataset:
    """Positions -> rows -> canvases, beside positions -> what is drawn for them; joined batch by batch, without end.

    Args:
        choose: [M] int64 positions -> [M] int64 rows of the table; where crops come from files, beside [M, 24] float64.
        draw: [M] int64 positions -> geometry [M, 3, 3] or [M, V, 3, 3] float64, arrays, and perhaps crop and share.
        first: number of the batch to begin with.
    """
    labels, weights = tf.constant(examples.labels), tf.constant(examples.weights)
    orientations = tf.constant(examples.orientations)

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
            shapes = ([], [], [full], [2], [3, 3])[: len(each.element_spec)]
            found = each.padded_batch(batch, padded_shapes=shapes, drop_remainder=True)

    def join(drawing, image):
        position, augmentation = drawing
        row, shown, canvas, size, *from_file = image
        source = tf.maximum(shown, 0)
        upright_size, turned = geometry.upright(size, tf.gather(orientations, source))
        fitted = geometry.fit(upright_size, image_size=view.image_size, rule=view.fit, crop=view.crop)
        seen = turned @ fitted
        if "crop" in augmentation:
            crop = augmentation["crop"]
            from_canvas = turned @ crops.crop_matrix(crop, upright_size, view.image_size)
            seen = tf.where(crops.is_crop(crop)[:, None, None], from_file[0] if from_file else from_canvas, seen)
        drawn_geometry = augmentation["geometry"]
        element = {
            "canvas": tf.ensure_shape(canvas, [batch, full]),
            "size": size,
            "geometry": tf.cast(
                (seen[:, None] if len(drawn_geometry.shape) > 3 else seen) @ drawn_geometry, tf.float32
            ),
            "label": tf.gather(labels, source),
            "weight": tf.where(shown < 0, 0.0, tf.gather(weights, source)),
            "position": position,
            "example": row,
            "replaced": shown != row,
        }
        return element | {name: augmentation[name] for name in ("arrays", "share") if name in augmentation}

    batches = tf.data.Dataset.zip(drawn, found).map(join).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = 2**30
    return batches.with_options(options)


@PLAIN
def rendered(batches: tf.data.Dataset, rendering: Rendering) -> tf.data.Dataset:
    """The same batches with `image` [batch, H, W, 3] float32, rendered on the host, in place of what it is made of."""

    def render(batch):
        made_of = ("canvas", "size", "geometry", "arrays")
        rest = {name: column for name, column in batch.items() if name not in made_of}
        return rest | {"image": rendering.images(batch)}

    return batches.map(render, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


# Row of the table, or [batch] of them -> that row, the one whose image it shows (-1: none), canvas and size; for a row
# and a crop from its file also [3, 3] float64, pixel of the output -> pixel of the canvas, where it is one.
Read = Callable[..., tuple[tf.Tensor, ...]]


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
    orientations = tf.constant(examples.orientations)
    root = os.path.join(os.fsencode(examples.root), b"")
    present = tuple(np.unique(known).tolist())

    def read(row, *crop):
        path, canvases = root + tf.gather(names, row), {"decoding": view.decoding, "capacity": view.capacity}

        def whole():
            return decode.read_canvas(path, tf.gather(kinds, row), kinds=present, exactly=view.uniform, **canvases)

        if not crop:
            return row, *whole()
        orientation = tf.gather(orientations, row)
        return row, *read_crop(path, *crop, orientation, whole=whole, image_size=view.image_size, **canvases)

    def first_that_decodes(row, *crop):
        rows = (row + tf.range(min(attempts, len(examples)), dtype=tf.int64)) % len(examples)
        good = tf.data.Dataset.from_tensor_slices(rows).map(lambda row: read(row, *crop)).ignore_errors()
        none = tf.constant(-1, tf.int64), tf.zeros([view.capacity * 3], tf.uint8), tf.ones([2], tf.int32)
        placed = [tf.eye(3, dtype=tf.float64)] * len(crop)
        blank = tf.data.Dataset.from_tensors((*none, *placed))
        return row, *good.concatenate(blank).take(1).get_single_element()

    return first_that_decodes
