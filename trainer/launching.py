"""Local workers of one run: started together, watched, started again after a failure from the newest checkpoint."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from data.errors import RunFailure, UserError
from trainer.cluster import LOST
from trainer.launch import STOPPED
from trainer.quiet import stderr_aside
from trainer.signals import SIGNALS

# Seconds that workers have to end by themselves once one of them has failed.
GRACE = 15.0
# Seconds between two looks at them, and lines of each that are remembered.
LOOK, REMEMBERED = 0.05, 40
# When one worker ends, TensorFlow prints what it says in its errors anyway. And what a worker prints is read by us, not
# by a terminal, whatever FORCE_COLOR says.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TTY_COMPATIBLE": "0"}
# From and to which port the workers listen.
PORTS = (16384, 32768)
# What is no failure, and what would only fail again.
DONE = (0, STOPPED)
FINAL = (UserError.exit_status, RunFailure.exit_status)


class Worker:
    """A process, and what it prints.

    Args:
        log: gets each line.
        show: likewise; None: the log only.
    """

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        log: Path,
        show: Callable[[str], None] | None,
    ):
        self.index, self.lines = index, deque(maxlen=REMEMBERED)
        # In a session of its own: what a terminal sends to all comes once, through us.
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._log, self._show = log, show
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with open(self._log, "a") as log:
            for line in self.process.stdout:
                self.lines.append(line)
                # Whatever becomes of the lines, a worker must not wait for somebody who reads them.
                with contextlib.suppress(OSError):
                    log.write(line)
                    log.flush()
                if self._show is not None:
                    with contextlib.suppress(OSError):
                        self._show(line)

    @property
    def status(self) -> int | None:
        """Exit status, that of a shell for a signal: 128 + its number; None while it works."""
        status = self.process.poll()
        return status if status is None or status >= 0 else 128 - status

    @property
    def complaint(self) -> list[str]:
        """The lines of its last error, or the last ones that it printed."""
        self._reader.join(timeout=GRACE)
        lines = list(self.lines)
        starts = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        return lines[starts[-1] :] if starts else lines[-10:]

    @property
    def lost_another(self) -> bool:
        """Whether it ended because another worker had."""
        return self.status == RunFailure.exit_status and any(LOST in line for line in self.complaint)

    def send(self, number: int) -> None:
        """Sends a signal, if it still works."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> None:
        """Ends the process and all that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(timeout=GRACE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a group ended.

    Attributes:
        status: of the command.
        blamed: the worker that failed first by itself; None: none.
        again: whether another start may go better.
    """

    status: int
    blamed: Worker | None = None
    again: bool = False


