"""What a session is called in its files, so that those of another one are told from its own."""

from data.errors import UserError
from trainer import checkpoints, manifest
from trainer.reports import environment
from trainer.workdir import Workdir


def of(workdir: Workdir) -> str | None:
    """The name by environment.json, or where that is lost by the newest checkpoint that knows; None: nobody knows.

    Raises:
        UserError: environment.json is of another session than all checkpoints.
    """
    told = environment.identity(workdir.environment)
    folder = workdir.checkpoints
    owners = [manifest.session_of(folder / f"ckpt-{step}") for step in checkpoints.steps_in(folder)]
    known = [owner for owner in owners if owner is not None]
    if told is not None and known and told not in known:
        raise UserError(
            f"{workdir.environment.name} is of the session {told}, the checkpoints are of {known[-1]}",
            where=str(workdir.environment),
            expected="files of one session",
            do="put it back from a copy, or remove it: the next start writes it again",
        )
    return told or next(reversed(known), None)
