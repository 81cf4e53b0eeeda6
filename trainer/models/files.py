"""Files of weights into a model, whatever wrote them."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras

from data.errors import UserError
from trainer.models import checkpoint_file, keras_file
from trainer.models.stored import Reading
from trainer.models.weights import HEAD, WeightReport, compare, write


def load_file(model: keras.Model, path: str | os.PathLike, *, head: str = HEAD) -> WeightReport:
    """Fills a backbone from any file that `opened` reads. Every shape must agree.

    What stands around the backbone in the file, and entries like a head, are left out and reported as skipped.

    Args:
        model: a built model.
        head: regular expression of the entries `layer/variable` that the model may lack.

    Raises:
        UserError: the file is absent, in no known format, damaged, unsafe, or of another architecture. The
            model is then untouched.
    """
    with opened(model, path) as reading:
        shapes = {name: array.shape for name, array in reading.inside.items()}
        report = compare(model, shapes, source=str(path), head=head)
        values = {name: reading.inside[name].read() for name in report.matched}
    write(model, values, source=str(path))
    return replace(report, skipped=report.skipped + tuple(reading.outside))


@contextlib.contextmanager
def opened(model: keras.Model, path: str | os.PathLike, *, weights: str | None = None) -> Iterator[Reading]:
    """What a file of weights holds of a model and around it; arrays are read while it is open.

    Args:
        path: `.weights.h5`, `.keras`, legacy `.h5` (whole model or weights), a checkpoint, the folder of checkpoints
            or of a SavedModel; by what it holds, not by how it is called.
        weights: of a session's checkpoint, see `checkpoints.weights_group`.

    Raises:
        UserError: it is absent, in no known format, damaged or unsafe.
    """
    path = Path(path).expanduser()
    prefix = checkpoint_file.find_prefix(path)
    if prefix is not None:
        yield checkpoint_file.read(model, prefix, weights=weights)
    elif not path.is_file():
        raise UserError(
            "the folder holds no weights" if path.is_dir() else "there is no such file",
            where=str(path),
            expected="a .keras, .h5 or .weights.h5 file, a checkpoint (PREFIX.index), or a folder of checkpoints or of "
            "a SavedModel",
            do="check the path",
        )
    else:
        with keras_file.opened(model, path) as reading:
            yield reading
