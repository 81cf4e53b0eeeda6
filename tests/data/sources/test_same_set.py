"""The same pictures are the same examples, whatever source they come through."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import packing, pipeline
from data.augment import geometry
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples, Stream
from data.order import Order


def content(source: Examples | Stream) -> dict[bytes, tuple[str, bytes]]:
    """Class and pixels by name."""
    found = {}
    if isinstance(source, Stream):
        for record in source.records():
            label = record.label if isinstance(record.label, str) else source.class_names[record.label]
            found[record.name] = label, np.asarray(Image.open(io.BytesIO(record.image))).tobytes()
        return found
    for row, name in enumerate(source.names.tolist()):
        pixels = source.pixels[row] if source.root is None else np.asarray(Image.open(Path(source.where(row))))
        found[name] = source.class_names[source.labels[row]], pixels.tobytes()
    return found


@pytest.mark.parametrize("kind", ["table", "arrays", "tfds", "tfrecord"])
def test_a_source_finds_the_names_labels_and_pixels_that_the_folder_finds(same_set, kind: str):
    expected = content(same_set["folder"])
    assert len(expected) == 12 and len({pixels for _, pixels in expected.values()}) == 12
    assert content(same_set[kind]) == expected
    assert same_set[kind].class_names == same_set["folder"].class_names == ("cat", "dog", "emu")


@pytest.mark.parametrize("kind", ["tfds", "tfrecord"])
def test_an_encoded_image_keeps_the_bytes_of_its_file(same_set, kind: str, pictures):
    for record in same_set[kind].records():
        assert record.image == (pictures / record.name.decode()).read_bytes()


@pytest.mark.parametrize("kind", ["tfds", "tfrecord"])
def test_a_stream_starts_over_in_the_same_order(same_set, kind: str):
    first, second = ([record.name for record in same_set[kind].records()] for _ in range(2))
    assert first == second and len(first) == 12


@pytest.mark.parametrize("packed", [False, True])
def test_every_position_of_the_stream_shows_the_same_pixels_whatever_the_source(same_set, tmp_path, packed: bool):
    """Three epochs and a bit, augmented; tables are sorted by name, as a session does it."""
    view = pipeline.View(image_size=(8, 8), fit="cover", crop=1.0, decoding=Decoding(8), capacity=80)
    policy = Policy((geometry.rotation(degrees=30), geometry.flip()))
    seen = {}
    for kind, source in same_set.items():
        table = source
        if isinstance(source, Stream):
            table = packing.pack(source, tmp_path / kind, decoding=view.decoding).examples(source)
        elif packed:
            table = packing.pack(source, tmp_path / kind, decoding=view.decoding).attach(source)
        table = table.take(np.argsort(table.names))
        order = Order.of(table, factors=table.repeats, seed=5)
        batches = pipeline.train_batches(table, order=order, start=0, batch=4, seed=5, policy=policy, view=view).take(
            10
        )
        columns = [{name: column.numpy() for name, column in batch.items()} for batch in batches]
        seen[kind] = {name: np.concatenate([batch[name] for batch in columns]) for name in columns[0]}
    assert len(np.unique(seen["folder"]["canvas"], axis=0)) == 12
    for kind, columns in seen.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(column, seen["folder"][name], err_msg=f"{kind} {name}")
