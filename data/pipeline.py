"""The only place that builds a `tf.data.Dataset`."""

import dataclasses
import math
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data import decode, skipping
from data.augment import crops, geometry
from data.augment.apply import Rendering
from data.augment.operation import Size
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.feature_store import Part
from data.order import Order
from data.read_crop import capacity_for, needs_files, read_crop
from data.skipping import Ranges

# Rows that are tried, one after the other, when an image breaks while a session trains.
ATTEMPTS = 8
# Batches whose rows and draws are computed in one go: for small arrays TensorFlow's cost is that of the call.
BLOCK = 8
# Images decoded, and on the host rendered, in one go: at most.
GROUP = 32
# Bytes of canvases that are being made at once, at most.
IN_THE_MAKING = 2**30
# Images of at most so many bytes are made in one go where nothing has to be decoded, for several batches.
SMALL = 2**24
# Of such groups at once, at most: they hold many batches.
GROUPS = 4
# Of stored features so many batches are gathered in one go.
FEATURE_BYTES, MOST_TOGETHER = 2**24, 64
UNCHANGED = Policy()
# Columns that rendering on the host replaces by `image`.
MADE_OF = ("canvas", "size", "geometry", "arrays")
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


@dataclasses.dataclass(frozen=True)
class Lane:
    """Which elements of a stream a process makes where several share it: `count` of every `every`, from `first` on.

    Attributes:
        start: number of its own that comes first.
    """

    first: int = 0
    count: int = 1
    every: int = 1
    start: int = 0

    def numbers(self, own: tf.Tensor) -> tf.Tensor:
        """Number in the whole stream of its 0th, 1st, 2nd, ... element; [M] int64."""
        own = own + self.start
        return own // self.count * self.every + self.first + own % self.count


