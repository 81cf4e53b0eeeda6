"""The weights that a session began with, kept in WORKDIR/initial: what it must not forget, and drifts away from."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import UserError
from trainer import checkpoints
from trainer.checkpoints import Checkpoints
from trainer.models.network import Network
from trainer.workdir import Workdir, write_json


def save(workdir: Workdir, network: Network, *, known: Sequence[str]) -> None:
    """Keeps the weights as they are now; before step 0, over what a start that was cut short has left.

    Args:
        known: names of the classes whose outputs the source of the weights gave.

    Raises:
        RunFailure: the disk is full or not writable.
    """
    remove(workdir)
    folder = _folder(workdir)
    Checkpoints(folder, {"model": network.values()}, keep=1).save(0)
    write_json(folder / "classes.json", list(known))


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
    try:
        stored = checkpoints.read(checkpoints.find(_folder(workdir), "last"))
    except UserError as error:
        raise _lost(error.found, str(_folder(workdir))) from error
    return {name.removeprefix("model/"): value for name, value in stored.items()}


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
        UserError: the session kept no first weights, or the list is damaged.
    """
    path = _folder(workdir) / "classes.json"
    try:
        names = json.loads(path.read_text())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("it holds no list of names")
    except (OSError, ValueError) as error:
        raise _lost(f"the classes known at first cannot be read: {error}", str(path)) from error
    return tuple(names)


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
