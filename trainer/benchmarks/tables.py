"""Seconds and memory that a table of many rows takes, each kind in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from trainer import launch
from trainer.benchmarks.results import Result
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console

FOLDERS = 100
KINDS = ("csv", "jsonl", "parquet", "folder")

# What such a process runs: the kind and its path are its arguments.
BUILD = """
import json, pathlib, sys, time
import numpy
from data import sources
def peak():  # Of this program; resource.getrusage also counts what the process was before it became this program.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
before = peak()
began = time.perf_counter()
kind, path = sys.argv[1:]
if kind == "folder":
    examples = sources.folder(root=path)
else:
    examples = sources.table(path, label="label", weight="weight")
seconds = time.perf_counter() - began
print(json.dumps({"rows": len(examples), "seconds": seconds, "peak": peak(), "imports": before}))
"""


def run(settings: Settings, console: Console) -> Result:
    """--part=table."""
    with tempfile.TemporaryDirectory(prefix="onward-table-") as folder:
        rows = measure(write(Path(folder), settings.rows), project=launch.PROJECT, report=console.say)
    return Result(figures={"rows": rows})


def write(root: Path, rows: int) -> dict[str, Path]:
    """Makes `rows` empty files in FOLDERS class folders below `root`, and tables that list them in a shuffled order.

    Returns:
        kind -> what the source is to be pointed at.
    """
    photos = root / "photos"
    names = []
    for folder in range(FOLDERS):
        (photos / f"class{folder:03}").mkdir(parents=True)
        for index in range(folder, rows, FOLDERS):
            names.append(f"class{folder:03}/photo{index:08}.jpg")
            os.close(os.open(photos / names[-1], os.O_CREAT | os.O_WRONLY))
    frame = pd.DataFrame({"image": names}).sample(frac=1, random_state=0, ignore_index=True)
    frame["label"] = frame["image"].str.slice(0, 8)
    frame["weight"] = 1.0
    frame.to_csv(photos / "table.csv", index=False)
    frame.to_json(photos / "table.jsonl", orient="records", lines=True)
    frame.to_parquet(photos / "table.parquet")
    return {"folder": photos, **{kind: photos / f"table.{kind}" for kind in KINDS if kind != "folder"}}


def measure(paths: dict[str, Path], *, project: Path, report: Callable[[str], None]) -> list[dict]:
    """Builds each once, one after the other.

    Returns:
        one dict a kind: name, rows, seconds, peak and imports (bytes resident at the end and after the imports).
    """
    measured = []
    for kind in KINDS:
        command = [sys.executable, "-c", BUILD, kind, str(paths[kind])]
        environment = {**os.environ, "PYTHONPATH": str(project), "TF_CPP_MIN_LOG_LEVEL": "3"}
        built = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        measured.append({"name": kind, **json.loads(built.stdout.splitlines()[-1])})
        last = measured[-1]
        report(
            f"{kind}: {last['rows']:,} rows in {last['seconds']:.1f} s, peak {last['peak'] / 2**20:.0f} MiB "
            f"({last['imports'] / 2**20:.0f} MiB of them imports)"
        )
    return measured