WHOLE = Lane()


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
    rendering: Rendering | None = None,
    left_out: Ranges = (),
    lane: Lane = WHOLE,
    served: bool = False,
) -> tf.data.Dataset:
    """The endless training stream in batches.

    A file that cannot be read or decoded any more is replaced by the next row of the table that can.

    Args:
        order: which example stands at which position.
        start: index of the first example among those shown, a multiple of `batch`; without `left_out` its position.
        batch: examples an element. With R replicas each takes every R-th element.
        seed: of what the policy draws.
        length: positions of the whole training, see `Policy.draw`.
        rendering: renders the images on the host; None leaves that to the device.
        left_out: positions that the stream goes without, see `data.skipping`.
        lane: the elements wanted of those from `start` on.
        served: for other hosts: element by element, with no image of a store in the graph that they are sent.

    Returns:
        dataset of dict(canvas [batch, capacity * 3] uint8, size [batch, 2] int32, geometry [batch, 3, 3] float32,
        label [batch] int32 or [batch, K] float32, weight [batch] float32, position [batch] int64, example [batch]
        int64, row of the table, replaced [batch] bool); and as far as the policy has them: arrays, a tuple of one
        [batch, ...] float32 for each slot of its program, share [batch] float32, of its own label in a mixed example.
        Rendered, it has image [batch, H, W, 3] float32 in place of canvas, size, geometry and arrays.

    Raises:
        UserError: crops that take their pixels from files, where images come from memory or a store.
    """
    file_crop = policy.file_crop

    def draw(positions):
        return policy.draw(positions, seed=seed, size=view.image_size, length=length).columns()

    if file_crop is not None:
        if examples.root is None or examples.store is not None:
            raise needs_files("images in memory or in a store", where="train.source, train.store")
        room = capacity_for(view.image_size, aspect=file_crop.aspect)
        view = dataclasses.replace(view, capacity=max(view.capacity, room), uniform=False)
    return _batches(
        examples,
        lambda positions: order.rows(positions)[1],
        draw,
        first=start // batch,
        batch=batch,
        view=view,
        attempts=ATTEMPTS,
        crop_files=file_crop is not None,
        rendering=rendering,
        left_out=left_out,
        lane=lane,
        served=served,
    )


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
    lane: Lane = WHOLE,
) -> tf.data.Dataset:
    """Each example once in the order of the table, the tail padded with weight 0; so is an image that broke.

    Args:
        batch: examples an element; the number of elements is a multiple of `replicas`.
        start: first element, a multiple of `replicas`.
        policy: operations that draw nothing, such as a normalisation.
        views: [V, 3, 3] float64, see `data.augment.views`.
        lane: the elements wanted of those from `start` on; `replicas` is a multiple of its `every`.

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

    batches = _batches(examples, choose, draw, first=start, batch=batch, view=view, attempts=1, lane=lane)
    return batches.take((elements - start) // lane.every * lane.count).map(mask)


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
    crop_files: bool = False,
    rendering: Rendering | None = None,
    left_out: Ranges = (),
    lane: Lane = WHOLE,
    served: bool = False,
) -> tf.data.Dataset:
    """Positions -> rows and what is drawn for them -> canvases and matrices, without end.

    Args:
        choose: [M] int64 positions -> [M] int64 rows of the table.
        draw: [M] int64 positions -> geometry [M, 3, 3] or [M, V, 3, 3] float64, arrays, and perhaps crop and share.
        first: number of the batch to begin with.
        crop_files: whether the crops that are drawn are decoded out of the files.
    """
    together = 1 if served else BLOCK
    labels, weights = tf.constant(examples.labels), tf.constant(examples.weights)
    orientations = tf.constant(examples.orientations)
    full = view.capacity * 3
    # Bytes of an image in the making: a canvas, or the floats that are rendered of it.
    size = full if rendering is None else max(full, math.prod(view.image_size) * rendering.samples**2 * 3 * 4)
    group = batch * _most_together(together, batch * size)
    if examples.store is None and examples.pixels is not None:
        read = _in_memory(examples)
    elif examples.store is not None and examples.store.length == full:
        read = _stored_equal(examples, full, served=served)
    else:
        group = _divisor(batch)
        stored = examples.store is not None
        read = _stored(examples, view, served=served) if stored else _decoded(examples, view, attempts)

    def block(index):
        return skipping.shown(_indexes(index * together, together, first=first, batch=batch, lane=lane), left_out)

    def by_group(columns):
        shape = [together * batch // group, group]
        return tf.nest.map_structure(lambda column: tf.reshape(column, [*shape, *column.shape[1:]]), columns)

    count = (np.iinfo(np.int64).max // batch - first) // (together * lane.every) - lane.start
    blocks = tf.data.Dataset.range(count).map(block)
    groups = blocks.map(lambda positions: by_group((positions, choose(positions), draw(positions)))).unbatch()

    def element(position, rows, augmentation):
        row, shown, canvas, size, *from_file = read(rows, *([augmentation["crop"]] if crop_files else []))
        source = tf.maximum(shown, 0)
        upright_size, turned = geometry.upright(size, tf.gather(orientations, source))
        fitted = geometry.fit(upright_size, image_size=view.image_size, rule=view.fit, crop=view.crop)
        seen = turned @ fitted
        if "crop" in augmentation:
            crop = augmentation["crop"]
            from_canvas = turned @ crops.crop_matrix(crop, upright_size, view.image_size)
            seen = tf.where(crops.is_crop(crop)[:, None, None], from_file[0] if from_file else from_canvas, seen)
        drawn_geometry = augmentation["geometry"]
        found = {
            "canvas": tf.ensure_shape(canvas, [group, full]),
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
        found |= {name: augmentation[name] for name in ("arrays", "share") if name in augmentation}
        if rendering is None:
            return found
        image = rendering.images(found)
        return {name: column for name, column in found.items() if name not in MADE_OF} | {"image": image}

    # Another host has other cores.
    parallel = tf.data.AUTOTUNE if served else at_once(group * size)
    if group > batch:
        parallel = min(parallel, GROUPS)
    batches = groups.map(element, num_parallel_calls=parallel, deterministic=True)
    if group < batch:

        def joined(column):
            return tf.reshape(column, [batch, *column.shape[2:]])

        batches = batches.batch(batch // group, drop_remainder=True)
        batches = batches.map(lambda found: tf.nest.map_structure(joined, found))
    elif group > batch:

        def parted(column):
            return tf.reshape(column, [group // batch, batch, *column.shape[1:]])

        batches = batches.map(lambda found: tf.nest.map_structure(parted, found)).unbatch()
    options = ordered(tuned=served)
    # Elements are made in parallel; to cut each one up as well costs more than it brings.
    options.threading.max_intra_op_parallelism = 1
    return batches.prefetch(2).with_options(options)


def _most_together(batches: int, size: int) -> int:
    """Of so many batches of so many bytes, how many to make in one go: a divisor."""
    fitting = [count for count in range(1, batches + 1) if batches % count == 0 and count * size <= SMALL]
    return max(fitting, default=1)


def at_once(size: int) -> int:
    """How many elements of so many bytes to make beside each other: one a core, as far as IN_THE_MAKING allows."""
    return max(1, min(len(os.sched_getaffinity(0)), IN_THE_MAKING // size))


def ordered(*, tuned: bool = False) -> tf.data.Options:
    """Options of a dataset whose elements come in order.

    Args:
        tuned: whether TensorFlow looks for the best parallelism. It looks ever more rarely, and an iterator that ends
            can have to wait until it looks again, which may take as long as the iterator has lived, or a minute.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = tuned
    options.autotune.ram_budget = IN_THE_MAKING
    return options


