"""The folder of a session, and its files, which are whole or not there."""

import dataclasses
import math

import pytest

from trainer.recipe import Recipe
from trainer.workdir import Workdir, read_json, write_json, write_text


def test_making_a_workdir_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    workdir = Workdir(str(tmp_path / "a" / "b"))
    assert workdir.path.is_dir() and list(workdir.path.iterdir()) == []
    assert not workdir.has_checkpoint()
    Workdir(str(tmp_path / "a" / "b"))


def test_a_workdir_may_start_at_home_or_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Workdir("~/runs").path == Workdir("runs").path == tmp_path / "runs"


@pytest.mark.parametrize("path", ["{file}/run", "{file}", "/proc/run", "/dev/null/run"])
def test_a_workdir_that_cannot_be_written_is_named(tmp_path, complaint, path):
    (tmp_path / "file").write_text("")
    path = path.format(file=tmp_path / "file")
    with complaint(path, "--workdir"):
        Workdir(path)


def test_a_folder_without_a_session_is_no_workdir_to_read(tmp_path, complaint):
    with complaint(str(tmp_path / "run"), "train first"):
        Workdir.existing(str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class TestACheckpoint:
    def test_makes_a_session_to_go_on_with(self, tmp_path):
        workdir = Workdir(str(tmp_path))
        workdir.checkpoints.mkdir()
        (workdir.checkpoints / "checkpoint").write_text("")
        (workdir.checkpoints / "ckpt-3.data-00000-of-00001").write_text("")
        assert not workdir.has_checkpoint(), "without index it was never finished"
        (workdir.checkpoints / "ckpt-3.index").write_text("")
        assert workdir.has_checkpoint()

    @pytest.mark.parametrize("trace", ["ckpt-3.manifest.json", "best/ckpt-3.index"])
    def test_that_is_gone_is_missed(self, tmp_path, complaint, trace):
        workdir = Workdir(str(tmp_path))
        (workdir.checkpoints / "best").mkdir(parents=True)
        (workdir.checkpoints / trace).write_text("")
        with complaint("are gone", str(workdir.checkpoints), "new --workdir"):
            workdir.has_checkpoint()


class TestAFile:
    def test_replaces_the_old_one_at_once_and_leaves_no_other(self, tmp_path):
        path = tmp_path / "a.txt"
        write_text(path, "one")
        write_text(path, "two")
        assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]

    def test_that_cannot_be_written_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "a.json"
        write_json(path, {"a": 1})
        for value in ({"a": math.nan}, {"a": math.inf}, {"a": object()}):
            with pytest.raises((ValueError, TypeError)):
                write_json(path, value)
        assert read_json(path) == {"a": 1}

    @pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"a": ', b"\xff\xfe"])
    def test_that_is_gone_or_damaged_is_named(self, tmp_path, complaint, content):
        path = tmp_path / "environment.json"
        if content is not None:
            path.write_bytes(content)
        with complaint(str(path), "environment.json cannot be read"):
            read_json(path)


@pytest.mark.parametrize("left", ["ckpt-4.manifest.json", "best/ckpt-4.index", "kept/ckpt-4.index"])
def test_a_session_of_which_something_is_left_does_not_start_over(tmp_path, complaint, left):
    workdir = Workdir(str(tmp_path))
    path = workdir.checkpoints / left
    path.parent.mkdir(parents=True)
    path.touch()
    with complaint("the checkpoints of this session are gone", path.name):
        workdir.has_checkpoint()


class TestTheConfiguration:
    @pytest.fixture
    def workdir(self, tmp_path):
        workdir = Workdir(str(tmp_path))
        workdir.config.write_text("train.seed = 1\nlr = 0.5\ntrain.window = 3\ntrain.keep_checkpoints = 3\n")
        return workdir

    def test_may_be_written_otherwise(self, workdir):
        workdir.check_config("# again\nlr = 5e-1\ntrain.keep_checkpoints = 3\ntrain.seed = 1\ntrain.window = 3", [])

    def test_that_differs_is_told_with_both_values_and_how_to_allow_it(self, workdir, complaint):
        with complaint(
            "lr: 0.5 -> 0.25", "train.seed: 1 -> unset", "a.b: unset -> 'c'", "--allow_change=a.b,lr,train.seed"
        ):
            workdir.check_config("lr = 0.25\na.b = 'c'\ntrain.window = 3", [])

    def test_that_came_with_a_later_version_has_had_its_default(self, workdir, complaint):
        assert "xla" in {field.name for field in dataclasses.fields(Recipe)}
        before = workdir.config.read_text()
        assert workdir.check_config(before + "train.xla = 'never'\n", []) == []
        with complaint("train.xla: 'never' -> 'always'"):
            workdir.check_config(before + "train.xla = 'always'\n", [])

    @pytest.mark.parametrize("name", ["batch_size", "train.batch_size"])
    def test_cannot_change_what_a_step_is(self, workdir, complaint, name):
        with open(workdir.config, "a") as file:
            file.write(f"{name} = 8\n")
        with complaint("cannot change within a session", f"{name}: 8 -> 9"):
            workdir.check_config(workdir.config.read_text() + f"{name} = 9", [name])

    @pytest.mark.parametrize("name", ["train.split", "thirds.seed", "inner/thirds.seed"])
    def test_cannot_change_the_split_that_is_kept(self, workdir, complaint, name):
        changed = workdir.config.read_text() + f"{name} = 9"
        with complaint("cannot change within a session", f"{name}: unset -> 9"):
            workdir.check_config(changed, [name], rule="thirds")

    @pytest.mark.parametrize("name", ["data.labels", "data.images"])
    def test_leaves_what_is_allowed_of_the_data_to_the_data(self, workdir, name):
        workdir.check_config(workdir.config.read_text(), [name])

    def test_knows_what_can_be_allowed(self, workdir, complaint):
        with complaint("no setting is called learning_rat", "--allow_change", "lr"):
            workdir.check_config("train.seed = 1\nlr = 1.0\ntrain.window = 3", ["learning_rat"])

    def test_may_differ_in_what_is_allowed_or_shapes_no_weights(self, workdir):
        changed = workdir.check_config("train.seed = 1\nlr = 1.0\ntrain.window = 3\ntrain.keep_checkpoints = 9", ["lr"])
        assert changed == ["lr"]
        assert "lr = 0.5" in workdir.config.read_text()
