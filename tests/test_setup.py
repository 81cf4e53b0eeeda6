"""scripts/quickstart and scripts/test on machines in every state, with stand-ins for python3 and pip: no network."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash")
NEEDED_TOOLS = ("bash", "env", "dirname", "cksum", "rm", "mv", "id", "grep")

pytestmark = pytest.mark.skipif(BASH is None or os.name == "nt", reason="the scripts need bash")

# Stands for the machine's Python: makes a venv around VENV_PYTHON, and is a real Python in all else.
BASE_PYTHON = """
case "$*" in
*"-m venv "*)
    echo venv >>"$CALLS"
    mkdir -p "${!#}/bin" "${!#}/lib/python3/site-packages"
    cp "$STUBS/venv-python" "${!#}/bin/python"
    eval "${WHILE_VENV:-}"
    printf 'VIRTUAL_ENV=%q\\n' "${!#}" >"${!#}/bin/activate"
    ;;
*) exec "$REAL_PYTHON" "$@" ;;
esac
"""
# Stands for .venv/bin/python: records pip, does what WHILE_PIP says in its place, prints what it was asked to run.
VENV_PYTHON = """
case "$*" in
"-I -m pip install "*)
    echo "pip ${!#}" >>"$CALLS"
    eval "${WHILE_PIP:-}"
    ;;
"-I -m pip "*) ;;
"-I "*) exec "$REAL_PYTHON" "$@" ;;
*)
    printf '<%s>' "$@"
    [[ ! ${RED:-} || "$*" != *"$RED"* ]] || exit 7
    ;;
