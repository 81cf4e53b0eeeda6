"""Trains a recipe straight and killed at random moments, and compares every variable and every figure bit for bit.

python scripts/prove_resume.py --workdir=runs/proof --gin_file=configs/proof.gin --kills=20

Exit status 0: equal. 1: they differ, the first difference is printed. The kills are SIGKILL; how many of them hit
start-up, training, evaluation and saving is fixed, when exactly is drawn. Works with any recipe that is long enough.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from absl import flags

from data.errors import UserError
from data.names import SESSION_LOCK
from scripts import train
from trainer import checkpoints
from trainer.checkpoints import Checkpoints
from trainer.reports.log import MetricsLog
from trainer.session import Session

# Shares of the kills.
PHASES = {"start-up": 5, "training": 8, "evaluation": 3, "saving": 4}
# Measured, not computed: they differ from run to run.
TIMES = ("time", "seconds", "images_per_second", "data_wait")
SAVING = ("before the files", "while the files are written", "before the manifest", "after the manifest")


def main() -> int:
    workdir = Path(launch.required("workdir"))
    kills, seed = flags.FLAGS.kills, flags.FLAGS.seed
    quota = _quota(kills)
    moments = random.Random(seed)
    for name in ("straight", "interrupted"):
        _remove(workdir / name)
    print(
        f"{kills} kills, seed {seed}: " + ", ".join(f"{count} in {phase}" for phase, count in quota.items()), flush=True
    )

    began = time.monotonic()
    _check(_start(workdir / "straight").wait(), workdir / "straight")
    seconds = time.monotonic() - began
    print(f"straight run: {seconds:.0f} s", flush=True)

    open_phases = [phase for phase, count in quota.items() for _ in range(count)]
    moments.shuffle(open_phases)
    done: Counter[str] = Counter()
    startup = 5.0
    while open_phases:
        hit, startup = _kill_once(workdir / "interrupted", open_phases[-1], moments, startup)
        if hit is None:
            raise UserError(
                f"the run ended before all kills were made: {dict(done)} of {quota}",
                where="--gin_file",
                expected="a run of more steps, with more evaluations and checkpoints",
                do="lengthen a stage, or lower --kills",
            )
        done[hit.split(":")[0]] += 1
        print(f"kill {sum(done.values())}: {hit}", flush=True)
        if hit.split(":")[0] == open_phases[-1]:
            open_phases.pop()
    _check(_start(workdir / "interrupted").wait(), workdir / "interrupted")
    print(f"killed {sum(done.values())} times: {dict(done)}", flush=True)

    difference = _first_difference(workdir / "straight", workdir / "interrupted")
    if difference:
        print(f"DIFFERENT: {difference}")
        return 1
    return 0


def _remove(workdir: Path) -> None:
    """Removes the workdir of an earlier proof, and nothing else."""
    if workdir.exists() and any(workdir.iterdir()) and not (workdir / SESSION_LOCK).exists():
        raise UserError(
            f"{workdir} is there and is no workdir of a session",
            where="--workdir",
            expected="a folder that is new, or from an earlier proof",
            do="choose another --workdir",
        )
    shutil.rmtree(workdir, ignore_errors=True)


def _quota(kills: int) -> dict[str, int]:
    """Spreads the kills over the phases by their shares, at least one each where there are enough."""
    total = sum(PHASES.values())
    quota = {phase: kills * share // total for phase, share in PHASES.items()}
    for phase in sorted(PHASES, key=lambda phase: (quota[phase], -PHASES[phase])):
        if sum(quota.values()) < kills:
            quota[phase] += 1
    quota["training"] += kills - sum(quota.values())
    return quota


def _start(workdir: Path, *, pipe: int | None = None, hold: str = "") -> subprocess.Popen:
    """A training process; with a pipe it announces its phases on it, and waits in the one named by `hold`."""
    command = [sys.executable, os.path.abspath(__file__) if pipe else train.__file__, f"--workdir={workdir}"]
    command += [f"--gin_file={path}" for path in flags.FLAGS.gin_file]
    command += [f"--gin_param={binding}" for binding in flags.FLAGS.gin_param]
    command += [f"--devices={flags.FLAGS.devices}"]
    if pipe is not None:
        command += [f"--announce={pipe}", f"--hold={hold}"]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[pipe] if pipe else [])


def _kill_once(workdir: Path, phase: str, moments: random.Random, startup: float) -> tuple[str | None, float]:
    """Starts a run and kills it in a phase.

    Returns:
        what it was doing, None if it came to its end before; seconds that its start-up took, if seen.
    """
    hold = moments.choice(SAVING) if phase == "saving" else ""
    windows, delay = moments.randint(1, 3), moments.random()
    reader, writer = os.pipe()
    began = time.monotonic()
    process = _start(workdir, pipe=writer, hold=hold)
    os.close(writer)
    os.set_blocking(reader, False)
    at, unread, seen = "start-up", "", 0
    killed_at = None
    while process.poll() is None:
        unread += _read(reader)
        *lines, unread = unread.split("\n")
        for line in lines:
            if at == "start-up":
                startup = time.monotonic() - began
            at = line
            seen += line == "training"
        ready = {
            "start-up": time.monotonic() - began > delay * startup,
            "training": at == "training" and seen >= windows,
            "evaluation": at == "evaluation",
            "saving": at == f"saving: {hold}",
        }[phase]
        if ready and killed_at is None:
            killed_at = time.monotonic() + (0 if phase == "start-up" else delay * 0.02)
        if killed_at is not None and time.monotonic() >= killed_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.0005)
    unread += _read(reader)
    os.close(reader)
    at = ([at, *unread.split("\n")[:-1]])[-1]
    return (at if process.returncode == -signal.SIGKILL else None), startup


def _read(reader: int) -> str:
    try:
        return os.read(reader, 65536).decode()
    except BlockingIOError:
        return ""


def _check(status: int, workdir: Path) -> None:
    if status:
        lines = workdir.with_suffix(".log").read_text().splitlines()[-12:]
        raise UserError(
            f"the training ended with status {status}: " + "\n".join(lines),
            where=str(workdir),
            expected="a recipe that trains to its end",
            do="try it with scripts/train.py first",
        )


def _first_difference(straight: Path, interrupted: Path) -> str | None:
    """The first variable or figure that differs; prints what was compared."""
    prefixes = [checkpoints.find(path / "checkpoints", "last") for path in (straight, interrupted)]
    left, right = map(checkpoints.read, prefixes)
    if prefixes[0].name != prefixes[1].name or left.keys() != right.keys():
        return f"{prefixes[0]} and {prefixes[1]} are of other steps or hold other variables"
    for name in sorted(left):
        if left[name].dtype != right[name].dtype or left[name].tobytes() != right[name].tobytes():
            return f"{name} in {prefixes[1]}"
    print(f"{len(left)} variables of {prefixes[0].name} are equal bit for bit, optimizer slots included")

    logs = [MetricsLog(path / "metrics.jsonl") for path in (straight, interrupted)]
    for kind in ("train", "eval", "skip", "stage", "checkpoint"):
        events = [[{k: v for k, v in event.items() if k not in TIMES} for event in log.find(kind)] for log in logs]
        for one, other in zip(*events, strict=False):
            if one != other:
                return f"event {other}, straight {one}"
        if len(events[0]) != len(events[1]):
            return f"{len(events[1])} {kind} events, straight {len(events[0])}"
        print(f"{len(events[0])} {kind} events are equal, each there once")
    steps = [event["step"] for event in logs[1].find("train")]
    if steps != list(range(1, len(steps) + 1)):
        return "the steps of the train events are not 1, 2, 3, ..."
    return None


def announced_training() -> int:
    """Trains as scripts/train.py does, but says on a pipe what it is doing, so that it can be killed there."""
    pipe, hold = flags.FLAGS.announce, flags.FLAGS.hold

    def announce(phase: str) -> None:
        os.write(pipe, f"{phase}\n".encode())
        if phase == f"saving: {hold}" and hold != "while the files are written":
            time.sleep(3600)

    def announcing(phase: str, function):
        def wrapped(*arguments, **keywords):
            announce(phase)
            return function(*arguments, **keywords)

        return wrapped

    save, write_manifest = Checkpoints.save, checkpoints._write_manifest

    def announced_save(self, step):
        announce("saving: before the files")
        announce("saving: while the files are written")
        return save(self, step)

    def announced_manifest(*arguments):
        announce("saving: before the manifest")
        write_manifest(*arguments)
        announce("saving: after the manifest")

    Session._train_window = announcing("training", Session._train_window)
    Session._evaluate = announcing("evaluation", Session._evaluate)
    Checkpoints.save = announced_save
    checkpoints._write_manifest = announced_manifest
    return train.main()


def run() -> None:
    """Entry point of `onward-prove-resume`."""
    launch.define_flags()
    train.define_flags()
    flags.DEFINE_integer("kills", 20, "How often the run is killed.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Draws the moments.")
    flags.DEFINE_integer("announce", None, "For this script's own use: file descriptor of a pipe.")
    flags.DEFINE_string("hold", "", "For this script's own use: where to wait for the kill.")
    launch.run(lambda: announced_training() if flags.FLAGS.announce else main())


if __name__ == "__main__":
    run()
