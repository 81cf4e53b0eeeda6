"""Geometric operations as 3x3 matrices that take a pixel of the output to where it comes from in the input.

Coordinates are (x, y, 1) in pixels, x the column, (0, 0) the centre of the upper left one. Matrices multiply from the
input to the output in the order in which a policy lists its operations, as Keras' `apply_affine_transform` composes
them. Sizes are (height, width) of the output. A range is a number, for -number..number, or (lowest, highest).
"""

from collections.abc import Callable, Sequence

import gin
import numpy as np
import tensorflow as tf

from data.augment.operation import (
    Numbers,
    Operation,
    Range,
    Size,
    between,
    check_number,
    check_range,
    check_share,
    check_switch,
    geometric,
)
from data.augment.slots import Geometry
from data.errors import UserError

FITS = ("stretch", "cover", "contain", "native")
# No image is shifted farther, in pixels.
FARTHEST = 2**16
# Of the half side that a corner can move in: at two thirds the quadrilateral of a perspective may fold.
MOST_DISTORTION = 0.6


def rows(*entries) -> tf.Tensor:
    """[B, 3, 3] float64 from nine entries, each [B] or a number, row by row."""
    batch = next(tf.shape(entry) for entry in entries if isinstance(entry, tf.Tensor))
    columns = [tf.broadcast_to(tf.cast(entry, tf.float64), batch) for entry in entries]
    return tf.reshape(tf.stack(columns, axis=-1), [-1, 3, 3])


def about_centre(matrix: tf.Tensor, size: Size) -> tf.Tensor:
    """Makes a matrix act about the centre of an image instead of its first pixel."""
    y, x = ((side - 1) / 2 for side in size)
    there = tf.constant([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], tf.float64)
    back = tf.constant([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, 1.0]], tf.float64)
    return there @ matrix @ back