esac
"""
OLD_PYTHON = """
[[ "$1 $2" == "-I -c" ]] || exit 1
exec "$REAL_PYTHON" -I -c 'import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])' "$3"
"""
# What pip 23 says, shortened.
UNREACHABLE = """
echo "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/rich/" >&2
echo "ERROR: No matching distribution found for rich>=15" >&2
exit 1
"""
NO_VERSION = 'echo "ERROR: No matching distribution found for keras>=99" >&2; exit 1'
DISK_FULL = 'echo "ERROR: Could not install: [Errno 28] No space left on device" >&2; exit 1'
BUILD_FAILED_IN_LOG = 'echo "  WARNING: Retrying after connection broken by X" >"$VENV/install.log"; exit 1'


class Machine:
    """A copy of the project in a folder with a space in its name, and a PATH that holds nothing but what is needed."""

    def __init__(self, folder: Path):
        self.root, self.bin, self.calls_file = folder / "on ward", folder / "bin", folder / "calls"
        (self.root / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("pyproject.toml", "scripts/setup.sh", "scripts/quickstart", "scripts/test"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in NEEDED_TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.put("python3", BASE_PYTHON)
        self.put("../venv-python", VENV_PYTHON)

    def put(self, name: str, script: str):
        """Puts a program on the PATH of the machine; it finds the real tools whatever that PATH is."""
        (self.bin / name).write_text(f"#!{BASH}\nPATH={shlex.quote(os.environ['PATH'])}\n{script}")
        (self.bin / name).chmod(0o755)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def start(self, *command: str, script="quickstart", cwd: Path | None = None, **variables: str):
        standard = {"PATH": self.bin, "CALLS": self.calls_file, "STUBS": self.bin.parent, "VENV": self.venv}
        environment = {name: str(value) for name, value in standard.items()}
        return subprocess.Popen(
            [self.root / "scripts" / script, *command],
            env=environment | {"REAL_PYTHON": sys.executable} | variables,
            cwd=cwd or self.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **settings):
        process = self.start(*command, **settings)
        process.out, process.err = process.communicate(timeout=30)
        return process

    def calls(self) -> list[str]:
        """What was done since the last look: "venv", "pip ." or "pip .[test]"."""
        calls = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_fresh_machine_gets_a_venv_and_the_project_then_trains(machine):
    done = machine.run()
    assert done.returncode == 0
    assert machine.calls() == ["venv", "pip ."]
    root = machine.root
    expected = [f"{root}/scripts/train.py", f"--gin_file={root}/configs/quickstart.gin"]
    assert done.out == "".join(f"<{part}>" for part in [*expected, f"--workdir={root}/runs/quickstart"])


def test_nothing_to_install_means_no_call_of_pip_and_no_word(machine):
    machine.run()
    machine.calls()
    again = machine.run()
    assert (again.returncode, machine.calls(), again.err) == (0, [], "")


@pytest.mark.parametrize("own", [["--workdir=my runs"], ["--workdir", "my runs"], ["-workdir=my runs"]])
def test_a_workdir_of_the_user_replaces_the_default(machine, own):
    out = machine.run("--plan", *own).out
    assert out.endswith("<--plan>" + "".join(f"<{part}>" for part in own))
    assert "runs/quickstart" not in out


def test_other_arguments_pass_through_untouched(machine):
    assert machine.run("--gin_param=data_dir = 'a b'", "").out.endswith("<--gin_param=data_dir = 'a b'><>")


def test_a_changed_pyproject_installs_again_into_the_same_venv(machine):
    machine.run()
    machine.calls()
    with (machine.root / "pyproject.toml").open("a") as file:
        file.write("# one more line\n")
    assert machine.run().returncode == 0
    assert machine.calls() == ["pip ."]


def test_the_test_extra_is_added_once_and_serves_quickstart_too(machine):
    machine.run()
    machine.run(script="test")
    machine.run(script="test")
    machine.run()
    assert machine.calls() == ["venv", "pip .", "pip .[test]"]


def test_lint_comes_first_and_what_is_red_ends_it_with_its_status(machine):
    green = machine.run("tests/test_order.py", "-x", script="test")
    assert green.returncode == 0
    lint, form = "<-m><ruff><check><.>", "<-m><ruff><format><--check><.>"
    workers = "<-n><2><--dist><loadscope><--no-loadscope-reorder>"
    assert green.out == lint + form + f"<-m><pytest>{workers}<tests/test_order.py><-x>"
    for red, seen in (("ruff check", lint), ("ruff format", lint + form)):
        done = machine.run(script="test", RED=red)
        assert (done.returncode, done.out) == (7, seen)


def test_a_venv_killed_in_the_making_is_made_anew(machine):
    assert machine.run(WHILE_VENV="kill -9 0").returncode == -9
    assert machine.venv.exists()
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "venv", "pip ."]


def test_an_installation_killed_in_the_middle_is_repaired_and_half_packages_are_installed_again(machine):
    kill = 'cd "$VENV"/lib/*/site-packages; mkdir {whole,half}.dist-info; touch whole.dist-info/INSTALLER; kill -9 0'
    assert machine.run(WHILE_PIP=kill).returncode == -9
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "pip .", "pip ."]
    assert [path.name for path in machine.venv.glob("lib/*/site-packages/*")] == ["whole.dist-info"]


def test_an_extra_killed_in_the_middle_leaves_nothing_that_passes_for_complete(machine):
    machine.run()
    machine.run(script="test", WHILE_PIP="kill -9 0")
    machine.calls()
    assert machine.run().returncode == 0
    assert machine.calls() == ["pip ."]


@pytest.mark.parametrize("broken", ["bin/activate", "bin/python", "bin", ""])
def test_a_venv_that_lost_a_part_is_made_anew(machine, broken):
    machine.run()
    machine.calls()
    path = machine.venv / broken
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "pip ."]


def test_a_moved_project_makes_its_venv_anew(machine):
    machine.run()
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "pip .", "venv", "pip ."]


def test_a_venv_the_user_made_is_kept(machine):
    machine.run()
    (machine.venv / ".onward-complete").unlink()
    machine.calls()
    assert machine.run().returncode == 0
    assert machine.calls() == ["pip ."]


def test_two_at_once_install_once(machine):
    slow = 'mkdir "$CALLS.lock" || echo overlap >>"$CALLS"; sleep 0.5; rmdir "$CALLS.lock"'
    both = [machine.start(WHILE_PIP=slow) for _ in range(2)]
    texts = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert machine.calls() == ["venv", "pip ."]
    assert sum("another set-up is at work" in text for text in texts) == 1


@pytest.mark.parametrize(
    ("pip", "words"),
    [
        (UNREACHABLE, ["index is out of reach", "https://pypi.org/simple", "HTTPS_PROXY", "PIP_INDEX_URL"]),
        (BUILD_FAILED_IN_LOG, ["index is out of reach"]),
        (NO_VERSION, ["No matching distribution found for keras>=99", "Python 3.", "another Python"]),
        (DISK_FULL, ["the disk is full", "GB free", "TMPDIR"]),
        ("echo 'ERROR: surprise' >&2; exit 1", ["installation failed: surprise", "install.log"]),
    ],
    ids=["unreachable", "unreachable inside a build", "no version", "disk full", "unknown"],
)
def test_a_failed_installation_says_why_and_what_to_do_and_can_be_repeated(machine, pip, words):
    failed = machine.run(WHILE_PIP=pip)
    assert (failed.returncode, failed.out) == (3, "")
    for word in [*words, "where: ", "expected: ", "do: "]:
        assert word in failed.err
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "pip .", "pip ."]


def test_no_password_of_the_index_is_shown(machine):
    failed = machine.run(WHILE_PIP=UNREACHABLE, PIP_INDEX_URL="https://me:secret@mirror.example/simple")
    assert "https://mirror.example/simple" in failed.err
    assert "secret" not in failed.err


def test_an_old_python_is_named_and_nothing_is_made(machine):
    machine.put("python3", OLD_PYTHON)
    failed = machine.run()
    assert failed.returncode == 3
    for word in ("python3 is Python 3.10.9", "expected: Python 3.11", "do: ", "PYTHON="):
        assert word in failed.err
    assert not machine.venv.exists()


def test_no_python_at_all_is_said(machine):
    (machine.bin / "python3").unlink()
    failed = machine.run()
    assert failed.returncode == 3
    assert "no python3 at all" in failed.err


def test_a_newer_python_beside_an_old_python3_is_found(machine):
    machine.put("python3", OLD_PYTHON)
    machine.put("python3.12", BASE_PYTHON)
    assert machine.run().returncode == 0
    assert machine.calls() == ["venv", "pip ."]