def _indexes(own: tf.Tensor, count: int, *, first: int, batch: int, lane: Lane) -> tf.Tensor:
    """[count * batch] int64: what of the stream stands in so many elements of a lane, from its `own`-th on."""
    numbers = first + lane.numbers(own + tf.range(count, dtype=tf.int64))
    return tf.reshape(numbers[:, None] * batch + tf.range(batch, dtype=tf.int64), [count * batch])


def _divisor(batch: int) -> int:
    """The largest divisor up to GROUP; of an even number the largest even one, which keeps pairs together."""
    return max(size for size in range(1, GROUP + 1) if batch % size == 0 and (size % 2 == 0 or batch % 2))


# Of [G] rows of the table, or of one: the rows, the ones whose images they show (-1: none), canvases and sizes; given
# crops out of files too, also [G, 3, 3] float64, pixel of the output -> pixel of the canvas, where the row has one.
Read = Callable[..., tuple[tf.Tensor, ...]]


def _in_memory(examples: Examples) -> Read:
    pixels = tf.constant(examples.pixels.reshape(len(examples), -1))
    size = tf.constant(np.int32(examples.pixels.shape[1:3]))
    return lambda rows: (rows, rows, tf.gather(pixels, rows), tf.tile(size[None], [tf.size(rows), 1]))


def _stored_equal(examples: Examples, length: int, *, served: bool) -> Read:
    canvases, places = examples.store.equal_canvases(length, served=served), tf.constant(examples.store_rows)
    return lambda rows: (rows, rows, *canvases(tf.gather(places, rows)))


def _stored(examples: Examples, view: View, *, served: bool) -> Read:
    canvas, places = examples.store.canvases(served=served), tf.constant(examples.store_rows)

    def read(rows):
        return _each(lambda row: (row, row, *canvas(tf.gather(places, row))), rows, view=view).get_single_element()

    return read


def _decoded(examples: Examples, view: View, attempts: int) -> Read:
    """All files of a group in one go; where one does not decode, each by itself with those that may stand in for it."""
    known = np.full(len(examples), decode.ANY) if examples.kinds is None else examples.kinds
    names, kinds = tf.constant(examples.names), tf.constant(known, tf.int32)
    orientations = tf.constant(examples.orientations)
    root = os.path.join(os.fsencode(examples.root), b"")
    present = tuple(np.unique(known).tolist())

    def decoded(row, *crop):
        path, canvases = root + tf.gather(names, row), {"decoding": view.decoding, "capacity": view.capacity}

        def whole():
            return decode.read_canvas(path, tf.gather(kinds, row), kinds=present, exactly=view.uniform, **canvases)

        if not crop:
            return row, *whole()
        orientation = tf.gather(orientations, row)
        return row, *read_crop(path, *crop, orientation, whole=whole, image_size=view.image_size, **canvases)

    def first_that_decodes(row, *crop):
        rows = (row + tf.range(min(attempts, len(examples)), dtype=tf.int64)) % len(examples)
        good = tf.data.Dataset.from_tensor_slices(rows).map(lambda row: decoded(row, *crop)).ignore_errors()
        none = tf.constant(-1, tf.int64), tf.zeros([view.capacity * 3], tf.uint8), tf.ones([2], tf.int32)
        placed = [tf.eye(3, dtype=tf.float64)] * len(crop)
        blank = tf.data.Dataset.from_tensors((*none, *placed))
        return row, *good.concatenate(blank).take(1).get_single_element()

    def read(rows, *crops):
        # Nothing to catch for each image: that costs a third of its decoding.
        good = _each(lambda row, *crop: (row, *decoded(row, *crop)), rows, *crops, view=view).ignore_errors()
        one_by_one = _each(first_that_decodes, rows, *crops, view=view)
        return good.concatenate(one_by_one).take(1).get_single_element()

    return read


