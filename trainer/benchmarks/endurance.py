"""What a session holds after many steps: memory, threads, open files and files on the disk, watched in one process."""

import dataclasses
import gc
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trainer.benchmarks.results import Result
from trainer.benchmarks.settings import Settings
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.session import Session
from trainer.workdir import Workdir

PARTS = 10
# What the second half may add: 4 MiB of memory, less than 1 KiB a step over 5,000 steps, and nothing else.
MOST = {"memory": 4 * 2**20, "threads": 0.5, "descriptors": 0.5, "files": 0.5}


def run(settings: Settings, console: Console) -> Result:
    """--part=endurance."""
    recipe, steps = settings.recipe(), settings.steps
    every = max(recipe.window, steps // PARTS // recipe.window * recipe.window)
    with tempfile.TemporaryDirectory(prefix="onward-session-") as folder:
        workdir = Workdir(folder)
        where = {"device_spec": settings.devices, "report": lambda held: console.say(str(held))}
        session = Watched(of_length(recipe, steps), workdir, every=every, **where)
        try:
            session.run()
            facts = json.loads(workdir.environment.read_text())
        finally:
            workdir.disown()
    rows = [dataclasses.asdict(each) for each in session.samples]
    figures = {"samples": rows, "growth": growth(session.samples)}
    return Result(figures=figures, faults=grown(session.samples), environment=facts)


def of_length(recipe: Recipe, steps: int) -> Recipe:
    """The last stage of a recipe, so long."""
    return dataclasses.replace(recipe, stages=[dataclasses.replace(recipe.stages[-1], length=(steps, "steps"))])


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process holds after a step.

    Attributes:
        memory: resident bytes.
        threads: of the process, TensorFlow's included.
        descriptors: open ones.
        files: below the workdir.
    """

    step: int
    memory: int
    threads: int
    descriptors: int
    files: int

    def __str__(self) -> str:
        return (
            f"step {self.step:,}: {self.memory / 2**20:.1f} MiB, {self.threads} threads, "
            f"{self.descriptors} open files, {self.files} files in the workdir"
        )


class Watched(Session):
    """A session that notes what it holds each time it has done so many steps.

    Args:
        every: steps, a multiple of the window.
    """

    def __init__(self, *arguments, every: int, report: Callable[[Sample], None], **keywords):
        super().__init__(*arguments, **keywords)
        self.samples: list[Sample] = []
        self._every, self._tell = every, report

    def _at_boundary(self) -> None:
        super()._at_boundary()
        # What the end of a session leaves behind is no growth.
        if self.step and self.step % self._every == 0 and not self._done:
            self.checkpoints.wait()
            self.samples.append(sample(self.step, self.workdir.path))
            self._tell(self.samples[-1])


def sample(step: int, workdir: Path) -> Sample:
    """What this process holds."""
    gc.collect()
    own = Path("/proc/self")
    pages = int((own / "statm").read_text().split()[1])
    return Sample(
        step,
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(os.listdir(own / "task")),
        # Listing them opens one.
        descriptors=len(os.listdir(own / "fd")) - 1,
        files=sum(len(files) for _, _, files in os.walk(workdir)),
    )


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """What the second half of the samples adds to each figure, by the line that fits them best."""
    half = samples[len(samples) // 2 :]
    steps = np.array([each.step for each in half], float)
    return {
        name: float(np.polyfit(steps, [getattr(each, name) for each in half], 1)[0] * (steps[-1] - steps[0]))
        for name in MOST
    }


def grown(samples: Sequence[Sample]) -> list[str]:
    """A sentence on each figure that grows by more than `MOST`."""
    return [
        f"{name}: {added:+,.1f} over the last {samples[-1].step - samples[len(samples) // 2].step} steps, "
        f"at most {MOST[name]:,} is let pass"
        for name, added in growth(samples).items()
        if added > MOST[name]
    ]
