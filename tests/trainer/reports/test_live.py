"""A whole training in a terminal of 80 columns, as a person sees it, while C++ code writes to file descriptor 2."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from pathlib import Path

import pyte
import pytest

LINES, COLUMNS = 80, 80
NOISE = b"W0000 00:00:00 noise.cc:1] a warning that nobody can act on\n"
BINDINGS = ("epochs = 40", "train.window = 5", "train.evaluate_every = (40, 'steps')")


class Screen:
    """A terminal, and all that could be seen on it."""

    def __init__(self):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.path = Path(os.ttyname(self._slave))
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.seen: list[list[str]] = []
        self.cursor_was_hidden = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        # The end of a terminal that nobody holds any more is an error.
        with contextlib.suppress(OSError):
            while content := os.read(self._master, 2**16):
                self._stream.feed(content)
                self.cursor_was_hidden |= self._screen.cursor.hidden
                self.seen.append([line.rstrip() for line in self._screen.display])

    def close(self) -> list[str]:
        """What is left on it in the end."""
        os.close(self._slave)
        self._thread.join()
        os.close(self._master)
        return [line for line in self.seen[-1] if line]


@pytest.fixture(scope="module")
def session(command, small, tmp_path_factory):
    """What was seen of a training, what is left in the end, and its workdir."""
    screen, workdir = Screen(), tmp_path_factory.mktemp("session") / "run"
    arguments = [f"--workdir={workdir}", f"--gin_file={small}", "--devices=cpu"]
    arguments += [f"--gin_param={binding}" for binding in BINDINGS]
    terminal = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    started = command("train", *arguments, environment=terminal, output=screen.path)
    ended = threading.Event()

    def disturb():
        # As C++ code does: wherever descriptor 2 of that process leads at the moment.
        while not ended.wait(0.01):
            with contextlib.suppress(OSError), open(f"/proc/{started.pid}/fd/2", "ab", buffering=0) as stderr:
                stderr.write(NOISE)

    # Until it has begun, both streams are those of the process that starts commands.
    while not Path(workdir).exists():
        ended.wait(0.01)
    thread = threading.Thread(target=disturb)
    thread.start()
    status = started.end()
    ended.set()
    thread.join()
    left = screen.close()
    assert status == 0, "\n".join(left)
    return screen, left, workdir


def test_progress_is_three_lines_at_the_foot_that_fit_the_terminal(session):
    screen, _, _ = session
    full = [lines for lines in screen.seen if any(line.startswith("last evaluation:") for line in lines)]
    assert full
    for lines in full:
        drawn = [line for line in lines if line]
        at = next(index for index, line in enumerate(drawn) if line.startswith("last evaluation:"))
        if at < 2 or len(drawn) > at + 1:
            # Seen in the middle of a drawing.
            continue
        progress, figures, evaluation = drawn[at - 2 :]
        assert re.fullmatch(r"(all|evaluating \w+) \d+/\d+ +[━╸╺]+ +\d+ %( +left [\d:]+)?", progress), progress
        assert re.fullmatch(r"epoch \S+  loss \S+ \(mean \S+\)  \d+ img/s  lr \S+  wait \d+ %", figures), figures
        assert re.fullmatch(r"last evaluation: step \d+, validation loss [\d.]+, accuracy [\d.]+", evaluation)


def test_nothing_of_it_is_ever_torn_or_left_behind(session):
    screen, left, _ = session
    assert len(screen.seen) > 10
    for lines in screen.seen:
        assert not any("noise" in line or "W0000" in line for line in lines)
        assert sum("img/s" in line for line in lines) <= 1
    assert not any("img/s" in line or "━ " in line for line in left)


def test_what_disturbed_it_is_kept_in_the_log(session):
    _, _, workdir = session
    assert (workdir / "log.txt").read_bytes().count(NOISE) > 10


def test_the_terminal_is_never_without_a_cursor(session):
    """Whatever ends the process, even SIGKILL, leaves one."""
    assert not session[0].cursor_was_hidden


def test_header_results_and_next_commands_stay(session):
    _, left, workdir = session
    screen = "\n".join(left)
    for name in ("data", "classes", "model", "stage all", "devices", "workdir", "results"):
        assert re.search(f"^{name} ", screen, re.MULTILINE), name
    assert "accuracy" in screen and "223 steps" in screen and "tensorboard --logdir=" in screen
    assert max(map(len, left)) <= COLUMNS and str(workdir) in "".join(left)


def test_an_error_takes_it_away_and_begins_on_a_line_of_its_own(command, photos):
    screen, root = Screen(), photos({f"{name}/{n}.png": (8, 8) for name in ("cat", "dog") for n in range(9)})
    (root / "cat" / "3.png").write_bytes(b"no image")
    arguments = [f"--workdir={root / 'run'}", "--gin_file=tests/photos.gin", f"--gin_param=data_dir = '{root}'"]
    started = command("train", *arguments, environment={"TERM": "xterm-256color"}, output=screen.path)
    assert started.end() == 2
    left = screen.close()
    assert any(re.match(r"packing [\d/]+18 ", line) for lines in screen.seen for line in lines)
    assert any(line.startswith("error: 1 of 18 images do not decode") for line in left)
    assert not any("/18 " in line for line in left)
