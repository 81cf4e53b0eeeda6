"""The table that a session would start with, found without looking into an image or writing anything."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from data import store as stores
from data.errors import UserError
from data.examples import Examples, Stream, record_columns, table_of
from trainer import data_setup, launch
from trainer.recipe import Recipe
from trainer.reports.console import Console


def table(recipe: Recipe, console: Console) -> tuple[Examples, np.ndarray, Stream | None]:
    """What the source gives today, as if every image decodes.

    Returns:
        the table, sorted by name; the split of each row, [N] int8; the stream, where the source is one. Its table then
        comes out of its store if it has one, or else out of one pass, with blank pixels.

    Raises:
        UserError: no examples, or a split without any to train on.
    """
    source, stream = launch.call(recipe.source), None
    if isinstance(source, Stream):
        stream, source = source, _listed_stream(source, recipe, console)
    if not len(source):
        raise UserError(
            "the source has no examples", where="train.source", expected="at least one image", do="correct the source"
        )
    split = data_setup.split_of(recipe, source)
    if (source.names[1:] < source.names[:-1]).any():
        rows = np.argsort(source.names, kind="stable")
        source, split = source.take(rows), split[rows]
    return source, split, stream


def _listed_stream(stream: Stream, recipe: Recipe, console: Console) -> Examples:
    if recipe.store not in (None, "auto"):
        with contextlib.suppress(UserError):
            folder = Path(recipe.store).expanduser().absolute()
            return stores.open_store(folder, stream, decoding=data_setup.decoding(recipe)).examples(stream)
    records, report = [], console.count("reading the list of examples", stream.count)
    for record in stream.records():
        records.append(dataclasses.replace(record, image=b""))
        report(len(records))
    console.close()
    names = np.array([record.name for record in records], np.bytes_)
    blank = np.broadcast_to(np.uint8(0), (len(records), 1, 1, 3))
    return table_of(stream, names, record_columns(records), pixels=blank)
