"""A session: one folder, trained to its end whatever comes between."""

import itertools
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data import decode
from data.errors import RunFailure
from trainer import checkpoints
from trainer.launch import STOPPED
from trainer.losses import cross_entropy
from trainer.optimization.loss_scale import LossScale
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

DETERMINISTIC = "train.deterministic = True"
# What the small recipe comes to: windows of 2 steps, 3 steps of the head, then an epoch of 44 examples in batches of 8.
STEPS, HEAD_STEPS = 9, 3
EVALUATED = [3, 6, 9]


@gin.configurable(module="tests")
def huge_loss(*, factor=1e6):
    """Overflows in float16 as long as the loss scale is large."""
    plain = cross_entropy()
    return lambda labels, logits: plain(labels, logits) * factor


def stop_at(monkeypatch, step, *, method="_train_window", number=signal.SIGTERM):
    """Sends the signal just before the session's method is called at that step."""
    original = getattr(Session, method)

    def signalled(self, *arguments):
        if self.step == step and not self.stop.requested:
            os.kill(os.getpid(), number)
            while not self.stop.flag.numpy():  # by the thread that listens
                time.sleep(0.001)
        return original(self, *arguments)

    monkeypatch.setattr(Session, method, signalled)


class StopsBefore:
    """Stands in for the flag of a session's request: the request comes while the window of this step is on its way."""

    def __init__(self, session, step):
        self._session, self._step = session, step

    def read_value(self):
        def come():
            if int(self._session.state.step.numpy()) == self._step:
                self._session.stop.requested = "SIGTERM"
            return self._session.stop.requested is not None

        return tf.ensure_shape(tf.numpy_function(come, [], tf.bool), [])


