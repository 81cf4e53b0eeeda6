"""Keeps what C++ code and Python's warnings write away from people who cannot act on it.

C++ knows no `sys.stderr`: TensorFlow, XLA and the libraries below them write to file descriptor 2. `divert` points that
descriptor elsewhere and leaves `sys.stderr`, and with it errors, tracebacks and whatever Python prints there, where it
was. Whatever is written goes straight into a file, by the kernel: nothing waits for a reader, and nothing is lost when
the process is killed.
"""

import contextlib
import faulthandler
import fcntl
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

# Bytes that a log may have before a new one takes its place, and seconds between two looks at it.
LIMIT, LOOK = 2**20, 5.0
# Bytes that are shown where a bug ends the process and no file has kept them.
SHOWN = 2**13


class _Diversion:
    """Where file descriptor 2 of this process leads."""

    def __init__(self) -> None:
        sys.stderr.flush()
        self.path: Path | None = None
        self._ended = threading.Event()
        self._terminal = os.dup(2)
        # Not the object of before, which writes to descriptor 2.
        settings = {"encoding": sys.stderr.encoding, "errors": "backslashreplace", "buffering": 1}
        sys.stderr = open(self._terminal, "w", closefd=False, **settings)  # noqa: SIM115
        self._held = _nameless()
        os.dup2(self._held, 2)
        # A crash of C++ code shows where Python was.
        faulthandler.enable(sys.stderr)
        warnings.showwarning = _note_warning
        threading.Thread(target=self._watch, name="log", daemon=True).start()

    def keep_in(self, path: Path) -> None:
        """Has a file keep what was written so far and what will be."""
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                began = time.strftime("%Y-%m-%d %H:%M:%S %z")
                os.write(file, f"--- {began}, process {os.getpid()}\n".encode() + self.held())
                os.dup2(file, 2)
                os.ftruncate(self._held, 0)
                self.path = path
            finally:
                os.close(file)

    def held(self, last: int = LIMIT) -> bytes:
        """What has been written before a file kept it, the last bytes of it."""
        return os.pread(self._held, last, max(0, os.fstat(self._held).st_size - last))

    def end(self) -> None:
        """Gives descriptor 2 back, with what was held."""
        os.write(self._terminal, self.held())
        os.dup2(self._terminal, 2)
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            with contextlib.suppress(OSError):
                self.make_room()

    def make_room(self) -> None:
        """Has a file that is long enough make way for a new one; of two the older is gone."""
        if self.path is None:
            if os.fstat(self._held).st_size > LIMIT:
                os.ftruncate(self._held, 0)
        elif self.path.exists() and self.path.stat().st_size > LIMIT:
            os.replace(self.path, older(self.path))
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, 2)
            os.close(file)


def older(path: Path) -> Path:
    """Where a log goes that has made way for a new one: log.txt -> log.old.txt."""
    return path.with_suffix(f".old{path.suffix}")


def _nameless() -> int:
    """A file without a name; in memory where that can be: the disk may be full. Written at its end, like a log."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("stderr")
    else:
        file, path = tempfile.mkstemp(prefix="onward-")
        os.unlink(path)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


def _note_warning(message, category, filename, lineno, file=None, line=None) -> None:
    with contextlib.suppress(OSError):
        # The stream of before, on descriptor 2.
        (file or sys.__stderr__).write(warnings.formatwarning(message, category, filename, lineno, line))


_diversion: _Diversion | None = None


def divert() -> None:
    """Leads descriptor 2 away from the terminal until the process ends, for commands; a library leaves it alone."""
    global _diversion
    if _diversion is None and sys.stderr is not None:
        _diversion = _Diversion()


def keep_in(path: Path) -> None:
    """Has a file keep what `divert` leads away, up to LIMIT bytes and as many of before, in `older(path)`.

    Where it cannot be written, or nothing is led away, nothing happens.
    """
    if _diversion is not None:
        _diversion.keep_in(path)


def show() -> None:
    """Ends what `divert` began and shows what was held: for a process whose output is a log itself."""
    global _diversion
    if _diversion is not None:
        _diversion.end()
        _diversion = None


def tell() -> None:
    """Says on `sys.stderr` what was led away, or in which file it is, for whoever looks for a bug."""
    if _diversion is None:
        return
    if _diversion.path is not None:
        print(f"messages of TensorFlow: {_diversion.path}", file=sys.stderr)
    elif held := _diversion.held(SHOWN).decode(errors="replace"):
        print(f"messages of TensorFlow:\n{held}", file=sys.stderr)


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Holds back everything written to file descriptor 2; shows it if the block fails."""
    if _diversion is not None:
        yield
        return
    sys.stderr.flush()
    shown = os.dup(2)
    held = _nameless()
    os.dup2(held, 2)
    try:
        yield
    except BaseException:
        sys.stderr.flush()
        os.write(shown, os.pread(held, os.fstat(held).st_size, 0))
        raise
    finally:
        os.dup2(shown, 2)
        for file in (shown, held):
            os.close(file)
