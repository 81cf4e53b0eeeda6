"""Seconds from a command to the first step of its session: fresh, and resumed at step one million."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data.errors import RunFailure
from trainer import launch
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.windows import range_of, ratio
from trainer.reports.console import Console
from trainer.workdir import Workdir

STEP = 1_000_000
PROGRAM = "trainer.benchmarks.first_step"
FRESH, RESUMED = "fresh", f"resumed at step {STEP:,}"
PARTS = {
    "import": "import of TensorFlow",
    "modules": "import of everything else",
    "data": "recipe, devices and data",
    "model": "model and optimizer",
    "restore": "checkpoints, header",
    "compile": "trace and compile of the step",
    "start": "all but import and compile",
    "total": "all",
}
# Seconds that a start may take beside import and compile, and how many times as long a resumed one may take.
MOST_SECONDS, MOST_RATIO = 3.0, 1.1


def run(settings: Settings, console: Console) -> Result:
    """--part=start. Each start in a process of its own, fresh and resumed in turn."""
    with tempfile.TemporaryDirectory(prefix="onward-start-") as folder:
        far = Path(folder) / "far"
        _started(settings, far, jump=STEP)
        spent: dict[str, list[dict]] = {FRESH: [], RESUMED: []}
        for repeat in range(settings.repeats):
            spent[FRESH].append(_started(settings, Path(folder) / f"fresh-{repeat}"))
            spent[RESUMED].append(_started(settings, far))
            last = ", ".join(f"{name} {all_[-1]['total']:.2f} s" for name, all_ in spent.items())
            console.say(f"round {repeat + 1} of {settings.repeats}: {last}")
        facts = json.loads(Workdir(str(far)).environment.read_text())
    medians = {name: {part: statistics.median(each[part] for each in all_) for part in PARTS}
               for name, all_ in spent.items()}  # fmt: skip
    totals = {name: [each["total"] for each in all_] for name, all_ in spent.items()}
    resumed = ratio(totals[RESUMED], totals[FRESH])
    start = [each["start"] for each in spent[FRESH]]
    cells = [(told, *(f"{medians[name][part]:.2f} s" for name in spent)) for part, told in PARTS.items()]
    return Result(
        environment=facts,
        figures={
            "rows": [{"name": name, **seconds} for name, seconds in medians.items()],
            "seconds": spent,
            "resumed": resumed,
            "start": {"median": statistics.median(start), "lowest": min(start), "highest": max(start)},
        },
        tables=[Table("to the first step, medians", ("", *spent), cells)],
        sentences=[
            f"a resumed start takes {resumed['ratio']:.3f} times as long as a fresh one ({range_of(resumed)} over the "
            f"rounds); at most {MOST_RATIO} is wanted",
            f"a fresh start takes {statistics.median(start):.2f} s beside import and compile ({min(start):.2f} to "
            f"{max(start):.2f}); at most {MOST_SECONDS:g} s are wanted",
        ],
    )


def _started(settings: Settings, workdir: Path, *, jump: int | None = None) -> dict[str, float]:
    wanted = {
        "gin_file": list(settings.gin_file),
        "gin_param": list(settings.gin_param),
        "devices": settings.devices,
        "workdir": str(workdir),
        "jump": jump,
    }
    command = [sys.executable, "-m", PROGRAM, json.dumps(wanted)]
    environment = {**os.environ, "PYTHONPATH": str(launch.PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise RunFailure(
            f"a session ended with status {done.returncode}: {done.stderr[-1000:]}",
            where="a start that was to be measured",
            expected="a recipe that trains",
            do="try it with scripts/train.py first",
        ) from error
