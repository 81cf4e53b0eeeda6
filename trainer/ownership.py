"""One owner of a folder: a locked file that also says who holds it, and whose time shows that they live."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from data.errors import RunFailure, UserError

# Seconds from one heartbeat to the next, and without one until a process of another machine counts as dead.
BEAT, STALE = 15, 120
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# No record is as long.
LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that a lock file names.

    Attributes:
        host: name of its machine.
        boot: what the kernel of that machine calls itself since it was started; containers on it share that.
        pid: its number there.
        started: seconds since 1970.
    """

    host: str
    boot: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            boot = ""
        return cls(os.uname().nodename, boot, os.getpid(), time.time())

    @classmethod
    def read(cls, path: Path) -> "Owner | None":
        """The one that the file names; None where it is empty, damaged or gone.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            with open(path, "rb") as file:
                stored = json.loads(file.read(LONGEST))
            owner = cls(**stored)
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        kinds = {"host": str, "boot": str, "pid": int, "started": float}
        return owner if all(type(getattr(owner, name)) is kind for name, kind in kinds.items()) else None

    def line(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    def same_machine(self, other: "Owner") -> bool:
        """Whether locks of the one are locks for the other."""
        return self.host == other.host or (self.boot != "" and self.boot == other.boot)

    def ended(self, here: "Owner") -> bool:
        """Whether it is certain, without a lock, that it is no more."""
        # Processes of two containers do not see each other.
        if (self.host, self.boot) != (here.host, here.boot):
            return False
        if self.pid == here.pid:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        return False

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Ownership:
    """Holds a lock file for this process until `release`, or until it ends, however it ends.

    Args:
        path: the lock file; made where it is missing, and never removed: one that is empty belongs to nobody.
        say: gets a sentence where a process that fell silent was taken over.

    Raises:
        UserError: another process has it.
        RunFailure: it cannot be written.
    """

    def __init__(self, path: Path, *, say: Callable[[str], object]):
        self._path, self._here = path, Owner.here()
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115, held as long as the process lives
        except OSError as error:
            raise UserError(
                f"the lock of the workdir cannot be opened: {error.strerror}",
                where=str(path),
                expected="a file that this user can write",
                do="correct the permissions, or choose another --workdir",
            ) from error
        try:
            self._take(say)
        except BaseException:
            self._file.close()
            raise
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _take(self, say: Callable[[str], object]) -> None:
        locks = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._held(Owner.read(self._path)) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            locks = False
        owner = Owner.read(self._path)
        gone = owner is None or (owner.same_machine(self._here) if locks else owner.ended(self._here))
        if not gone:
            silent = self._silent()
            if silent < STALE:
                raise self._held(owner)
            say(f"taken over from {owner}, silent for {silent:.0f} s; should it come back, it saves nothing more")
        try:
            os.ftruncate(self._file.fileno(), 0)
            self._file.write(self._here.line())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunFailure(
                f"the lock of the workdir cannot be written: {error.strerror}",
                where=str(self._path),
                expected="space for one line",
                do="make room, then run the same command again",
            ) from error

    def _silent(self) -> float:
        """Seconds since the last heartbeat, by the clock of the disk that holds the file."""
        probe = self._path.with_name(f".probe-{os.getpid()}")
        probe.touch()
        try:
            return max(0.0, probe.stat().st_mtime - os.fstat(self._file.fileno()).st_mtime)
        finally:
            probe.unlink(missing_ok=True)

    def _held(self, owner: Owner | None) -> UserError:
        silent = self._silent()
        do = "wait for it or stop it, or choose another --workdir"
        if owner is not None and not owner.same_machine(self._here):
            left = STALE - silent
            when = f"from {left:.0f} s on the same command takes over, unless it shows itself; " if left > 0 else ""
            do += f"; {when}if you know that it is dead, delete {self._path}"
        return UserError(
            f"another process works in this workdir: {owner or 'one without a name'}, last seen {silent:.0f} s ago",
            where=str(self._path),
            expected="one training per workdir",
            do=do,
        )

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):
                if Owner.read(self._path) != self._here:
                    return
                os.utime(self._path)

    def check(self) -> None:
        """Makes sure that the file still names this process. Call it before anything of worth is written.

        Raises:
            RunFailure: it names another one, or nobody can tell.
        """
        try:
            owner = Owner.read(self._path)
            found = "the lock of this workdir names nobody any more"
        except OSError as error:
            owner, found = None, f"the lock of this workdir cannot be read: {error.strerror}"
        if owner == self._here:
            return
        raise RunFailure(
            found if owner is None else f"this workdir was taken over by {owner}",
            where=str(self._path),
            expected=f"the line of this process, {self._here}; without it nothing is written any more",
            do="leave the session to the other process; if there is none, run the same command again",
        )

    def release(self) -> None:
        """Gives the file back: the next process, wherever it runs, need not wait."""
        self._released.set()
        with contextlib.suppress(OSError):
            if Owner.read(self._path) == self._here:
                os.ftruncate(self._file.fileno(), 0)
        self._file.close()
