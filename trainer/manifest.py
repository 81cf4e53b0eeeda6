"""The manifest beside each checkpoint: sizes and checksums of its files, by which damage is told."""

import hashlib
import json
import os
from pathlib import Path

import keras
import tensorflow as tf

from data.errors import UserError

FORMAT = 1
SUFFIX = ".manifest.json"


def write(prefix: Path, *, step: int, variables: int, session: str | None) -> None:
    """Flushes the files of a checkpoint to the disk and writes their manifest, whole or not at all.

    Args:
        prefix: `FOLDER/ckpt-STEP`.
        variables: how many it holds.
        session: whose it is.
    """
    files = {}
    for path in sorted(prefix.parent.glob(f"{prefix.name}.*")):
        if ".manifest." not in path.name:
            files[path.name] = {"size": path.stat().st_size, "sha256": sha256(path, flush=True)}
    facts = {
        "format": FORMAT,
        "step": step,
        "variables": variables,
        "session": session,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "files": files,
    }
    path = of(prefix)
    part = path.with_name(f"{path.name}.part")
    with open(part, "w") as file:
        file.write(json.dumps(facts, indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(prefix.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def damage(prefix: Path, *, session: str | None = None) -> str | None:
    """Why a checkpoint cannot be trusted, or None. Compares with its manifest; reads it all where there is none.

    Args:
        session: whose it has to be; None: anybody's.

    Raises:
        UserError: a later version of this project has written it.
    """
    try:
        facts = json.loads(of(prefix).read_text())
        if isinstance(facts["format"], int) and facts["format"] > FORMAT:
            raise UserError(
                f"a checkpoint of format {facts['format']}",
                where=str(prefix),
                expected=f"format {FORMAT} or before",
                do="go on with the version of this project that wrote it",
            )
        for name, file in facts["files"].items():
            path = prefix.with_name(Path(name).name)
            if not path.exists():
                return f"{path.name} is missing"
            if path.stat().st_size != file["size"]:
                return f"{path.name} has {path.stat().st_size} bytes, not {file['size']}"
            if sha256(path) != file["sha256"]:
                return f"{path.name} has other content than when it was written"
        if session is not None and facts.get("session") not in (None, session):
            return f"it is of another session, {facts['session']}"
        if facts["files"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def session_of(prefix: Path) -> str | None:
    """Whose a checkpoint is; None: nobody's, or its manifest is lost."""
    try:
        found = json.loads(of(prefix).read_text())["session"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def of(prefix: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return prefix.with_name(f"{prefix.name}{SUFFIX}")


def sha256(path: Path, *, flush: bool = False) -> str:
    """Checksum of a file, which is flushed to the disk before where that is asked for."""
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
