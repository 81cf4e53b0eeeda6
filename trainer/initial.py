"""The weights that a session began with, kept in WORKDIR/initial: what it must not forget, and drifts away from."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.errors import UserError
from trainer import checkpoints
from trainer.checkpoints import Checkpoints
from trainer.models.network import Network
from trainer.workdir import Workdir


def save(workdir: Workdir, network: Network, *, known: Sequence[str]) -> None:
    """Keeps the weights as they are now; before step 0, over what a start that was cut short has left.

    Args:
        known: names of the classes whose outputs the source of the weights gave.

    Raises:
        RunFailure: the disk is full or not writable.
    """
    remove(workdir)
    folder = _folder(workdir)
    # In the checkpoint, whose manifest tells damage.
    classes = tf.Variable(np.frombuffer(json.dumps(list(known)).encode(), np.uint8))
    Checkpoints(folder, {"model": network.values(), "known": {"classes": classes}}, keep=1).save(0)


def remove(workdir: Workdir) -> None:
    """Forgets what an earlier start, cut short before its first checkpoint, has kept."""
    shutil.rmtree(_folder(workdir), ignore_errors=True)


def is_kept(workdir: Workdir) -> bool:
    """Whether the session keeps what it began with, whole or not."""
    return _folder(workdir).exists()


def read(workdir: Workdir) -> dict[str, np.ndarray]:
    """The weights the session began with, by the names of the network's variables.

    Raises:
        UserError: there are none, or they are damaged.
    """
    stored = _stored(workdir)
    return {name.removeprefix("model/"): value for name, value in stored.items() if name.startswith("model/")}


def _stored(workdir: Workdir) -> dict[str, np.ndarray]:
    try:
        return checkpoints.read(checkpoints.find(_folder(workdir), "last"))
    except UserError as error:
        raise _lost(error.found, str(_folder(workdir))) from error


def fitting(workdir: Workdir, network: Network) -> dict[str, np.ndarray]:
    """The same, compared with the network.

    Raises:
        UserError: as `read` does, or names or shapes are others.
    """
    values = read(workdir)
    stored = {name: tuple(value.shape) for name, value in values.items()}
    needed = {name: tuple(variable.shape) for name, variable in network.variables.items()}
    different = sorted(name for name in stored.keys() | needed.keys() if stored.get(name) != needed.get(name))
    if different:
        raise _lost(f"{len(different)} variables are those of another network: {different[0]}", str(_folder(workdir)))
    return values


def known(workdir: Workdir) -> tuple[str, ...]:
    """Names of the classes whose outputs the source of the weights gave.

    Raises:
        UserError: there are none, or they are damaged.
    """
    stored = _stored(workdir)
    if "known/classes" not in stored:
        raise _lost("the classes known at first are not among it", str(_folder(workdir)))
    return tuple(json.loads(stored["known/classes"].tobytes()))


def _lost(found: str, where: str) -> UserError:
    return UserError(
        f"what the session began with is lost: {found}",
        where=where,
        expected="a session that was started with --init_from, train.distillation or train.anchor, and its files as it "
        "wrote them",
        do="put them back from a copy, or start a new --workdir",
    )


def _folder(workdir: Workdir) -> Path:
    return workdir.path / "initial"
