"""Damage to the files of a workdir, one at a time, and what a training makes of it."""

import contextlib
import dataclasses
import hashlib
import os
import random
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data import feature_store
from data.errors import UserError
from data.names import SESSION_LOCK, STORE_LOCK
from trainer import checkpoints, features, launch
from trainer.reports.log import MetricsLog
from trainer.session import Session

HARMS = ("missing", "empty", "truncated", "flipped", "another's")
# Written again at each start.
ALWAYS_NEW = (SESSION_LOCK, STORE_LOCK)
OPINIONS = ("goes on", "goes on from before", "computed again", "refuses", "WRONG")


@dataclasses.dataclass(frozen=True)
class Case:
    """One file that is harmed.

    Attributes:
        session: of which of the sessions.
        path: of the file, below the workdir.
        harm: of HARMS.
    """

    session: str
    path: str
    harm: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the training did.

    Attributes:
        opinion: of OPINIONS.
        told: what it said of it, or what was wrong.
    """

    opinion: str
    told: str


def cases(session: str, folder: Path, other: Path, *, files: str = "*") -> Iterator[Case]:
    """Every harm to every file of a workdir whose path matches.

    Args:
        other: another session's workdir, of the same recipe.
        files: a pattern.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not name.match(files):
            continue
        content = path.read_bytes()
        for harm in HARMS:
            foreign = other / name
            exchanged = harm == "another's" and foreign.is_file() and foreign.read_bytes() != content
            if exchanged or harm == "missing" or (content and harm in HARMS[1:4]):
                yield Case(session, str(name), harm)


def inflict(case: Case, folder: Path, other: Path, *, seed: int) -> None:
    """Harms the file of this workdir, which nobody works in."""
    path, chance = folder / case.path, random.Random(f"{seed} {case}")
    if case.harm == "missing":
        path.unlink()
        return
    content = path.read_bytes()
    at = chance.randrange(len(content)) if content else 0
    if case.harm == "flipped":
        content = content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]
    else:
        content = {"empty": b"", "truncated": content[:at], "another's": _content(other / case.path)}[case.harm]
    # A file of its own: what is linked elsewhere keeps its bytes.
    path.unlink()
    path.write_bytes(content)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def train(arguments: Sequence[str], main: Callable[[], int], *, output: Path, before: Callable = lambda: None) -> int:
    """Runs scripts/train.py in a fork of this process, which has imported TensorFlow and used no device.

    Args:
        arguments: of the command.
        main: of the script.
        output: file for what it prints.
        before: is called in the fork, before anything else.

    Returns:
        exit status, negative for a signal.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        os.dup2(1, 2)
        sys.argv = ["train.py", *arguments]
        before()
        launch.run(main)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def end_at(step: int) -> None:
    """Has the sessions of this process be killed when a window ends at this step or behind it, nothing half written."""
    at_boundary = Session._at_boundary

    def ending(session: Session) -> None:
        at_boundary(session)
        if session.step >= step:
            session.checkpoints.wait()
            os.kill(os.getpid(), signal.SIGKILL)

    Session._at_boundary = ending


def end_amid_features() -> None:
    """Has them be killed when half of the features of train have been computed."""
    features.SAVE_SECONDS = 0.0
    save = feature_store.Writer.save

    def ending(writer: feature_store.Writer, name: str, done: int) -> None:
        save(writer, name, done)
        if name == "train" and 2 * done >= writer._plan["parts"][name]["rows"]:
            os.kill(os.getpid(), signal.SIGKILL)

    feature_store.Writer.save = ending


def contents(folder: Path) -> dict[str, str]:
    """Checksum of each file of a workdir, but of those that every start writes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ALWAYS_NEW)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def judge(
    case: Case, status: int, printed: str, *, folder: Path, harmed: dict[str, str], straight: Path, usual: str
) -> Outcome:
    """What became of a workdir whose file was harmed, after a start.

    Args:
        status, printed: of that start.
        folder: the workdir.
        harmed: its `contents` before the start.
        straight: workdir of the run that nothing has harmed or interrupted.
        usual: what the start prints where nothing is harmed.
    """
    if "Traceback" in printed or status not in (0, UserError.exit_status):
        return Outcome("WRONG", f"status {status}: {printed.strip().splitlines()[-1:]}")
    if status:
        now = contents(folder)
        changed = sorted(name for name in harmed if now.get(name) != harmed[name])
        if changed:
            return Outcome("WRONG", f"refused, and changed {', '.join(changed)}")
        told = printed[printed.rindex("error: ") :].splitlines()[0] if "error: " in printed else ""
        return Outcome("refuses" if told else "WRONG", told.removeprefix("error: ") or "refused without a message")
    for which in ("last", "best"):
        if difference := _difference(straight, folder, which):
            return Outcome("WRONG", difference)
    known = set(map(_plain, usual.splitlines()))
    told = next((line for line in printed.splitlines() if _plain(line) not in known), "")
    resumed = MetricsLog(folder / "metrics.jsonl").find("resume")
    newest = max(map(int, re.findall(r"^checkpoints/ckpt-(\d+)\.", "\n".join(harmed), re.MULTILINE)), default=0)
    if case.path.startswith("features/") and "anew" in printed:
        return Outcome("computed again", told)
    back = resumed and resumed[-1]["step"] < newest
    return Outcome("goes on from before" if back else "goes on", told)


def _plain(line: str) -> str:
    """A line without what differs from run to run."""
    return "".join(character for character in line if character.isalpha())


def _difference(straight: Path, folder: Path, which: str) -> str | None:
    """What differs in a checkpoint that can be read; those that are lost are no wrong ones."""
    right = checkpoints.find(straight / "checkpoints", which)
    try:
        found = checkpoints.find(folder / "checkpoints", which)
    except UserError as error:
        return f"the last checkpoint is lost: {error.found}" if which == "last" else None
    left, right_values = checkpoints.read(found), checkpoints.read(right)
    if found.name != right.name:
        return f"the {which} checkpoint is {found.name}, not {right.name}"
    different = [name for name in right_values if not _same(left.get(name), right_values[name])]
    return f"{len(different)} variables of the {which} checkpoint differ, first: {different[0]}" if different else None


def _same(one: object, other: np.ndarray) -> bool:
    return one is not None and np.asarray(one).tobytes() == np.asarray(other).tobytes()
