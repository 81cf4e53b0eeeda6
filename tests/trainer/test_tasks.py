"""Every task goes the whole way: trained, stopped and resumed, its best kept, evaluated."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import gin
import numpy as np
import pytest
from absl import flags
from tensorflow.python.framework import config as tensorflow_config

from data.examples import TASKS, Examples
from scripts import evaluate
from trainer import checkpoints, metrics, outcomes
from trainer.launch import STOPPED
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

EXAMPLES, SIZE = 120, 16
CLASSIFIED = {"accuracy", "log_loss", "calibration_error", "roc_auc", "average_precision"}
ERRORS = {"mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2"}
FIGURES = {
    "single_label": {"top5_accuracy", "balanced_accuracy", "macro_f1", *CLASSIFIED},
    "binary": {"recall", "precision", "f1", "balanced_accuracy", *CLASSIFIED},
    "multi_label": {"exact_match", "macro_f1", *CLASSIFIED},
    "regression": ERRORS,
}
FOUND = {"recall", "precision", "f1", "roc_auc", "average_precision"}
PER_OUTPUT = {
    "single_label": {"examples", *FOUND},
    "binary": {"examples", *FOUND},
    "multi_label": {"positives", *FOUND},
    "regression": ERRORS,
}


@gin.configurable(module="tests")
def coloured(*, task: str, weight: float = 1.0) -> Examples:
    """Plain images whose red and green say the label: which is more, is red bright, which are bright, how bright."""
    random = np.random.default_rng(0)
    light = random.uniform(0, 1, (EXAMPLES, 3))
    labels = {
        "single_label": light.argmax(axis=1),
        "binary": light[:, 0] > 0.5,
        "multi_label": light > 0.5,
        "regression": 2 * light[:, :2] - 1,
    }[task]
    names = {"binary": ("dark", "bright"), "regression": ("red", "green")}.get(task, ("red", "green", "blue"))
    return Examples.of(
        names=[b"coloured/%03d" % row for row in range(EXAMPLES)],
        labels=labels,
        class_names=names,
        task=task,
        weights=np.full(EXAMPLES, weight, np.float32),
        pixels=np.broadcast_to(np.uint8(255 * light)[:, None, None], (EXAMPLES, SIZE, SIZE, 3)).copy(),
    )


@pytest.fixture(scope="module")
def start(small, open_session, tmp_path_factory):
    """`start(folder, "binary")`: a session of the small recipe on coloured images."""
    recipe = tmp_path_factory.mktemp("recipe") / "coloured.gin"
    lines = Path(small).read_text().splitlines(keepends=True)
    recipe.write_text("".join(line for line in lines if "synthetic" not in line))

    def make(folder, task, *bindings):
        # As long as it takes to see the loss fall.
        usual = (
            "train.source = @coloured", f"coloured.task = {task!r}", "epochs = 4", "learning_rate = 1e-2",
            "train.deterministic = True", "train.evaluate_every = (10, 'steps')",
        )  # fmt: skip
        return open_session(folder, *usual, *bindings, recipe=str(recipe))

    return make


@pytest.fixture(scope="module", params=TASKS)
def run(request, start, tmp_path_factory):
    """A task and the folder of a session that was trained to its end."""
    gin.clear_config()
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert start(folder, request.param).run() == 0
    tensorflow_config.disable_op_determinism()
    return request.param, folder


def test_training_lowers_the_loss_and_shows_the_figure_of_the_task(run, events):
    task, folder = run
    trained = events(folder, "train")
    losses = [event["loss"] for event in trained]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    other = {"accuracy", "mean_absolute_error"} - {metrics.running(task)}
    for event in trained:
        assert event[metrics.running(task)] >= 0 and not other & event.keys()


def test_the_best_checkpoint_is_that_of_the_decisive_figure(run, events):
    task, folder = run
    summary = json.loads((folder / "summary.json").read_text())
    evaluations = [event for event in events(folder, "eval") if event["split"] == "validation"]
    values = [event["loss" if task == "regression" else "accuracy"] for event in evaluations]
    best = min(values) if task == "regression" else max(values)
    first = evaluations[values.index(best)]["step"]
    metric = "loss" if task == "regression" else "accuracy"
    assert summary["best"] == {"split": "validation", "metric": metric, "value": best, "step": first}
    assert checkpoints.find(folder / "checkpoints", "best").name == f"ckpt-{first}"
    assert set(summary["final"]["test"]) == {"loss", "examples", *FIGURES[task]}


def test_evaluate_gives_the_figures_of_the_session_and_those_of_each_output(run, events, tmp_path, monkeypatch, capsys):
    task, folder = run
    output = tmp_path / "figures.json"
    given = {"workdir": str(folder), "gin_file": [], "gin_param": [], "devices": "cpu", "checkpoint": "last"}
    given |= {"split": "test", "weights": None, "output": str(output), "details": True, "is_parsed": lambda: False}
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given))
    path = folder / "predictions" / "test.npz"
    of_session = outcomes.read(path)
    path.unlink()
    assert evaluate.main() == 0
    tensorflow_config.disable_op_determinism()
    written = json.loads(output.read_text())
    (last,) = (event for event in events(folder, "eval") if event["split"] == "test")
    for name in ("loss", "examples", *FIGURES[task]):
        assert written[name] == pytest.approx(last[name], rel=1e-6)
    assert written["task"] == task
    assert set(written["per_output"]) == PER_OUTPUT[task]
    assert {len(column) for column in written["per_output"].values()} == {len(written["classes"])}
    assert ("confusion" in written) == (task in ("single_label", "binary"))
    printed = capsys.readouterr().out
    assert all(name in printed for name in written["classes"])
    assert ("confusion matrix" in printed) == ("confusion" in written)
    ours, theirs = (dataclasses.asdict(each) for each in (outcomes.read(path), of_session))
    np.testing.assert_allclose(list(ours["figures"].values()), list(theirs["figures"].values()), rtol=1e-6)
    for name in ("step", "weights", "names", "labels", "predicted", "confusion"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["losses"].mean(), last["loss"], rtol=1e-6)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(run, start, events, tmp_path, monkeypatch):
    task, straight = run
    folder = tmp_path / "run"
    train_window = Session._train_window

    def interrupted(self):
        if self.step == 14 and not self.stop.requested:
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.stop.requested:  # by the thread that listens
                time.sleep(0.001)
        train_window(self)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_train_window", interrupted)
        assert start(folder, task).run() == STOPPED
    assert start(folder, task).run() == 0
    for kind in ("train", "eval"):
        assert events(folder, kind) == events(straight, kind)
    ours, theirs = (checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (folder, straight))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


def test_a_loss_for_other_labels_ends_the_start_before_anything_is_written(start, complaint, tmp_path):
    with complaint("cross_entropy", "multi_label", "train.loss"):
        start(tmp_path / "run", "multi_label", "train.loss = @cross_entropy()")
    assert not (tmp_path / "run" / "config.gin").exists()


def test_an_evaluation_in_which_no_example_counts_is_refused(start, complaint, tmp_path):
    with complaint("weight"):
        start(tmp_path / "run", "binary", "coloured.weight = 0.0", "epochs = 1").run()


def test_a_recipe_may_choose_another_loss_of_the_task(start, events, tmp_path):
    folder = tmp_path / "run"
    more = ("train.loss = @huber()", "huber.delta = 0.1", "epochs = 1")
    assert start(folder, "regression", *more).run() == 0
    final = events(folder, "eval")[-1]
    # Huber's loss of every difference d is at most delta * |d|.
    assert 0 < final["loss"] <= 0.1 * final["mean_absolute_error"]
