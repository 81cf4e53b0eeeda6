"""What a person is told before and after a run. The rows of the header are those of a session, see `test_live.py`."""

import os
import re
import shlex
import sys

import pytest

from trainer.reports import heading


@pytest.fixture
def started(monkeypatch, tmp_path):
    """`started("scripts/train.py")`: the commands that are told in the folder tmp_path, for runs/my photos."""

    def told(program):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [program])
        return [command for command, _ in heading.commands(tmp_path / "runs" / "my photos")]

    return told


def test_every_command_is_what_a_shell_takes_and_names_the_workdir(started):
    for command in started("scripts/train.py"):
        words = shlex.split(command)
        assert "--workdir=runs/my photos" in words or words == ["tensorboard", "--logdir=runs/my photos"]


def test_commands_are_started_as_this_one_was(started, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "evaluate.py").touch()
    assert re.match(r"\S*python\S* scripts/evaluate.py --workdir", started("scripts/train.py")[0])
    assert f" {heading.SCRIPTS / 'evaluate.py'} " in started("/elsewhere/a_notebook.py")[0]
    assert started("onward-train")[0].startswith("onward-evaluate ")
    assert started("/venv/bin/onward-train")[0].startswith("/venv/bin/onward-evaluate ")


def test_every_script_that_is_told_is_there():
    for name, _, _ in heading.NEXT:
        assert (heading.SCRIPTS / f"{name}.py").is_file()


def test_a_workdir_elsewhere_is_told_in_full(started, tmp_path, monkeypatch):
    assert heading._short(str(tmp_path / "x")) == str(tmp_path / "x") != os.path.relpath(tmp_path / "x")
