"""What C++ code writes to file descriptor 2 never reaches a terminal, and errors always do."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
PRELUDE = """
import os, signal, subprocess, sys, warnings
from pathlib import Path
from trainer import quiet
log = Path(sys.argv[1])
quiet.divert()
"""


@pytest.fixture
def run(tmp_path):
    """Runs a program behind PRELUDE: exit status and what is seen on its stderr."""

    def program(text):
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(text), str(tmp_path / "log.txt")]
        ended = subprocess.run(command, stderr=subprocess.PIPE, cwd=PROJECT, timeout=60, check=False)
        return ended.returncode, ended.stderr.decode()

    return program


def test_is_kept_in_the_log_from_the_beginning_while_errors_are_shown(run, tmp_path):
    status, seen = run("""
        os.write(2, b"first\\n")
        quiet.keep_in(log)
        os.write(2, b"second\\n")
        print("an error", file=sys.stderr)
        sys.exit(3)
    """)
    assert (status, seen) == (3, "an error\n")
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["first", "second"]


def test_is_kept_when_the_process_is_killed(run, tmp_path):
    status, seen = run("""
        quiet.keep_in(log)
        os.write(2, b"last words\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert (status, seen) == (-signal.SIGKILL, "")
    assert "last words" in (tmp_path / "log.txt").read_text()


def test_includes_warnings_of_python_and_what_other_processes_print(run, tmp_path):
    status, seen = run("""
        quiet.keep_in(log)
        warnings.warn("deprecated")
        subprocess.run(["sh", "-c", "echo of a child >&2"], check=True)
    """)
    assert (status, seen) == (0, "")
    kept = (tmp_path / "log.txt").read_text()
    assert "UserWarning: deprecated" in kept and "of a child" in kept


def test_a_bug_is_shown_with_its_traceback(run):
    status, seen = run("""
        os.write(2, b"of C++")
        raise RuntimeError("a bug")
    """)
    assert status == 1 and "RuntimeError: a bug" in seen and "Traceback" in seen and "of C++" not in seen


def test_whoever_looks_for_a_bug_is_told_what_was_written_or_where(run, tmp_path):
    assert run("""os.write(2, b"of C++"); quiet.tell()""")[1] == "messages of TensorFlow:\nof C++\n"
    assert run("quiet.keep_in(log); quiet.tell()")[1] == f"messages of TensorFlow: {tmp_path / 'log.txt'}\n"
    assert run("quiet.tell()")[1] == ""


def test_a_crash_of_c_code_shows_where_python_was(run):
    status, seen = run("os.abort()")
    assert status == -signal.SIGABRT and "Fatal Python error: Aborted" in seen and "line" in seen


def test_the_log_makes_room_for_itself_and_goes_on(run, tmp_path):
    run("""
        quiet.LIMIT = 1000
        quiet.keep_in(log)
        for number in range(100):
            os.write(2, b"%d " % number * 50)
            quiet._diversion.make_room()
    """)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept.keys() == {"log.txt", "log.old.txt"}
    assert "99" in kept["log.txt"] + kept["log.old.txt"] and max(map(len, kept.values())) < 1500


def test_without_a_log_memory_is_bounded_too(run):
    _, seen = run("""
        quiet.LIMIT = 1000
        for number in range(100):
            os.write(2, b"x" * 100)
            quiet._diversion.make_room()
        print(len(quiet._diversion.held()), file=sys.stderr)
    """)
    assert int(seen) <= 1100


def test_a_log_that_cannot_be_written_is_no_error(run):
    status, seen = run("""
        quiet.keep_in(Path("/nowhere/log.txt"))
        os.write(2, b"noise")
    """)
    assert (status, seen) == (0, "")


def test_a_process_whose_output_is_a_log_shows_everything(run):
    status, seen = run("""
        os.write(2, b"before\\n")
        quiet.show()
        os.write(2, b"after\\n")
        print("an error", file=sys.stderr)
    """)
    assert (status, seen) == (0, "before\nafter\nan error\n")


def test_stderr_aside_shows_what_it_held_only_if_its_block_fails(capfd):
    from trainer import quiet

    with quiet.stderr_aside():
        os.write(2, b"held")
    with pytest.raises(ZeroDivisionError), quiet.stderr_aside():
        os.write(2, b"shown")
        raise ZeroDivisionError
    os.write(2, b" at last")
    assert capfd.readouterr().err == "shown at last"
