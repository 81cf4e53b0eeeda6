"""The one kernel: canvases, a warp and a policy's arrays in, the network's float pixels out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from data.augment import splines
from data.augment.slots import Matrix, Slot, multiply

# What lies outside an image, as scipy.ndimage names it: `reflect` repeats the edge pixel, `wrap` does not.
FILLS = ("nearest", "constant", "reflect", "wrap")
# Beside these `splines.SPLINES`, for canvases that are images of the size of the output.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
# Points this far outside an image, in pixels, count as on its edge: what float32 leaves of a coordinate.
EDGE = 2.0**-10

# For each of a few taps along one axis: the whole number of a pixel, which may lie outside, and its weight.
Taps = list[tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendering:
    """How batches become the network's pixels; everything static about it.

    Attributes:
        size: height and width of the output.
        program: what happens to the pixels of a warped image, see `data.augment.policy.Policy.program`.
        colour: [3, 4] as tuples of rows, (red, green, blue, 1) in 0..255 -> the network's channels; None: 0..255.
        channels: of the canvas.
        samples: each output pixel is the mean of samples x samples points, against aliasing when shrinking.
        fill: one of FILLS.
        fill_value: per channel, in 0..255; what `constant` fills with.
        interpolation: one of INTERPOLATIONS; bicubic as Keys 1981 with a = -1/2, like tf.image.resize, held in 0..255.
        margin: how far outside the centres of its outermost pixels, in pixels, an image still is not `constant`.
    """

    size: tuple[int, int]
    program: tuple[Slot, ...] = ()
    colour: tuple[tuple[float, ...], ...] | None = None
    channels: int = 3
    samples: int = 1
    fill: str = "nearest"
    fill_value: tuple[float, ...] = (0.0, 0.0, 0.0)
    interpolation: str = "bilinear"
    margin: float = EDGE

    @property
    def scale(self) -> np.ndarray | None:
        """The diagonal of `colour` where all else but the last column is 0, as of most networks."""
        linear = np.eye(self.channels) if self.colour is None else np.array(self.colour)[:, :-1]
        return np.diag(linear) if (linear == np.diag(np.diag(linear))).all() else None

    def images(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """[B, H, W, C] float32 of a batch as `data.pipeline` gives it."""
        if "image" in batch:
            return batch["image"]
        arrays = batch.get("arrays", ())
        return render(batch["canvas"], batch["size"], batch["geometry"], arrays, rendering=self)


def as_rows(colour: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """A [3, 4] matrix in a form that can be compared and hashed."""
    return tuple(tuple(map(float, row)) for row in colour)


def render(
    canvas: tf.Tensor, size: tf.Tensor, geometry: tf.Tensor, arrays: Sequence[tf.Tensor] = (), *, rendering: Rendering
) -> tf.Tensor:
    """Samples every output pixel once, then lets the program change it. Compiled with XLA, free of variables.

    Args:
        canvas: [B, capacity * C] uint8 or float32, see `data.decode.read_canvas`.
        size: [B, 2] int32, height and width of the image in each canvas.
        geometry: [B, 3, 3] float32, pixel of the output -> pixel of the canvas.
        arrays: one for each slot of the program, [B, *shape] float32.

    Returns:
        [B, H, W, C] float32.
    """
    return kernel(rendering)(canvas, size, geometry, tuple(arrays))


@functools.lru_cache(maxsize=64)
def kernel(rendering: Rendering) -> Callable[..., tf.Tensor]:
    """`render` of one program, traced once for each shape."""

    @tf.function(jit_compile=True, autograph=False)
    def rendered(canvas, size, geometry, arrays):
        images = warp(canvas, size, geometry, rendering)
        if not rendering.program and rendering.scale is not None:
            return scaled(images, rendering)
        return developed(settled(images, size), arrays, rendering)

    return rendered


def warp(canvas: tf.Tensor, size: tf.Tensor, geometry: tf.Tensor, rendering: Rendering) -> tf.Tensor:
    """[B, H, W, C] float32 in 0..255: the one resampling."""
    batch, samples, channels = canvas.shape[0], rendering.samples, rendering.channels
    rows, columns = (side * samples for side in rendering.size)
    pixels = tf.reshape(canvas, [batch, -1, channels])
    height, width = size[:, 0, None], size[:, 1, None]

    grid_x, grid_y = ((tf.range(side, dtype=tf.float32) + 0.5) / samples - 0.5 for side in (columns, rows))
    out_x, out_y = tf.tile(grid_x, [rows])[None], tf.repeat(grid_y, columns)[None]
    x, y, w = (
        geometry[:, row, 0, None] * out_x + geometry[:, row, 1, None] * out_y + geometry[:, row, 2, None]
        for row in range(3)
    )
    x, y = x / w, y / w
    beyond, edge = 0.0, rendering.fill
    if order := splines.SPLINES.get(rendering.interpolation):
        images = tf.reshape(tf.cast(canvas, tf.float32), [batch, *rendering.size, channels])
        pixels = tf.reshape(splines.coefficients(images, order=order, fill=edge), [batch, -1, channels])
        around = splines.padding(edge)
        x, y, width, height = x + around, y + around, width + 2 * around, height + 2 * around
        beyond, edge = (0.5, edge) if edge == "reflect" else (0.0, "nearest" if edge == "nearest" else "mirror")
    inside_x, x = placed(x, width, rendering.fill, margin=rendering.margin, beyond=beyond)
    inside_y, y = placed(y, height, rendering.fill, margin=rendering.margin, beyond=beyond)
    taps_x = [(held(tap, width, edge), share) for tap, share in taps(x, rendering.interpolation)]
    taps_y = [(held(tap, height, edge), share) for tap, share in taps(y, rendering.interpolation)]

    def tap(row, column, share):
        colours = tf.gather(pixels, row * width + column, batch_dims=1)
        return tf.cast(colours, tf.float32) * share[..., None]

    colours = sum(tap(row, column, low * across) for row, low in taps_y for column, across in taps_x)
    if rendering.interpolation == "bicubic":
        colours = tf.clip_by_value(colours, 0.0, 255.0)
    if rendering.fill == "constant":
        outside = tf.constant(rendering.fill_value[:channels], tf.float32)
        colours = tf.where((inside_x & inside_y)[..., None], colours, outside)
    if samples > 1:
        cells = tf.reshape(colours, [batch, rendering.size[0], samples, rendering.size[1], samples, channels])
        colours = tf.reduce_mean(cells, axis=[2, 4])
    return tf.reshape(colours, [batch, *rendering.size, channels])


def scaled(images: tf.Tensor, rendering: Rendering) -> tf.Tensor:
    """The network's colours where each channel is scaled and shifted alone, in the same pass as the warp."""
    if rendering.colour is None:
        return images
    return images * tf.constant(rendering.scale, tf.float32) + tf.constant(
        np.array(rendering.colour)[:, -1], tf.float32
    )


