"""metrics.jsonl holds each event once, in strict JSON, whatever was torn or forgotten."""

import json
import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.reports.log import MetricsLog

events = st.lists(
    st.fixed_dictionaries(
        {"event": st.sampled_from(["train", "skip", "checkpoint"]), "step": st.integers(0, 9)},
        optional={"loss": st.floats(), "name": st.text(max_size=5), "note": st.none()},
    ),
    max_size=8,
)


def strictly(text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "metrics.jsonl"


@given(first=events, second=events)
def test_what_is_appended_is_there_for_the_next_process(path, first, second):
    path.unlink(missing_ok=True)
    log = MetricsLog(path)
    log.append(first)
    log.append(second)
    again = MetricsLog(path)
    assert again.events == log.events == strictly(path.read_text())
    assert len(again.events) == len(first + second)
    for event, written in zip(first + second, again.events, strict=True):
        lost = isinstance(event.get("loss"), float) and not math.isfinite(event["loss"])
        assert written == (event | {"loss": None} if lost else event)


@given(events, st.integers(-1, 9))
def test_cutting_forgets_all_later_steps_and_nothing_else(path, appended, step):
    path.unlink(missing_ok=True)
    log = MetricsLog(path)
    log.append(appended)
    kept = [event for event in log.events if event["step"] <= step]
    log.cut(step)
    assert log.events == kept == strictly(path.read_text())
    log.append([{"event": "train", "step": step + 1}])
    assert MetricsLog(path).events == [*kept, {"event": "train", "step": step + 1}]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"event": "train", "st', b'"event"', b"[1, 2]", b"\xff\xfe", b"", b'{"step": 3}', b'{"event": 1, "step": 1}',
        b'{"event": "train", "step": "4"}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_left_out_and_gone_after_the_next_cut(path, torn):
    good = [{"event": "train", "step": 1}, {"event": "train", "step": 2}]
    lines = [json.dumps(event).encode() for event in good]
    path.write_bytes(lines[0] + b"\n" + torn + b"\n" + lines[1] + b"\n" + torn)
    log = MetricsLog(path)
    assert log.events == good
    log.cut(2)
    assert strictly(path.read_text()) == good


def test_a_torn_line_does_not_swallow_the_next_event_once_cut(path):
    path.write_bytes(b'{"event": "train", "step": 1}\n{"event": "tra')
    log = MetricsLog(path)
    log.cut(5)
    log.append([{"event": "stop", "step": 1}])
    assert [event["event"] for event in MetricsLog(path).events] == ["train", "stop"]


def test_events_are_found_by_kind_and_fields_oldest_first(path):
    path.unlink(missing_ok=True)
    log = MetricsLog(path)
    assert log.find("eval") == []
    log.append([{"event": "eval", "step": step, "split": split} for step in (1, 2) for split in ("validation", "test")])
    assert [event["step"] for event in log.find("eval", split="test")] == [1, 2]
    assert log.find("eval", split="test", step=2) == [{"event": "eval", "step": 2, "split": "test"}]
    assert log.find("eval", depth=None) == log.find("eval"), "a field that is not there is null"
    assert log.find("train") == []


def test_only_floats_are_checked_for_being_finite(path):
    path.unlink(missing_ok=True)
    log = MetricsLog(path)
    log.append([{"event": "train", "step": 1, "a": float("nan"), "b": float(np.float64("inf")), "c": [1], "d": "nan"}])
    assert log.events == [{"event": "train", "step": 1, "a": None, "b": None, "c": [1], "d": "nan"}]
    assert set(string.printable) >= set(path.read_text())


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"event": "train", "step": true}', b'{"event": "train", "step": 1, "loss": NaN}',
        b'{"event": "train", "step": 1, "loss": 1e999}', b"[" * 100_000,
        b'{"event": "eval", "step": 1, "split": ["x"], "loss": 1.0}',
        b'{"event": "eval", "step": 1, "split": "test", "loss": "1.0"}',
        b'{"event": "eval", "step": 1, "split": "test", "accuracy": {}}',
        b'{"event": "train", "step": 1, "images_per_second": 0}', b'{"event": "replaced", "step": 1, "count": "1"}',
        b'{"event": "start", "step": 0, "weights": 7}',
    ],
)  # fmt: skip
def test_an_event_of_other_types_than_it_was_written_with_is_left_out(path, damaged):
    path.write_bytes(damaged + b"\n")
    assert MetricsLog(path).events == []


def test_the_log_of_another_session_is_told(path, complaint):
    path.unlink(missing_ok=True)
    log = MetricsLog(path)
    log.append([{"event": "start", "step": 0, "session": "a"}, {"event": "resume", "step": 3, "session": None}])
    log.check("a")
    log.check(None)
    with complaint("of another session", str(path)):
        log.check("b")
