"""A session with an example that no network can learn: it goes back, and on without it, to the same bits."""

from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf

from data import splits
from data.errors import RunFailure
from data.examples import Examples
from data.order import Order
from tests.trainer.test_session import assert_same_run, stop_at
from trainer import checkpoints
from trainer.launch import STOPPED
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

# Of the head, in windows of 2 steps; a checkpoint after each.
TRAINED, BATCH, STEPS = 48, 8, 9
ROLL_BACK = "guard.not_finite = 'roll_back'"


def shown_at(step):
    """The examples of a step of a run that leaves nothing out."""
    positions = tf.range((step - 1) * BATCH, step * BATCH, dtype=tf.int64)
    return Order(epoch_length=TRAINED, seed=0).rows(positions)[1].numpy().tolist()


def once_and_twice():
    """Of what step 5 shows, an example that the run does not come upon again, and one that it does."""
    soon, later = ({row for step in range(7, stop) for row in shown_at(step)} for stop in (STEPS + 2, STEPS + 3))
    return next(row for row in shown_at(5) if row not in later), next(row for row in shown_at(5) if row in soon)


FAULT = [(5 - 1) * BATCH, 5 * BATCH]


@gin.configurable(module="tests")
def poisoned(*, row: int, label: float = 1e30) -> Examples:
    """Noise with one target each, one of which has no square in float32."""
    random = np.random.default_rng(3)
    labels = random.normal(size=(TRAINED + 6, 1)).astype(np.float32)
    labels[row] = label
    return Examples.of(
        names=[b"poisoned/%02d" % place for place in range(len(labels))],
        labels=labels,
        class_names=["level"],
        task="regression",
        pixels=random.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8),
    )


@gin.configurable(module="tests")
def first_ones(examples: Examples) -> np.ndarray:
    return np.where(np.arange(len(examples)) < TRAINED, splits.TRAIN, splits.VALIDATION).astype(np.int8)


