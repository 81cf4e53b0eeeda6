"""Keeps what TensorFlow's C++ code writes to the terminal while it loads away from people who cannot act on it."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Holds back everything written to file descriptor 2; shows it if the block fails."""
    sys.stderr.flush()
    shown = os.dup(2)
    # In memory where that can be: the disk may be full.
    with open(os.memfd_create("stderr"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
