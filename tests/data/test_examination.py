"""An audit looks at every image once, whatever it lies in, and again only where a file has changed."""

import os

import numpy as np
import pytest
from PIL import Image

from data import examination
from data.decode import Decoding
from data.examples import Examples, Record, Stream
from data.findings import Journal
from data.inspection import Looker

DECODING = Decoding(short_side=8)


class Watched(Looker):
    """Counts what it is shown."""

    def __init__(self):
        super().__init__(DECODING)
        self.looks = 0

    def image(self, image):
        self.looks += 1
        return super().image(image)


@pytest.fixture
def examine(tmp_path):
    """Examines a source with the journal of this test; returns its findings, its table and how many were looked at."""

    def run(source):
        journal = Journal(tmp_path / "audit.jsonl", examination.facts(source, decoding=DECODING))
        looker = Watched()
        table = examination.examine(source, journal, looker=looker)
        found = journal.columns(table.names)
        journal.close()
        return found, table, looker.looks

    return run


def table(root):
    names = sorted(os.path.relpath(path, root).encode() for path in root.rglob("*") if path.is_file())
    return Examples.of(names=names, labels=np.zeros(len(names)), class_names=["a", "b"], root=str(root))


def stream(records, fingerprint="1", **others):
    return Stream(records=lambda: iter(records), title="a stream", fingerprint={"file": fingerprint}, **others)


def test_a_second_audit_looks_only_at_files_that_changed(photos, examine):
    root = photos({f"a/{index}.png": (9, 12) for index in range(5)})
    first, _, looks = examine(table(root))
    assert looks == 5
    again, _, looks = examine(table(root))
    assert looks == 0 and (again.digests == first.digests).all()
    Image.new("RGB", (20, 10)).save(root / "a" / "3.png")
    changed, _, looks = examine(table(root))
    assert looks == 1 and changed.sizes.tolist() == [[9, 12]] * 3 + [[10, 20]] + [[9, 12]]


def test_a_bad_file_is_looked_at_again(photos, examine):
    root = photos({"a/0.png": (9, 12), "a/1.png": (9, 12)})
    (root / "a" / "1.png").write_bytes(b"no picture")
    found, _, _ = examine(table(root))
    assert list(found.reasons) == [1]
    assert examine(table(root))[2] == 1


def test_sizes_are_those_of_the_whole_picture_the_right_way_up(photos, examine, tmp_path):
    root = photos({"a/0.png": (100, 60)})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (60, 30)).save(root / "a" / "1.jpg", exif=exif)
    found, _, _ = examine(table(root))
    assert found.sizes.tolist() == [[100, 60], [60, 30]] and found.orientations.tolist() == [1, 6]
    assert found.grey.tolist() == [False, True] and found.fingerprinted.tolist() == [True, False]


def test_pixels_in_memory_are_looked_at_again_only_when_they_change(examine):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 10, 12, 3), dtype=np.uint8)

    def arrays():
        return Examples.of(
            names=[b"%d" % i for i in range(4)], labels=np.zeros(4), class_names=["a", "b"], pixels=pixels
        )

    found, _, looks = examine(arrays())
    assert looks == 4 and found.sizes.tolist() == [[10, 12]] * 4
    assert examine(arrays())[2] == 0
    pixels[0, 0, 0, 0] ^= 1
    assert examine(arrays())[2] == 4


def test_a_stream_is_noted_by_the_names_of_its_records(photos, examine):
    root = photos({f"{index}.png": (9, 12) for index in range(3)})
    records = [
        Record(name=path.name.encode(), image=path.read_bytes(), label=label, split=2)
        for path, label in zip(sorted(root.iterdir()), ["b10", "b9", "b9"], strict=True)
    ]
    records.append(Record(name=b"grey", image=np.full((5, 5, 1), 9, np.uint8), label="b10"))
    found, examples, looks = examine(stream(records))
    assert looks == 4 and not found.reasons
    assert examples.class_names == ("b9", "b10") and examples.labels.tolist() == [1, 0, 0, 1]
    assert examples.stated_split.tolist() == [2, 2, 2, -1]
    assert found.sizes.tolist() == [[9, 12]] * 3 + [[5, 5]]
    assert found.file_sizes[:3].tolist() == [len(record.image) for record in records[:3]]
    assert examine(stream(records))[2] == 0
    assert examine(stream(records, fingerprint="2"))[2] == 4


def test_a_record_of_an_unknown_class_is_named(examine, complaint):
    records = [Record(name=b"one", image=np.zeros((2, 2, 3), np.uint8), label="dog")]
    with complaint("dog", "one", "a stream"):
        examine(stream(records, class_names=("cat", "cow")))
