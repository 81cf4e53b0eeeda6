"""The table of examples."""

import numpy as np
import pytest

from data import sources
from data.examples import Examples


def files(names: list[bytes], labels: list[int]) -> Examples:
    return Examples.of(names=names, labels=np.array(labels), class_names=["cat", "dog"], root="/photos")


NAMES = [b"cat/1.jpg", b"cat/2.jpg", b"cat/a very much longer name.jpg", b"dog/1.jpg", b"dog/\xff\xfe.jpg"]
LABELS = [0, 0, 0, 1, 1]


class TestTable:
    def test_defaults_are_weight_one_and_no_stated_split(self):
        examples = files(NAMES, LABELS)
        assert len(examples) == 5
        assert examples.weights.tolist() == [1.0] * 5 and examples.weights.dtype == np.float32
        assert examples.stated_split.tolist() == [-1] * 5
        assert examples.labels.dtype == np.int32

    @pytest.mark.parametrize(
        "change",
        [
            {"labels": np.zeros(4)},
            {"labels": np.array([0, 0, 0, 1, 2])},
            {"labels": np.array([0, 0, 0, 1, -1])},
            {"weights": np.ones(6)},
            {"root": None},
            {"repeats": np.ones(6)},
            {"weights": np.array([1, 1, 1, 1, np.nan])},
            {"groups": [b"a"]},
            {"task": "multi_class"},
            {"task": "multi_label"},
            {"task": "multi_label", "labels": np.full((5, 2), 0.5)},
            {"task": "regression", "labels": np.full((5, 2), np.inf)},
            {"task": "binary", "class_names": ["a", "b", "c"]},
            {"store_rows": np.arange(5)},
            {"pixels": np.zeros((5, 2, 2, 3), np.uint8)},
            {"root": None, "pixels": np.zeros((5, 2, 2, 3), np.float32)},
            {"root": None, "pixels": np.zeros((5, 2, 2, 1), np.uint8)},
            {"root": None, "pixels": np.zeros((4, 2, 2, 3), np.uint8)},
        ],
    )
    def test_columns_that_do_not_fit_are_a_bug_of_the_source(self, change: dict):
        columns = {"names": NAMES, "labels": np.array(LABELS), "class_names": ["cat", "dog"], "root": "/photos"}
        with pytest.raises(ValueError, match="Received"):
            Examples.of(**columns | change)

    def test_take_selects_rows_in_their_order(self):
        examples = sources.synthetic(examples=6, classes=3, height=2, width=2)
        taken = examples.take(np.array([4, 1]))
        assert taken.names.tolist() == [examples.names[4], examples.names[1]]
        assert taken.labels.tolist() == [1, 1]
        np.testing.assert_array_equal(taken.pixels, examples.pixels[[4, 1]])
        assert examples.take(examples.labels == 2).labels.tolist() == [2, 2]

    def test_an_example_is_called_by_the_path_of_its_file(self):
        assert files(NAMES, LABELS).where(3) == "/photos/dog/1.jpg"
        assert sources.synthetic(examples=2, classes=2).where(1) == "synthetic/00000001"

    def test_the_fingerprint_changes_with_every_column(self):
        base = sources.synthetic(examples=4, classes=2, height=2, width=2)
        columns = {
            "names": base.names,
            "labels": base.labels,
            "class_names": base.class_names,
            "weights": base.weights,
            "stated_split": base.stated_split,
            "pixels": base.pixels,
        }
        brighter = base.pixels.copy()
        brighter[3, 1, 1, 2] ^= 1
        changes = [
            {},
            {"names": [b"a", b"b", b"c", b"d"]},
            {"labels": np.array([0, 1, 0, 0])},
            {"class_names": ["one", "two"]},
            {"weights": np.array([1, 1, 1, 2])},
            {"stated_split": np.array([0, 0, 0, 1])},
            {"repeats": np.array([1, 1, 1, 2])},
            {"groups": [b"a", b"a", b"b", b"b"]},
            {"task": "binary", "class_names": base.class_names},
            {"pixels": brighter},
        ]
        prints = [Examples.of(**columns | change).fingerprint() for change in changes]
        assert len(set(prints)) == len(changes)
        assert prints[0] == base.fingerprint()


@pytest.mark.parametrize("task, outputs", [("single_label", 2), ("binary", 1), ("multi_label", 2), ("regression", 2)])
def test_the_network_has_an_output_per_class_or_number_and_one_for_yes_or_no(task: str, outputs: int):
    labels = np.zeros(3) if task in ("single_label", "binary") else np.zeros((3, 2))
    table = Examples.of(names=[b"a", b"b", b"c"], labels=labels, class_names=["x", "y"], task=task, root="/photos")
    assert table.outputs == outputs
    assert table.take(np.array([2, 0])).labels.shape == (2, *labels.shape[1:])


def test_names_that_are_there_twice_are_refused(complaint):
    with complaint("cat/1.jpg", "again"):
        files([b"cat/1.jpg", b"dog/1.jpg", b"cat/1.jpg"], [0, 1, 0])
