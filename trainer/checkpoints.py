"""What is saved, how it is checked, how it falls back. `tf.train.CheckpointManager` over variables keyed by name."""

import contextlib
import dataclasses
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from data.errors import RunFailure, UserError
from trainer import manifest
from trainer.cluster import ALONE, PATIENCE, Cluster
from trainer.manifest import damage

LISTED = 8
# Places beside the newest checkpoints: the best, the best of the weights themselves beside a moving average, and others
# that stay: the next best, and every Nth.
BEST, BEST_RAW, KEPT = "best", "best_raw", "kept"
# What TensorFlow calls the value of a variable.
VALUE = "VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that has been written: its step, and the seconds that took beside the training."""

    step: int
    seconds: float


class Checkpoints:
    """The checkpoints of one session.

    Args:
        folder: `WORKDIR/checkpoints`, made if missing. Left-over temporary files in it are removed.
        groups: every variable that shapes the future, as group -> name -> variable; all built.
        keep: how many of the newest stay.
        session: whose they are, for their manifests; None: nobody's.
        cluster: whose chief saves and removes, and says which checkpoint is whole; the others restore that one.
    """

    def __init__(
        self,
        folder: Path,
        groups: Mapping[str, Mapping[str, tf.Variable]],
        *,
        keep: int,
        session: str | None = None,
        cluster: Cluster = ALONE,
    ):
        self._folder, self._keep, self._session, self._cluster = folder, keep, session, cluster
        self._groups = {group: dict(named) for group, named in groups.items()}
        self._checkpoint = tf.train.Checkpoint(**self._groups)
        # What the variables were in memory of the host: this is written while training goes on.
        self._shadows: dict[str, dict[str, _Shadow]] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint", initializer=_stand_back)
        self._under_way: tuple[int, Future] | None = None
        if not cluster.is_chief:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*_temp"):
            shutil.rmtree(left_over, ignore_errors=True)
        for left_over in (*folder.glob("*.part"), *folder.glob("*/*.part")):
            left_over.unlink(missing_ok=True)
        _write_state(folder)

    def newest(self) -> int | None:
        """Step of the newest checkpoint, also of one that is being written; None: there is none."""
        return self._under_way[0] if self._under_way else max(steps_in(self._folder), default=None)

    def newest_name(self) -> str:
        """Path of the newest checkpoint that is whole, for messages."""
        steps = [step for step in steps_in(self._folder) if self._under_way is None or step != self._under_way[0]]
        return str(self._folder / f"ckpt-{steps[-1]}") if steps else "none yet"

    def save(self, step: int, *, places: Mapping[str, Sequence[int]] | None = None) -> Path:
        """Writes the variables as they are, and returns when all is on the disk; see `save_behind`."""
        self.save_behind(step, places=places)
        self.wait()
        return self._folder / f"ckpt-{step}"

    def save_behind(self, step: int, *, places: Mapping[str, Sequence[int]] | None = None) -> None:
        """Copies the variables as they are and writes the copies while training goes on; one save at a time.

        The files are flushed, their manifest is written, and only then older checkpoints are removed.

        Args:
            places: what `keep_in` is told when the checkpoint is there, by the name of the place.

        Raises:
            RunFailure: the disk has no room, or the save before has failed; earlier checkpoints are as they were.
        """
        if not self._cluster.is_chief:
            return
        self.wait()
        try:
            room, needed = shutil.disk_usage(self._folder).free, self._bytes()
            if room < needed:
                raise OSError(f"it takes {needed / 1e6:.1f} MB, and {room / 1e6:.1f} MB are free")
            self._copy()
        except OSError as error:
            raise self._failure(step, str(error)) from error
        self._under_way = step, self._writer.submit(self._write, step, dict(places or {}))

    def done(self) -> Saved | None:
        """What a save that has come to its end since the last call was like; None: there is none.

        Raises:
            RunFailure: it failed; earlier checkpoints are as they were.
        """
        return self.wait() if self._under_way and self._under_way[1].done() else None

    def wait(self) -> Saved | None:
        """Waits for the save that is under way, and tells of it as `done` does."""
        if self._under_way is None:
            return None
        (step, future), self._under_way = self._under_way, None
        try:
            return Saved(step, future.result())
        except (tf.errors.OpError, OSError) as error:
            raise self._failure(step, str(error).splitlines()[0]) from error

    def _failure(self, step: int, reason: str) -> RunFailure:
        return RunFailure(
            f"checkpoint {step} cannot be written: {reason}",
            where=str(self._folder),
            expected="space and permission for it",
            do=f"make room, then run the same command again; last good checkpoint: {self.newest_name()}",
        )

    def _bytes(self) -> int:
        sizes = [
            variable.dtype.size * math.prod(variable.shape)
            for named in self._groups.values()
            for variable in named.values()
        ]
        return sum(sizes) + 2048 * len(sizes)

    def _copy(self) -> None:
        if self._shadows is None:
            self._shadows = {group: {name: _Shadow() for name in named} for group, named in self._groups.items()}
            self._manager = self._manage(_Copies(self._shadows))
        # On a CPU nothing is copied here: an update of a variable whose value is held writes to memory of its own.
        for group, named in self._groups.items():
            for name, variable in named.items():
                self._shadows[group][name].value = _on_host(variable)

    def _manage(self, checkpoint: tf.train.Checkpoint) -> tf.train.CheckpointManager:
        _write_state(self._folder)
        return tf.train.CheckpointManager(checkpoint, str(self._folder), max_to_keep=self._keep, checkpoint_name="ckpt")

    def _write(self, step: int, places: Mapping[str, Sequence[int]]) -> float:
        """In the thread that writes: seconds that it took."""
        began = time.perf_counter()
        variables = sum(map(len, self._groups.values()))
        whole = False

        def make_whole(prefix):
            nonlocal whole
            manifest.write(Path(prefix), step=step, variables=variables, session=self._session)
            whole = True

        # The manager calls back before it takes note of the checkpoint and removes older ones.
        options = tf.train.CheckpointOptions(experimental_write_callbacks=[make_whole])
        try:
            self._manager.save(checkpoint_number=step, options=options)
        except (tf.errors.OpError, OSError):
            # Older ones may be gone where only the notes of the manager, which come last, have failed.
            if not whole:
                remove(self._folder, step)
            shutil.rmtree(self._folder / f"ckpt-{step}_temp", ignore_errors=True)
            raise
        finally:
            for named in self._shadows.values():
                for shadow in named.values():
                    shadow.value = None
        for path in self._folder.glob(f"ckpt-*{manifest.SUFFIX}"):
            if not path.with_name(path.name.replace(manifest.SUFFIX, ".index")).exists():
                path.unlink()
        for place, steps in places.items():
            self.keep_in(place, steps)
        return time.perf_counter() - began

    def restore_newest(self, *, at_most: int | None = None) -> tuple[int | None, list[str]]:
        """Restores the newest checkpoint that is whole; sets damaged ones aside in `damaged/`.

        Args:
            at_most: step up to which a checkpoint is wanted; later ones are removed, wherever they are. None: any.

        Returns:
            its step, None when there is none; a sentence on each one that was set aside.

        Raises:
            UserError: it belongs to another model or optimizer, or all that there are are damaged.
        """
        self.wait()
        step, set_aside = self._restore_newest(at_most) if self._cluster.is_chief else (None, [])
        step = self._cluster.told(step, patience=PATIENCE)
        if step is not None and not self._cluster.is_chief:
            self.restore(self._folder / f"ckpt-{step}")
        return step, set_aside

    def _restore_newest(self, at_most: int | None) -> tuple[int | None, list[str]]:
        damaged: dict[int, str] = {}
        wanted = [step for step in steps_in(self._folder) if at_most is None or step <= at_most]
        for step in reversed(wanted):
            prefix = self._folder / f"ckpt-{step}"
            reason = damage(prefix, session=self._session)
            if reason is not None:
                damaged[step] = f"checkpoint {step} is damaged ({reason})"
                continue
            self.restore(prefix)
            if at_most is not None:
                # The same step will come again, with other weights.
                for place in (*(self._folder / name for name in (BEST, BEST_RAW, KEPT)), self._folder):
                    for later in (step for step in steps_in(place) if step > at_most):
                        remove(place, later)
            for bad in damaged:
                _set_aside(self._folder / f"ckpt-{bad}")
            _write_state(self._folder)
            if self._shadows is not None:
                self._manager = self._manage(_Copies(self._shadows))
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

    def keep_in(self, place: str, steps: Sequence[int], *, verify: bool = False) -> None:
        """Makes these the checkpoints in a folder of that name, as links to the same bytes where the disk can.

        One that is neither among the newest nor in another place is left out; where none is there nothing happens.

        Args:
            verify: whether a damaged one is replaced by another one of the same step.
        """
        if not self._cluster.is_chief:
            return
        folder = self._folder / place
        found = {step: source for step in steps if (source := self._source(step, folder, verify)) is not None}
        if not found:
            return
        folder.mkdir(exist_ok=True)
        for step, source in found.items():
            _link(source, folder, step)
        for old in set(steps_in(folder)) - found.keys():
            remove(folder, old)
        _write_state(folder)

    def _source(self, step: int, folder: Path, verify: bool) -> Path | None:
        places = (folder, self._folder, *(self._folder / place for place in (BEST, BEST_RAW, KEPT)))
        there = [place for place in places if (place / f"ckpt-{step}.index").exists()]
        whole = (place for place in there if not verify or damage(place / f"ckpt-{step}") is None)
        return next(whole, None)


