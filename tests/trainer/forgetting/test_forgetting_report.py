"""Figures of what was lost and gained, and of how far weights have moved."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.forgetting import report


def test_accuracy_on_old_and_new_classes_is_the_share_recognised_among_all_classes():
    confusion = np.array([[8, 1, 1], [0, 3, 3], [5, 0, 0]])
    found = report.figures({"confusion": confusion}, [0, 2])
    assert found == {"old_accuracy": pytest.approx(8 / 15), "new_accuracy": pytest.approx(3 / 6)}


def test_classes_without_examples_have_no_accuracy():
    confusion = np.array([[2, 2], [0, 0]])
    assert report.figures({"confusion": confusion}, [0]) == {"old_accuracy": 0.5}
    assert report.figures({"confusion": confusion}, [1]) == {"new_accuracy": 0.5}
    assert report.figures({"confusion": confusion}, [0, 1]) == {"old_accuracy": 0.5}
    assert report.figures({"confusion": confusion}, []) == {}
    assert report.figures({"loss": np.array(1.0)}, [0]) == {}


def test_old_classes_are_found_by_name_wherever_they_stand():
    assert report.old_classes(["owl", "cat", "elk"], ["cat", "dog", "owl"]) == [0, 1]


def test_before_and_after_are_those_of_the_test_split():
    def event(step, split, **accuracies):
        return {"event": "eval", "step": step, "split": split, **accuracies}

    events = [
        event(0, "validation", old_accuracy=0.9, new_accuracy=0.1),
        event(0, "test", old_accuracy=0.8, new_accuracy=0.2),
        event(5, "validation", old_accuracy=0.1, new_accuracy=0.2),
        event(9, "validation", old_accuracy=0.6, new_accuracy=0.7),
        event(9, "test", old_accuracy=0.5, new_accuracy=0.95),
    ]
    assert report.before_and_after(events, last=9) == {
        "split": "test", "old": {"before": 0.8, "after": 0.5}, "new": {"before": 0.2, "after": 0.95},
    }  # fmt: skip
    validation = [each for each in events if each["split"] == "validation"]
    assert report.before_and_after(validation, last=9)["old"] == {"before": 0.9, "after": 0.6}
    assert report.before_and_after(events, last=8) == {} == report.before_and_after(events[2:], last=9)


def test_drift_is_the_relative_distance_of_all_numbers_of_a_layer():
    before = {
        "backbone/conv/kernel": np.array([[3.0, 0.0], [0.0, 0.0]], np.float32),
        "backbone/bn/gamma": np.ones(4, np.float32),
        "backbone/bn/moving_mean": np.zeros(4, np.float32),
        "backbone/drop/seed": np.array([1, 2], np.uint32),
        "head/logits/bias": np.zeros(2, np.float32),
        "head/other/bias": np.zeros(2, np.float32),
    }
    now = {
        "backbone/conv/kernel": np.array([[3.0, 4.0], [0.0, 0.0]], np.float32),
        "backbone/bn/gamma": np.ones(4, np.float32),
        "backbone/bn/moving_mean": np.full(4, 0.5, np.float32),
        "backbone/drop/seed": np.array([7, 8], np.uint32),
        "head/logits/bias": np.ones(2, np.float32),
        "head/other/bias": np.zeros(2, np.float32),
    }
    assert report.drift(before, now) == {
        "backbone/conv": pytest.approx(4 / 3), "backbone/bn": pytest.approx(0.5),
        "head/logits": None, "head/other": 0.0,
    }  # fmt: skip


def test_drift_does_not_round_where_float32_would():
    before = {"a/b/c": np.full(2, 1e30, np.float32)}
    assert report.drift(before, {"a/b/c": np.full(2, 2e30, np.float32)}) == {"a/b": pytest.approx(1.0)}
    half = {"a/b/c": tf.constant([1.0, 2.0], tf.bfloat16).numpy()}
    assert report.drift(half, {"a/b/c": tf.constant([1.0, 4.0], tf.bfloat16).numpy()}) == {
        "a/b": pytest.approx(np.sqrt(4 / 5))
    }
