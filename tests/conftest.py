"""Four logical CPUs for the whole test process: TensorFlow cannot change its devices once it has used them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import settings
from PIL import Image

from data.errors import UserError
from trainer import devices

TESTS = Path(__file__).resolve().parent
SECONDS = 120

# A loaded machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def four_logical_cpus():
    devices.set_up("cpu:4")
    assert len(tf.config.list_logical_devices("CPU")) == 4


@pytest.fixture(autouse=True)
def empty_gin():
    gin.clear_config()


@pytest.fixture(scope="session")
def small() -> str:
    """The recipe of the smallest run that has every part."""
    return str(TESTS / "small.gin")


@pytest.fixture
def complaint() -> Callable:
    """`with complaint("cat"):` expects an error in four parts that names every culprit."""

    @contextlib.contextmanager
    def expected(*culprits: str, kind: type[UserError] = UserError) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        error = caught.value
        # gin raises it as a class of its own, derived from ours.
        assert isinstance(error, kind) and error.exit_status == kind.exit_status
        for part in (error.found, error.where, error.expected, error.do):
            assert part and part.strip()
            assert part in str(error)
        for culprit in culprits:
            assert culprit in str(error)

    return expected


@pytest.fixture
def photos(tmp_path) -> Callable:
    """`photos({"cat/a.png": (8, 10)})` writes random pictures of those heights and widths and returns their root."""

    def write(pictures: dict[str, tuple[int, int]], *, below: str = "photos") -> Path:
        root = tmp_path / below
        random = np.random.default_rng(len(pictures))
        for name, (height, width) in pictures.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return root

    return write


class Command:
    """One of the project's commands as a process of its own."""

    def __init__(self, ask: Callable, output: Path, script: str, arguments: list[str], **about):
        self._ask, self._output = ask, output
        self.pid = ask(start=script, arguments=arguments, output=str(output), **about)

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def end(self, number: int | None = None, *, within: float = SECONDS) -> int:
        """Its exit status, after a signal if one is given; what takes longer than so many seconds is killed."""
        if number is not None:
            os.kill(self.pid, signal.Signals(number))
        return self._ask(wait=self.pid, seconds=within)


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """`command("train", "--workdir=...")` starts scripts/train.py, see `command_server.py`.

    `environment=` are variables that it has beside those of the tests, `output=` is where it prints, a file or a
    terminal, `folder=` where it is started.
    """
    outputs = tmp_path_factory.mktemp("outputs")
    server = subprocess.Popen(
        # -P: or else `trainer` would be the folder of its tests.
        [sys.executable, "-P", str(TESTS / "command_server.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip

    def ask(**request):
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    started = []

    def start(
        script: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        output: Path | None = None,
        folder: Path | None = None,
    ) -> Command:
        if output is None:
            output = outputs / f"{len(started)}.txt"
            output.touch()
        about = {"environment": environment or {}, "folder": folder and str(folder)}
        started.append(Command(ask, output, script, list(arguments), **about))
        return started[-1]

    yield start
    server.stdin.close()
    server.wait(timeout=SECONDS)
    server.stdout.close()