def _each(read: Read, rows: tf.Tensor, *crops: tf.Tensor, view: View) -> tf.data.Dataset:
    """What `read` gives for each of [G] rows, as one element."""
    found = tf.data.Dataset.from_tensor_slices((rows, *crops)).map(read)
    if view.uniform:
        return found.batch(rows.shape[0], drop_remainder=True)
    shapes = ([], [], [view.capacity * 3], [2], [3, 3])[: len(found.element_spec)]
    return found.padded_batch(rows.shape[0], padded_shapes=shapes, drop_remainder=True)


@PLAIN
def feature_batches(
    examples: Examples,
    features: Part,
    *,
    order: Order,
    start: int,
    batch: int,
    left_out: Ranges = (),
    lane: Lane = WHOLE,
) -> tf.data.Dataset:
    """The endless training stream over stored features: epoch e shows view e mod V of each example.

    Args:
        features: V * N rows, view after view, each in the order of the table.
        start, left_out, lane: as in `train_batches`.
        batch: examples an element. With R replicas each takes every R-th element.

    Returns:
        dataset of dict(image [batch, ...] float32, the features; label, weight, position and example as `train_batches`
        gives them). Where the image of an example was broken the next stands in, with its label and weight.
    """
    views, stand_ins = features.rows // len(examples), features.stand_ins(len(examples))

    def choose(positions):
        epochs, rows = order.rows(positions)
        places = epochs % views * len(examples) + rows
        shown = places if stand_ins is None else tf.gather(stand_ins, places)
        return rows, shown, _known(examples, shown % len(examples))

    return _features(features, choose, first=start // batch, batch=batch, left_out=left_out, lane=lane)


@PLAIN
def feature_evaluation_batches(
    examples: Examples, features: Part, *, batch: int, replicas: int = 1, lane: Lane = WHOLE
) -> tf.data.Dataset:
    """Each example once, from stored features, as `evaluation_batches` gives images.

    Args:
        features: N rows in the order of the table.
        batch: examples an element; the number of elements is a multiple of `replicas`.
        lane: as in `evaluation_batches`.

    Returns:
        dataset of the same dicts as `feature_batches` gives, and replaced [batch] bool.
    """
    broken = np.zeros(len(examples), bool)
    broken[list(features.broken)] = True

    def choose(positions):
        rows = tf.minimum(positions, len(examples) - 1)
        inside, lost = positions < len(examples), tf.gather(broken, rows)
        known = _known(examples, rows)
        known["weight"] = tf.where(inside & ~lost, known["weight"], 0.0)
        return rows, rows, known | {"replaced": inside & lost}

    elements = evaluation_elements(len(examples), batch=batch, replicas=replicas)
    return _features(features, choose, first=0, batch=batch, lane=lane).take(elements // lane.every * lane.count)


def _known(examples: Examples, rows: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"label": tf.gather(examples.labels, rows), "weight": tf.gather(examples.weights, rows)}


def _features(
    features: Part,
    choose: Callable[[tf.Tensor], tuple],
    *,
    first: int,
    batch: int,
    left_out: Ranges = (),
    lane: Lane = WHOLE,
) -> tf.data.Dataset:
    """Positions -> rows of the table and of the features, gathered for many batches at once, without end."""
    read = features.reader()
    size = batch * math.prod(features.shape) * 4
    together = min(max(1, FEATURE_BYTES // size), MOST_TOGETHER)

    def block(index):
        positions = skipping.shown(_indexes(index * together, together, first=first, batch=batch, lane=lane), left_out)
        rows, places, known = choose(positions)
        element = {"image": read(places), "position": positions, "example": rows, **known}
        return {name: tf.reshape(column, [together, batch, *column.shape[1:]]) for name, column in element.items()}

    blocks = tf.data.Dataset.range((np.iinfo(np.int64).max // batch - first) // (together * lane.every)).map(block)
    return blocks.prefetch(2).unbatch().prefetch(2 * together).with_options(ordered())
