"""The audit says what is wrong with a data set and where, in one document that JSON can hold."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import audit
from data.decode import Decoding
from data.examples import Examples
from data.findings import FORMATS, Findings

DECODING = Decoding(short_side=8)
TRAIN, VALIDATION, TEST = range(3)


def document(
    labels,
    *,
    split=None,
    content=None,
    looks=None,
    names=None,
    reasons: Mapping[int, str] | None = None,
    formats=None,
    sizes=None,
    class_names=("cat", "dog"),
    **others,
):
    """The audit of images whose bytes are equal where `content` is, and alike where `looks` is."""
    count = len(labels)
    content = range(count) if content is None else content
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**64, 1000, dtype=np.uint64)
    coefficients = random.integers(-127, 128, (1000, 64)).astype(np.int8)
    looks = np.asarray(content if looks is None else looks)
    findings = Findings(
        reasons=dict(reasons or {}),
        file_sizes=np.full(count, 10),
        digests=np.array([b"%016d" % number for number in content]),
        orientations=np.ones(count, np.int8),
        sizes=np.full((count, 2), 8) if sizes is None else np.array(sizes),
        formats=np.array([FORMATS.index(name) for name in formats or ["JPEG"] * count], np.int8),
        grey=np.zeros(count, bool),
        fingerprinted=np.ones(count, bool),
        codes=codes[looks],
        coefficients=coefficients[looks],
    )
    names = [b"%d.jpg" % row for row in range(count)] if names is None else names
    task = others.pop("task", "single_label")
    refused = others.pop("refused", ())
    examples = Examples.of(
        names=names, labels=np.array(labels), class_names=class_names, task=task, root="/photos", refused=refused
    )
    split = np.zeros(count, np.int8) if split is None else np.array(split, np.int8)
    found = audit.audit(examples, split, findings, decoding=DECODING)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def listed(found):
    return [[image["name"] for image in entry["images"]] for entry in found["listed"]]


def test_equal_files_are_a_group_with_its_flags():
    found = document([0, 0, 0, 1, 0, 1], content=[1, 1, 2, 2, 3, 3], split=[0, 2, 0, 0, 0, 1])["duplicates"]
    assert found["groups"] == found["surplus"] == 3 and (found["across"], found["conflicting"]) == (2, 2)
    assert listed(found) == [["4.jpg", "5.jpg"], ["2.jpg", "3.jpg"], ["0.jpg", "1.jpg"]]  # the worst first
    assert [(entry["across"], entry["conflicting"]) for entry in found["listed"]] == [
        (True, True),
        (False, True),
        (True, False),
    ]


def test_an_image_says_its_label_and_split():
    found = document([0, 1], content=[1, 1], split=[TRAIN, TEST])["duplicates"]["listed"][0]["images"]
    assert found == [
        {"name": "0.jpg", "label": "cat", "split": "train"},
        {"name": "1.jpg", "label": "dog", "split": "test"},
    ]


@pytest.mark.parametrize(
    ("task", "labels", "shown"),
    [
        ("multi_label", [[1, 1], [0, 1]], [["cat", "dog"], ["dog"]]),
        ("regression", [[1.5, 2], [1.5, 3]], [[1.5, 2.0], [1.5, 3.0]]),
    ],
)
def test_any_difference_between_vectors_is_a_conflict(task, labels, shown):
    found = document(labels, content=[1, 1], task=task)["duplicates"]
    assert found["conflicting"] == 1
    assert [image["label"] for image in found["listed"][0]["images"]] == shown
    assert document([labels[0], labels[0]], content=[1, 1], task=task)["duplicates"]["conflicting"] == 0


def test_pictures_that_look_alike_are_pairs_with_their_flags():
    found = document([0, 1, 0, 0], looks=[1, 1, 2, 2], split=[0, 0, 0, 1])["near_duplicates"]
    assert (found["pairs"], found["across"], found["conflicting"]) == (2, 1, 1)
    assert listed(found) == [["0.jpg", "1.jpg"], ["2.jpg", "3.jpg"]]
    assert [entry["distance"] for entry in found["listed"]] == [0, 0]


def test_copies_of_a_file_count_once_among_the_alike_but_their_splits_count():
    found = document([0, 0, 0], content=[1, 1, 2], looks=[1, 1, 1], split=[0, 2, 0])["near_duplicates"]
    assert listed(found) == [["0.jpg", "2.jpg"]] and found["across"] == 1


def test_bad_files_are_listed_and_left_out_of_everything_else():
    found = document(
        [0, 0, 1], content=[1, 1, 1], reasons={0: "torn", 2: "torn too"}, refused=[(b"link.jpg", "leads out")]
    )
    assert found["bad"] == [
        {"name": "0.jpg", "label": "cat", "split": "train", "reason": "torn"},
        {"name": "2.jpg", "label": "dog", "split": "train", "reason": "torn too"},
        {"name": "link.jpg", "label": None, "split": None, "reason": "leads out"},
    ]
    assert found["images"] | {"listed": 4, "good": 1, "bad": 3, "bytes": 10} == found["images"]
    assert found["duplicates"]["groups"] == found["near_duplicates"]["pairs"] == 0
    assert found["classes"] == {"train": [1, 0], "validation": [0, 0], "test": [0, 0]}


def test_an_audit_of_nothing_good_is_still_a_document():
    found = document([0, 1], reasons={0: "torn", 1: "torn"})
    assert found["images"]["good"] == 0 and "height" not in found["sizes"]


def test_classes_are_counted_per_split():
    found = document([0, 1, 1, 0], split=[TRAIN, TRAIN, VALIDATION, TEST])
    assert found["classes"] == {"train": [1, 1], "validation": [0, 1], "test": [1, 0]}
    vectors = document([[1, 1], [0, 1]], task="multi_label", split=[TRAIN, TRAIN])
    assert vectors["classes"]["train"] == [1, 2]
    numbers = document([[1.0], [4.0]], task="regression", split=[TRAIN, TRAIN], class_names=["age"])
    assert numbers["classes"] == {
        "train": [{"min": 1.0, "mean": 2.5, "max": 4.0}],
        "validation": [None],
        "test": [None],
    }


def test_sizes_are_told_of_what_has_one():
    found = document([0, 0, 0, 0], sizes=[[10, 20], [30, 30], [40, 20], [0, 0]])["sizes"]
    assert found["height"] == {"min": 10.0, "median": 30.0, "max": 40.0} and found["unknown"] == 1
    assert found["aspect"] == {"min": 0.5, "median": 1.0, "max": 2.0}


def test_a_file_of_another_kind_than_its_name_says_is_listed():
    names = [b"a.jpg", b"b.JPEG", b"c.dat", b"d.png", b"e.png"]
    found = document([0] * 5, names=names, formats=["PNG", "JPEG", "PNG", "", "array"])
    assert found["misnamed"]["count"] == 1
    assert found["misnamed"]["listed"][0]["name"] == "a.jpg" and found["misnamed"]["listed"][0]["content"] == "PNG"
    assert found["formats"] == {"unknown": 1, "JPEG": 1, "PNG": 2, "array": 1}


@given(name=st.binary(min_size=1, max_size=12).filter(lambda name: not name.endswith(b"\0")))
def test_any_name_can_be_printed_and_comes_back_byte_for_byte(name):
    found = document([0, 0], content=[1, 1], names=[name, name + b"x"])
    shown = found["duplicates"]["listed"][0]["images"]
    assert [audit.name_of(image) for image in shown] == [name, name + b"x"]
    assert all(image["name"].isprintable() and image["name"].encode() for image in shown)


def test_long_lists_are_cut_but_counted(monkeypatch):
    monkeypatch.setattr(audit, "LISTED", 2)
    found = document([0] * 8, content=[1, 1, 2, 2, 3, 3, 4, 4])["duplicates"]
    assert found["groups"] == 4 and len(found["listed"]) == 2
