"""The folder of a session: its files, its one owner, and what may change between two starts."""

import fcntl
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from data.errors import UserError
from data.names import SESSION_LOCK, printable
from trainer import launch

# Settings that do not shape the weights.
FREE = frozenset(
    f"train.{name}"
    for name in (
        "checkpoint_every",
        "evaluate_every",
        "keep_checkpoints",
        "evaluation_batch_size",
        "bad_images",
        "store",
        "replace_at_most",
    )
) | {"data_dir", "folder.root", "features.folder"}


class Workdir:
    """Paths below one folder. Making it makes the folder.

    Raises:
        UserError: it cannot be made or written.
    """

    def __init__(self, path: str):
        self._name_files(path)
        if printable(path) != path:
            raise UserError(
                f"a name that cannot be printed: {printable(path)}",
                where="--workdir",
                expected="text",
                do="choose another --workdir",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"the workdir {self.path} is not writable: {error.strerror}",
                where="--workdir",
                expected="a folder that this user can make and write",
                do="choose another --workdir or correct the permissions",
            ) from error

    def _name_files(self, path: str) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config = self.path / "config.gin"
        self.classes = self.path / "classes.json"
        self.environment = self.path / "environment.json"
        self.examples = self.path / "examples.npz"
        self.checkpoints = self.path / "checkpoints"
        self.store = self.path / "store"
        self.features = self.path / "features"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"

    @classmethod
    def existing(cls, path: str) -> "Workdir":
        """The workdir of a session that has been trained, to be read only.

        Raises:
            UserError: there is no session in it.
        """
        workdir = cls.__new__(cls)
        workdir._name_files(path)
        if not workdir.config.exists():
            raise UserError(
                f"there is no session in {workdir.path}",
                where="--workdir",
                expected="a folder that scripts/train.py has worked in, with a config.gin",
                do="correct the path, or train first",
            )
        return workdir

    def own(self) -> None:
        """Takes the workdir for this process until it ends, however it ends.

        Raises:
            UserError: another process has it.
        """
        self._lock = open(self.path / SESSION_LOCK, "a+")  # noqa: SIM115, held as long as the process lives
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            raise UserError(
                f"another process works in this workdir: {self._lock.read().strip() or 'unknown'}",
                where=str(self.path),
                expected="one training per workdir",
                do="wait for it or stop it, or choose another --workdir",
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
        self._lock.flush()

    def has_checkpoint(self) -> bool:
        """Whether there is a session to go on with.

        Raises:
            UserError: there was one, and its checkpoints are gone. Nothing starts over by itself.
        """
        if any(self.checkpoints.glob("ckpt-*.index")):
            return True
        traces = [*self.checkpoints.glob("ckpt-*.manifest.json"), *self.checkpoints.glob("best/ckpt-*.index")]
        if traces:
            raise UserError(
                f"the checkpoints of this session are gone, {traces[0].name} is left",
                where=str(self.checkpoints),
                expected="ckpt-STEP.index and ckpt-STEP.data-... as they were written",
                do="put them back (those in best/ will do), or start a new --workdir",
            )
        return False

    def check_config(self, config: str, allowed: Sequence[str], *, shaping: Collection[str] = ()) -> None:
        """Compares the operative configuration with the one the checkpoints were made with.

        Args:
            config: gin text of this start.
            allowed: settings that may differ, as `--allow_change` names them.
            shaping: those of FREE that shape the weights in this session.

        Raises:
            UserError: others differ; lists them with both values.
        """
        before = launch.settings(_read(self.config), where=str(self.config))
        now = launch.settings(config)
        differing = [name for name in launch.differences(before, now) if name in shaping or name not in FREE]
        unknown = sorted(set(allowed) - before.keys() - now.keys())
        if unknown:
            raise UserError(
                f"no setting is called {', '.join(unknown)}",
                where="--allow_change",
                expected=f"settings that differ: {', '.join(differing) or '(none)'}",
                do="correct the names",
            )
        fixed = [name for name in differing if name.endswith("batch_size")]
        if fixed:
            rows = "; ".join(f"{name}: {before.get(name, 'unset')} -> {now.get(name, 'unset')}" for name in fixed)
            raise UserError(
                f"the batch size cannot change within a session: {rows}",
                where=str(self.config),
                expected="the batch size it was started with: a step stands for that many positions of the stream",
                do="undo the change, or start a new --workdir",
            )
        refused = [name for name in differing if name not in allowed]
        if refused:
            rows = "; ".join(f"{name}: {before.get(name, 'unset')} -> {now.get(name, 'unset')}" for name in refused)
            allow = ",".join([*allowed, *refused])
            raise UserError(
                f"the configuration does not fit the checkpoints of this workdir: {rows}",
                where=str(self.config),
                expected="the settings that the session was started with",
                do=f"undo the change, start a new --workdir, or allow it: --allow_change={allow}",
            )


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Reads one of the session's JSON files.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        value = json.loads(_read(path))
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}")
    except ValueError as error:
        raise _unreadable(path, error) from error
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path.name} cannot be read: {error}",
        where=str(path),
        expected="the file as the session wrote it",
        do="put it back from a copy, or start a new --workdir",
    )
