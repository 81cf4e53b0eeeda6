"""Images that exports are compared on, where the session has them in memory or in a store."""

import io

import numpy as np
import pytest
from PIL import Image

from data import packing, sources
from data.decode import Decoding
from data.examples import Record, Stream
from data.inspection import Looker
from trainer.exporting import comparing


def test_images_in_memory_are_written_as_they_are(tmp_path):
    table = sources.synthetic(examples=3, classes=2, height=21, width=30)
    with Image.open(comparing._written(table, 2, tmp_path / "2.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), table.pixels[2])


def test_images_in_a_store_are_written_with_the_turn_that_they_have(tmp_path):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    stream = Stream(
        records=lambda: iter([Record(name=b"turned", image=file.getvalue(), label=0)]), title="one", fingerprint={}
    )
    store = packing.pack(stream, tmp_path / "store", decoding=Decoding(16))
    path = comparing._written(store.examples(stream), 0, tmp_path / "0.png")
    seen = Looker(Decoding(16)).file(path.encode())
    assert seen.orientation == 6
    np.testing.assert_array_equal(seen.canvas, pixels)


@pytest.mark.parametrize(
    ("task", "logits", "expected"),
    [
        ("single_label", [[0.0, np.log(3)]], [[0.25, 0.75]]),
        ("binary", [[np.log(3)]], [[0.75]]),
        ("multi_label", [[0.0, -np.log(3)]], [[0.5, 0.25]]),
        ("regression", [[7.0]], [[7.0]]),
    ],
)
def test_logits_are_compared_as_what_they_mean(task, logits, expected):
    np.testing.assert_allclose(comparing.shares(np.float32(logits), task), expected, rtol=1e-6)


def test_decisions_are_the_best_class_both_sides_of_a_half_or_near_numbers():
    one, other = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([[0.9, 0.1], [0.55, 0.45]])
    assert comparing._same(one, other, "single_label").tolist() == [True, False]
    assert comparing._same(one, other, "multi_label").tolist() == [True, False]
    values = np.array([[0.0], [10.0], [20.0]])
    found = np.array([[0.9], [8.9], [20.0]])
    assert comparing._same(found, values, "regression").tolist() == [True, False, True]


def test_a_few_of_many_are_from_the_first_to_the_last():
    assert comparing.evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert comparing.evenly(3, 100).tolist() == [0, 1, 2] and comparing.evenly(5, 1).tolist() == [0]
