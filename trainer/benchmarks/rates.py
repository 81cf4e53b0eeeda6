"""Three rates of a recipe: its input alone, its step alone, and both together."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from trainer import devices, launch, probing
from trainer.benchmarks import profile
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import Subject, chosen_stage, memory_of, sample
from trainer.benchmarks.windows import in_turn, spread
from trainer.reports.console import Console

INPUT, STEP, BOTH = "input alone", "step alone", "both together"


def run(settings: Settings, console: Console) -> Result:
    """--part=rates."""
    with tempfile.TemporaryDirectory(prefix="onward-rates-") as folder:
        subject = prepared(settings, Path(folder))
        figures = measured(subject, repeats=settings.repeats, report=console.say, trace=settings.trace)
    return Result(figures=figures, tables=[table(figures)], faults=faults(figures), environment=subject.environment())


def prepared(settings: Settings, folder: Path) -> Subject:
    """The recipe of the flags, on their devices.

    Args:
        folder: for a store of its images.
    """
    recipe = settings.recipe()
    strategy = devices.set_up(settings.devices, reduce_by=recipe.reduction, threads=recipe.threads)
    frozen = sample(recipe, count=settings.images, folder=folder / "store")
    stage = chosen_stage(recipe, settings.stage, examples=len(frozen.examples))
    subject = Subject(recipe, frozen, strategy=strategy, stage=stage)
    launch.call(recipe.optimizer.make)
    launch.check_consumed()
    return subject


def measured(subject: Subject, *, repeats: int, report: Callable[[str], None], trace: str | None = None) -> dict:
    """The three rates over synchronised windows, in turn and after warm-up; JSON-ready.

    Args:
        repeats: turns of each of the three.
        report: is told what is going on.
        trace: folder for a profile of a window of both; None: none is made.
    """
    recipe, replicas = subject.recipe, subject.strategy.num_replicas_in_sync
    waits: list[float] = []
    contestants = {INPUT: subject.input()}
    contestants[STEP], alone = subject.step()
    report(f"{STEP}: trace {alone.trace:.1f} s, compile and first window {alone.first:.1f} s")
    contestants[BOTH], traced = subject.both(waits)
    report(f"{BOTH}: trace {traced.trace:.1f} s, compile and first window {traced.first:.1f} s")
    waits.clear()
    rates = in_turn(contestants, repeats=repeats, report=report)
    memory = memory_of(subject.strategy)
    if trace is not None:
        profile.write(trace, traced.run)
    reduced = probing.reduction(subject.state, recipe, strategy=subject.strategy)[0] if replicas > 1 else 0.0
    speeds = {name: spread(all_) for name, all_ in rates.items()}
    per_device = {name: {key: value / replicas for key, value in all_.items()} for name, all_ in speeds.items()}
    window = subject.images / speeds[BOTH]["median"]
    return {
        "title": title(subject),
        "replicas": replicas,
        "batch_size": recipe.batch_size,
        "images_per_second": speeds,
        "images_per_second_per_device": per_device,
        "rates": rates,
        "windows": {"steps": recipe.window, "images": subject.images},
        # What the first window of the loop takes longer than the others.
        "trace_seconds": traced.trace,
        "compile_seconds": max(0.0, traced.first - window),
        "traces": {BOTH: traced.traces(), STEP: alone.traces()},
        "data_wait": spread(waits)["median"],
        "reduction_seconds": reduced,
        "reduction_share": reduced * recipe.window / window,
        "end_to_end": speeds[BOTH]["median"] / speeds[STEP]["median"],
        **memory,
    }


def title(subject: Subject) -> str:
    """What was measured, in a line."""
    recipe, examples = subject.recipe, subject.frozen.examples
    where = "a store" if examples.store is not None else "memory" if examples.root is None else "files"
    side = recipe.size(subject.stage)[0]
    return (
        f"{recipe.model.backbone.name}, stage {subject.stage.name}, {side} px, batch {recipe.batch_size}, "
        f"{recipe.precision}, {len(examples)} images from {where}"
    )


def table(figures: dict) -> Table:
    """The three rates for people."""
    rows = []
    for name, all_ in figures["images_per_second"].items():
        own = figures["images_per_second_per_device"][name]
        rows.append((name, f"{all_['median']:.1f}", f"{all_['p10']:.1f} to {all_['p90']:.1f}", f"{own['median']:.1f}"))
    peaks = [f"{figures['host_peak'] / 2**20:.0f} MiB of the host"]
    if figures["device_peak"] is not None:
        peaks.append(f"{figures['device_peak'] / 2**20:.0f} MiB of a device")
    rows += [
        ("both over step alone", f"{figures['end_to_end']:.3f}", "", ""),
        ("share of waiting for input", f"{figures['data_wait']:.3f}", "", ""),
        ("trace, compile", f"{figures['trace_seconds']:.1f} s, {figures['compile_seconds']:.1f} s", "", ""),
        ("most memory", ", ".join(peaks), "", ""),
    ]
    columns = ("images/s", "median", "10th to 90th percentile", "per device")
    return Table(figures["title"], columns, rows)


def faults(figures: dict) -> list[str]:
    """A sentence on each function that was traced more than once."""
    return [
        f"{name}: traced {count} times, which costs seconds each time; once is enough"
        for name, count in figures["traces"].items()
        if count > 1
    ]
