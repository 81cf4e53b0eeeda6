"""Which checkpoints a session makes and keeps, and where training ends early."""

import json

import pytest

from tests.trainer.test_session import stop_at
from trainer import metrics
from trainer.checkpoints import find, read, steps_in
from trainer.launch import STOPPED
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

NEVER = "train.checkpoint_every = (1000, 'epochs')"


def evaluated(events, folder, split="validation"):
    return {event["step"]: event["accuracy"] for event in events(folder, "eval") if event["split"] == split}


@pytest.fixture(scope="module")
def kept(open_session, tmp_path_factory):
    """A run that keeps the newest, the best two by loss, and every fourth step."""
    folder = tmp_path_factory.mktemp("kept")
    bindings = ["train.keep_checkpoints = 1", "train.keep_best = 2", "train.keep_every = (4, 'steps')"]
    assert open_session(folder, *bindings, "train.best_by = 'loss'").run() == 0
    return folder


def test_the_best_by_the_chosen_figure_and_every_nth_stay_when_newer_ones_come(kept, events):
    losses = {event["step"]: event["loss"] for event in events(kept, "eval") if event["split"] == "validation"}
    first, second = sorted(losses, key=losses.get)[:2]
    assert steps_in(kept / "checkpoints") == [9]
    assert steps_in(kept / "checkpoints" / "best") == [first]
    assert steps_in(kept / "checkpoints" / "kept") == sorted({4, 8, second})
    assert json.loads((kept / "summary.json").read_text())["best"] == {
        "split": "validation", "metric": "loss", "value": losses[first], "step": first,
    }  # fmt: skip
    assert read(find(kept / "checkpoints", "4"))["state/step"] == 4


def test_the_figure_that_decides_cannot_change_within_a_session(kept, open_session, complaint):
    with complaint("train.best_by", "'loss'", "cannot change"):
        open_session(kept, "train.best_by = 'accuracy'", allow_change=["train.best_by"])


@pytest.mark.parametrize("figure", ["r2", "acuracy"])
def test_a_figure_that_the_task_has_not_is_refused(tmp_path, open_session, complaint, figure):
    with complaint(f"train.best_by = '{figure}'", "top5_accuracy"):
        open_session(tmp_path, f"train.best_by = '{figure}'")


def test_the_clock_may_ask_for_a_checkpoint_at_each_end_of_a_window(tmp_path, open_session, events):
    assert open_session(tmp_path, NEVER, "train.checkpoint_minutes = 1e-9", "train.keep_checkpoints = 9").run() == 0
    assert steps_in(tmp_path / "checkpoints") == [2, 3, 4, 6, 8, 9]


EARLY = ["train.early_stopping = @early_stopping()", "early_stopping.patience = 1", "early_stopping.min_delta = 1.0"]


def test_training_ends_where_evaluations_do_not_get_better(tmp_path, open_session, events, capsys):
    assert open_session(tmp_path, *EARLY).run() == 0
    # No evaluation is better than the one before by 1: the second one ends it.
    assert list(evaluated(events, tmp_path)) == [3, 6] and list(evaluated(events, tmp_path, "test")) == [6]
    assert [event["reason"] for event in events(tmp_path, "stop")] == ["early stopping"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 6 and set(summary["final"]) == {"validation", "test"}
    assert steps_in(tmp_path / "checkpoints")[-1] == 6
    capsys.readouterr()
    assert open_session(tmp_path, *EARLY).run() == 0
    assert "complete" in capsys.readouterr().out
    patient = [*EARLY, "early_stopping.patience = 5"]
    assert open_session(tmp_path, *patient, allow_change=["early_stopping.patience"]).run() == 0
    assert [event["reason"] for event in events(tmp_path, "stop")] == ["early stopping", "done"]


def test_a_run_cut_in_its_last_evaluation_ends_in_the_same_place(tmp_path, open_session, events, monkeypatch):
    evaluate = Session._evaluate

    def cut(self, split, weights):
        if split == "test":
            self.stop.requested = "SIGTERM"
        return evaluate(self, split, weights)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_evaluate", cut)
        assert open_session(tmp_path, *EARLY).run() == STOPPED
    assert open_session(tmp_path, *EARLY).run() == 0
    assert list(evaluated(events, tmp_path)) == [3, 6] and list(evaluated(events, tmp_path, "test")) == [6]


def test_the_last_one_is_the_best_though_its_evaluation_was_cut(tmp_path, open_session, monkeypatch):
    monkeypatch.setattr(metrics, "merit", lambda event, **_: event["step"])
    short = "train.stages = [@head/stage()]", "train.evaluate_every = (1, 'steps')"
    with monkeypatch.context() as patch:
        stop_at(patch, 3, method="_evaluate")
        assert open_session(tmp_path, *short).run() == STOPPED
    assert steps_in(tmp_path / "checkpoints" / "best") == [2]
    assert open_session(tmp_path, *short).run() == 0
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["step"] == 3
    assert steps_in(tmp_path / "checkpoints" / "best") == [3]


def test_early_stopping_needs_evaluations_to_follow(tmp_path, open_session, complaint):
    with complaint("train.early_stopping", "no validation split"):
        open_session(tmp_path, *EARLY, "split_by_hash.validation = 0.0")
