"""A workdir has one owner, whatever became of the one before."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from data.errors import RunFailure
from trainer import ownership
from trainer.ownership import BEAT, STALE, Owner
from trainer.workdir import Workdir

ELSEWHERE = {"host": "elsewhere", "boot": "another kernel", "pid": 7, "started": 1.5}


@pytest.fixture
def lock(tmp_path):
    """The lock file, empty."""
    path = tmp_path / "onward.lock"
    path.touch()
    return path


@pytest.fixture
def own(tmp_path):
    """`own()`: takes the workdir; what it said is in `own.said`. All is given back in the end."""
    taken = []

    def take() -> Workdir:
        workdir = Workdir(str(tmp_path))
        workdir.own(take.said.append)
        taken.append(workdir)
        return workdir

    take.said = []
    yield take
    for workdir in taken:
        workdir.disown()


@pytest.fixture
def no_locks(monkeypatch):
    """A disk that knows no locks."""

    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def names(lock, *, silent: float = 0, **owner) -> None:
    """Makes the lock file name a process that was last seen so long ago."""
    lock.write_text(json.dumps(vars(Owner.here()) | owner))
    seen = lock.stat().st_mtime - silent
    os.utime(lock, (seen, seen))


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def names_us(lock) -> bool:
    owner = Owner.read(lock)
    return (owner.host, owner.pid) == (os.uname().nodename, os.getpid())


class TestAnOwner:
    def test_shuts_others_out_and_is_named_with_its_last_heartbeat(self, own, tmp_path, lock, complaint):
        own()
        seen = lock.stat().st_mtime - 40
        os.utime(lock, (seen, seen))
        with complaint(f"pid {os.getpid()} on {os.uname().nodename}", "40 s ago", str(tmp_path), "stop it"):
            own()
        assert names_us(lock) and not list(tmp_path.glob(".probe*"))

    def test_leaves_with_its_process_however_that_ends(self, own, lock):
        take = (
            "import os, pathlib; from trainer.ownership import Ownership; "
            f"owner = Ownership(pathlib.Path({str(lock)!r}), say=print); os.kill(os.getpid(), 9)"
        )
        ended = subprocess.run([sys.executable, "-P", "-c", take], capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert Owner.read(lock).pid != os.getpid()
        own().check_owned()
        assert names_us(lock) and own.said == []

    def test_gives_the_workdir_back_at_the_end(self, own, lock):
        own().disown()
        assert lock.read_bytes() == b""

    def test_gives_back_nothing_that_another_has_taken_over(self, own, lock):
        first = own()
        names(lock, **ELSEWHERE)
        first.disown()
        assert Owner.read(lock) == Owner(**ELSEWHERE)

    def test_shows_that_it_lives(self, own, lock, monkeypatch):
        beaten, utime = threading.Event(), os.utime

        def beat(path):
            utime(path)
            beaten.set()

        monkeypatch.setattr(ownership, "BEAT", 0.001)
        utime(lock, (0, 0))
        own()
        utime(lock, (0, 0))
        monkeypatch.setattr(os, "utime", beat)
        assert beaten.wait(60)
        assert lock.stat().st_mtime > 0

    def test_shows_itself_often_enough_to_miss_some_heartbeats(self):
        assert STALE >= 4 * BEAT

    def test_that_was_taken_over_notices_before_it_saves(self, own, lock, complaint):
        workdir = own()
        workdir.check_owned()
        names(lock, **ELSEWHERE)
        with complaint("taken over by pid 7 on elsewhere", "nothing is written", kind=RunFailure):
            workdir.check_owned()

    @pytest.mark.parametrize("content", [None, b"", b"\xff{"])
    def test_whose_lock_was_deleted_or_damaged_stops_saving(self, own, lock, complaint, content):
        workdir = own()
        lock.unlink() if content is None else lock.write_bytes(content)
        with complaint("names nobody", kind=RunFailure):
            workdir.check_owned()
        own() if content is None else None

    def test_that_cannot_read_the_lock_stops_saving(self, own, lock, complaint):
        workdir = own()
        lock.unlink()
        lock.mkdir()
        with complaint("cannot be read", kind=RunFailure):
            workdir.check_owned()

    def test_is_not_touched_by_who_only_reads(self, own, tmp_path, lock):
        (tmp_path / "config.gin").touch()
        workdir, before = own(), lock.read_bytes()
        assert Workdir.existing(str(tmp_path)).config.exists()
        assert lock.read_bytes() == before
        workdir.check_owned()


class TestAProcessOfAnotherMachine:
    def test_that_shows_itself_is_left_alone(self, own, lock, complaint):
        names(lock, silent=STALE - 30, **ELSEWHERE)
        before = lock.read_bytes()
        with complaint("pid 7 on elsewhere", "90 s ago", "from 30 s on", f"delete {lock}"):
            own()
        assert lock.read_bytes() == before

    def test_that_fell_silent_is_taken_over_and_that_is_told(self, own, lock):
        names(lock, silent=STALE + 5, **ELSEWHERE)
        own().check_owned()
        assert names_us(lock)
        (said,) = own.said
        assert "taken over from pid 7 on elsewhere, silent for 125 s" in said

    def test_is_as_old_as_the_clock_of_the_disk_says(self, own, lock, monkeypatch, complaint):
        names(lock, silent=10, **ELSEWHERE)
        monkeypatch.setattr(time, "time", lambda: 1e10)
        with complaint("10 s ago"):
            own()

    @pytest.mark.parametrize(
        "content", [b"", b"pid 7 on elsewhere\n", b"\xff\xfe", b"[1]", b"{}", b'{"host": ', b"[" * 4000]
    )
    def test_that_left_nothing_to_read_is_nobody(self, own, lock, content):
        lock.write_bytes(content)
        own()
        assert names_us(lock) and own.said == []

    @pytest.mark.parametrize("field", ["host", "boot", "pid", "started"])
    def test_is_nobody_if_a_field_is_no_such_thing(self, lock, field):
        names(lock, **ELSEWHERE)
        assert Owner.read(lock) is not None
        names(lock, **ELSEWHERE | {field: None})
        assert Owner.read(lock) is None

    def test_that_holds_the_lock_in_silence_may_be_removed_by_hand(self, own, lock, complaint):
        own()
        names(lock, silent=STALE + 5, **ELSEWHERE)
        with complaint("125 s ago", f"choose another --workdir; if you know that it is dead, delete {lock}"):
            own()
        lock.unlink()
        own().check_owned()


class TestAProcessOfThisMachine:
    @pytest.mark.parametrize("silent", [0, STALE + 5])
    @pytest.mark.parametrize("other", ["boot", "host"])
    def test_that_lost_the_lock_is_dead(self, own, lock, silent, other):
        """After a reboot only the name is the same, after a container's restart only the kernel."""
        names(lock, silent=silent, **{other: "another"})
        own()
        assert names_us(lock) and own.said == []

    def test_is_not_told_by_a_kernel_without_a_name(self):
        ours, theirs = (Owner(host, "", 1, 0.0) for host in ("here", "there"))
        assert not ours.same_machine(theirs)


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    def test_a_process_that_lives_is_left_alone(self, own, lock, complaint):
        names(lock, pid=os.getppid())
        with complaint(f"pid {os.getppid()} on"):
            own()

    def test_a_process_that_has_ended_is_taken_over_at_once(self, own, lock):
        names(lock, pid=ended_process())
        own()
        assert names_us(lock) and own.said == []

    def test_a_number_that_is_ours_belonged_to_one_that_has_ended(self, own, lock):
        names(lock, started=1.0)
        own()
        assert own.said == []

    def test_a_process_of_another_container_is_known_by_its_heartbeat_alone(self, own, lock, complaint):
        names(lock, host="another", pid=ended_process())
        with complaint("on another"):
            own()

    def test_a_silent_process_is_taken_over_although_its_number_lives(self, own, lock):
        names(lock, pid=os.getppid(), silent=STALE + 5)
        own()
        assert names_us(lock) and len(own.said) == 1


def test_a_lock_that_cannot_be_opened_is_named(own, lock, complaint):
    lock.unlink()
    lock.mkdir()
    with complaint("cannot be opened", str(lock)):
        own()


def test_a_full_disk_is_told(own, lock, monkeypatch, complaint):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with complaint("No space left", str(lock), kind=RunFailure):
        own()
