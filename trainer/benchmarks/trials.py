"""Measurements in processes of their own: their devices, their memory and what becomes of them are their own too."""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import RunFailure, UserError
from trainer import launch
from trainer.benchmarks.settings import Settings

# Of the memory that is free, so much a trial may take before it counts as one that does not fit.
SHARE = 0.8
# Lines of the output of a trial that are told where it fails.
TOLD = 12


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        document: what it wrote, see `trainer.benchmarks.results`; None: nothing.
        status: its exit status, negative for a signal.
        said: the end of its output.
    """

    document: dict | None
    status: int
    said: str

    @property
    def fits(self) -> bool:
        """Whether it was not memory that gave out: a process is also killed for that, or aborts."""
        short = ("out of memory", "OOM", "ResourceExhausted", "bad_alloc", "Cannot allocate memory")
        return self.document is not None or not (self.status < 0 or any(word in self.said for word in short))

    def expected(self) -> dict:
        """The document.

        Raises:
            UserError: the recipe cannot be measured. RunFailure: something else went wrong.
        """
        if self.document is not None:
            return self.document
        kind = UserError if self.status == UserError.exit_status else RunFailure
        raise kind(
            f"a measurement in a process of its own ended with status {self.status}: {self.said}",
            where="scripts/benchmark.py",
            expected="a recipe that trains on these devices",
            do="try --part=rates with the same flags",
        )


def run(
    part: str,
    settings: Settings,
    *,
    bindings: Sequence[str] = (),
    devices: str | None = None,
    extra: Sequence[str] = (),
    limited: bool = True,
) -> Outcome:
    """Measures a part in a process of its own.

    Args:
        settings: whose recipe, images, repeats and stage are passed on.
        bindings: gin bindings behind those of the settings.
        devices: in place of those of the settings.
        extra: further flags.
        limited: whether it ends where it takes more than SHARE of the memory that is free.
    """
    with tempfile.TemporaryDirectory(prefix="onward-trial-") as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, str(launch.PROJECT / "scripts" / "benchmark.py"), f"--part={part}"]
        command += [f"--gin_file={path}" for path in settings.gin_file]
        command += [f"--gin_param={binding}" for binding in (*settings.gin_param, *bindings)]
        command += [f"--devices={devices or settings.devices}", f"--images={settings.images}"]
        command += [f"--repeats={settings.repeats}", *extra, f"--output={output}"]
        command += [] if settings.stage is None else [f"--stage={settings.stage}"]
        trial = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            if limited:
                # Without it a batch that is too large would have the kernel end whatever process it chooses.
                limit = int(SHARE * free_memory())
                resource.prlimit(trial.pid, resource.RLIMIT_DATA, (limit, limit))
            said = trial.communicate()[0]
        finally:
            trial.kill()
            trial.wait()
        document = json.loads(output.read_text()) if output.exists() else None
        return Outcome(document, trial.returncode, "\n".join(said.splitlines()[-TOLD:]))


def faults(documents: Mapping[str, dict]) -> list[str]:
    """What ought not to be in documents of trials, with the name of each."""
    return [f"{name}: {fault}" for name, document in documents.items() for fault in document["faults"]]


def free_memory() -> int:
    """Bytes of the host that processes may still take."""
    facts = Path("/proc/meminfo").read_text()
    return 1024 * int(facts.split("MemAvailable:")[1].split()[0])