class _Shadow(tf.__internal__.tracking.Trackable):
    """A value that is saved as that of a variable is; a variable takes several times as long to look at and to save."""

    def __init__(self):
        self.value: tf.Tensor | None = None

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        return {VALUE: self.value}


class _Copies(tf.train.Checkpoint):
    """Shadows by group and name. The first save describes each of them, as TensorFlow does; later ones only write."""

    def __init__(self, shadows: Mapping[str, Mapping[str, _Shadow]]):
        super().__init__(**shadows)
        self._shadows = {f"{group}/{name}": each for group, named in shadows.items() for name, each in named.items()}
        # By the name in the file: the shadow, or what else is there and never changes.
        self._entries: dict[str, _Shadow | tf.Tensor] = {}

    def _write(self, file_prefix: str, options: tf.train.CheckpointOptions) -> str:
        if not self._entries:
            path = super()._write(file_prefix, options=options)
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                shadow = self._shadows.get(plain(name))
                self._entries[name] = tf.constant(reader.get_tensor(name)) if shadow is None else shadow
            return path
        tensors = [each.value if isinstance(each, _Shadow) else each for each in self._entries.values()]
        names, part = list(self._entries), f"{file_prefix}_temp/part"
        tf.raw_ops.SaveV2(prefix=part, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[part], destination_prefix=file_prefix, delete_old_dirs=True)
        for told in options.experimental_write_callbacks:
            told(file_prefix)
        return file_prefix


