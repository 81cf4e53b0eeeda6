"""What a million examples cost a step, and the memory, against a thousand."""

import gc
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from data.frozen import Frozen
from trainer.benchmarks import rates
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.windows import Contestant, in_turn, range_of, ratio
from trainer.reports.console import Console

FEW = 1000
# The same time for a step, and so many bytes of memory for a row of the table (its name alone has dozens), at most.
MOST_TIMES, MOST_BYTES = 1.05, 500


def run(settings: Settings, console: Console) -> Result:
    """--part=growth. The images of a sample, repeated as the rows of a small and of a large table."""
    with tempfile.TemporaryDirectory(prefix="onward-growth-") as folder:
        subject = rates.prepared(settings, Path(folder))
        traced, kept, contestants, held = subject.both()[1], [], {}, {}
        traced.run()
        for count in (FEW, settings.rows):
            gc.collect()
            before = resident()
            kept.append(subject.fed_by(repeated(subject.frozen, count)))
            run_ = traced.fed(kept[-1].stream())
            contestants[f"{count:,} examples"] = Contestant(
                run=run_, images=subject.images, batches=subject.recipe.window
            )
            run_()
            gc.collect()
            held[count] = resident() - before
        timing = {"repeats": settings.repeats, "report": console.say}
        measured = in_turn(contestants, **timing)
    few, many = measured.values()
    count = min(len(few), len(many))
    time = ratio(few[:count], many[:count])
    added = (held[settings.rows] - held[FEW]) / (settings.rows - FEW)
    row = {"name": "growth", **time, "bytes_an_example": added, "bytes": held[settings.rows] - held[FEW]}
    cells = [(name, f"{statistics.median(all_):.1f}") for name, all_ in measured.items()]
    return Result(
        figures={"title": rates.title(subject), "rows": [row], "rates": measured},
        tables=[Table(rates.title(subject), ("input and step", "images/s, median"), cells)],
        sentences=[
            f"a step takes {time['ratio']:.3f} times as long with {settings.rows:,} examples as with {FEW:,} "
            f"({range_of(time)} over the windows); at most {MOST_TIMES} is wanted",
            f"{settings.rows:,} examples take {row['bytes'] / 2**20:.0f} MiB of memory more, {added:.0f} bytes each; "
            f"at most {MOST_BYTES} are wanted",
        ],
        faults=rates.faults({"traces": {"input and step": traced.traces()}}),
        environment=subject.environment(),
    )


def repeated(frozen: Frozen, count: int) -> Frozen:
    """A table of so many rows that shows the same images over and over."""
    rows = np.arange(count) % len(frozen.examples)
    examples, inspection = frozen.examples.take(rows), frozen.inspection.take(rows)
    return Frozen(examples, frozen.split[rows], inspection, frozen.decoding)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
