"""A session that goes on from another one's weights: what it keeps, reports, and needs at every start."""

import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoints, initial
from trainer.checkpoints import Checkpoints
from trainer.launch import STOPPED
from trainer.session import Session
from trainer.workdir import Workdir

pytestmark = pytest.mark.usefixtures("no_page")

# Two classes more than the session before, and one example in ten of the old ones.
BINDINGS = (
    "train.deterministic = True", "synthetic.classes = 6", "synthetic.examples = 120",
    "train.sampling = @replay", "replay.old = ['class0', 'class1', 'class2', 'class3']", "replay.share = 0.1",
    "train.distillation = @distillation()", "train.anchor = @anchor()", "anchor.weight = 0.1",
    "train.evaluate_every = (8, 'steps')", "train.checkpoint_every = (4, 'steps')",
)  # fmt: skip


@pytest.fixture(scope="module")
def continued(open_session, finished_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued") / "run"
    assert open_session(folder, *BINDINGS, init_from=str(finished_once)).run() == 0
    return folder


@pytest.fixture(scope="module")
def stopped_once(open_session, finished_once, tmp_path_factory):
    """The same run, stopped after its first window."""
    folder, train_window = tmp_path_factory.mktemp("stopped") / "run", Session._train_window

    def then_stop(self):
        train_window(self)
        os.kill(os.getpid(), signal.SIGTERM)
        while not self.stop.requested:  # by the thread that listens
            time.sleep(0.001)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "_train_window", then_stop)
        assert open_session(folder, *BINDINGS, init_from=str(finished_once)).run() == STOPPED
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


def test_accuracy_on_old_and_new_classes_is_told_before_and_after(continued, events):
    evaluations = events(continued, "eval")
    first = {event["split"]: event for event in evaluations if event["step"] == 0}
    assert first.keys() == {"validation", "test"}
    for event in evaluations:
        assert 0 <= event["old_accuracy"] <= 1 and 0 <= event["new_accuracy"] <= 1
    summary = json.loads((continued / "summary.json").read_text())
    last = {event["split"]: event for event in evaluations if event["step"] == summary["steps"]}
    assert summary["forgetting"] == {"split": "test"} | {
        name: {"before": first["test"][f"{name}_accuracy"], "after": last["test"][f"{name}_accuracy"]}
        for name in ("old", "new")
    }
    assert summary["best"]["step"] > 0


def test_every_layer_tells_its_drift_from_the_weights_that_are_kept(continued):
    before = initial.read(Workdir.existing(str(continued)))
    after = checkpoints.read(checkpoints.find(continued / "checkpoints", "last"))
    drift = json.loads((continued / "summary.json").read_text())["drift"]
    layers = {name.rsplit("/", 1)[0] for name in before if "seed" not in name}
    assert drift.keys() == layers and len(layers) == 7
    conv = "backbone/block1_conv/kernel"
    moved, size = (np.linalg.norm(x.astype(np.float64)) for x in (after[f"model/{conv}"] - before[conv], before[conv]))
    assert drift["backbone/block1_conv"] == pytest.approx(moved / size, rel=1e-6) and moved > 0
    # Batch normalisation trains: its statistics move too.
    assert drift["backbone/block0_bn"] > 0


def test_a_run_that_was_stopped_ends_as_the_straight_one(continued, stopped, open_session, events, capsys):
    assert open_session(stopped, *BINDINGS).run() == 0
    ours, theirs = (checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (stopped, continued))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name
    assert events(stopped, "eval") == events(continued, "eval")
    assert events(stopped, "train") == events(continued, "train")
    printed = capsys.readouterr().out
    assert "old classes: test accuracy" in printed and "largest drift" in printed


def test_no_resume_without_the_weights_that_the_teacher_has(stopped, open_session, content, complaint):
    shutil.rmtree(stopped / "initial")
    before = content(stopped)
    with complaint("what the session began with is lost", f"{stopped}/initial"):
        open_session(stopped, *BINDINGS).run()
    assert content(stopped) == before


@pytest.mark.parametrize("harm", ["flipped", "torn", "other names", "other shapes", "no classes"])
def test_first_weights_that_are_damaged_are_not_taken_for_those_of_the_session(harm, stopped, complaint):
    workdir, folder = Workdir.existing(str(stopped)), stopped / "initial"
    values = initial.read(workdir)
    network = SimpleNamespace(variables=values)
    assert initial.fitting(workdir, network).keys() == values.keys()
    data = folder / "ckpt-0.data-00000-of-00001"
    stored = data.read_bytes()
    if harm == "flipped":
        data.write_bytes(stored[:99] + bytes([stored[99] ^ 1]) + stored[100:])
    elif harm == "torn":
        data.write_bytes(stored[:-1])
    elif harm == "no classes":
        Checkpoints(folder, {"model": {"x": tf.Variable(0.0)}}, keep=1).save(0)
    elif harm == "other names":
        network.variables = {f"{name}_": value for name, value in values.items()}
    else:
        network.variables = values | {"head/head_logits/bias": np.zeros(9, np.float32)}
    with complaint("what the session began with is lost", str(folder)):
        initial.known(workdir) if harm == "no classes" else initial.fitting(workdir, network)


def test_a_teacher_needs_the_weights_of_another_session(open_session, tmp_path, complaint):
    with complaint("train.distillation", "--init_from"):
        open_session(tmp_path / "run", "train.distillation = @distillation()").run()
    assert not (tmp_path / "run" / "config.gin").exists()


def test_an_anchor_needs_something_that_trains(open_session, tmp_path, complaint):
    with complaint("anchor.patterns", "block0_conv"):
        bindings = ("all/stage.trains = 'head'", "all/stage.batchnorm = None", "train.anchor = @anchor()")
        open_session(tmp_path / "run", *bindings, "anchor.patterns = 'block0_conv'").run()


def test_an_anchor_alone_keeps_the_first_weights_and_holds_them(open_session, tmp_path):
    folder = tmp_path / "run"
    # Adam would take steps of one size however small the gradient is.
    bindings = (
        "train.anchor = @anchor()", "anchor.weight = 1e3", "train.optimizer = @sgd()", "sgd.momentum = 0.0",
        "train.stages = [@all/stage()]", "all/stage.length = (4, 'steps')",
    )  # fmt: skip
    assert open_session(folder, *bindings).run() == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert "forgetting" not in summary and initial.known(Workdir.existing(str(folder))) == ()
    # The learning rate times the weight is 1: each step undoes the one before.
    assert 0 < summary["drift"]["backbone/block1_conv"] < 1e-3