def value_of(variable: tf.Variable) -> tf.Tensor:
    """What the first replica of a variable holds; past all that a strategy does about a read, which takes longer."""
    first = getattr(variable, "values", (variable,))[0]
    return tf.raw_ops.ReadVariableOp(resource=first.handle, dtype=first.dtype)


def _on_host(variable: tf.Variable) -> tf.Tensor:
    value = value_of(variable)
    if value.device.endswith("CPU:0"):
        return value
    with tf.device("CPU:0"):
        return tf.identity(value)


def _stand_back() -> None:
    """Leaves the processor to the training where both want it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _link(source: Path, folder: Path, step: int) -> None:
    """Links the files of a checkpoint into another folder; its index, by which it is found, comes last."""
    if source == folder:
        return
    for path in sorted(source.glob(f"ckpt-{step}.*"), key=lambda path: path.suffix == ".index"):
        part = folder / f"{path.name}.part"
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:
            shutil.copy2(path, part)
        os.replace(part, folder / path.name)
        # Where both are links to the same bytes already, replacing does nothing.
        part.unlink(missing_ok=True)


def remove(folder: Path, step: int) -> None:
    """Removes a checkpoint, its index first, by which it is found."""
    for path in sorted(folder.glob(f"ckpt-{step}.*"), key=lambda path: path.suffix != ".index"):
        if path.is_file():
            path.unlink()


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints that a folder holds, whatever its `checkpoint` file says."""
    names = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index"))
    return sorted(int(name[1]) for name in names if name)


def find(folder: Path, which: str, *, weights: str | None = None) -> Path:
    """The checkpoint that `best`, `last` or a step names.

    Args:
        weights: `raw` where the best is to be that of the weights themselves and not of their moving average.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if which == "best":
        places = [folder / (BEST_RAW if weights == "raw" and steps_in(folder / BEST_RAW) else BEST)]
    else:
        places = [folder] if which == "last" else [folder, folder / KEPT, folder / BEST, folder / BEST_RAW]
    there = [(place, step) for place in places for step in steps_in(place)]
    named = there[-1:] if which in ("best", "last") else [found for found in there if str(found[1]) == which]
    if not named:
        known = sorted({step for place in (folder, folder / KEPT) for step in steps_in(place)})
        raise UserError(
            f"there is no checkpoint {which!r}",
            where=str(places[0]),
            expected=f"best, last or one of the steps {', '.join(map(str, known)) or '(none)'}",
            do="choose one of them, or train first",
        )
    place, step = named[0]
    prefix = place / f"ckpt-{step}"
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
        UserError: neither of these, there is no average, or the checkpoint is gone by now.
    """
    try:
        averaged = any((plain(name) or "").startswith("ema/") for name, _ in tf.train.list_variables(str(prefix)))
    except (tf.errors.OpError, ValueError) as error:
        raise _gone(prefix, error) from error
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
        raise _gone(prefix, error) from error


def _gone(prefix: Path, error: Exception) -> UserError:
    return UserError(
        f"the checkpoint cannot be read: {str(error).splitlines()[0]}",
        where=str(prefix),
        expected="a checkpoint that stays there while it is read; a running training removes old ones",
        do="run the same command again, or choose --checkpoint=last",
    )


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