def scaled(size: Size, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """[B, 3, 3]: the factors x and y about the centre."""
    return about_centre(rows(x, 0.0, 0.0, 0.0, y, 0.0, 0.0, 0.0, 1.0), size)


def moved(size: Size, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """[B, 3, 3]: x and y pixels, whatever the size."""
    return rows(1.0, 0.0, x, 0.0, 1.0, y, 0.0, 0.0, 1.0)


def moving(
    name: str, count: int, *, numbers: Callable[[tf.Tensor, Size], Numbers], matrix: Callable[..., tf.Tensor]
) -> Operation:
    """A geometric operation whose numbers are not all drawn evenly from ranges.

    Args:
        numbers, count: see `Operation`.
        matrix: (size, **numbers [B] float64) -> [B, 3, 3] float64.
    """
    return Operation(
        name=name,
        count=count,
        slots=(Geometry(),),
        numbers=numbers,
        arrays=lambda numbers, size: (matrix(size, **numbers),),
    )


def whole(uniform: tf.Tensor, count: int) -> tf.Tensor:
    """One of 0 ... count - 1, all alike, out of numbers in [0, 1)."""
    return tf.floor(uniform * count)


def either_way(name: str, value: float | Range, *, where: str, high: float = np.inf) -> Range:
    """The range of a number (-number..number) or a pair."""
    if isinstance(value, list | tuple):
        return check_range(name, value, where=where, low=-high, high=high)
    check_number(name, value, where=where, low=0, high=high)
    return -value, value


@gin.configurable
def rotation(*, degrees: float | Range) -> Operation:
    """Turns by an angle, the same for x and y. Draws `degrees`, clockwise as one sees it.

    Args:
        degrees: a range.

    Raises:
        UserError: no range.
    """
    ends = either_way("degrees", degrees, where="gin binding rotation.degrees")

    def matrix(size, degrees):
        angle = degrees * (np.pi / 180)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return about_centre(rows(cos, sin, 0.0, -sin, cos, 0.0, 0.0, 0.0, 1.0), size)

    return geometric("rotation", ranges={"degrees": ends}, matrix=matrix)


# What `shift` and Keras' shift ranges take: one number, or a list to choose from.
Amount = float | Sequence[float] | np.ndarray
# Uniform numbers [B], pixels along an axis -> [B] pixels.
Offsets = Callable[[tf.Tensor, int], tf.Tensor]


def offsets(name: str, amount: Amount, *, where: str) -> Offsets:
    """What draws a shift along one axis, as Keras reads its amount; see `shift`.

    Raises:
        UserError: no such amount.
    """
    amount = amount.tolist() if isinstance(amount, np.ndarray | np.generic) else amount
    listed = isinstance(amount, list | tuple | range)
    for value in amount if listed else [amount]:
        check_number(name, value, where=where, low=-FARTHEST if listed else 0, high=FARTHEST)
    if listed and not amount:
        raise UserError(f"{name} = {amount!r}", where=where, expected="a number, or some", do=f"{name} = 0.1")
    in_pixels = (max(amount) if listed else amount) >= 1
    if not listed and not (isinstance(amount, int) and in_pixels):
        return lambda uniform, side: between(uniform, -amount, amount) * (1 if in_pixels else side)
    choices = np.asarray(amount if listed else np.arange(amount), float)
    signed = np.concatenate([choices, -choices])
    return lambda uniform, side: (
        tf.gather(signed, tf.cast(whole(uniform, len(signed)), tf.int32)) * (1 if in_pixels else side)
    )


@gin.configurable
def shift(*, width: Amount = 0.0, height: Amount = 0.0) -> Operation:
    """Moves along x and y. Draws `x` and `y`, pixels by which the output looks further to the right and down.

    An amount means what it means to Keras' `ImageDataGenerator` (which, however, moves by its height_shift_range
    along x, and by its width_shift_range along y):
        0.1: evenly within a tenth of the side, either way; any number below 1.
        8.0: evenly within 8 pixels, either way; any float from 1 on.
        8: a whole number of pixels out of 0..7, either way; any int from 1 on.
        [0.1, 0.2]: one of these shares of the side, either way; any list with all below 1.
        [4, 8]: one of these numbers of pixels, either way; any other list.

    Args:
        width: amount along x.
        height: amount along y.

    Raises:
        UserError: no such amount.
    """
    along_x = offsets("width", width, where="gin binding shift.width")
    along_y = offsets("height", height, where="gin binding shift.height")

    def numbers(uniform, size):
        return {"x": along_x(uniform[:, 0], size[1]), "y": along_y(uniform[:, 1], size[0])}

    return moving("shift", 2, numbers=numbers, matrix=moved)


@gin.configurable
def shear(*, degrees: float | Range, axis: str = "x") -> Operation:
    """Shears by an angle about the centre, as Keras: pixels move along one axis and spread along the other.

    Draws `degrees`. x of the input is x - sin(degrees) y, its y is cos(degrees) y, both from the centre.

    Args:
        degrees: a range.
        axis: along which pixels move; `x` is that of Keras, `y` the same with x and y swapped.

    Raises:
        UserError: no range, or no such axis.
    """
    ends = either_way("degrees", degrees, where="gin binding shear.degrees")
    if axis not in ("x", "y"):
        raise UserError(
            f"axis = {axis!r}", where="gin binding shear.axis", expected="'x' or 'y'", do="shear.axis = 'x'"
        )

    def matrix(size, degrees):
        angle = degrees * (np.pi / 180)
        cos, sin = tf.cos(angle), tf.sin(angle)
        along_x, along_y = (1.0, -sin, 0.0, 0.0, cos, 0.0), (cos, 0.0, 0.0, -sin, 1.0, 0.0)
        return about_centre(rows(*(along_x if axis == "x" else along_y), 0.0, 0.0, 1.0), size)

    return geometric("shear", ranges={"degrees": ends}, matrix=matrix)


@gin.configurable
def shear_x(*, factor: float | Range) -> Operation:
    """x of the input is x + factor y, from the upper left corner of the image. Draws `factor`.

    AutoAugment's ShearX, as Pillow's `Image.transform`, timm and torchvision (center=[0, 0]) apply it.

    Args:
        factor: a range.

    Raises:
        UserError: no range.
    """
    ends = either_way("factor", factor, where="gin binding shear_x.factor")
    return geometric(
        "shear_x",
        ranges={"factor": ends},
        matrix=lambda size, factor: rows(1.0, factor, factor / 2, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


@gin.configurable
def shear_y(*, factor: float | Range) -> Operation:
    """y of the input is y + factor x, from the upper left corner of the image; see `shear_x`. Draws `factor`."""
    ends = either_way("factor", factor, where="gin binding shear_y.factor")
    return geometric(
        "shear_y",
        ranges={"factor": ends},
        matrix=lambda size, factor: rows(1.0, 0.0, 0.0, factor, 1.0, factor / 2, 0.0, 0.0, 1.0),
    )


@gin.configurable
def translate_x(*, fraction: float | Range) -> Operation:
    """x of the input is x + fraction times the width. Draws `fraction`.

    Args:
        fraction: a range, within -1..1.

    Raises:
        UserError: no such range.
    """
    ends = either_way("fraction", fraction, where="gin binding translate_x.fraction", high=1)
    return geometric(
        "translate_x", ranges={"fraction": ends}, matrix=lambda size, fraction: moved(size, fraction * size[1], 0.0)
    )


@gin.configurable
def translate_y(*, fraction: float | Range) -> Operation:
    """y of the input is y + fraction times the height; see `translate_x`. Draws `fraction`."""
    ends = either_way("fraction", fraction, where="gin binding translate_y.fraction", high=1)
    return geometric(
        "translate_y", ranges={"fraction": ends}, matrix=lambda size, fraction: moved(size, 0.0, fraction * size[0])
    )


@gin.configurable
def zoom(*, low: float, high: float, joint: bool = False) -> Operation:
    """Scales what is seen: below 1 enlarges. Draws the factors `x` and `y`.

    Args:
        low, high: lowest and highest factor.
        joint: one factor for both, which keeps the aspect.

    Raises:
        UserError: not 0 < low <= high, or no switch.
    """
    check_switch("zoom.joint", joint)
    for name, value in (("low", low), ("high", high)):
        check_number(name, value, where=f"gin binding zoom.{name}")
    if not 0 < low <= high:
        raise UserError(
            f"zoom from {low} to {high}",
            where="gin bindings zoom.low, zoom.high",
            expected="0 < low <= high",
            do="for example zoom.low = 0.9, zoom.high = 1.1",
        )

    def numbers(uniform, size):
        x = between(uniform[:, 0], low, high)
        return {"x": x, "y": x if joint else between(uniform[:, 1], low, high)}

    return moving("zoom", 2, numbers=numbers, matrix=scaled)


@gin.configurable
def flip(*, horizontal: float = 0.5, vertical: float = 0.0) -> Operation:
    """Mirrors. Draws `horizontal` and `vertical`, 1 where it does and 0 where not.

    Args:
        horizontal: probability that left and right are swapped.
        vertical: probability that top and bottom are swapped.

    Raises:
        UserError: no probability.
    """
    shares = {"horizontal": horizontal, "vertical": vertical}
    for name, share in shares.items():
        check_share(name, share, where=f"gin binding flip.{name}")

    def numbers(uniform, size):
        return {name: tf.cast(uniform[:, at] < share, tf.float64) for at, (name, share) in enumerate(shares.items())}

    def matrix(size, horizontal, vertical):
        return scaled(size, 1 - 2 * horizontal, 1 - 2 * vertical)

    return moving("flip", 2, numbers=numbers, matrix=matrix)


@gin.configurable
def quarter_turn() -> Operation:
    """Turns by 0, 90, 180 or 270 degrees clockwise, all alike. Draws `turns`, 0 to 3.

    The whole image fills the output after every turn: an oblong one is stretched along one side and squeezed along
    the other. A square one keeps every pixel.
    """

    def matrix(size, turns):
        height, width = size
        index = tf.cast(turns, tf.int32)
        cos, sin = (tf.gather(tf.constant(values, tf.float64), index) for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
        entries = cos, sin * (width / height), 0.0, -sin * (height / width), cos, 0.0, 0.0, 0.0, 1.0
        return about_centre(rows(*entries), size)

    return moving("quarter_turn", 1, numbers=lambda uniform, size: {"turns": whole(uniform[:, 0], 4)}, matrix=matrix)


# Name, column and row of the corners of an image whose centre is (0, 0) and whose corners are 1 away from it.
CORNERS = {"top_left": (-1, -1), "top_right": (1, -1), "bottom_right": (1, 1), "bottom_left": (-1, 1)}


@gin.configurable
def perspective(*, distortion: float = 0.5) -> Operation:
    """Moves every corner in by whole pixels of its own, as torchvision's `RandomPerspective`.

    Draws `top_left_x`, `top_left_y`, `top_right_x`, ...: how many pixels the corner comes in, each one of
    0 ... floor(distortion * floor(side / 2)), all alike; in images below 11 pixels less than a third of the side.

    Args:
        distortion: share of the half side that a corner comes in at most, in 0..0.6; further in, the quadrilateral of
            the corners may fold.

    Raises:
        UserError: no such share.
    """
    check_number("distortion", distortion, where="gin binding perspective.distortion", low=0, high=MOST_DISTORTION)
    names = [f"{corner}_{axis}" for corner in CORNERS for axis in "xy"]

    def numbers(uniform, size):
        most = [max(0, min(int(distortion * (side // 2)), (side - 2) // 3)) for side in reversed(size)]
        return {name: whole(uniform[:, index], most[index % 2] + 1) for index, name in enumerate(names)}

    return moving("perspective", 8, numbers=numbers, matrix=perspective_matrix)


def perspective_matrix(size: Size, **inward: tf.Tensor) -> tf.Tensor:
    """The homography that shows the corner pixels of the input where the corners of the output have moved in to.

    With e0, e1, e2, e3 the corners in the output as (x, y, 1), s0, s1, s2, s3 = s0 - s1 + s2 those in the input and
    c0 = e1 x e2, c1 = e2 x e0, c2 = e0 x e1, it takes e to the sum of s_i (c_i e) / (c_i e3), with the sign of s_i in
    s3: every e_i comes out as a multiple of s_i. Regular for every convex quadrilateral, unlike the eight linear
    equations that set the last entry to 1.

    Args:
        inward: for each corner of CORNERS and x, y [B] float64, pixels by which it moves in.

    Returns:
        [B, 3, 3] float64.
    """
    half_y, half_x = (max(side - 1, 1) / 2 for side in size)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (
        (x * (1 - inward[f"{corner}_x"] / half_x), y * (1 - inward[f"{corner}_y"] / half_y))
        for corner, (x, y) in CORNERS.items()
    )
    lines = [(y - v, u - x, x * v - u * y) for x, y, u, v in ((x1, y1, x2, y2), (x2, y2, x0, y0), (x0, y0, x1, y1))]
    first, second, third = (a * x3 + b * y3 + c for a, b, c in lines)
    weights = second * third, -first * third, first * second
    starts = [(*corner, 1) for corner in CORNERS.values()][:3]
    entries = [
        sum(start[row] * weight * line[column] for start, weight, line in zip(starts, weights, lines, strict=True))
        for row in range(3)
        for column in range(3)
    ]
    units = half_x, half_y, 1
    pixels = [units[row] / units[column] for row in range(3) for column in range(3)]
    scaled_entries = [entry / entries[-1] * unit for entry, unit in zip(entries, pixels, strict=True)]
    return about_centre(rows(*scaled_entries), size)


# EXIF orientation -> (a, b, c, d): column a x + b y, row c x + d y of the stored pixel that is shown at (x, y), up to
# the shift that brings both back into the image (CIPA DC-008, tag Orientation).
ORIENTATIONS = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def upright(size: tf.Tensor, orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns images as their EXIF orientation says.

    Args:
        size: [B, 2] int32, height and width as stored.
        orientation: [B] int8, 1 to 8.

    Returns:
        [B, 2] int32, height and width as shown; [B, 3, 3] float64, pixel as shown -> pixel as stored.
    """
    table = tf.constant([(0, 0, 0, 0), *ORIENTATIONS.values()], tf.float64)
    a, b, c, d = tf.unstack(tf.gather(table, tf.cast(orientation, tf.int32)), axis=-1)
    height, width = tf.unstack(tf.cast(size, tf.float64), axis=-1)
    x = tf.where(a + b < 0, width - 1, tf.zeros_like(width))
    y = tf.where(c + d < 0, height - 1, tf.zeros_like(height))
    shown = tf.where((a == 0)[:, None], size[:, ::-1], size)
    return shown, rows(a, b, x, c, d, y, 0.0, 0.0, 1.0)


def fit(size: tf.Tensor, *, image_size: Size, rule: str, crop: float) -> tf.Tensor:
    """Matrices that lay canvases of any shape over the output.

    Args:
        size: [B, 2] int32, height and width of the images in their canvases.
        image_size: height and width of the output.
        rule: `stretch` (both sides to the output), `cover` (the largest part of the shape of the output, from the
            centre), `contain` (all of it), `native` (the centre, pixel for pixel).
        crop: share of those sides that is seen, in (0, 1]; `native` has no use for it.

    Returns:
        [B, 3, 3] float64; the centre of the output is the centre of the image.
    """
    height, width = tf.unstack(tf.cast(size, tf.float64), axis=-1)
    scale_y, scale_x = height * crop / image_size[0], width * crop / image_size[1]
    if rule == "native":
        scale_y = scale_x = tf.ones_like(height)
    elif rule == "cover":
        scale_y = scale_x = tf.minimum(scale_y, scale_x)
    elif rule == "contain":
        scale_y = scale_x = tf.maximum(scale_y, scale_x)
    x = (width - 1) / 2 - scale_x * (image_size[1] - 1) / 2
    y = (height - 1) / 2 - scale_y * (image_size[0] - 1) / 2
    return rows(scale_x, 0.0, x, 0.0, scale_y, y, 0.0, 0.0, 1.0)
