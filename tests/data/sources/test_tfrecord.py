"""Records of tf.train.Example keep their bytes; what is broken is named with file and number."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data import sources


def read(files, **arguments):
    return list(sources.tfrecord(files, **{"image": "image", "label": "label"} | arguments).records())


ROWS = [{"image": b"one", "label": 1}, {"image": b"two", "label": 0}]


class TestRecords:
    @pytest.mark.parametrize("suffix, compression", [("tfrecord", ""), ("tfrecord.gz", "GZIP")])
    def test_they_keep_order_bytes_and_labels(self, tmp_path, write_records, suffix: str, compression: str):
        records = read(write_records(tmp_path / f"a.{suffix}", *ROWS, compression=compression))
        assert [(record.image, record.label, record.split) for record in records] == [(b"one", 1, -1), (b"two", 0, -1)]
        assert [record.name for record in records] == [f"a.{suffix}/0000000{row}".encode() for row in range(2)]

    def test_files_come_in_natural_order(self, tmp_path, write_records):
        for number in (10, 9):
            write_records(tmp_path / f"part{number}", {"image": b"%d" % number, "label": 0})
        assert [record.image for record in read(str(tmp_path / "part*"))] == [b"9", b"10"]

    def test_files_of_one_name_in_two_folders_have_records_of_other_names(self, tmp_path, write_records):
        for folder in "ab":
            (tmp_path / folder).mkdir()
            write_records(tmp_path / folder / "x", ROWS[0])
        assert [record.name for record in read(str(tmp_path / "*/x"))] == [b"a/x/00000000", b"b/x/00000000"]

    def test_a_split_can_be_a_pattern_of_files(self, tmp_path, write_records):
        files = {"train": write_records(tmp_path / "t", ROWS[0]), "val": write_records(tmp_path / "v", ROWS[1])}
        assert [(record.image, record.split) for record in read(files)] == [(b"one", 0), (b"two", 1)]

    def test_other_features_are_named(self, tmp_path, write_records):
        row = ROWS[0] | {"file": b"x.png", "w": 0.5, "r": 2, "part": b"test", "who": 7}
        (record,) = read(
            write_records(tmp_path / "a", row), name="file", weight="w", repeat="r", split="part", group="who"
        )
        assert (record.name, record.weight, record.repeat, record.split, record.group) == (b"x.png", 0.5, 2, 2, b"7")

    @pytest.mark.parametrize(
        "label, task, names, expected",
        [
            (b"dog", "single_label", ["cat", "dog"], 1),
            (b"dog", "single_label", None, "dog"),
            (1, "binary", None, 1),
            ([0, 1, 1], "multi_label", ["a", "b", "c"], [0, 1, 1]),
            ([b"c", b"b"], "multi_label", ["a", "b", "c"], [0, 1, 1]),
            ([0.5, 2.0], "regression", ["x", "y"], [0.5, 2]),
        ],
    )
    def test_labels_of_every_task(self, tmp_path, write_records, label, task, names, expected):
        file = write_records(tmp_path / "a", {"image": b"one", "label": label})
        (record,) = read(file, task=task, class_names=names)
        np.testing.assert_array_equal(record.label, expected)

    def test_the_fingerprint_changes_with_a_file(self, tmp_path, write_records):
        def fingerprint(*rows: dict) -> dict:
            return sources.tfrecord(write_records(tmp_path / "a", *rows), image="image", label="label").fingerprint

        before = fingerprint(*ROWS)
        assert fingerprint(*ROWS, ROWS[0]) != before


class TestUserErrors:
    @pytest.mark.parametrize("files", [None, [], "none-*.tfrecord", {"dev": "x"}])
    def test_no_files(self, files, complaint):
        with complaint("tfrecord.files"):
            read(files)

    def test_a_file_named_twice(self, tmp_path, write_records, complaint):
        file = write_records(tmp_path / "a", *ROWS)
        with complaint(file, "twice"):
            read([file, str(tmp_path / "*")])

    def test_a_missing_feature_is_named_with_those_that_are_there(self, tmp_path, write_records, complaint):
        file = write_records(tmp_path / "a", ROWS[0], {"picture": b"x", "label": 0})
        with complaint(f"{file}, record 1", "'image'", "label, picture"):
            read(file)

    @pytest.mark.parametrize("change", ["cut", "flip", "text"])
    def test_a_damaged_file_is_named_with_the_record(self, tmp_path, write_records, change: str, complaint):
        file = Path(write_records(tmp_path / "a", *ROWS))
        content = bytearray(file.read_bytes())
        if change == "flip":
            content[len(content) // 2 + 14] ^= 1
        file.write_bytes({"cut": content[:-3], "flip": content, "text": b"image,label\n" * 9}[change])
        with complaint(f"record {0 if change == 'text' else 1} of {file}"):
            read(str(file))

    def test_a_record_that_is_no_example_is_named(self, tmp_path, complaint):
        with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
            writer.write(b"\xff\xff\xff")
        with complaint(str(tmp_path / "a"), "record 0", "tf.train.Example"):
            read(str(tmp_path / "a"))

    @pytest.mark.parametrize(
        "row, arguments",
        [
            ({"image": 3, "label": 0}, {}),
            ({"image": b"x", "label": 2}, {"class_names": ["a", "b"]}),
            ({"image": b"x", "label": -1}, {"class_names": ["a", "b"]}),
            ({"image": b"x", "label": b"c"}, {"class_names": ["a", "b"]}),
            ({"image": b"x", "label": 0.5}, {}),
            ({"image": b"x", "label": [0, 1]}, {}),
            ({"image": b"x", "label": 2}, {"task": "binary"}),
            ({"image": b"x", "label": [0, 2]}, {"task": "multi_label", "class_names": ["a", "b"]}),
            ({"image": b"x", "label": [b"q"]}, {"task": "multi_label", "class_names": ["a", "b"]}),
            ({"image": b"x", "label": [0.5]}, {"task": "regression", "class_names": ["a", "b"]}),
            ({"image": b"x", "label": [float("nan")]}, {"task": "regression", "class_names": ["a"]}),
            ({"image": b"x", "label": 0, "w": -1.0}, {"weight": "w"}),
            ({"image": b"x", "label": 0, "w": 0.0}, {"repeat": "w"}),
            ({"image": b"x", "label": 0, "w": b"dev"}, {"split": "w"}),
        ],
    )
    def test_a_record_with_odd_values_is_named(self, tmp_path, write_records, row: dict, arguments: dict, complaint):
        file = write_records(tmp_path / "a", row)
        with complaint(f"{file}, record 0"):
            read(file, **arguments)

    @pytest.mark.parametrize("task", ["multi_label", "regression"])
    def test_outputs_have_to_be_named(self, tmp_path, write_records, task: str, complaint):
        with complaint("tfrecord.class_names"):
            read(write_records(tmp_path / "a", *ROWS), task=task)


def test_the_fingerprint_knows_which_file_is_of_which_split_and_how_many_records_there_are(tmp_path, write_records):
    for name, count in (("a", 3), ("b", 2)):
        rows = [{"image": b"x", "label": index} for index in range(count)]
        write_records(tmp_path / f"{name}.tfrecord", *rows)
    one, other = (
        sources.tfrecord(
            {"train": str(tmp_path / f"{first}.tfrecord"), "test": str(tmp_path / f"{second}.tfrecord")},
            image="image",
            label="label",
        )
        for first, second in ("ab", "ba")
    )
    assert one.fingerprint != other.fingerprint
    assert one.count == other.count == 5
