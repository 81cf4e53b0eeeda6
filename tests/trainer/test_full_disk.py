"""A disk that is really full ends a run, its last good state untouched; with room again it goes on to the same bits."""

import errno
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

from data.errors import DISK_FULL, RunFailure
from trainer import checkpoints
from trainer.session import Session

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
DETERMINISTIC = "train.deterministic = True"


@pytest.fixture
def disk(tmp_path):
    """A disk of 6 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk, *, leave=0):
    """Takes all room but so many bytes."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - leave)


def fill_at(monkeypatch, disk, step, *, leave=0):
    train_window = Session._train_window

    def filling(self):
        if self.step == step and not (disk / "ballast").exists():
            self._note_saved(self.checkpoints.wait())
            # The last page of the log has no room either: empty lines are no events.
            log = self.workdir.metrics
            with open(log, "a") as file:
                file.write("\n" * (-log.stat().st_size % 4096))
            fill(disk, leave=leave)
        train_window(self)

    monkeypatch.setattr(Session, "_train_window", filling)


def assert_same_end(folder, straight, events):
    ours, theirs = (checkpoints.read(checkpoints.find(each / "checkpoints", "last")) for each in (folder, straight))
    assert {name: value.tobytes() for name, value in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}
    for kind in ("train", "eval", "stage", "checkpoint"):
        assert events(folder, kind) == events(straight, kind)


def test_while_saving(disk, open_session, finished_once, events, complaint, monkeypatch):
    folder = disk / "run"
    with monkeypatch.context() as patch:
        # For the log and the figures of an evaluation.
        fill_at(patch, disk, 4, leave=32768)
        with complaint("checkpoint 6 cannot be written", "ckpt-4", "make room", kind=RunFailure):
            open_session(folder, DETERMINISTIC).run()
    assert checkpoints.steps_in(folder / "checkpoints")[-1] == 4
    assert not list((folder / "checkpoints").glob("*_temp")) and not list(folder.rglob("*.part"))
    (disk / "ballast").unlink()
    assert open_session(folder, DETERMINISTIC).run() == 0
    assert_same_end(folder, finished_once, events)


def test_while_a_checkpoint_is_written_for_which_there_seemed_to_be_room(
    disk, open_session, finished_once, events, complaint, monkeypatch
):
    folder = disk / "run"
    with monkeypatch.context() as patch:
        # For the log and for the beginning of a checkpoint, which takes some 300 KB.
        fill_at(patch, disk, 4, leave=65536)
        patch.setattr(checkpoints.Checkpoints, "_bytes", lambda self: 0)
        with complaint("checkpoint 6 cannot be written", "ckpt-4", kind=RunFailure):
            open_session(folder, DETERMINISTIC).run()
    assert checkpoints.steps_in(folder / "checkpoints")[-1] == 4
    assert not list((folder / "checkpoints").glob("*_temp"))
    (disk / "ballast").unlink()
    assert open_session(folder, DETERMINISTIC).run() == 0
    assert_same_end(folder, finished_once, events)


def test_while_logging(disk, open_session, finished_once, events, monkeypatch):
    folder = disk / "run"
    with monkeypatch.context() as patch:
        fill_at(patch, disk, 6)
        with pytest.raises(OSError) as caught:
            open_session(folder, DETERMINISTIC).run()
    assert caught.value.errno in DISK_FULL
    (disk / "ballast").unlink()
    assert open_session(folder, DETERMINISTIC).run() == 0
    assert_same_end(folder, finished_once, events)


def test_while_packing(disk, tmp_path, open_session, small, complaint):
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for index in range(12):
            image = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / kind / f"{index}.png")
    recipe = os.path.join(os.path.dirname(small), "photos.gin")
    there = f"data_dir = {str(tmp_path / 'photos')!r}"
    fill(disk, leave=32768)
    with complaint("train.store", kind=RunFailure):
        open_session(tmp_path / "run", there, f"train.store = {str(disk / 'store')!r}", recipe=recipe)
    (disk / "ballast").unlink()
    session = open_session(tmp_path / "run", there, f"train.store = {str(disk / 'store')!r}", recipe=recipe)
    assert session.data.examples.store is not None
