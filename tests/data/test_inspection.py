"""Every image is looked at once: it has a canvas, or a reason why it has none."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import inspection, sources
from data.decode import ANY, PLAIN_PNG, Decoding
from data.examples import Examples
from data.inspection import Inspection, Looker

RANDOM = np.random.default_rng(7)
COLOURS = RANDOM.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def inspect(table: Examples, *, short_side: int = 64, **options) -> Inspection:
    return inspection.inspect(table, decoding=Decoding(short_side), **options)


BROKEN = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "half a jpeg": encoded(COLOURS, "JPEG")[:-200],
    "half a png": encoded(COLOURS, "PNG")[:-200],
    "half a bmp": encoded(COLOURS, "BMP")[:-200],
    "half a gif": encoded(COLOURS, "GIF")[:-200],
    "head of a jpeg": b"\xff\xd8\xff",
    "head of a png": b"\x89PNG\r\n\x1a\n",
    "tiff": encoded(COLOURS, "TIFF"),
}


class TestInspect:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for name, kind in (("cat/1.jpg", "JPEG"), ("cat/2.png", "PNG"), ("dog/3.bmp", "BMP"), ("dog/4.gif", "GIF")):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(COLOURS, kind))
        return tmp_path

    def test_every_row_has_a_size_or_a_reason(self, folder):
        for name, content in BROKEN.items():
            (folder / "dog" / f"{name}.jpg").write_bytes(content)
        found = sources.folder(root=str(folder))
        seen = inspect(found)
        sizes, bad = seen.sizes, seen.bad
        broken = {f"dog/{name}.jpg" for name in BROKEN}
        assert {found.names[row].decode() for row in bad} == broken
        assert list(bad) == sorted(bad)
        for row in range(len(found)):
            assert sizes[row].tolist() == ([0, 0] if row in bad else [23, 31])
        for reason in bad.values():
            assert reason and "\n" not in reason and "{{" not in reason and "Op:" not in reason

    def test_reasons_tell_the_faults_apart(self, folder):
        for name, content in BROKEN.items():
            (folder / "dog" / f"{name}.jpg").write_bytes(content)
        found = sources.folder(root=str(folder))
        bad = inspect(found).bad
        reasons = {found.names[row].decode()[len("dog/") : -len(".jpg")]: reason for row, reason in bad.items()}
        assert "empty" in reasons["empty"].lower()
        assert "format" in reasons["text"]
        for kind in ("jpeg", "png", "gif"):
            assert kind in reasons[f"half a {kind}"].lower()
        assert "size" in reasons["half a bmp"]

    def test_progress_counts_every_image_once(self, folder):
        (folder / "dog" / "bad.jpg").write_bytes(b"")
        told = []
        inspect(sources.folder(root=str(folder)), report=told.append)
        assert told == [1, 2, 3, 4, 5]

    def test_names_that_are_not_utf8_are_read(self, folder):
        with open(str(folder).encode() + b"/cat/caf\xe9.png", "wb") as file:
            file.write(encoded(COLOURS[:5], "PNG"))
        found = sources.folder(root=str(folder))
        seen = inspect(found)
        sizes, bad = seen.sizes, seen.bad
        assert not bad
        assert sizes[found.names.tolist().index(b"cat/caf\xe9.png")].tolist() == [5, 31]

    @pytest.mark.parametrize("kind, suffix", [("JPEG", "png"), ("PNG", "jpg"), ("BMP", "gif"), ("GIF", "jpeg")])
    def test_the_content_decides_and_not_the_suffix(self, kind: str, suffix: str, tmp_path):
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            (tmp_path / name / f"x.{suffix}").write_bytes(encoded(COLOURS, kind))
        seen = inspect(sources.folder(root=str(tmp_path)))
        assert not seen.bad and seen.sizes.tolist() == [[23, 31]] * 2

    def test_sizes_times_and_digests_are_those_of_the_files(self, folder):
        found = sources.folder(root=str(folder))
        seen = inspect(found)
        for row in range(len(found)):
            facts = os.stat(found.where(row))
            assert (seen.file_sizes[row], seen.file_times[row]) == (facts.st_size, facts.st_mtime_ns)
        assert len(np.unique(seen.digests, axis=0)) == len(found)
        (folder / "cat" / "9.jpg").write_bytes((folder / "cat" / "1.jpg").read_bytes())
        found = sources.folder(root=str(folder))
        rows = [found.names.tolist().index(name) for name in (b"cat/1.jpg", b"cat/9.jpg")]
        digests = inspect(found).digests
        np.testing.assert_array_equal(digests[rows[0]], digests[rows[1]])

    def test_the_kind_says_how_a_jpeg_is_shrunk(self, folder):
        (folder / "cat" / "large.jpg").write_bytes(encoded(np.zeros((130, 150, 3), np.uint8), "JPEG"))
        found = sources.folder(root=str(folder))
        kinds = dict(zip(found.names.tolist(), inspect(found).kinds.tolist(), strict=True))
        assert kinds == {
            b"cat/1.jpg": 0,
            b"cat/2.png": PLAIN_PNG,
            b"cat/large.jpg": 1,
            b"dog/3.bmp": ANY,
            b"dog/4.gif": ANY,
        }

    def test_what_is_no_regular_file_is_not_opened(self, folder):
        os.mkfifo(folder / "cat" / "pipe.jpg")
        (folder / "dog" / "folder.jpg").mkdir()
        table = Examples.of(
            names=[b"cat/pipe.jpg", b"dog/folder.jpg", b"dog/none.jpg"],
            labels=[0, 1, 1],
            class_names=["a", "b"],
            root=str(folder),
        )
        bad = inspect(table).bad
        assert "regular" in bad[0] and "regular" in bad[1] and "No such file" in bad[2]

    def test_images_in_memory_are_looked_at_too(self):
        table = sources.synthetic(examples=6, classes=2, height=40, width=50)
        seen = inspect(table, short_side=20)
        assert seen.sizes.tolist() == [[20, 25]] * 6 and not seen.bad

    def test_of_more_rows_than_are_kept_as_objects_none_is_lost(self, folder, monkeypatch):
        monkeypatch.setattr(inspection, "CHUNK", 3)
        found = sources.folder(root=str(folder))
        np.testing.assert_array_equal(inspect(found).sizes, [[23, 31]] * 4)


class TestLooker:
    def test_grey_arrays_become_rgb(self):
        sight = Looker(Decoding(64)).image(COLOURS[..., :1])
        np.testing.assert_array_equal(sight.canvas, np.repeat(COLOURS[..., :1], 3, axis=-1))

    @pytest.mark.parametrize(
        "array", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
    )
    def test_other_arrays_are_bad_images(self, array):
        sight = Looker(Decoding(64)).image(array)
        assert sight.canvas is None and "uint8" in sight.reason

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_it_reads_how_a_file_is_to_be_turned(self, kind: str, orientation: int):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert Looker(Decoding(64)).image(encoded(COLOURS, kind, exif=exif)).orientation == orientation
        assert Looker(Decoding(64)).image(encoded(COLOURS, kind)).orientation == 1


def test_results_come_in_the_order_of_the_items_and_not_far_ahead_of_their_use():
    begun, lock = [], threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        return item * item

    results = inspection.in_order(work, range(10_000))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(begun) < 200
    results.close()
    assert list(inspection.in_order(work, range(100))) == [item * item for item in range(100)]
