"""Sessions of two workers, one of which is killed, or which one process takes over, against sessions left alone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import RunFailure
from data.names import SESSION_LOCK
from trainer import checkpoints
from trainer.launch import PROJECT, STOPPED
from trainer.ownership import Owner
from trainer.proofs.comparison import Rounding, first_difference
from trainer.reports.log import MetricsLog

BATCH, STEPS = 16, 1000
# On top of configs/proof.gin: nothing is drawn or normalised within a replica's share of the batch.
BINDINGS = (
    f"batch_size = {BATCH}",
    f"all/stage.length = ({STEPS}, 'steps')",
    "train.stages = [@all/stage()]",
    "train.optimizer = @sgd()",
    "all/stage.batchnorm = 'frozen'",
    "model.features = 'block1_relu'",
    "model.head = @linear()",
    "train.window = 10",
    "train.checkpoint_every = (50, 'steps')",
    "train.evaluate_every = (500, 'steps')",
)
# Steps from which on a worker is killed, or two workers are stopped, and from which on the one process is.
LEFT, CAME_BACK = 200, 600
SECONDS, LOOK = 900.0, 0.02
ONE, TWO = ("train",), ("launch", "--workers=2")


def proved(workdir: Path, *, devices: str, say: Callable[[str], object]) -> str | None:
    """Trains them and compares: with the killed worker bit for bit, between numbers of workers to rounding.

    Args:
        workdir: made anew.
        devices: `--devices` of each worker.
        say: gets a sentence on each proof.

    Returns:
        the first difference; None if there is none.

    Raises:
        RunFailure: a training did not end as it has to.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    one, two, killed, moved = (workdir / name for name in ("one", "two", "killed", "moved"))
    _ended(_start(TWO, two, devices), 0, two)
    group = _start(TWO, killed, devices)
    _reached(killed, LEFT, group)
    os.kill(Owner.read(killed / SESSION_LOCK).pid, signal.SIGKILL)
    _ended(group, 0, killed)
    if difference := first_difference(two, killed):
        return difference
    say(f"2 workers, one killed, again from step {_resumed(killed)[-1]}: the bits of 2 workers left alone")

    _ended(_start(ONE, one, devices), 0, one)
    _stop(_start(TWO, moved, devices), moved, LEFT)
    _stop(_start(ONE, moved, devices), moved, CAME_BACK)
    _ended(_start(TWO, moved, devices), 0, moved)
    if difference := first_difference(one, moved, rounding=Rounding(STEPS, terms=BATCH)):
        return difference
    came, back = _resumed(moved)
    say(f"2 workers, 1 process from step {came}, 2 workers from step {back}: equal to 1 process left alone")
    return None


def _resumed(folder: Path) -> list[int]:
    return [event["step"] for event in MetricsLog(folder / "metrics.jsonl").find("resume")]


def _start(how: Sequence[str], folder: Path, devices: str) -> subprocess.Popen:
    script, *arguments = how
    command = [sys.executable, str(PROJECT / "scripts" / f"{script}.py"), f"--workdir={folder}", *arguments]
    command += [f"--gin_file={PROJECT / 'configs' / 'proof.gin'}", f"--devices={devices}"]
    command += [f"--gin_param={binding}" for binding in BINDINGS]
    with open(folder.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _stop(process: subprocess.Popen, folder: Path, step: int) -> None:
    _reached(folder, step, process)
    process.send_signal(signal.SIGTERM)
    _ended(process, STOPPED, folder)


def _reached(folder: Path, step: int, process: subprocess.Popen) -> None:
    def saved() -> bool:
        return max(checkpoints.steps_in(folder / "checkpoints"), default=0) >= step

    _wait(lambda: saved() or process.poll() is not None)
    if process.poll() is not None:
        raise _unexpected(f"the training ended with status {process.poll()} before step {step} was saved", folder)


def _ended(process: subprocess.Popen, status: int, folder: Path) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.poll() != status:
        raise _unexpected(f"the training ended with status {process.poll()}, not {status}", folder)


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK)


def _unexpected(found: str, folder: Path) -> RunFailure:
    return RunFailure(
        found, where=f"{folder.with_suffix('.log')}", expected="a training that goes on", do="look into that log"
    )
