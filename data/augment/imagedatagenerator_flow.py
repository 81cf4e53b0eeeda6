"""The batches of `ImageDataGenerator`: an endless stream of epochs, each of which ends with a short batch."""

import dataclasses
import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from data import decode, pipeline
from data.augment import geometry
from data.augment.apply import Rendering, render
from data.augment.imagedatagenerator_files import check_whole, wrong
from data.augment.imagedatagenerator_slots import Standardise
from data.augment.operation import Size
from data.augment.policy import Policy
from data.decode import Decoding
from data.errors import UserError
from data.inspection import Looker, in_order
from data.order import Order

# Flows render where they decode; single images likewise, so that they get the same bits.
HOST = "CPU:0"
MODES = {"rgb": ("RGB", 3), "grayscale": ("L", 1), "rgba": ("RGBA", 4)}
RESAMPLINGS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
# By their names; whatever else Pillow reads goes through Pillow.
DECODED = (".jpg", ".jpeg", ".png", ".bmp")
# Pillow's convert("L"): luma in units of 2**-16, and one half.
GREY, HALF = (19595, 38470, 7471), 2**15


class Pictures(Protocol):
    """Where a flow finds its images one by one.

    Attributes:
        shape: height, width and channels of what it yields.
        fitted: whether canvases have this shape already.
        capacity: pixels of a canvas.
        dtype: of a canvas, uint8 or float32.
    """

    shape: tuple[int, int, int]
    fitted: bool
    capacity: int
    dtype: tf.DType

    def read(self, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[] int64 -> canvas [h * w * C], size [2] int32."""

    def reason(self, row: int) -> str:
        """Why it cannot be read; empty where it can."""


class InMemory:
    """Images [N, H, W, C] of any numbers."""

    fitted = True

    def __init__(self, images: np.ndarray):
        self.shape, self.capacity = images.shape[1:], images.shape[1] * images.shape[2]
        self.dtype = tf.uint8 if images.dtype == np.uint8 else tf.float32
        with tf.device(HOST):
            self._images = tf.constant(images.reshape(len(images), -1), self.dtype)

    def together(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[B] int64 -> [B, H * W * C] and [B, 2]."""
        return tf.gather(self._images, rows), tf.tile(tf.constant([self.shape[:2]], tf.int32), [tf.size(rows), 1])


class Decoded:
    """Files at a size of their own, which the one warp takes to the size wanted."""

    fitted, dtype = False, tf.uint8

    def __init__(self, paths: Sequence[str], *, size: Size, grey: bool):
        self.shape = (*size, 1 if grey else 3)
        # Keras resizes to `size` before anything else: nothing finer is ever seen.
        self._decoding = Decoding(max(size))
        self._paths = tf.constant([os.fsencode(path) for path in paths])
        stated = tf.constant(list(in_order(_stated_size, paths)), tf.int32)
        factors = decode.shrink_factor(stated[:, 0], stated[:, 1], short_side=max(size))
        self.capacity = int(tf.reduce_max(tf.reduce_prod(-(-stated // factors[:, None]), axis=1)))

    def read(self, row):
        pixels, _ = decode.decode(tf.io.read_file(tf.gather(self._paths, row)), decoding=self._decoding)
        size = tf.shape(pixels)[:2]
        if self.shape[2] == 1:
            luma = tf.reduce_sum(tf.cast(pixels, tf.int32) * GREY, axis=-1) + HALF
            pixels = tf.cast(tf.bitwise.right_shift(luma, 16), tf.uint8)
        return tf.reshape(pixels, [-1]), size

    def reason(self, row):
        return Looker(self._decoding).file(self._paths[row].numpy()).reason


class Loaded:
    """Files through Pillow, resized as `keras.utils.load_img` does."""

    fitted = True

    def __init__(self, paths: Sequence[str], *, size: Size, mode: str, interpolation: str, keep_aspect_ratio: bool):
        self.shape, self.capacity = (*size, MODES[mode][1]), size[0] * size[1]
        # Grey images of more than 8 bits keep their levels.
        self.dtype = tf.float32 if mode == "grayscale" else tf.uint8
        self._paths = paths
        self._options = (size, mode, interpolation, keep_aspect_ratio)

    def read(self, row):
        def load(row: np.ndarray) -> np.ndarray:
            return _loaded(self._paths[row], *self._options).astype(self.dtype.as_numpy_dtype).reshape(-1)

        return tf.numpy_function(load, [row], self.dtype), tf.constant(self.shape[:2], tf.int32)

    def reason(self, row):
        try:
            _loaded(self._paths[row], *self._options)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return str(error)
        return ""


def _stated_size(path: str) -> Size:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(
            f"no image: {path}: {error}",
            where="the files of an ImageDataGenerator flow",
            expected="JPEG, PNG, BMP or TIFF images",
            do="remove or replace the file",
        ) from error


def _loaded(path: str, size: Size, mode: str, interpolation: str, keep_aspect_ratio: bool) -> np.ndarray:
    """[H, W] or [H, W, C] as `keras.utils.load_img` gives it."""
    height, width = size
    with Image.open(path) as image:
        wide = mode == "grayscale" and image.mode in ("I;16", "I")
        image = image if wide else image.convert(MODES[mode][0])
        if image.size != (width, height):
            seen_height = min(image.height, image.width * height // width)
            seen_width = min(image.width, image.height * width // height)
            top, left = (image.height - seen_height) // 2, (image.width - seen_width) // 2
            box = (left, top, left + seen_width, top + seen_height) if keep_aspect_ratio else None
            image = image.resize((width, height), Image.Resampling[interpolation.upper()], box=box)
        return np.asarray(image)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What becomes of canvases: warped, augmented, given to the user's function, standardised.

    Attributes:
        policy: what is drawn.
        rendering: of the policy.
        function: [H, W, C] float32 -> the same shape, or None.
        after: what follows the function.
        dtype: of the batches.
    """

    policy: Policy
    rendering: Rendering
    function: Callable[[np.ndarray], np.ndarray] | None
    after: Standardise
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What stands beside the images of a batch.

    Attributes:
        mode: `none`, `input` (the images again), `one_hot`, `values`.
        classes: of one_hot.
        values: arrays [N, ...]; several stand in a list.
        others: further inputs beside the images.
        weights: [N], or None.
        dtype: of labels that are classes; None keeps that of the values.
        listed: whether even one array of values stands in a list.
    """

    mode: str = "none"
    classes: int = 0
    values: tuple[np.ndarray, ...] = ()
    others: tuple[np.ndarray, ...] = ()
    weights: np.ndarray | None = None
    dtype: np.dtype | None = None
    listed: bool = False

    def beside(
        self, images: Any, masks: Any, *, take: Callable[[np.ndarray], Any], cast: Callable[..., Any], group: Callable
    ) -> Any:
        """images, (images, labels) or (images, labels, weights), in arrays or tensors.

        Args:
            masks: what shares the geometry of the images, or None.
            take: array [N, ...] -> its rows of this batch.
            cast: (rows, dtype) -> rows.
            group: what several inputs or outputs stand in, list or tuple.
        """
        first = group((images, *map(take, self.others))) if self.others else images
        labels: list = []
        if self.mode == "input":
            labels = [images]
        elif self.mode == "one_hot":
            rows = take(self.values[0])
            hot = (
                rows
                if self.values[0].ndim == 2
                else rows[:, None] == np.arange(self.classes, dtype=self.values[0].dtype)
            )
            labels = [cast(hot, self.dtype)]
        elif self.mode == "values":
            labels = [take(array) if self.dtype is None else cast(take(array), self.dtype) for array in self.values]
        if masks is not None:
            labels.append(masks)
        if not labels:
            return first
        second = labels[0] if len(labels) == 1 and not self.listed else group(labels)
        return (first, second) if self.weights is None else (first, second, take(self.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """Where the images of a flow are kept to be looked at.

    Attributes:
        directory: folder.
        prefix, format: of the files PREFIX_ROW_POSITION.FORMAT.
    """

    directory: str
    prefix: str
    format: str

    def __post_init__(self):
        if not isinstance(self.directory, str | os.PathLike) or not os.path.isdir(self.directory):
            raise wrong("save_to_dir", self.directory, "a folder that is there", method="flow")
        if not isinstance(self.prefix, str) or {"/", os.sep, "\0"} & set(self.prefix):
            raise wrong("save_prefix", self.prefix, "the beginning of a file's name, not of a path", method="flow")
        # `registered_extensions` also loads what Pillow can write.
        if Image.registered_extensions().get(f".{self.format.lower()}") not in Image.SAVE:
            raise wrong("save_format", self.format, "png, jpg or another that Pillow writes", method="flow")

    def save(self, images: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """[b, H, W, C] of any numbers, each image stretched to 0..255; returns them as they came."""
        for image, row, position in zip(images, rows, positions, strict=True):
            lifted = np.float32(image) - np.min(image)
            levels = np.uint8(lifted / (lifted.max() or 1) * 255)
            picture = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
            if picture.mode == "RGBA" and self.format.lower() in ("jpg", "jpeg"):
                picture = picture.convert("RGB")
            picture.save(os.path.join(self.directory, f"{self.prefix}_{row}_{position}.{self.format}"))
        return images


class Flow(keras.utils.PyDataset):
    """Batches without end: `for x, y in flow`, `next(flow)`, `flow[3]`, `model.fit(flow)`; and faster, `flow.dataset`.

    An epoch is `len(flow)` batches and shows every example once; its last batch may be short. The batches of a seed
    are the same in every run, whatever the batch size: an example's numbers depend on its place in the stream alone.

    Attributes:
        n, samples: examples.
        batch_size, shuffle, seed: as given. Without a seed one is taken from NumPy's global generator.
        image_shape: height, width, channels.
        class_indices: class -> index; empty where labels are no classes.
        classes, labels, filenames, filepaths, sample_weight: as Keras' iterators have them, None where they have none.
    """

    def __init__(
        self,
        pictures: Pictures | InMemory,
        look: Look,
        *,
        count: int,
        batch_size: int,
        shuffle: bool,
        seed: int | None,
        targets: Targets,
        masks: np.ndarray | None = None,
        saving: Saving | None = None,
        class_indices: dict[str, int] | None = None,
        classes: Any = None,
        labels: Any = None,
        filenames: list[str] | None = None,
        filepaths: list[str] | None = None,
        facts: dict[str, Any] | None = None,
    ):
        """
        Args:
            count: examples.
            masks: [N, H, W, C] that share the geometry.
            facts: further attributes.

        Raises:
            UserError: a batch size or seed that is none.
        """
        check_whole("batch_size", batch_size, low=1, method="flow")
        if seed is not None:
            check_whole("seed", seed, low=0, method="flow")
        super().__init__()
        self.n = self.samples = count
        self.batch_size, self.shuffle, self.seed = int(batch_size), bool(shuffle), seed
        self.image_shape = tuple(pictures.shape)
        self.class_indices = class_indices or {}
        self.num_classes = len(self.class_indices)
        self.classes, self.labels, self.filenames, self.filepaths = classes, labels, filenames, filepaths
        self.sample_weight = targets.weights
        for name, value in (facts or {}).items():
            setattr(self, name, value)
        self._pictures, self._look, self._targets, self._saving = pictures, look, targets, saving
        self._masks = None if masks is None else InMemory(masks)
        self._mask_dtype = None if masks is None else masks.dtype
        self._drawn_seed = int(np.random.randint(2**31)) if seed is None else int(seed)
        self._order = Order(epoch_length=count, seed=self._drawn_seed)
        self._step = 0
        self._source: tuple[int, Any] = (-1, None)
        self._failure: Exception | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self.n // self.batch_size)

    def __iter__(self) -> "Flow":
        return self

    def __next__(self) -> Any:
        with self._lock:
            batch = self._batch(self._step)
            self._step += 1
        return batch

    def __getitem__(self, index: int) -> Any:
        """Batch `index` of the epoch in which `next` stands.

        Raises:
            IndexError: an epoch has not so many.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"Received: batch {index}  Expected: one of {len(self)}")
        with self._lock:
            return self._batch(self._step // len(self) * len(self) + index % len(self), ahead=False)

    def on_epoch_end(self) -> None:
        """On to the first batch of the next epoch; `model.fit` calls it."""
        with self._lock:
            self._step = (self._step // len(self) + 1) * len(self)

    def reset(self) -> None:
        """Back to the first batch of the first epoch."""
        with self._lock:
            self._step = 0

    @property
    def dataset(self) -> tf.data.Dataset:
        """The same batches as tensors, from the first one on; without end: `model.fit(..., steps_per_epoch=len(flow))`.

        Raises:
            UserError: labels that are no tensors.
        """

        def beside(images, masks, rows):
            def take(array):
                return tf.gather(tensors[id(array)], rows)

            pair = masks if self._masks else None
            return self._targets.beside(images, pair, take=take, cast=tf.cast, group=tuple)

        columns = [*self._targets.values, *self._targets.others]
        columns += [] if self._targets.weights is None else [self._targets.weights]
        if any(array.dtype == object for array in columns):
            raise UserError(
                "labels that are Python objects",
                where="Flow.dataset",
                expected="numbers",
                do="turn the columns into numbers, or iterate over the flow itself",
            )
        # Outside of the map: what is made in it is part of its graph, which holds 2 GB at most.
        with tf.device(HOST):
            tensors = {id(array): tf.constant(array) for array in columns}
        return self._batches(0).map(beside)

    def _batch(self, step: int, *, ahead: bool = True) -> Any:
        """A batch.

        Args:
            ahead: whether the next one will be wanted next.
        """
        stands, batches = self._source
        try:
            if stands == step or ahead:
                batches = batches if stands == step else self._batches(step).as_numpy_iterator()
                self._source = (-1, None)
                images, masks, rows = next(batches)
                self._source = (step + 1, batches)
            else:
                found = self._alone(tf.constant(step, tf.int64))
                images, masks, rows = tf.nest.map_structure(lambda column: column.numpy(), found)
        except tf.errors.OpError as error:
            raise self._explained(error, step) from error
        return self._targets.beside(
            images,
            masks if self._masks else None,
            take=lambda array: array[rows],
            cast=lambda array, dtype: array.astype(dtype),
            group=list,
        )

    def _explained(self, error: tf.errors.OpError, step: int) -> Exception:
        """The user's own exception, or the file that does not decode."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        _, rows, _ = self._plan(tf.constant(step, tf.int64))
        for row in np.unique(rows.numpy()) if self.filepaths else ():
            if row >= 0 and (reason := self._pictures.reason(row)):
                return UserError(
                    f"{self.filepaths[row]}: {reason}",
                    where="the files of an ImageDataGenerator flow",
                    expected="images that decode",
                    do="remove or replace the file",
                )
        return error

    def _plan(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Positions [B], rows of the examples [B], -1 behind the end of an epoch, and how many there are."""
        batch = min(self.batch_size, self.n)
        epoch, inside = step // len(self), step % len(self) * batch + tf.range(batch, dtype=tf.int64)
        positions = epoch * self.n + tf.minimum(inside, self.n - 1)
        rows = self._order.rows(positions)[1] if self.shuffle else positions % self.n
        return positions, tf.where(inside < self.n, rows, -1), tf.reduce_sum(tf.cast(inside < self.n, tf.int64))

    @functools.cached_property
    def _alone(self) -> Callable[[tf.Tensor], tuple]:
        """One batch by its number, without reading ahead; traced once."""
        return tf.function(lambda step: self._batches(step).take(1).get_single_element(), autograph=False)

    def _batches(self, start: int | tf.Tensor) -> tf.data.Dataset:
        """From a batch on: images [b, H, W, C], masks likewise or nothing, rows [b] int64."""
        look, batch = self._look, min(self.batch_size, self.n)
        # A user's function and the names of saved files would come in any order.
        ahead = look.function is None and self._saving is None
        size = batch * math.prod(look.rendering.size) * 3 * 4
        parallel = {"num_parallel_calls": pipeline.at_once(size), "deterministic": True} if ahead else {}
        plans = tf.data.Dataset.range(start, np.iinfo(np.int64).max).map(self._plan)
        parts = [_canvases(part, plans, batch) for part in (self._pictures, self._masks) if part is not None]

        def finish(plan, *canvases):
            positions, rows, count = plan
            drawn = look.policy.draw(positions, seed=self._drawn_seed, size=look.rendering.size)
            canvas, size = canvases[0]
            matrix = drawn.geometry
            if not self._pictures.fitted:
                matrix = geometry.fit(size, image_size=look.rendering.size, rule="stretch", crop=1.0) @ matrix
            images = render(canvas, size, tf.cast(matrix, tf.float32), drawn.arrays, rendering=look.rendering)
            if look.function is not None:
                images = tf.ensure_shape(tf.numpy_function(self._called, [images], tf.float32), images.shape)
                images = standardiser(look.after)(images)
            images = tf.cast(images, look.dtype)[:count]
            if self._saving is not None:
                shown = tf.numpy_function(self._saving.save, [images, rows[:count], positions[:count]], look.dtype)
                images = tf.ensure_shape(shown, images.shape)
            masks = ()
            if self._masks is not None:
                rendering = dataclasses.replace(
                    look.rendering,
                    program=(),
                    channels=self._masks.shape[2],
                    fill_value=(0.0,) * self._masks.shape[2],
                    interpolation="nearest",
                )
                matrix = tf.cast(drawn.geometry, tf.float32)
                masks = tf.cast(render(*canvases[1], matrix, rendering=rendering), self._mask_dtype)[:count]
            return images, masks, rows[:count]

        batches = tf.data.Dataset.zip(plans, *parts).map(finish, **parallel)
        options = pipeline.ordered()
        # It would read ahead of its own accord.
        options.experimental_optimization.inject_prefetch = False
        return (batches.prefetch(2) if ahead else batches).with_options(options)

    def _called(self, images: np.ndarray) -> np.ndarray:
        try:
            return called(self._look.function, images)
        except Exception as error:
            self._failure = error
            raise


def called(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """A user's function on each image [H, W, C] float32.

    Raises:
        UserError: it changes the shape.
    """
    results = []
    for image in images:
        result = np.asarray(function(image.copy()), np.float32)
        if result.shape != image.shape:
            raise UserError(
                f"preprocessing_function made {image.shape} into {result.shape}",
                where="ImageDataGenerator(preprocessing_function=...)",
                expected="an array of the same shape",
                do="correct the function",
            )
        results.append(result)
    return np.stack(results)


def _canvases(pictures: Pictures | InMemory, plans: tf.data.Dataset, batch: int) -> tf.data.Dataset:
    """canvas [B, capacity * C], size [B, 2] int32; anything behind the end of an epoch."""
    rows = plans.map(lambda positions, rows, count: rows)
    if isinstance(pictures, InMemory):
        return rows.map(lambda rows: pictures.together(tf.maximum(rows, 0)))

    def read(row):
        def blank():
            return tf.zeros([0], pictures.dtype), tf.ones([2], tf.int32)

        return tf.cond(row < 0, blank, lambda: pictures.read(row))

    length = pictures.capacity * pictures.shape[2]
    parallel = pipeline.at_once(length * pictures.dtype.size)
    each = rows.unbatch().map(read, num_parallel_calls=parallel, deterministic=True)
    return each.padded_batch(batch, padded_shapes=([length], [2]), drop_remainder=True)


@functools.lru_cache(maxsize=64)
def standardiser(slot: Standardise) -> Callable[[tf.Tensor], tf.Tensor]:
    """[B, H, W, C] float32 -> the same shape; a kernel of its own."""

    @tf.function(jit_compile=True, autograph=False)
    def standardised(images):
        return slot.apply(images, tf.zeros([images.shape[0], 0]))

    return standardised
