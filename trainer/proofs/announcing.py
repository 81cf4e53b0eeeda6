"""A training that says on a pipe what it is doing, and waits where it is told to, so that it can be interrupted there.

Announcements are lines `PHASE STEP DETAIL`, each one write: checkpoints are written by a thread of their own.
"""

import os
import sys
import threading
from collections.abc import Callable

from data import packing
from data.feature_store import Writer
from trainer import manifest
from trainer.checkpoints import Checkpoints
from trainer.session import Session

# In this order. The first is in the thread that trains, the others in the one that writes. A run can be held at all but
# the third, which passes by itself.
SAVING = (
    "before the copy in memory",
    "before the files",
    "while the files are written",
    "before the manifest",
    "after the manifest",
    "before the links",
)
PASSING = SAVING[2]
SAVED = "done"


def announce_phases(pipe: int, hold: str) -> None:
    """Has every session of this process announce its phases.

    Args:
        pipe: file descriptor to write to.
        hold: the moment of saving at which to wait until standard input is closed; empty: nowhere.
    """

    def announce(phase: str, step: int, detail: str = "") -> None:
        os.write(pipe, f"{phase} {step} {detail}".rstrip().encode() + b"\n")
        if detail and detail == hold != PASSING:
            while os.read(sys.stdin.fileno(), 1):
                pass

    def announcing(phase: str, function: Callable) -> Callable:
        def wrapped(session, *arguments, **keywords):
            announce(phase, session.step)
            result = function(session, *arguments, **keywords)
            announce("between", session.step)
            return result

        return wrapped

    def without_step(phase: str, function: Callable) -> Callable:
        def wrapped(*arguments, **keywords):
            announce(phase, 0)
            return function(*arguments, **keywords)

        return wrapped

    restore, copy, write = Session._restore, Checkpoints.save_behind, Checkpoints._write
    write_manifest, keep_in = manifest.write, Checkpoints.keep_in

    def announced_restore(session, *arguments, **keywords):
        restore(session, *arguments, **keywords)
        announce("restored", session.step)

    def announced_copy(self, step, *arguments, **keywords):
        announce("saving", step, SAVING[0])
        copy(self, step, *arguments, **keywords)

    def announced_write(self, step, *arguments, **keywords):
        announce("saving", step, SAVING[1])
        announce("saving", step, PASSING)
        seconds = write(self, step, *arguments, **keywords)
        announce("saving", step, SAVED)
        return seconds

    def announced_manifest(prefix, **facts):
        announce("saving", facts["step"], SAVING[3])
        write_manifest(prefix, **facts)
        announce("saving", facts["step"], SAVING[4])

    def announced_links(self, place, steps, **keywords):
        # A start puts the links in order as well.
        if steps and threading.current_thread() is not threading.main_thread():
            announce("saving", max(steps), SAVING[5])
        keep_in(self, place, steps, **keywords)

    packing._write_shard = without_step("packing", packing._write_shard)
    Writer.write = without_step("features", Writer.write)
    Session._restore = announced_restore
    Session._train_window = announcing("training", Session._train_window)
    Session._evaluate = announcing("evaluation", Session._evaluate)
    Checkpoints.save_behind = announced_copy
    Checkpoints._write = announced_write
    Checkpoints.keep_in = announced_links
    manifest.write = announced_manifest
