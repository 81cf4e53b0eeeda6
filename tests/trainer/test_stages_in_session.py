"""Stages of different image sizes, rates and batch normalisation in one session."""

import itertools
import os
import signal
import time

import pytest

from trainer import checkpoints
from trainer.launch import STOPPED
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

# Three steps of the head on 24 px, then six of the last block on 32 px, in windows of two.
BINDINGS = (
    "train.deterministic = True", "image_size = 32", "synthetic.height = 32", "synthetic.width = 32",
    "head/stage.image_size = 24", "all/stage.trains = ['head', 'last 1 block']", "all/stage.batchnorm = 'recalibrate'",
    "all/stage.factors = [('head', 2.0)]", "all/stage.layer_decay = 0.5", "train.keep_checkpoints = 9",
)  # fmt: skip
BOUNDARY, END = 3, 9


@pytest.fixture(scope="module")
def straight(open_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "run"
    assert open_session(folder, *BINDINGS).run() == 0
    return folder


def model_at(folder, step):
    values = checkpoints.read(folder / "checkpoints" / f"ckpt-{step}")
    return {name.removeprefix("model/"): value for name, value in values.items() if name.startswith("model/")}


def changed(before, after):
    return {name for name in before if before[name].tobytes() != after[name].tobytes() and "seed" not in name}


def test_nothing_but_what_a_stage_names_changes_by_a_bit(straight):
    statistics = {
        f"backbone/block{i}_bn/moving_{what}" for i, what in itertools.product(range(3), ("mean", "variance"))
    }
    head = {"head/head_logits/kernel", "head/head_logits/bias"}
    assert changed(model_at(straight, 2), model_at(straight, BOUNDARY)) == head
    trained = {*head, "backbone/block2_conv/kernel"}
    assert changed(model_at(straight, BOUNDARY), model_at(straight, END)) == trained | statistics


@pytest.mark.parametrize("step", [2, 4])
def test_a_resume_before_or_behind_the_boundary_is_the_straight_run(
    step, straight, open_session, tmp_path, monkeypatch, events
):
    train_window = Session._train_window

    def stopped(self):
        if self.step == step and not self.stop.requested:
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.stop.requested:  # by the thread that listens
                time.sleep(0.001)
        train_window(self)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_train_window", stopped)
        assert open_session(tmp_path / "run", *BINDINGS).run() == STOPPED
    assert open_session(tmp_path / "run", *BINDINGS).run() == 0
    ours, theirs = (
        checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (tmp_path / "run", straight)
    )
    assert {name: value.tobytes() for name, value in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}
    for kind in ("train", "eval", "stage"):
        assert events(tmp_path / "run", kind) == events(straight, kind)
