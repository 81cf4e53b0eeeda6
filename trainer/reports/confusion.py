"""A confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.names import printable

# Classes up to which cells have numbers and names; sides of a cell with and without, in pixels.
NAMED, WIDE, NARROW = 20, 60, 4
# Most pixels of a side without numbers, and letters of a name. Of more classes neighbours share a pixel.
SIDE, LETTERS = 1024, 14
EMPTY, FULL = np.float64([250, 250, 250]), np.float64([24, 78, 140])


def picture(confusion: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draws it: a row for each true class, a column for each predicted one, the darker the larger its share of the row.

    Args:
        confusion: [K, K] counts.
        names: K.

    Returns:
        [H, W, 3] uint8.
    """
    classes = len(confusion)
    starts = np.arange(0, classes, -(-classes // SIDE))
    confusion = np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colours = np.rint(EMPTY + shares[..., None] * (FULL - EMPTY)).astype(np.uint8)
    if classes > NAMED:
        side = max(1, min(NARROW, SIDE // classes))
        return colours.repeat(side, axis=0).repeat(side, axis=1)
    font = ImageFont.load_default(12)
    shown = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in map(printable, names)]
    left = 8 + max(int(font.getlength(name)) for name in shown)
    top, size = 20, WIDE * classes
    drawn = Image.new("RGB", (left + size, top + size + 20), "white")
    drawn.paste(Image.fromarray(colours.repeat(WIDE, axis=0).repeat(WIDE, axis=1)), (left, top))
    pen = ImageDraw.Draw(drawn)
    pen.text((left, 2), "rows: true class, columns: predicted class", fill="black", font=font)
    for row, name in enumerate(shown):
        at = (row + 0.5) * WIDE
        pen.text((left - 4, top + at), name, fill="black", font=font, anchor="rm")
        below = next(name[:length] for length in range(len(name), -1, -1) if font.getlength(name[:length]) < WIDE)
        pen.text((left + at, top + size + 10), below, fill="black", font=font, anchor="mm")
        for column, count in enumerate(confusion[row]):
            colour = "white" if shares[row, column] > 0.5 else "black"
            place = (left + (column + 0.5) * WIDE, top + at)
            pen.text(place, str(count), fill=colour, font=font, anchor="mm")
    return np.asarray(drawn)
