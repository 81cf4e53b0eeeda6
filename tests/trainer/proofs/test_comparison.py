"""The comparison of two sessions notices whatever differs."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoints
from trainer.proofs.comparison import Rounding, first_difference


@pytest.fixture
def pair(finished, tmp_path):
    """A finished session and a copy of it."""
    return finished, shutil.copytree(finished, tmp_path / "other")


def rewrite(folder, change):
    """Has `change` edit the list of events."""
    path = folder / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(event) + "\n" for event in change(events)))


def test_a_copy_has_no_difference(pair, capsys):
    assert first_difference(*pair) is None
    printed = capsys.readouterr().out
    assert "checkpoints/ckpt-9 are equal bit for bit" in printed and "best/ckpt-" in printed
    assert "9 train events are equal" in printed


def test_what_a_clock_measured_may_differ(pair):
    def later(events):
        return [event | {name: 1.5 for name in ("seconds", "time", "data_wait") if name in event} for event in events]

    rewrite(pair[1], later)
    assert first_difference(*pair) is None


@pytest.mark.parametrize(
    ("harm", "told"),
    {
        "a figure": (lambda events: [each | {"loss": 0.5} if "loss" in each else each for each in events], "0.5"),
        "an event that is gone": (lambda events: [each for each in events if each["event"] != "stage"], "stage"),
        "an event twice": (lambda events: events + events[-2:-1], "straight"),
        "a checkpoint that nobody asked for": (
            lambda events: [*events, {"event": "checkpoint", "step": 5, "seconds": 1.0}], "checkpoint events",
        ),
    }.values(),
    ids=["a figure", "an event that is gone", "an event twice", "a checkpoint that nobody asked for"],
)  # fmt: skip
def test_events_that_differ_are_told(pair, harm, told):
    rewrite(pair[1], harm)
    assert told in first_difference(*pair)


def test_a_checkpoint_at_a_stop_is_none_too_many(pair):
    def stopped(events):
        return [*events, {"event": "checkpoint", "step": 5}, {"event": "stop", "step": 5, "reason": "SIGTERM"}]

    rewrite(pair[1], stopped)
    assert first_difference(*pair) is None


@pytest.mark.parametrize("place", ["", "best"])
def test_a_bit_of_a_variable_is_told_by_its_name(pair, place):
    prefix = checkpoints.find(pair[1] / "checkpoints", place or "last")
    values = checkpoints.read(prefix)
    name = "model/head/head_logits/bias"
    values[name] = np.nextafter(values[name], np.float32(1))
    groups = {}
    for full, value in values.items():
        groups.setdefault(full.split("/")[0], {})[full.split("/", 1)[1]] = tf.Variable(value)
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        path.unlink()
    tf.train.Checkpoint(**groups).write(str(prefix))
    assert name in first_difference(*pair)
    assert first_difference(*pair, rounding=Rounding(9, terms=8)) is None


def test_a_damaged_checkpoint_at_the_end_is_told(pair):
    prefix = checkpoints.find(pair[1] / "checkpoints", "best")
    path = prefix.with_name(f"{prefix.name}.index")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "is damaged" in first_difference(*pair)


def test_a_summary_of_other_figures_is_told(pair):
    path = pair[1] / "summary.json"
    path.write_text(path.read_text().replace('"steps": 9', '"steps": 8'))
    assert "steps in" in first_difference(*pair)


def test_rounding_lets_the_last_bits_differ_and_no_more():
    rounding = Rounding(100, terms=16)
    one = np.float32([1.0, -np.inf, 0.001, np.nan])
    assert rounding.share == pytest.approx(1e-4, rel=0.05)
    assert rounding.equal(one, one + np.float32([5e-5, 0, 5e-5, 0]))
    assert not rounding.equal(one, one + np.float32([0, 0, 2e-4, 0]))
    assert not rounding.equal(one, np.float32([1.0, 3.0, 0.001, np.nan]))
    assert not rounding.equal(np.int64([3]), np.int64([4]))


def test_rounding_never_excuses_another_schedule():
    rounding = Rounding(100, terms=16)
    event = {"event": "train", "step": 3, "learning_rate": 0.1, "loss": 1.0}
    assert rounding.same(event, event | {"loss": 1.00005})
    assert not rounding.same(event, event | {"loss": 1.001})
    assert not rounding.same(event, event | {"learning_rate": 0.1000001})