class Group:
    """Workers of one command on this machine.

    Args:
        command: that each of them runs; TF_CONFIG tells it which one it is.
        workers: how many.
        logs: folder of worker-N.log.
        environments: variables of each beside those of this process; None: none.
        show_all: whether the lines of all are shown, not only those of the chief.
        say: gets each line to be shown.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        workers: int,
        logs: Path,
        environments: Sequence[Mapping[str, str]] | None = None,
        show_all: bool = False,
        say: Callable[[str], None] = lambda line: print(line, end="", flush=True),
    ):
        self._command, self._count, self._logs, self._show_all, self._say = command, workers, logs, show_all, say
        self._environments = environments or [{}] * workers
        self._workers: list[Worker] = []
        self._asked: int | None = None

    def run(self, *, restarts: int) -> int:
        """Starts them, and again after failures, so many times at most.

        Returns:
            0 done, 75 stopped early but saved, or what the worker that failed ended with.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        try:
            for left in range(restarts, -1, -1):
                outcome = self._once()
                if outcome.blamed is not None:
                    self._tell(outcome.blamed)
                if not outcome.again or self._asked is not None:
                    break
                if left:
                    number = restarts - left + 1
                    self._say(f"starting all again from the newest checkpoint, {number} of {restarts} times\n")
                elif restarts:
                    self._say(f"started again {restarts} times: no more\n")
            return outcome.status
        finally:
            for worker in self._workers:
                worker.end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame) -> None:
        self._asked = number
        for worker in self._workers:
            worker.send(number)

    def _once(self) -> Outcome:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self._count)]
        self._workers = []
        for index in range(self._count):
            log = self._logs / f"worker-{index}.log"
            environment = {**os.environ, **QUIET, **self._environments[index]}
            environment["TF_CONFIG"] = tf_config(addresses, index)
            show = self._line(index) if index == 0 or self._show_all else None
            self._workers.append(Worker(index, self._command, environment=environment, log=log, show=show))
            # A signal that came just before has not reached it.
            if self._asked is not None:
                self._workers[-1].send(self._asked)
        first = self._wait()
        for worker in self._workers:
            if worker.status is None:
                worker.end()
        return outcome_of(self._workers, first)

    def _wait(self) -> Worker | None:
        """Until all have ended, or one has failed and the others have had time to end by themselves; that one."""
        failed, deadline = None, None
        while any(worker.status is None for worker in self._workers):
            if failed is None:
                failed = next((each for each in self._workers if each.status not in (None, *DONE)), None)
            if failed is not None:
                deadline = deadline or time.monotonic() + GRACE
                if time.monotonic() > deadline:
                    break
            time.sleep(LOOK)
        return failed

    def _line(self, index: int) -> Callable[[str], None]:
        return lambda line: self._say(f"[worker {index}] {line}")

    def _tell(self, blamed: Worker) -> None:
        number = blamed.status - 128
        how = f"by {signal.Signals(number).name}" if number in set(signal.Signals) else f"with status {blamed.status}"
        self._say(f"worker {blamed.index} ended {how}; its log: {self._logs / f'worker-{blamed.index}.log'}\n")
        if blamed.index and not self._show_all:
            for line in blamed.complaint:
                self._line(blamed.index)(line)


def outcome_of(workers: Sequence[Worker], first: Worker | None) -> Outcome:
    """What the ends of all workers mean together.

    Args:
        workers: all ended.
        first: the one that was seen to fail first; None: none.
    """
    # Whoever only lost another one is no cause; who had to be ended after the others had lost it may be one.
    causes = [worker for worker in workers if not worker.lost_another]
    statuses = {worker.status for worker in causes}
    if statuses in ({0}, {STOPPED}):
        return Outcome(statuses.pop())
    failed = [worker for worker in causes if worker.status not in DONE] or list(workers)
    explained = next((worker for worker in failed if worker in causes and worker.status in FINAL), None)
    if explained is not None:
        return Outcome(explained.status, explained)
    blamed = first if first in failed else failed[0]
    return Outcome(RunFailure.exit_status if blamed.status in DONE else blamed.status, blamed, again=True)


def tf_config(addresses: Sequence[str], index: int) -> str:
    """The text of TF_CONFIG for one of these workers."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}})


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on.

    Below those that the kernel gives to connections (ip(7): from 32768 on): until a worker listens, one could take it.
    """
    free = []
    while len(free) < count:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in free:
                free.append(port)
    return free


def gpus() -> list[str]:
    """What CUDA calls the GPUs that TensorFlow sees."""
    # Looking for a driver where there is none prints an error, which for a CPU is none.
    with stderr_aside():
        count = len(tf.config.list_physical_devices("GPU"))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def dealt(gpus: Sequence[str], *, workers: int) -> list[dict[str, str]]:
    """Variables that give each worker as many GPUs as the others; one that is left over gets no work.

    Raises:
        UserError: there are too few.
    """
    share = len(gpus) // workers
    if not share:
        raise UserError(
            f"{workers} workers and {len(gpus)} GPUs",
            where="--workers",
            expected="at least one GPU for each",
            do="fewer --workers, or --devices=cpu",
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share :][:share])} for index in range(workers)]


def train_command(arguments: Sequence[str], *, project: Path) -> list[str]:
    """What each worker runs."""
    return [sys.executable, str(project / "scripts" / "train.py"), *arguments]
