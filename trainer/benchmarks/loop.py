"""Images per second of the training loop and of its peers, measured in turn in one run."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from trainer.benchmarks import fit, rates
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import Subject
from trainer.benchmarks.windows import compare, range_of, rounds_of, take, timed
from trainer.reports.console import Console

ONWARD = "onward"
# A peer that is so many times slower than the best decides nothing.
HOPELESS = 4.0
# How long the loop trains in a round: `fit` spends some milliseconds on each of its calls.
ROUND_SECONDS = 2.0


def run(settings: Settings, console: Console) -> Result:
    """--part=loop."""
    with tempfile.TemporaryDirectory(prefix="onward-loop-") as folder:
        subject = rates.prepared(settings, Path(folder))
        measured, faults = against_fit(subject, repeats=settings.repeats, report=console.say)
        title = rates.title(subject)
    rows = compare(measured, against=ONWARD)
    figures = {"title": title, "rows": rows, "rates": measured, "settings": settings_of(measured)}
    where = subject.environment()
    return Result(
        figures=figures, tables=[table(title, rows)], sentences=told(measured), faults=faults, environment=where
    )


def against_fit(
    subject: Subject, *, repeats: int, report: Callable[[str], None]
) -> tuple[dict[str, list[float]], list[str]]:
    """Images a second of the loop and its peers, in turn, and faults; in a round each trains for about as long."""
    traced = subject.both()[1]
    run = traced.run
    windows = max(1, round(ROUND_SECONDS / timed(run)))

    def several() -> None:
        for _ in range(windows):
            run()

    rounds = {ONWARD: several, **fit.peers(subject, windows=windows)}
    leads = {ONWARD: lambda: take(run, batches=subject.recipe.window)}
    timing = {"images": windows * subject.images, "repeats": repeats, "report": report, "leads": leads}
    measured = rounds_of(rounds, hopeless=HOPELESS, **timing)
    return measured, rates.faults({"traces": {ONWARD: traced.traces()}})


def table(title: str, rows: list[dict]) -> Table:
    """Rows of `trainer.benchmarks.windows.compare` for people."""
    cells = [(row["name"], f"{row['images_per_second']:.1f}", f"{row['ratio']:.2f} x", range_of(row)) for row in rows]
    return Table(title, ("", "images/s, median", "onward is", "over the rounds"), cells)


def settings_of(measured: dict[str, list]) -> dict[str, str]:
    """What each of the peers that took part was given."""
    return {str(setting): setting.told for setting in fit.SETTINGS if str(setting) in measured}


def told(measured: dict[str, list]) -> list[str]:
    """What all of them were given."""
    return [f"fit trains on {fit.GIVEN}"] if settings_of(measured) else []
