"""The only place that builds a `tf.data.Dataset`."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from data import decode, order
from data.augment import geometry
from data.augment.policy import Policy
from data.examples import Examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How canvases become the network's square.

    Attributes:
        image_size: side of the square.
        fit: `stretch`, `cover` or `contain`, see `data.augment.geometry.fit`.
        crop: share of the fitted square that is seen.
        colour: [3, 4] float32, the backbone's normalisation.
        short_side: images are decoded with at least this short side, where they have it.
        capacity: pixels of a canvas.
    """

    image_size: int
    fit: str
    crop: float
    colour: np.ndarray
    short_side: int
    capacity: int


def train_batches(
    examples: Examples, *, start: int, batch: int, seed: int, policy: Policy, view: View
) -> tf.data.Dataset:
    """The endless training stream in batches.

    Args:
        start: position of the first example, a multiple of `batch`.
        batch: examples an element. With R replicas each takes every R-th element.

    Returns:
        dataset of dict(canvas [batch, capacity * 3] uint8, size [batch, 2] int32, geometry [batch, 3, 3] float32,
        colour [batch, 3, 4] float32, label [batch] int32, weight [batch] float32, position [batch] int64,
        example [batch] int64, row of the table).
    """

    def choose(element):
        positions = element * batch + tf.range(batch, dtype=tf.int64)
        _, rows = order.permute(positions, examples=len(examples), seed=seed)
        drawn = policy.matrices(positions, seed=seed, image_size=view.image_size)
        return {"position": positions, "example": rows, "geometry": drawn}

    elements = tf.data.Dataset.range(start // batch, np.iinfo(np.int64).max)
    return _batches(examples, elements.map(choose), batch=batch, view=view)


def evaluation_batches(
    examples: Examples, *, batch: int, replicas: int = 1, view: View, start: int = 0
) -> tf.data.Dataset:
    """Each example once in the order of the table, the tail padded with weight 0.

    Args:
        batch: examples an element; the number of elements is a multiple of `replicas`.
        start: first element, a multiple of `replicas`.

    Returns:
        dataset of the same dicts as `train_batches` gives, without augmentation.
    """
    elements = evaluation_elements(len(examples), batch=batch, replicas=replicas)

    def choose(element):
        positions = element * batch + tf.range(batch, dtype=tf.int64)
        rows = tf.minimum(positions, len(examples) - 1)
        drawn = tf.eye(3, batch_shape=[batch], dtype=tf.float64)
        return {"position": positions, "example": rows, "geometry": drawn}

    def mask(element):
        inside = element["position"] < len(examples)
        return element | {"weight": tf.where(inside, element["weight"], 0.0)}

    chosen = tf.data.Dataset.range(start, elements).map(choose)
    return _batches(examples, chosen, batch=batch, view=view).map(mask)


def evaluation_elements(examples: int, *, batch: int, replicas: int) -> int:
    """Number of elements of `evaluation_batches`."""
    return -(-examples // (batch * replicas)) * replicas


def _batches(examples: Examples, chosen: tf.data.Dataset, *, batch: int, view: View) -> tf.data.Dataset:
    labels, weights = tf.constant(examples.labels), tf.constant(examples.weights)
    orientations = tf.constant(examples.orientations)
    colour = tf.constant(np.broadcast_to(view.colour, (batch, 3, 4)))

    if examples.pixels is None:
        names = tf.constant(examples.names)
        root = os.path.join(os.fsencode(examples.root), b"")
        files = chosen.map(lambda element: root + tf.gather(names, element["example"])).unbatch()
        canvases = files.map(
            lambda path: decode.read_canvas(path, short_side=view.short_side, capacity=view.capacity),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).batch(batch, drop_remainder=True)
    else:
        pixels = tf.constant(examples.pixels.reshape(len(examples), -1))
        size = tf.constant(np.broadcast_to(np.int32(examples.pixels.shape[1:3]), (batch, 2)))
        canvases = chosen.map(lambda element: (tf.gather(pixels, element["example"]), size))

    def join(element, canvas):
        pixels, size = canvas
        shown, turned = geometry.upright(size, tf.gather(orientations, element["example"]))
        fitted = turned @ geometry.fit(shown, image_size=view.image_size, rule=view.fit, crop=view.crop)
        return {
            "canvas": pixels,
            "size": size,
            "geometry": tf.cast(fitted @ element["geometry"], tf.float32),
            "colour": colour,
            "label": tf.gather(labels, element["example"]),
            "weight": tf.gather(weights, element["example"]),
            "position": element["position"],
            "example": element["example"],
        }

    batches = tf.data.Dataset.zip(chosen, canvases).map(join).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = 2**30
    return batches.with_options(options)
