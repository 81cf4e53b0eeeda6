"""The folder of a session: its files, its one owner, and what may change between two starts."""

import atexit
import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from data.errors import UserError
from data.frozen import COLUMNS, IMAGES
from data.names import SESSION_LOCK, printable
from trainer import launch
from trainer.ownership import Ownership

# Settings that do not shape the weights.
FREE = frozenset(
    f"train.{name}"
    for name in (
        "checkpoint_every",
        "evaluate_every",
        "checkpoint_minutes",
        "keep_checkpoints",
        "keep_every",
        "keep_best",
        "best_gain",
        "stop_within",
        "evaluation_batch_size",
        "bad_images",
        "store",
        "data_service",
        "replace_at_most",
        "tensorboard",
        "reduction",
        "reduction_bytes",
        "threads",
    )
) | {
    "data_dir",
    "folder.root",
    "table.path",
    "table.root",
    "features.folder",
    "guard.tries",
    "data_service.address",
    "data_service.silence",
    "tensorboard.images",
    "tensorboard.histograms",
    "tensorboard.profile",
}


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
            # Elsewhere another process may have the same number.
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"the workdir {self.path} is not writable: {error.strerror}",
                where="--workdir",
                expected="a folder that this user can make and write",
                do="choose another --workdir or correct the permissions",
            ) from error

    def _name_files(self, path: str) -> None:
        self._ownership: Ownership | None = None
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
        self.predictions = self.path / "predictions"
        self.tensorboard = self.path / "tensorboard"
        self.log = self.path / "log.txt"
        self.stages = self.path / "stages.json"
        self.report = self.path / "report.html"

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

    def own(self, say: Callable[[str], object] = print) -> None:
        """Takes the workdir for this process until it ends, however it ends; see `trainer.ownership`.

        Args:
            say: gets a sentence where a process that fell silent was taken over.

        Raises:
            UserError: another process has it.
        """
        self._ownership = Ownership(self.path / SESSION_LOCK, say=say)
        atexit.register(self.disown)

    def disown(self) -> None:
        """Gives the workdir, if it was taken, to whoever comes next."""
        atexit.unregister(self.disown)
        if self._ownership is not None:
            self._ownership.release()

    def check_owned(self) -> None:
        """Makes sure that this process still owns the workdir; call it before a save.

        Raises:
            RunFailure: another one has taken it over.
        """
        self._ownership.check()

    def has_checkpoint(self) -> bool:
        """Whether there is a session to go on with.

        Raises:
            UserError: there was one, and its checkpoints are gone. Nothing starts over by itself.
        """
        if any(self.checkpoints.glob("ckpt-*.index")):
            return True
        places = ("ckpt-*.manifest.json", "best/ckpt-*.index", "kept/ckpt-*.index")
        traces = [path for pattern in places for path in self.checkpoints.glob(pattern)]
        if traces:
            raise UserError(
                f"the checkpoints of this session are gone, {traces[0].name} is left",
                where=str(self.checkpoints),
                expected="ckpt-STEP.index and ckpt-STEP.data-... as they were written",
                do="put them back (those in best/ or kept/ will do), or start a new --workdir",
            )
        return False

    def written_config(self) -> str:
        """The operative configuration of the latest start, gin text.

        Raises:
            UserError: it cannot be read.
        """
        return _read(self.config)

    def check_config(
        self, config: str, allowed: Sequence[str], *, shaping: Collection[str] = (), rule: str | None = None
    ) -> list[str]:
        """Compares the operative configuration with the one the checkpoints were made with.

        Args:
            config: gin text of this start.
            allowed: settings that may differ, as `--allow_change` names them.
            shaping: those of FREE that shape the weights in this session.
            rule: name of the function that made the split, which stays as it is.

        Returns:
            those that differ, may, and shape the weights.

        Raises:
            UserError: others differ; lists them with both values.
        """
        before = launch.settings(self.written_config(), where=str(self.config))
        now = launch.settings(config)
        for name in now.keys() - before.keys():
            # A setting that came with a later version of this project: the session has had its default.
            if any(known.rpartition(".")[0] == name.rpartition(".")[0] for known in before):
                before |= launch.defaults([name])
        differing = [name for name in launch.differences(before, now) if name in shaping or name not in FREE]
        unknown = sorted(set(allowed) - before.keys() - now.keys() - {*COLUMNS, IMAGES})
        if unknown:
            raise UserError(
                f"no setting is called {', '.join(unknown)}",
                where="--allow_change",
                expected=f"settings that differ: {', '.join(differing) or '(none)'}",
                do="correct the names",
            )
        kept = ("batch_size", "train.best_by", "train.split")
        fixed = [name for name in differing if name.endswith(kept) or name.split("/")[-1].startswith(f"{rule}.")]
        if fixed:
            rows = "; ".join(f"{name}: {before.get(name, 'unset')} -> {now.get(name, 'unset')}" for name in fixed)
            raise UserError(
                f"what cannot change within a session: {rows}",
                where=str(self.config),
                expected="what it was started with: a step stands for a batch of the stream, the split is kept, and "
                "all checkpoints were judged by one figure",
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
        return differing


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
    except (ValueError, RecursionError) as error:
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
