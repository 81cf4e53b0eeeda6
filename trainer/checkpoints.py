"""What is saved, how it is checked, how it falls back. `tf.train.CheckpointManager` over variables keyed by name."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from data.errors import RunFailure, UserError

FORMAT = 1
LISTED = 8


class Checkpoints:
    """The checkpoints of one session.

    Args:
        folder: `WORKDIR/checkpoints`, made if missing. Left-over temporary folders in it are removed.
        groups: every variable that shapes the future, as group -> name -> variable; all built.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, groups: Mapping[str, Mapping[str, tf.Variable]], *, keep: int):
        self._folder = folder
        self._groups = {group: dict(named) for group, named in groups.items()}
        self._checkpoint = tf.train.Checkpoint(**self._groups)
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*_temp"):
            shutil.rmtree(left_over, ignore_errors=True)
        self._keep = keep
        self._manage()

    def _manage(self) -> None:
        """Has TensorFlow's manager know the checkpoints that the folder holds."""
        _write_state(self._folder)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=self._keep, checkpoint_name="ckpt"
        )

    def newest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(steps_in(self._folder), default=None)

    def newest_name(self) -> str:
        """Path of the newest checkpoint, for messages."""
        return "none yet" if self.newest() is None else str(self._folder / f"ckpt-{self.newest()}")

    def save(self, step: int) -> Path:
        """Writes the variables as they are now, with a manifest of sizes and checksums beside them.

        Raises:
            RunFailure: the disk is full or not writable; earlier checkpoints are as they were.
        """
        last = self.newest_name()
        try:
            prefix = Path(self._manager.save(checkpoint_number=step))
            _write_manifest(prefix, step, sum(map(len, self._groups.values())))
        except (tf.errors.OpError, OSError) as error:
            raise RunFailure(
                f"checkpoint {step} cannot be written: {str(error).splitlines()[0]}",
                where=str(self._folder),
                expected="space and permission for it",
                do=f"make room, then run the same command again; last good checkpoint: {last}",
            ) from error
        for manifest in self._folder.glob("ckpt-*.manifest.json"):
            if not manifest.with_name(manifest.name.replace(".manifest.json", ".index")).exists():
                manifest.unlink()
        return prefix

    def restore_newest(self) -> tuple[int | None, list[str]]:
        """Restores the newest checkpoint that is whole; sets damaged ones aside in `damaged/`.

        Returns:
            its step, None when there is none; a sentence on each one that was set aside.

        Raises:
            UserError: it belongs to another model or optimizer, or all that there are are damaged.
        """
        damaged: dict[int, str] = {}
        for step in sorted(steps_in(self._folder), reverse=True):
            prefix = self._folder / f"ckpt-{step}"
            reason = damage(prefix)
            if reason is not None:
                damaged[step] = f"checkpoint {step} is damaged ({reason})"
                continue
            self.restore(prefix)
            for bad in damaged:
                _set_aside(self._folder / f"ckpt-{bad}")
            self._manage()
            return step, [f"{text} and was moved to {self._folder / 'damaged'}" for text in damaged.values()]
        if damaged:
            raise UserError(
                f"none of the checkpoints is whole: {'; '.join(damaged.values())}",
                where=str(self._folder),
                expected="at least one whole checkpoint",
                do="put one back from a copy, or start a new --workdir",
            )
        return None, []

    def restore(self, prefix: Path) -> None:
        """Restores every variable from a checkpoint known to be whole; compares names, shapes and types before.

        Raises:
            UserError: they are not the same; nothing was restored.
        """
        _compare(
            prefix,
            {f"{group}/{name}": variable for group, named in self._groups.items() for name, variable in named.items()},
        )
        self._checkpoint.restore(str(prefix)).assert_consumed()

    def keep_best(self, step: int) -> None:
        """Makes the checkpoint of this step the one in `best/`, as a link to the same bytes where the disk can.

        Nothing happens where there is no such checkpoint (any more).
        """
        if step not in steps_in(self._folder):
            return
        best = self._folder / "best"
        best.mkdir(exist_ok=True)
        # The index, by which a checkpoint is found, comes last.
        for source in sorted(self._folder.glob(f"ckpt-{step}.*"), key=lambda path: path.suffix == ".index"):
            target = best / source.name
            part = best / f"{source.name}.part"
            part.unlink(missing_ok=True)
            try:
                os.link(source, part)
            except OSError:
                shutil.copy2(source, part)
            os.replace(part, target)
            # Where both are links to the same bytes already, replacing does nothing.
            part.unlink(missing_ok=True)
        for old in best.glob("ckpt-*"):
            if not old.name.startswith(f"ckpt-{step}."):
                old.unlink()
        _write_state(best)


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints that a folder holds, whatever its `checkpoint` file says."""
    names = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index"))
    return sorted(int(name[1]) for name in names if name)


def find(folder: Path, which: str) -> Path:
    """The checkpoint that `best`, `last` or a step names.

    Raises:
        UserError: there is none, or it is damaged.
    """
    place = folder / "best" if which == "best" else folder
    steps = steps_in(place)
    chosen = steps[-1:] if which in ("best", "last") else [step for step in steps if str(step) == which]
    if not chosen:
        raise UserError(
            f"there is no checkpoint {which!r}",
            where=str(place),
            expected=f"best, last or one of the steps {', '.join(map(str, steps_in(folder))) or '(none)'}",
            do="choose one of them, or train first",
        )
    prefix = place / f"ckpt-{chosen[0]}"
    reason = damage(prefix)
    if reason is not None:
        raise UserError(
            f"the checkpoint is damaged: {reason}",
            where=str(prefix),
            expected="the files as they were written",
            do="choose another --checkpoint",
        )
    return prefix


def weights_group(prefix: Path, weights: str | None = None) -> str:
    """The group that holds the weights of a network, named alike in each.

    Args:
        prefix: a checkpoint.
        weights: `raw`, what gradients update; `ema`, their moving average; None: the average where there is one.

    Raises:
        UserError: neither of these, or there is no average.
    """
    averaged = any((plain(name) or "").startswith("ema/") for name, _ in tf.train.list_variables(str(prefix)))
    if weights not in (None, "raw", "ema") or (weights == "ema" and not averaged):
        raise UserError(
            f"there are no weights {weights!r}",
            where=f"--weights, {prefix}",
            expected="raw or ema" if averaged else "raw: this session keeps no moving average (train.ema)",
            do="correct --weights or leave it out",
        )
    return "ema" if averaged and weights != "raw" else "model"


def restore_group(prefix: Path, group: str, named: Mapping[str, tf.Variable]) -> None:
    """Restores one group of variables out of a checkpoint, all of them.

    Raises:
        UserError: names, shapes or types differ; nothing was restored.
    """
    try:
        _compare(prefix, {f"{group}/{name}": variable for name, variable in named.items()}, group=group)
        status = tf.train.Checkpoint(**{group: dict(named)}).restore(str(prefix))
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"the checkpoint cannot be read: {str(error).splitlines()[0]}",
            where=str(prefix),
            expected="a checkpoint that stays there while it is read; a running training removes old ones",
            do="run the same command again, or choose --checkpoint=last",
        ) from error


def damage(prefix: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None. Compares with its manifest; reads it all where there is none."""
    manifest = prefix.with_name(f"{prefix.name}.manifest.json")
    try:
        listed = json.loads(manifest.read_text())["files"]
        for name, facts in listed.items():
            path = prefix.with_name(Path(name).name)
            if not path.exists():
                return f"{path.name} is missing"
            if path.stat().st_size != facts["size"]:
                return f"{path.name} has {path.stat().st_size} bytes, not {facts['size']}"
            if sha256(path) != facts["sha256"]:
                return f"{path.name} has other content than when it was written"
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def read(prefix: Path) -> dict[str, object]:
    """Every variable of a checkpoint as `GROUP/NAME` -> array."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {plain(key): reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if plain(key)}


def plain(key: str) -> str | None:
    """`model/backbone.Sconv.Skernel/.ATTRIBUTES/VARIABLE_VALUE` -> `model/backbone/conv/kernel`."""
    if not key.endswith("/.ATTRIBUTES/VARIABLE_VALUE") or key.startswith("save_counter/"):
        return None
    name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    return re.sub(r"\.([.S])", lambda escaped: "/" if escaped[1] == "S" else ".", name)


def _compare(prefix: Path, wanted: Mapping[str, tf.Variable], group: str | None = None) -> None:
    reader = tf.train.load_checkpoint(str(prefix))
    types = reader.get_variable_to_dtype_map()
    stored = {
        plain(key): (tuple(shape), types[key].name)
        for key, shape in reader.get_variable_to_shape_map().items()
        if plain(key) and (group is None or key.startswith(f"{group}/"))
    }
    needed = {name: (tuple(variable.shape), variable.dtype.name) for name, variable in wanted.items()}
    different = sorted(name for name in stored.keys() | needed.keys() if stored.get(name) != needed.get(name))
    if not different:
        return

    def say(name: str) -> str:
        has, wants = stored.get(name), needed.get(name)
        return f"{name}: {'absent' if has is None else f'{has[1]} {list(has[0])}'} in the checkpoint, " + (
            "not in this run" if wants is None else f"{wants[1]} {list(wants[0])} in this run"
        )

    more = f" and {len(different) - LISTED} more" if len(different) > LISTED else ""
    raise UserError(
        f"the checkpoint does not fit: {len(different)} of {len(stored | needed)} variables differ: "
        + "; ".join(map(say, different[:LISTED]))
        + more,
        where=str(prefix),
        expected="the model, the classes and the optimizer that wrote it",
        do="go back to that configuration (config.gin in the workdir), or start a new --workdir",
    )


def _write_state(folder: Path) -> None:
    """Makes TensorFlow's `checkpoint` file say what the folder holds; it may be missing, old or damaged."""
    names = [f"ckpt-{step}" for step in steps_in(folder)]
    if not names:
        (folder / "checkpoint").unlink(missing_ok=True)
        return
    lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names)]
    # The manager deletes only what it knows the time of.
    times = [(folder / f"{name}.index").stat().st_mtime for name in names]
    lines += [f"all_model_checkpoint_timestamps: {time}" for time in times]
    part = folder / "checkpoint.part"
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, folder / "checkpoint")


def _set_aside(prefix: Path) -> None:
    damaged = prefix.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        os.replace(path, damaged / path.name)


def _write_manifest(prefix: Path, step: int, variables: int) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(prefix.parent.glob(f"{prefix.name}.*"))
        if ".manifest." not in path.name
    }
    facts = {
        "format": FORMAT,
        "step": step,
        "variables": variables,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "files": files,
    }
    path = prefix.with_name(f"{prefix.name}.manifest.json")
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(facts, indent=1))
    os.replace(part, path)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
