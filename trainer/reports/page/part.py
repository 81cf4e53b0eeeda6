"""A section of a page, or a sentence in its place: one that fails leaves the others alone."""

import dataclasses
import shlex
from collections.abc import Callable

from data.errors import UserError
from data.names import printable
from trainer.reports.page.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A section: what its template needs, or a sentence in its place."""

    values: object = None
    instead: str = ""
    command: str = ""


def attempt(make: Callable[[], Part]) -> Part:
    """The section, or what keeps it from being shown."""
    try:
        return make()
    except UserError as error:
        return Part(instead=printable(error.found))
    # The files of a workdir may hold anything that is JSON.
    except Exception as error:
        return Part(instead=f"This cannot be shown: {type(error).__name__}: {printable(str(error))[:200]}")


def evaluate(run: Run, split: str) -> str:
    """What to type for word of single examples, and for the page with it."""
    return f"{command('evaluate', run, f'--split={split} --details')}\n{command('report', run)}"


def command(script: str, run: Run, more: str = "") -> str:
    """How to call a script on the workdir of a run."""
    return f"python scripts/{script}.py --workdir={shlex.quote(printable(str(run.path)))} {more}".rstrip()