def settled(images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The same images, behind a loop that never runs, which XLA cannot know.

    Without it XLA fuses the warp into what follows and samples anew for each channel that a colour matrix reads: 1.4 ms
    of processor time an image of 224 px in place of 0.5.
    """
    never = tf.cast(size[0, 0] < 0, tf.int32)
    return tf.while_loop(lambda step, _: step < never, lambda step, images: (step + 1, images + 1), (0, images))[1]


def placed(
    at: tf.Tensor, length: tf.Tensor, fill: str, *, margin: float = EDGE, beyond: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which coordinates lie in the image, and where the filled ones are taken from, as scipy.ndimage maps them.

    Args:
        at: [B, P] float32, in pixels.
        length: [B, 1] int32, pixels along this axis.
        margin: see `Rendering`.
        beyond: how far outside the image they may be left.
    """
    last = tf.cast(length - 1, tf.float32)
    inside = (at >= -margin) & (at <= last + margin)
    if fill == "reflect":
        period = 2 * (last + 1)
        folded = at + 0.5 - tf.floor((at + 0.5) / period) * period
        at = tf.where(inside, at, tf.minimum(folded, period - folded) - 0.5)
    elif fill == "wrap":
        period = tf.maximum(last, 1.0)
        at = tf.where(inside, at, at - tf.floor(at / period) * period)
    # A matrix may lead as far out as float32 goes, or nowhere.
    return inside, tf.clip_by_value(tf.where(tf.math.is_nan(at), 0.0, at), -beyond, last + beyond)


def taps(at: tf.Tensor, interpolation: str) -> Taps:
    """The pixels around a coordinate, and their weights."""
    if interpolation == "nearest":
        return [(tf.cast(tf.floor(at + 0.5), tf.int32), tf.ones_like(at))]
    if order := splines.SPLINES.get(interpolation):
        return splines.taps(at, order=order)
    first = tf.floor(at)
    share, first = at - first, tf.cast(first, tf.int32)
    if interpolation == "bilinear":
        return [(first, 1 - share), (first + 1, share)]

    def keys(distance):
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        return near, far

    (near, _), (next_near, _) = keys(share), keys(1 - share)
    (_, before), (_, after) = keys(1 + share), keys(2 - share)
    return [(first - 1, before), (first, near), (first + 1, next_near), (first + 2, after)]


def held(tap: tf.Tensor, length: tf.Tensor, fill: str) -> tf.Tensor:
    """The pixel that stands for one outside, for taps at most two pixels outside; splines also `mirror` some."""
    if fill == "reflect":
        tap = tf.where(tap < 0, -1 - tap, tap)
        tap = tf.where(tap >= length, 2 * length - 1 - tap, tap)
    elif fill == "wrap":
        # The last pixel is the first of the next period.
        tap = tf.where(tap < 0, tap + length - 1, tap)
        tap = tf.where(tap >= length, tap - length + 1, tap)
    elif fill == "mirror":
        tap = tf.where(tap < 0, -tap, tap)
        tap = tf.where(tap >= length, 2 * length - 2 - tap, tap)
    return tf.clip_by_value(tap, 0, length - 1)


def developed(images: tf.Tensor, arrays: Sequence[tf.Tensor], rendering: Rendering) -> tf.Tensor:
    """What the program and the network's colour matrix make of warped images; neighbouring matrices are multiplied."""
    waiting = None
    steps = list(zip(rendering.program, arrays, strict=True))
    if rendering.colour is not None:
        colour = tf.constant(rendering.colour, tf.float32)
        steps.append((Matrix(clip=False), tf.tile(colour[None], [images.shape[0], 1, 1])))
    for slot, array in steps:
        if not isinstance(slot, Matrix):
            if waiting is not None:
                images, waiting = multiply(images, waiting), None
            images = slot.apply(images, array)
            continue
        waiting = array if waiting is None else after(array, waiting)
        if slot.clip:
            images, waiting = Matrix().apply(images, waiting), None
    return images if waiting is None else multiply(images, waiting)


def after(second: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """[B, 3, 4] that does what `first` and then `second` do."""
    columns = [sum(second[:, :, inner, None] * first[:, None, inner, :] for inner in range(3))]
    return tf.concat([columns[0][..., :3], columns[0][..., 3:] + second[:, :, 3:]], axis=-1)