def assert_same_run(folder, other, events, *, kinds=("train", "eval", "checkpoint", "stage")):
    """Every variable, optimizer slots included, and every figure is equal bit for bit and there once."""
    ours, theirs = (checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (folder, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.tobytes() == theirs[name].tobytes(), name
    for kind in kinds:
        assert events(folder, kind) == events(other, kind)


class TestAFinishedSession:
    def test_has_every_file_of_the_contract(self, finished):
        names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
        kept = {f"checkpoints/ckpt-{step}{suffix}" for step in (6, 8, 9) for suffix in checkpoint_files()}
        best = json.loads((finished / "summary.json").read_text())["best"]["step"]
        assert names == {
            "config.gin", "config-0.gin", "classes.json", "environment.json", "examples.npz", "onward.lock",
            "metrics.jsonl", "summary.json", "stages.json", "report.html", "predictions/validation.npz",
            "predictions/test.npz", "checkpoints/checkpoint", "checkpoints/best/checkpoint", *kept,
            *(f"checkpoints/best/ckpt-{best}{suffix}" for suffix in checkpoint_files()),
        }  # fmt: skip

    def test_tells_its_configuration_classes_and_environment(self, finished):
        config = (finished / "config.gin").read_text()
        assert config == (finished / "config-0.gin").read_text()
        assert "train.batch_size = %batch_size" in config and "batch_size = 8" in config
        assert json.loads((finished / "classes.json").read_text()) == ["class0", "class1", "class2", "class3"]
        facts = json.loads((finished / "environment.json").read_text())
        assert {"versions", "devices", "precision", "xla", "seed", "data_fingerprint", "git_revision"} <= facts.keys()
        assert facts["versions"]["tensorflow"] == tf.__version__
        assert facts["replicas"] == 1 and facts["deterministic"] is True and facts["seed"] == 0

    def test_logs_each_step_once_with_finite_figures(self, finished, events):
        steps = events(finished, "train", times=True)
        assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
        keys = {"step", "epoch", "loss", "learning_rate", "images_per_second", "data_wait", "accuracy", "gradient_norm"}
        for event in steps:
            assert keys <= event.keys()
            assert all(math.isfinite(event[key]) for key in keys)
            assert 0 <= event["data_wait"] <= 1 and event["images_per_second"] > 0
        assert [event["epoch"] for event in steps] == [step * 8 / 44 for step in range(1, STEPS + 1)]
        assert [(event["step"], event["stage"]) for event in events(finished, "stage")] == [(0, "head"), (3, "all")]
        assert [event["step"] for event in events(finished, "checkpoint")] == [2, 3, 4, 6, 8, 9]
        assert [(event["event"], event["step"]) for event in events(finished)][:2] == [("start", 0), ("stage", 0)]
        assert events(finished)[-1] == {"event": "stop", "step": STEPS, "reason": "done"}

    def test_logs_its_evaluations_and_sums_them_up(self, finished, events):
        evaluations = events(finished, "eval")
        assert [(event["step"], event["split"]) for event in evaluations] == [
            *((step, "validation") for step in EVALUATED), (STEPS, "test"),
        ]  # fmt: skip
        summary = json.loads((finished / "summary.json").read_text())
        assert (summary["steps"], summary["epochs"]) == (STEPS, STEPS * 8 / 44)
        for split, event in zip(("validation", "test"), evaluations[-2:], strict=True):
            assert summary["final"][split] == {k: v for k, v in event.items() if k not in ("event", "step", "split")}
            assert {"loss", "accuracy", "macro_f1", "log_loss", "examples"} < summary["final"][split].keys()
            assert 0 <= event["accuracy"] <= 1
        best = max((event for event in evaluations if event["split"] == "validation"), key=lambda e: e["accuracy"])
        assert summary["best"] == {
            "split": "validation", "metric": "accuracy", "value": best["accuracy"], "step": best["step"],
        }  # fmt: skip
        assert summary["images_per_second"] > 0 and summary["seconds"] > 0

    def test_has_a_manifest_beside_each_checkpoint_and_the_best_one_apart(self, finished):
        folder = finished / "checkpoints"
        for step in (6, 8, 9):
            manifest = json.loads((folder / f"ckpt-{step}.manifest.json").read_text())
            assert manifest["step"] == step and len(manifest["files"]) == 2
            assert manifest["variables"] == len(checkpoints.read(folder / f"ckpt-{step}"))
        best = checkpoints.find(folder, "best")
        assert checkpoints.damage(best) is None
        assert best.name == f"ckpt-{json.loads((finished / 'summary.json').read_text())['best']['step']}"

    def test_says_so_when_started_again_and_trains_nothing(self, finished, open_session, content, capsys):
        before = content(finished)
        session = open_session(finished, DETERMINISTIC)
        assert session.run() == 0
        assert "complete" in capsys.readouterr().out
        assert content(finished) == before
        assert not hasattr(session, "state")

    def test_trains_its_last_steps_again_when_their_checkpoint_is_lost(self, finished, open_session):
        before = checkpoints.read(finished / "checkpoints" / f"ckpt-{STEPS}")
        (finished / "checkpoints" / f"ckpt-{STEPS}.index").unlink()
        assert open_session(finished, DETERMINISTIC).run() == 0
        after = checkpoints.read(finished / "checkpoints" / f"ckpt-{STEPS}")
        assert before.keys() == after.keys() and all(np.array_equal(after[name], before[name]) for name in before)

    @pytest.mark.parametrize("name", ["summary.json", "environment.json"])
    @pytest.mark.parametrize("content", [None, "{", "{}"])
    def test_makes_what_was_lost_again(self, finished, open_session, content, name):
        before = json.loads((finished / "summary.json").read_text())
        (finished / "summary.json").unlink()
        (finished / name).unlink(missing_ok=True)
        if content is not None:
            (finished / name).write_text(content)
        assert open_session(finished, DETERMINISTIC).run() == 0
        assert json.loads((finished / "summary.json").read_text()) == before

    def test_goes_on_when_it_may_become_longer(self, finished, open_session, events):
        assert open_session(finished, DETERMINISTIC, "epochs = 1.5", allow_change=["epochs"]).run() == 0
        # 1.5 epochs of 44 examples are 66, which take 9 batches of 8.
        assert [event["step"] for event in events(finished, "train")] == list(range(1, HEAD_STEPS + 9 + 1))
        assert events(finished, "resume") == [{"event": "resume", "step": STEPS}]
        assert (finished / "config-9.gin").read_text() != (finished / "config-0.gin").read_text()
        assert json.loads((finished / "summary.json").read_text())["steps"] == HEAD_STEPS + 9

    def test_cannot_become_shorter_than_it_is(self, finished, open_session, complaint, content):
        before = content(finished)
        with complaint(f"step {STEPS}", "step 6"):
            open_session(finished, DETERMINISTIC, "epochs = 0.5", allow_change=["epochs"]).run()
        assert content(finished).items() >= (
            before.items() - {("checkpoints/checkpoint", before["checkpoints/checkpoint"])}
        )


def checkpoint_files():
    return (".index", ".data-00000-of-00001", ".manifest.json")


class TestAStoppedSession:
    def test_is_saved_and_goes_on_to_the_same_bits(self, tmp_path, open_session, finished_once, events, monkeypatch):
        with monkeypatch.context() as patch:
            stop_at(patch, 8)
            # The stop is the only reason to save at step 8.
            assert open_session(tmp_path, DETERMINISTIC, "train.checkpoint_every = (9, 'epochs')").run() == STOPPED
        assert checkpoints.steps_in(tmp_path / "checkpoints")[-1] == 8
        assert not (tmp_path / "summary.json").exists()
        assert open_session(tmp_path, DETERMINISTIC).run() == 0
        assert_same_run(tmp_path, finished_once, events, kinds=("train", "eval", "stage"))
        assert [event["reason"] for event in events(tmp_path, "stop")] == ["SIGTERM", "done"]

    def test_is_saved_within_a_window_and_goes_on_to_its_end(self, tmp_path, open_session, finished_once, events):
        session = open_session(tmp_path, DETERMINISTIC)
        session.stop.flag = StopsBefore(session, 7)
        assert session.run() == STOPPED
        assert checkpoints.steps_in(tmp_path / "checkpoints")[-1] == 7
        assert [event["step"] for event in events(tmp_path, "train")] == list(range(1, 8))
        assert open_session(tmp_path, DETERMINISTIC).run() == 0
        assert_same_run(tmp_path, finished_once, events, kinds=("train", "eval", "stage"))

    @pytest.mark.parametrize("step", [6, 9])
    def test_makes_up_for_the_evaluation_that_was_cut_short(
        self, tmp_path, open_session, finished_once, events, monkeypatch, step
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, step, method="_evaluate", number=signal.SIGUSR1)
            assert open_session(tmp_path, DETERMINISTIC).run() == STOPPED
        assert [event["step"] for event in events(tmp_path, "eval")] == [each for each in EVALUATED if each < step]
        assert checkpoints.steps_in(tmp_path / "checkpoints")[-1] == step
        assert open_session(tmp_path, DETERMINISTIC).run() == 0
        assert events(tmp_path, "eval") == events(finished_once, "eval")
        assert_same_weights_but_for_best(tmp_path, finished_once)

    def test_forgets_what_was_logged_and_never_saved_and_logs_what_was_saved_and_never_logged(
        self, tmp_path, open_session, finished_once, events, monkeypatch
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, 3)
            open_session(tmp_path, DETERMINISTIC).run()
        log = tmp_path / "metrics.jsonl"
        lines = log.read_text().splitlines()
        saved = [line for line in lines if '"checkpoint"' in line and json.loads(line)["step"] == 3]
        lines.remove(saved[0])
        lines.append(json.dumps({"event": "train", "step": 4, "loss": 99.0}))
        log.write_text("\n".join(lines) + '\n{"event": "train", "st')
        assert open_session(tmp_path, DETERMINISTIC).run() == 0
        for kind in ("train", "eval"):
            assert events(tmp_path, kind) == events(finished_once, kind)
        assert [event["step"] for event in events(tmp_path, "checkpoint")] == [2, 3, 4, 6, 8, 9]

    def test_falls_back_when_its_newest_checkpoint_is_damaged_and_says_so(
        self, tmp_path, open_session, finished_once, events, monkeypatch, capsys
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, 6)
            open_session(tmp_path, DETERMINISTIC).run()
        flip_a_byte(tmp_path / "checkpoints" / "ckpt-6.data-00000-of-00001")
        (tmp_path / "checkpoints" / "checkpoint").unlink()
        assert open_session(tmp_path, DETERMINISTIC).run() == 0
        assert "checkpoint 6 is damaged" in capsys.readouterr().out
        assert (tmp_path / "checkpoints" / "damaged" / "ckpt-6.index").exists()
        assert events(tmp_path, "resume") == [{"event": "resume", "step": 4}]
        assert_same_run(tmp_path, finished_once, events)

    def test_ends_at_the_next_window_as_a_process_of_its_own_and_can_be_evaluated_meanwhile(
        self, tmp_path, command, small
    ):
        """The processes: status 75 after a signal, 2 for a second one on the workdir, 0 for an evaluation beside it."""
        workdir, recipe = f"--workdir={tmp_path}", f"--gin_file={small}"
        endless = ["--gin_param=epochs = 100000", "--gin_param=train.evaluate_every = (20, 'steps')", "--devices=cpu"]
        first = command("train", workdir, recipe, *endless)
        try:
            wait_for(tmp_path / "checkpoints" / "best" / "checkpoint")
            second = command("train", workdir, recipe, *endless)
            assert second.end() == 2
            assert f"pid {first.pid} on" in second.printed
            for _ in range(3):  # the best one may give way to a better one just as it is read
                evaluation = command(
                    "evaluate", workdir, "--split=test", "--devices=cpu", f"--output={tmp_path}/t.json"
                )
                if evaluation.end() == 0:
                    break
            assert "test, " in evaluation.printed
            assert json.loads((tmp_path / "t.json").read_text())["examples"] == 11
        finally:
            status = first.end(signal.SIGTERM)
        assert status == STOPPED, first.printed
        assert "SIGTERM: stopped at step" in first.printed and "The same command goes on" in first.printed
        assert checkpoints.damage(checkpoints.find(tmp_path / "checkpoints", "last")) is None


def assert_same_weights_but_for_best(folder, other):
    """The checkpoint of a stop was made before the evaluation whose result it would note."""
    ours, theirs = (checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (folder, other))
    for name in ours.keys() - {"best/merits", "best/steps"}:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def wait_for(path: Path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    # Not in place: the best checkpoint is a link to the same bytes.
    path.unlink()
    path.write_bytes(content)


class TestAChangedConfiguration:
    @pytest.mark.parametrize(
        ("binding", "told"),
        [
            ("learning_rate = 2e-3", ["learning_rate: 0.001 -> 0.002"]),
            ("train.window = 3", ["train.window: 2 -> 3"]),
            ("train.optimizer = @sgd()", ["train.optimizer: @adam() -> @sgd()", "adam.beta_1", "sgd.momentum"]),
            ("train.clip_norm = 1.0", ["train.clip_norm: None -> 1.0"]),
            ("head/stage.trains = 'all'", ["head/stage.trains: 'head' -> 'all'"]),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_is_refused_with_what_differs_and_nothing_is_touched(
        self, finished, open_session, complaint, content, binding, told
    ):
        before = content(finished)
        with complaint(*told, "--allow_change=", str(finished / "config.gin")):
            open_session(finished, DETERMINISTIC, binding)
        assert content(finished) == before

    def test_of_the_batch_size_is_refused_whatever_is_allowed(self, finished, open_session, complaint, content):
        before = content(finished)
        with complaint("batch_size: 8 -> 4", "cannot change"):
            open_session(finished, DETERMINISTIC, "batch_size = 4", allow_change=["batch_size"])
        assert content(finished) == before

    def test_of_a_name_that_no_setting_has_is_refused(self, finished, open_session, complaint):
        with complaint("no setting is called learning_rat"):
            open_session(finished, DETERMINISTIC, allow_change=["learning_rat"])

    def test_passes_where_it_is_allowed_by_name(self, finished, open_session, complaint):
        changed = "learning_rate = 2e-3", "train.clip_norm = 1.0"
        with complaint("train.clip_norm"):
            open_session(finished, DETERMINISTIC, *changed, allow_change=["learning_rate"])
        session = open_session(finished, DETERMINISTIC, *changed, allow_change=["learning_rate", "train.clip_norm"])
        assert session.run() == 0

    @pytest.mark.parametrize(
        "binding",
        [
            "train.evaluate_every = (1, 'epochs')", "train.checkpoint_every = (5, 'steps')",
            "train.keep_checkpoints = 1", "train.evaluation_batch_size = 3", "train.bad_images = 'drop'",
        ],
    )  # fmt: skip
    def test_passes_where_it_does_not_shape_the_weights(self, finished, open_session, binding):
        assert open_session(finished, DETERMINISTIC, binding).run() == 0

    @pytest.mark.parametrize("name", ["config.gin", "examples.npz"])
    @pytest.mark.parametrize("damage", ["gone", "garbled"])
    def test_is_no_guess_where_the_old_one_cannot_be_read(
        self, finished, open_session, complaint, content, name, damage
    ):
        if damage == "gone":
            (finished / name).unlink()
        else:
            (finished / name).write_bytes(b"\xff\x00 = (")
        before = content(finished)
        with complaint(name, "cannot be read"):
            open_session(finished, DETERMINISTIC)
        assert content(finished) == before

    def test_of_the_classes_is_told_by_the_examples(self, finished, open_session, complaint):
        with complaint("48 of 60 examples", "classes class0, class1, class2, class3, class4"):
            open_session(finished, DETERMINISTIC, "synthetic.classes = 5", allow_change=["synthetic.classes"])

    def test_of_the_model_is_told_variable_by_variable(self, finished, open_session, complaint):
        other = "model.head = @mlp()", "mlp.hidden = (3,)", "epochs = 2"
        allowed = ["model.head", "epochs", "linear.dropout", "linear.pool", "mlp.activation", "mlp.dropout"]
        session = open_session(
            finished, DETERMINISTIC, *other, allow_change=[*allowed, "mlp.hidden", "mlp.pool"]
        )  # fmt: skip
        with complaint("model/head/head_hidden0/kernel: absent in the checkpoint, float32 [256, 3] in this run"):
            session.run()


def test_two_sessions_cannot_share_a_folder(finished, open_session, complaint):
    first = open_session(finished, DETERMINISTIC)
    (alias := finished.parent / "alias").symlink_to(finished)
    with complaint(f"pid {os.getpid()}"):
        open_session(alias, DETERMINISTIC)
    assert first.run() == 0


def test_checkpoints_that_are_all_damaged_are_refused_however_often_one_tries(
    finished, open_session, complaint, content
):
    (finished / "summary.json").unlink()
    for data in (finished / "checkpoints").glob("ckpt-*.data-*"):
        os.truncate(data, data.stat().st_size - 1)
    before = content(finished)
    for _ in range(2):
        with complaint("none of the checkpoints is whole", "checkpoint 9", "checkpoint 6"):
            open_session(finished, DETERMINISTIC).run()
    assert content(finished).keys() == before.keys()


class TestNumbersThatAreNotFinite:
    def test_end_the_run_and_leave_the_last_good_checkpoint(self, tmp_path, open_session, complaint, events):
        session = open_session(tmp_path, "learning_rate = 1e30")
        with complaint("NaN or infinite at step", "synthetic/", str(tmp_path / "checkpoints"), kind=RunFailure) as _:
            session.run()
        last = checkpoints.find(tmp_path / "checkpoints", "last")
        assert all(np.isfinite(v).all() for k, v in checkpoints.read(last).items() if k.startswith("model/"))
        skipped = events(tmp_path, "skip")
        assert len(skipped) == 1 and skipped[0]["step"] > int(last.name.split("-")[1])
        first, stop = skipped[0]["positions"]
        assert (first, stop) == ((skipped[0]["step"] - 1) * 8, skipped[0]["step"] * 8)
        assert not (tmp_path / "summary.json").exists()

    @pytest.mark.parametrize(
        ("every", "told"),
        [("1", "evaluation of validation at step 1"), ("9", "2 variables are NaN or infinite after step 1: head/")],
    )
    def test_are_found_in_an_evaluation_or_in_the_weights_before_they_are_saved(
        self, tmp_path, open_session, complaint, every, told
    ):
        session = open_session(
            tmp_path, "learning_rate = 3e38", "train.optimizer = @sgd()", "train.loss = @huge_loss()",
            "head/stage.length = (1, 'steps')", f"train.evaluate_every = ({every}, 'steps')",
        )  # fmt: skip
        with complaint(told, "none yet", kind=RunFailure):
            session.run()
        assert checkpoints.steps_in(tmp_path / "checkpoints") == []

    def test_are_skipped_under_a_dynamic_loss_scale_and_recorded(self, tmp_path, open_session, events, capsys):
        session = open_session(
            tmp_path, "precision = 'mixed_float16'", "train.loss = @huge_loss()", "head/stage.length = (6, 'steps')"
        )
        assert session.run() == 0
        skipped = [event["step"] for event in events(tmp_path, "skip")]
        scales = [event["loss_scale"] for event in events(tmp_path, "train")]
        assert skipped and "changed nothing" in capsys.readouterr().out
        for step, (before, after) in enumerate(itertools.pairwise(scales), start=1):
            assert after == (before / 2 if step in skipped else before)
        updates = session.state.optimizer.variables()["head/head_logits/kernel/updates"]
        assert int(updates.numpy()) == session.plan.steps - len(skipped)


class TestStages:
    @pytest.fixture
    def entered(self, monkeypatch):
        """What stood in every variable when each stage began; and the compiled windows."""
        snapshots, windows = [], []
        original = Session._enter_stage

        def enter(self):
            before = {f"{g}/{n}": v.numpy() for g, named in self.state.groups().items() for n, v in named.items()}
            original(self)
            after = {f"{g}/{n}": v.numpy() for g, named in self.state.groups().items() for n, v in named.items()}
            assert all(np.array_equal(before[name], after[name]) for name in before), "entering changes nothing"
            snapshots.append(after)
            windows.append(self.window)

        monkeypatch.setattr(Session, "_enter_stage", enter)
        return snapshots, windows

    def test_freeze_what_they_do_not_train_and_keep_the_slots_of_what_goes_on(self, tmp_path, open_session, entered):
        session = open_session(tmp_path)
        session.run()
        (first, second), windows = entered
        last = {f"{g}/{n}": v.numpy() for g, named in session.state.groups().items() for n, v in named.items()}
        backbone = [name for name in first if name.startswith("model/backbone/") and "seed" not in name]
        assert len(backbone) == 15  # 3 kernels, 3 times scale, offset and two statistics
        for name in backbone:
            np.testing.assert_array_equal(second[name], first[name])
            assert (last[name] != second[name]).any(), f"{name} trains in the second stage"
        for name in ("model/head/head_logits/kernel", "optimizer/head/head_logits/kernel/momentum"):
            assert (second[name] != first[name]).any() and (last[name] != second[name]).any()
        updates = {name: (int(second[name]), int(last[name])) for name in last if name.endswith("/updates")}
        for name, counts in updates.items():
            expected = (HEAD_STEPS, STEPS) if "/head/" in name else (0, STEPS - HEAD_STEPS)
            assert counts == expected, name
        assert len(updates) == 9 + 2
        assert [window.experimental_get_tracing_count() for window in windows] == [1, 1]

    def test_leave_frozen_batch_normalisation_as_it_is(self, tmp_path, open_session, entered):
        session = open_session(tmp_path, "all/stage.batchnorm = 'frozen'")
        session.run()
        first = entered[0][0]
        for name, variable in session.state.groups()["model"].items():
            if "_bn/" in name:
                np.testing.assert_array_equal(variable.numpy(), first[f"model/{name}"])
            elif name.endswith("kernel"):
                assert (variable.numpy() != first[f"model/{name}"]).any()

    def test_average_the_moving_statistics_of_the_replicas(self, tmp_path, open_session, monkeypatch):
        stop_at(monkeypatch, 0)
        session = open_session(
            tmp_path, "head/stage.trains = 'all'", "head/stage.batchnorm = 'train'", devices="cpu:2"
        )  # fmt: skip
        session.run()
        assert session.step == 2
        for name, variable in session.state.network.values().items():
            if "/moving_" in name:
                one, other = (value.numpy() for value in session.strategy.experimental_local_results(variable))
                np.testing.assert_array_equal(one, other)


class TestAFolderOfPhotos:
    @pytest.fixture(scope="class")
    def recipe(self, small):
        return str(Path(small).with_name("photos.gin"))

    @pytest.fixture
    def root(self, tmp_path):
        return self.write(tmp_path / "photos")

    def write(self, root):
        random = np.random.default_rng(0)
        for kind in ("cat", "dog"):
            (root / kind).mkdir(parents=True)
            for index in range(12):
                pixels = random.integers(0, 256, (20 + index % 3, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / kind / f"{index}.png")
        return root

    def split_of(self, folder, name):
        with np.load(folder / "examples.npz") as table:
            return table["names"][table["split"] == ("train", "validation", "test").index(name)].astype(str)

    def test_may_move_but_not_lose_or_change_an_image(self, tmp_path, root, open_session, recipe, complaint, content):
        folder = tmp_path / "run"
        assert open_session(folder, f"data_dir = {str(root)!r}", recipe=recipe).run() == 0
        moved = tmp_path / "elsewhere"
        shutil.move(root, moved)
        with complaint(str(root), "data_dir"):
            open_session(folder, f"data_dir = {str(root)!r}", recipe=recipe)
        there = f"data_dir = {str(moved)!r}"
        before = content(folder)
        assert open_session(folder, there, recipe=recipe).run() == 0

        (moved / "bird").mkdir()
        shutil.copy(moved / "cat" / "0.png", moved / "bird" / "0.png")
        with complaint("not the one this session was started with"):
            open_session(folder, there, recipe=recipe)
        shutil.rmtree(moved / "bird")
        with complaint("other classes (in another order)", "classes dog, cat"):
            swapped = "folder.class_names = ['dog', 'cat']"
            open_session(folder, there, swapped, recipe=recipe, allow_change=["folder.class_names"])
        assert content(folder) == before

    def test_keeps_its_decoded_images_and_needs_the_files_no_more(
        self, tmp_path, root, open_session, recipe, monkeypatch, events
    ):
        folder, there = tmp_path / "run", f"data_dir = {str(root)!r}"
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(folder, there, recipe=recipe).run() == STOPPED
        assert (folder / "store" / "manifest.json").exists()
        for name in self.split_of(folder, "train"):
            (root / name).write_bytes(b"gone bad")
        assert open_session(folder, there, recipe=recipe).run() == 0
        assert not events(folder, "replaced")
        straight = tmp_path / "files"
        shutil.rmtree(root)
        self.write(root)
        assert open_session(straight, there, "train.store = None", recipe=recipe).run() == 0
        assert not (straight / "store").exists()
        assert events(straight, "train") == events(folder, "train")

    def test_goes_on_from_the_files_when_its_store_is_damaged(
        self, tmp_path, root, open_session, recipe, monkeypatch, capsys
    ):
        folder, there = tmp_path / "run", f"data_dir = {str(root)!r}"
        with monkeypatch.context() as patch:
            stop_at(patch, 2)
            assert open_session(folder, there, recipe=recipe).run() == STOPPED
        (canvases,) = (folder / "store").glob("*.bin")
        canvases.write_bytes(canvases.read_bytes()[:-1])
        assert open_session(folder, there, recipe=recipe).run() == 0
        assert "training from the files: no store can be opened: canvases-00000.bin has" in capsys.readouterr().out

    def test_replaces_an_image_that_breaks_after_the_start_and_names_it(
        self, tmp_path, root, open_session, recipe, monkeypatch, events
    ):
        folder, there = tmp_path / "run", (f"data_dir = {str(root)!r}", "train.store = None")
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(folder, *there, recipe=recipe).run() == STOPPED
        victim = self.split_of(folder, "train")[0]
        (root / victim).write_bytes(b"\x89PNG")
        assert open_session(folder, *there, recipe=recipe).run() == 0
        (event,) = events(folder, "replaced")
        assert event["image"] == str(root / victim) and event["reason"]
        assert [train["step"] for train in events(folder, "train")] == [1, 2, 3, 4]

    def test_leaves_an_image_that_broke_out_of_an_evaluation_and_says_so(
        self, tmp_path, root, open_session, recipe, monkeypatch, events
    ):
        split = ("split_by_hash.validation = 0.4", "train.split = @split_by_hash")
        folder, there = (
            tmp_path / "run",
            [f"data_dir = {str(root)!r}", "train.store = None", *split],
        )
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(folder, *there, recipe=recipe).run() == STOPPED
        held_out = self.split_of(folder, "validation")
        (root / held_out[0]).unlink()
        assert open_session(folder, *there, recipe=recipe).run() == 0
        (event,) = events(folder, "replaced")
        assert event["image"] == str(root / held_out[0]) and "No such file" in event["reason"]
        evaluated = [found for found in events(folder, "eval") if found["split"] == "validation"]
        assert [found["examples"] for found in evaluated] == [len(held_out) - 1]
        assert [found["replaced"] for found in evaluated] == [1]

    def test_ends_saved_when_too_many_images_break(
        self, tmp_path, root, open_session, recipe, complaint, monkeypatch, events
    ):
        folder, there = tmp_path / "run", (f"data_dir = {str(root)!r}", "train.store = None")
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(folder, *there, recipe=recipe).run() == STOPPED
        whole = {root / name: (root / name).read_bytes() for name in self.split_of(folder, "train")}
        for path in whole:
            path.write_bytes(b"")
        session = open_session(folder, *there, recipe=recipe)
        with complaint("of 24 images broke", "replace_at_most = 0.01", "ckpt-", kind=RunFailure):
            session.run()
        assert session.step == session.checkpoints.newest() == 2
        for path, data in whole.items():
            path.write_bytes(data)
        assert open_session(folder, *there, recipe=recipe).run() == 0

    def test_does_not_start_again_when_too_many_files_are_gone(
        self, tmp_path, root, open_session, recipe, complaint, monkeypatch
    ):
        folder, there = tmp_path / "run", (f"data_dir = {str(root)!r}", "train.store = None")
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(folder, *there, recipe=recipe).run() == STOPPED
        for name in ("cat/3.png", "dog/4.png"):
            (root / name).unlink()
        with complaint("2 of 24 images broke", str(root), kind=RunFailure):
            open_session(folder, *there, recipe=recipe)
        assert open_session(folder, *there, "train.replace_at_most = 0.5", recipe=recipe).run() == 0

    def test_counts_images_that_cannot_be_read_for_a_while_and_ends(
        self, tmp_path, root, open_session, recipe, complaint, events
    ):
        """They are there again before anybody can look what was wrong."""
        folder, away = tmp_path / "run", tmp_path / "away"
        session = open_session(folder, f"data_dir = {str(root)!r}", "train.store = None", recipe=recipe)
        report = session._report

        def there_again(*arguments):
            if away.exists():
                away.rename(root)
            report(*arguments)

        session._report = there_again
        root.rename(away)
        with complaint("images broke since the session started", kind=RunFailure):
            session.run()
        (event,) = events(folder, "replaced")
        assert event["image"] is None and event["count"] == 16 and event["reason"] == "could not be read for a while"

    def test_replaces_an_image_that_grew_after_the_start(self, tmp_path, root, open_session, recipe, events):
        folder = tmp_path / "run"
        session = open_session(folder, f"data_dir = {str(root)!r}", "train.store = None", recipe=recipe)
        victim = root / session.train.names[0].decode()
        Image.fromarray(np.zeros((25, 20, 3), np.uint8)).save(victim)
        assert session.run() == 0
        (event,) = events(folder, "replaced")
        assert event["image"] == str(victim) and "larger than any image" in event["reason"]

    def test_warns_of_identical_images_that_spoil_labels_or_evaluation(
        self, tmp_path, root, open_session, recipe, capsys
    ):
        shutil.copy(root / "cat" / "0.png", root / "dog" / "copy.png")
        open_session(tmp_path / "run", f"data_dir = {str(root)!r}", recipe=recipe)
        assert "more than once with different labels, first: cat/0.png = dog/copy.png" in capsys.readouterr().out

    def test_decodes_before_it_trains_on_several_devices(self, tmp_path, root, command, recipe):
        """Devices are set up once, before anything uses them; only a process of its own can tell."""
        workdir, data = f"--workdir={tmp_path / 'run'}", f"--gin_param=data_dir = {str(root)!r}"
        trained = command("train", workdir, data, f"--gin_file={recipe}", "--devices=cpu:2")
        assert trained.end() == 0, trained.printed
        assert json.loads((tmp_path / "run" / "environment.json").read_text())["replicas"] == 2


def test_the_loss_scale_is_part_of_every_checkpoint(finished):
    names = checkpoints.read(checkpoints.find(finished / "checkpoints", "last"))
    assert {f"loss_scale/{name}" for name in LossScale(dynamic=True).variables()} <= names.keys()
    assert {"state/step", "best/merits", "best/steps"} <= names.keys()
    assert any("seed_generator_state" in name for name in names)
    assert not any("learning_rate" in name for name in names)


class TestTheBestCheckpoint:
    def test_is_chosen_on_validation(self, finished):
        summary = json.loads((finished / "summary.json").read_text())
        assert summary["best"]["split"] == "validation"

    def test_is_the_newest_where_there_is_no_validation_split_and_never_chosen_on_test(self, tmp_path, open_session):
        folder = tmp_path / "run"
        session = open_session(folder, "split_by_hash.validation = 0", "train.split = @split_by_hash")
        assert session.run() == 0
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["best"] == {} and set(summary["final"]) == {"test"}
        assert [path.name for path in (folder / "checkpoints" / "best").glob("*.index")] == [
            f"ckpt-{session.plan.steps}.index"
        ]


class TestWeightsThatAreBroken:
    def test_are_not_saved(self, tmp_path, open_session, complaint):
        session = open_session(
            tmp_path / "run", "train.evaluate_every = (1000, 'epochs')", "stage.length = (6, 'steps')"
        )
        train = session._train_window

        def train_and_break():
            train()
            if session.step == 6:
                session.state.network.variables["head/head_logits/bias"].assign([float("nan")] * 4)

        session._train_window = train_and_break
        with complaint("head/head_logits/bias", "step 6", "ckpt-4", kind=RunFailure):
            session.run()
        assert not list((tmp_path / "run" / "checkpoints").glob("ckpt-6*"))


class TestAWorkdir:
    def test_whose_checkpoints_are_gone_does_not_start_over(self, finished, open_session, complaint, content):
        for index in (finished / "checkpoints").glob("*.index"):
            index.unlink()
        before = content(finished)
        with complaint("gone", str(finished / "checkpoints")):
            open_session(finished, "train.deterministic = True")
        assert content(finished) == before

    def test_may_lie_in_the_data_folder_but_not_be_it(self, tmp_path, open_session, photos, complaint):
        root = photos({f"{kind}/{index}.png": (20, 24) for kind in ("cat", "dog") for index in range(12)})
        recipe = str(Path(__file__).parent.parent / "photos.gin")
        bindings = [f"data_dir = {str(root)!r}", "stage.length = (2, 'steps')"]
        inside = root / "run"
        assert open_session(inside, *bindings, recipe=recipe).run() == 0
        assert open_session(inside, *bindings, recipe=recipe).run() == 0
        with complaint("the workdir is the data folder"):
            open_session(root, *bindings, recipe=recipe)


def test_images_in_memory_are_shrunk_as_files_are():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checks[None, :, :, None], 3, axis=-1).astype(np.uint8)
    small = decode.shrink_array(pixels, decoding=decode.Decoding(16))
    assert small.shape == (1, 16, 16, 3)
    # The mean of 4 x 4 black and white pixels in equal number is 127.5.
    assert set(np.unique(small)) <= {127, 128}
