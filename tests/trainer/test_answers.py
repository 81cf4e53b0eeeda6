"""Rows that say what a network says: the classes of each task, and the same in every format of file."""

import csv
import json

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.examples import TASKS
from trainer import answers
from trainer.answers import Answers, sentence, writer
from trainer.prediction import Meaning

CLASSES = ("cat", "dog", "emu")
LOGITS = st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3).map(np.float32)
SINGLE = Meaning("single_label", CLASSES)


@given(logits=LOGITS)
def test_the_most_probable_classes_come_first(logits):
    row = Answers(SINGLE, top_k=3).row(logits)
    exponentials = np.exp(logits.astype(np.float64))
    shares = dict(zip(CLASSES, exponentials / exponentials.sum(), strict=True))
    assert list(row) == ["class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    named = {row[f"class{which}"]: row[f"probability{which}"] for which in ("", "_2", "_3")}
    assert named == pytest.approx(shares, rel=2**-23)
    assert list(named.values()) == sorted(named.values(), reverse=True)
    assert row["class"] == CLASSES[logits.argmax()]
    assert Answers(SINGLE).row(logits) == {name: row[name] for name in ("class", "probability")}


@given(logits=LOGITS)
def test_yes_or_no_and_sets_are_decided_as_an_evaluation_does(logits):
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    several = Answers(Meaning("multi_label", CLASSES)).row(logits)
    assert several.pop("class") == [name for name, logit in zip(CLASSES, logits, strict=True) if logit > 0]
    expected = {f"probability_{name}": value for name, value in zip(CLASSES, probabilities, strict=True)}
    assert several == pytest.approx(expected, rel=2**-23)
    binary = Answers(Meaning("binary", ("no", "yes"))).row(logits[:1])
    assert binary == {"class": "yes" if logits[0] > 0 else "no", "probability_yes": several["probability_cat"]}


def test_a_threshold_moves_the_decision_and_not_the_probabilities():
    logits = np.float32(np.log([0.2 / 0.8, 0.6 / 0.4, 0.9 / 0.1]))
    chosen = {
        threshold: Answers(Meaning("multi_label", CLASSES), threshold=threshold).row(logits)
        for threshold in (0, 0.5, 0.7, 1)
    }
    assert [row.pop("class") for row in chosen.values()] == [list(CLASSES), ["dog", "emu"], ["emu"], []]
    assert all(row == chosen[0] for row in chosen.values())
    binary = Meaning("binary", ("no", "yes"))
    assert Answers(binary, threshold=0.7).row(logits[1:2])["class"] == "no"


def test_numbers_that_are_not_finite_are_no_prediction():
    for logits in ([0, np.nan, 0], [0, np.inf, 0]):
        assert Answers(SINGLE).row(np.float32(logits)) == {"reason": answers.NOT_FINITE}


@pytest.mark.parametrize("task", TASKS)
def test_every_file_holds_the_same(task, tmp_path):
    said = Answers(Meaning(task, CLASSES[1:]))
    [good] = [said.row(logits) for logits in [np.float32([0.3, 0.2][: 1 if task == "binary" else 2])]]
    rows = [{"name": 'a "b", c', **good}, {"name": "d", "reason": "torn"}]
    found = {}
    for ending in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"found.{ending}"
        with writer(path, said.columns, lists=task == "multi_label") as write:
            for row in rows:
                write(row)
            assert not path.exists()
        found[ending] = pandas.read_parquet(path) if ending == "parquet" else path.read_text()
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"found.{ending}" for ending in found]
    lines = [json.loads(line) for line in found["jsonl"].splitlines()]
    cells = list(csv.DictReader(found["csv"].splitlines()))
    assert [list(line) for line in lines] == [list(row) for row in cells] == [said.columns] * 2
    assert lines == [dict.fromkeys(said.columns) | row for row in rows]
    for line, row in zip(lines, cells, strict=True):
        texts = {key: ";".join(value) if isinstance(value, list) else value for key, value in line.items()}
        assert row == {key: "" if value is None else str(value) for key, value in texts.items()}
    columns = found["parquet"].astype(object)
    assert list(columns) == said.columns
    for line, row in zip(lines, columns.where(columns.notna(), None).to_dict("records"), strict=True):
        assert {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in row.items()} == line


def test_a_file_that_was_not_finished_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), writer(path, ["name"]) as write:
        write({"name": "a"})
        raise KeyboardInterrupt
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_a_regression_says_its_numbers():
    answers = Answers(Meaning("regression", ("height", "width")))
    assert answers.row(np.float32([0.1, -3e7])) == {"value_height": 0.1, "value_width": -3e7}
    assert answers.columns == ["name", "value_height", "value_width", "reason"]


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ("single_label", {"top_k": 4}, "1 to 3"),
        ("single_label", {"top_k": 0}, "--top_k=0"),
        ("single_label", {"threshold": 0.5}, "no --threshold for the task single_label"),
        ("multi_label", {"threshold": 1.5}, "--threshold=1.5"),
        ("multi_label", {"threshold": float("nan")}, "--threshold=nan"),
        ("multi_label", {"top_k": 2}, "no --top_k for the task multi_label"),
        ("regression", {"threshold": 0.5}, "leave it out"),
    ],
)
def test_flags_out_of_range_or_of_another_task_are_refused(task, given, told, complaint):
    with complaint(told):
        Answers(Meaning(task, CLASSES), **given)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"class": "cat", "probability": 0.75}, "cat 0.7500"),
        ({"class": "cat", "probability": 0.75, "class_2": "dog", "probability_2": 0.25}, "cat 0.7500, dog 0.2500"),
        ({"class": "yes", "probability_yes": 0.9}, "yes, yes 0.9000"),
        ({"class": ["cat", "dog"], "probability_cat": 0.9, "probability_dog": 0.6}, "cat;dog, cat 0.9000, dog 0.6000"),
        ({"class": [], "probability_cat": 0.1}, "no class, cat 0.1000"),
        ({"value_class_size": -1.5}, "class_size -1.5000"),
    ],
)
def test_a_prediction_of_every_task_is_told_in_a_line(row, told):
    assert sentence({"name": "a.png", **row}) == f"a.png: {told}"