@pytest.fixture(scope="module")
def start(small, open_session, tmp_path_factory):
    """`start(folder, "guard.tries = 1", row=3)`: a session of the small recipe on those examples."""
    recipe = tmp_path_factory.mktemp("recipe") / "poisoned.gin"
    lines = Path(small).read_text().splitlines(keepends=True)
    recipe.write_text("".join(line for line in lines if "synthetic" not in line))

    def make(folder, *bindings, row=None, **arguments):
        row = once_and_twice()[0] if row is None else row
        usual = (
            "train.stages = [@head/stage()]", "head/stage.batchnorm = 'frozen'", "train.source = @poisoned",
            f"head/stage.length = ({STEPS}, 'steps')", f"poisoned.row = {row}", "train.split = @first_ones",
        )  # fmt: skip
        given = usual, bindings, ("train.deterministic = True",)
        return open_session(folder, *(line for each in given for line in each), recipe=str(recipe), **arguments)

    return make


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory):
    """The folder of a run that rolled back once and came to its end."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start(folder, ROLL_BACK).run() == 0
    return folder


def going_without(monkeypatch, *left_out):
    """A session leaves these positions out from its beginning."""
    restore = Session._restore

    def restore_and_leave_out(self):
        restore(self)
        self.state.guard.go_without(left_out, roll_backs=1)

    monkeypatch.setattr(Session, "_restore", restore_and_leave_out)


class Killed(BaseException):
    pass


def kill_after_roll_back(monkeypatch):
    """Ends a session, once, between its roll-back and whatever comes next."""
    train = Session._train_window

    def killed(self):
        if self.state.guard.roll_backs:
            monkeypatch.setattr(Session, "_train_window", train)
            raise Killed
        train(self)

    monkeypatch.setattr(Session, "_train_window", killed)


class TestARollBack:
    def test_names_step_positions_and_all_images_of_the_batch(self, straight, events):
        (event,) = events(straight, "rollback")
        assert event == {
            "event": "rollback", "step": 4, "number": 1, "from": 5, "reason": "not finite", "loss": None,
            "positions": FAULT, "images": [f"poisoned/{row:02d}" for row in shown_at(5)],
        }  # fmt: skip
        assert [event["step"] for event in events(straight, "train")] == list(range(1, STEPS + 1))
        assert not events(straight, "skip")

    def test_goes_on_as_if_these_positions_had_never_been(self, straight, start, tmp_path, monkeypatch, events):
        going_without(monkeypatch, tuple(FAULT))
        assert start(tmp_path, ROLL_BACK).run() == 0
        ours, theirs = (checkpoints.read(checkpoints.find(at / "checkpoints", "last")) for at in (straight, tmp_path))
        assert ours.keys() == theirs.keys()
        assert all(value.tobytes() == theirs[name].tobytes() for name, value in ours.items())
        assert events(tmp_path, "train") == events(straight, "train") and not events(tmp_path, "rollback")

    def test_is_the_same_however_often_the_run_is_cut_off(self, straight, start, tmp_path, monkeypatch, events):
        kill_after_roll_back(monkeypatch)
        with pytest.raises(Killed):
            start(tmp_path, ROLL_BACK).run()
        assert len(events(tmp_path, "rollback")) == 1
        # Once before it comes upon the same step again, once when the list is in a checkpoint.
        for step in (4, 6):
            stop_at(monkeypatch, step)
            assert start(tmp_path, ROLL_BACK).run() == STOPPED
            monkeypatch.undo()
        assert start(tmp_path, ROLL_BACK).run() == 0
        assert_same_run(tmp_path, straight, events)
        assert events(tmp_path, "rollback") == events(straight, "rollback")

    def test_of_a_spike_and_several_batches_is_the_same_on_two_replicas(self, start, tmp_path, events, capsys):
        spike = "guard.spike = 10.0", "guard.on_spike = 'roll_back'", "guard.memory = 1", "poisoned.label = 1e3"
        assert start(tmp_path, *spike, "guard.batches = 2", devices="cpu:2").run() == 0
        (event,) = events(tmp_path, "rollback")
        assert (event["reason"], event["step"], event["from"]) == ("spike", 3, 5) and event["loss"] > 1e4
        assert event["positions"] == [3 * BATCH, 5 * BATCH]
        assert event["images"] == [f"poisoned/{row:02d}" for row in (*shown_at(4), *shown_at(5))]
        assert "back to step 2, and on without the positions 24 to 39: roll-back 1 of 3" in capsys.readouterr().out
        assert [event["step"] for event in events(tmp_path, "checkpoint")] == [2, 4, 6, 8, 9]
        trained = events(tmp_path, "train")
        assert len(trained) == STEPS and all(event["loss"] < 100 for event in trained)

    def test_leaves_out_positions_of_stored_features_too(self, start, tmp_path, events):
        assert start(tmp_path, ROLL_BACK, "train.features = @features()").run() == 0
        assert [event["positions"] for event in events(tmp_path, "rollback")] == [FAULT]

    def test_ends_the_run_when_there_have_been_enough_and_more_tries_go_on(
        self, start, tmp_path, events, complaint, capsys
    ):
        _, row = once_and_twice()
        told = (
            "in all batches that went bad: ",
            "roll-backs before it: 1",
            "guard.tries",
            str(tmp_path / "checkpoints" / "ckpt-"),
        )
        with complaint("NaN or infinite at step", *told, kind=RunFailure):
            start(tmp_path, ROLL_BACK, "guard.tries = 1", row=row).run()
        (skip,), (rolled_back,) = events(tmp_path, "skip"), events(tmp_path, "rollback")
        again = [image for image in skip["images"] if image in rolled_back["images"]]
        assert skip["step"] > 5 and f"poisoned/{row:02d}" in skip["images"]
        assert start(tmp_path, ROLL_BACK, "guard.tries = 2", row=row).run() == 0
        first, second = events(tmp_path, "rollback")
        assert (first["number"], first["positions"], second["number"]) == (1, FAULT, 2)
        assert second["positions"] == skip["positions"]
        assert f"roll-back 2 of 2; in all of them: {again[0]}" in capsys.readouterr().out


def test_a_run_that_skips_goes_on_and_tells_of_the_batch(start, tmp_path, events, capsys):
    assert start(tmp_path, "guard.not_finite = 'skip'").run() == 0
    (skip,) = events(tmp_path, "skip")
    images = [f"poisoned/{row:02d}" for row in shown_at(5)]
    assert skip == {
        "event": "skip", "step": 5, "reason": "not finite", "loss": None, "loss_scale": 1.0, "positions": FAULT,
        "images": images,
    }  # fmt: skip
    assert "step 5 changed nothing: not finite" in capsys.readouterr().out
