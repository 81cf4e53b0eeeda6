"""Thumbnails of chosen examples, wherever their images lie."""

import os
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from data.decode import Decoding
from data.examples import Examples
from data.inspection import Looker
from trainer.reports.pages import THUMBNAIL, thumbnail

# Name of an example -> a `data:` address; None where there is no picture of it.
Picture = Callable[[bytes], str | None]


def of_files(root: str) -> Picture:
    """Pictures of files below a folder; what no longer decodes has none."""
    looker = Looker(Decoding(short_side=THUMBNAIL))

    def picture(name: bytes) -> str | None:
        path = os.path.join(os.fsencode(root), name)
        # Names are of a file that may hold anything.
        if os.path.isabs(name) or b".." in name.split(b"/"):
            return None
        sight = looker.file(path)
        return None if sight.canvas is None else thumbnail(sight.canvas, sight.orientation)

    return picture


def of_examples(examples: Examples) -> Picture:
    """Pictures of a table: of its files, its pixels in memory, or the canvases of its store."""
    if examples.root is not None:
        return of_files(examples.root)
    rows = {name: row for row, name in enumerate(examples.names.tolist())}

    def picture(name: bytes) -> str | None:
        row = rows.get(name)
        if row is None:
            return None
        return thumbnail(_canvas(examples, row), int(examples.orientations[row]))

    return picture


def _canvas(examples: Examples, row: int) -> np.ndarray:
    if examples.pixels is not None:
        return examples.pixels[row]
    pixels, size = examples.store.canvases()(tf.constant(examples.store_rows[row]))
    return pixels.numpy().reshape(*size.numpy(), 3)


def pictures(names: Iterable[bytes], picture: Picture) -> dict[bytes, str]:
    """Those that there are."""
    found = {name: picture(name) for name in dict.fromkeys(names)}
    return {name: address for name, address in found.items() if address}
