"""A recipe of one's own: its three rates, what holds it back, what to change, and `keras.Model.fit` beside it."""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from data.errors import RunFailure
from trainer import choosing
from trainer.benchmarks import cuts, loop, rates, verdict
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import Subject, cores, crops_files, memory_of, packed
from trainer.benchmarks.trials import free_memory
from trainer.benchmarks.verdict import Change, Speeds
from trainer.benchmarks.windows import compare, in_turn
from trainer.reports.console import Console

OTHER = {"device": "host", "host": "device"}
# Turns of a step that is only looked at for what a change would bring.
FEW = 2


def run(settings: Settings, console: Console) -> Result:
    """--part=recipe."""
    with tempfile.TemporaryDirectory(prefix="onward-recipe-") as folder:
        subject = rates.prepared(settings, Path(folder))
        say = console.say
        figures = rates.measured(subject, repeats=settings.repeats, report=say, trace=settings.trace)
        found = judged(subject, figures, folder=Path(folder), repeats=settings.repeats, report=say)
        peers, retraced = against_fit(subject, repeats=settings.repeats, report=say)
    tables = [rates.table(figures), stages_table(found), changes_table(found)]
    if peers:
        tables.append(loop.table("against keras.Model.fit", peers["rows"]))
        figures["rates"] |= {name: all_ for name, all_ in peers["rates"].items() if name != loop.ONWARD}
    told = [*found["sentences"], *loop.told(peers.get("rates", {}))]
    return Result(
        figures={**figures, "verdict": found, "peers": peers},
        tables=tables,
        sentences=told,
        faults=[*rates.faults(figures), *retraced],
        environment=subject.environment(),
    )


def judged(subject: Subject, figures: dict, *, folder: Path, repeats: int, report: Callable[[str], None]) -> dict:
    """The verdict on rates that were measured.

    Args:
        figures: of `rates.measured`.
        folder: for a store.
    """
    costs = cuts.measured(subject, repeats=repeats, report=report)
    whole = list(costs.values())[-1]
    speed = {name: all_["median"] for name, all_ in figures["images_per_second"].items()}
    speeds = Speeds(
        input=speed[rates.INPUT],
        step=speed[rates.STEP],
        both=speed[rates.BOTH],
        input_cpu=statistics.median(cost.cpu for cost in whole),
        cores=cores(),
        shared="GPU" not in subject.strategy.extended.worker_devices[0],
    )
    changes = [
        stored(subject, speeds, folder=folder, repeats=repeats, report=report),
        placed(subject, speeds, repeats=repeats, report=report),
        verdict.more_hosts(speeds),
        larger_batch(subject, speeds, report=report),
        *other_precisions(subject, speeds, report=report),
    ]
    there = [change for change in changes if change is not None]
    return verdict.verdict(speeds, cuts.stages(costs), there, wait=figures["data_wait"])


def stored(
    subject: Subject, speeds: Speeds, *, folder: Path, repeats: int, report: Callable[[str], None]
) -> Change | None:
    """Canvases out of a store; None: they come from one, or from memory, or have to come from files."""
    examples = subject.examples
    if examples.root is None or examples.store is not None or crops_files(subject.recipe):
        return None
    frozen = packed(dataclasses.replace(subject.frozen, examples=examples), folder / "other")
    report("a store")
    return _fed(subject.fed_by(frozen), speeds, name="store", do="train.store = 'auto'", repeats=repeats, report=report)


def placed(subject: Subject, speeds: Speeds, *, repeats: int, report: Callable[[str], None]) -> Change:
    """Augmentation on the host where the device does it, or the other way round."""
    where = OTHER[subject.recipe.placement]
    report(f"augmentation on the {where}")
    step = _step(subject, placement=where)
    moved = subject.with_recipe(placement=where)
    do = f"train.placement = '{where}'"
    if isinstance(step, str):
        return Change(name="placement", do=f"{do} ({step})", predicted=None)
    return _fed(moved, speeds, name="placement", do=do, repeats=repeats, report=report, step=step)


def _fed(
    subject: Subject,
    speeds: Speeds,
    *,
    name: str,
    do: str,
    repeats: int,
    report: Callable[[str], None],
    step: float | None = None,
) -> Change:
    """What the input of another subject would bring."""
    whole = list(cuts.measured(subject, repeats=repeats, report=report, last=True).values())[-1]
    cpu = statistics.median(cost.cpu for cost in whole)
    given = statistics.median(1 / cost.wall for cost in whole)
    return Change(name=name, do=do, predicted=speeds.predicted(step=step, input=given, cpu=cpu))


def larger_batch(subject: Subject, speeds: Speeds, *, report: Callable[[str], None]) -> Change:
    """Twice the batch."""
    batch, peak = 2 * subject.recipe.batch_size, memory_of(subject.strategy)["host_peak"]
    if speeds.shared and free_memory() < peak:
        return Change(name="batch", do=f"batch_size = {batch} (not tried: too little memory is free)", predicted=None)
    report(f"a step of batch {batch}")
    return _of_step(_step(subject, batch_size=batch), speeds, name="batch", do=f"batch_size = {batch}")


def other_precisions(subject: Subject, speeds: Speeds, *, report: Callable[[str], None]) -> list[Change]:
    """Each that the devices have units for."""
    found = []
    for precision in choosing.precisions(subject.strategy):
        if precision != subject.recipe.precision:
            report(f"a step in {precision}")
            twin = subject.with_recipe(precision=precision, anew=True)
            found.append(_of_step(_step(twin), speeds, name="precision", do=f"precision = '{precision}'"))
    return found


def _of_step(step: float | str, speeds: Speeds, *, name: str, do: str) -> Change:
    if isinstance(step, str):
        return Change(name=name, do=f"{do} ({step})", predicted=None)
    return Change(name=name, do=do, predicted=speeds.predicted(step=step))


def _step(subject: Subject, **changes) -> float | str:
    """Images a second of the step alone with other fields of the recipe; or why there are none."""
    try:
        contestant = subject.step(**changes)[0]
        all_ = in_turn({"step": contestant}, repeats=FEW, report=lambda told: None)["step"]
    except RunFailure:
        return "does not fit the memory"
    except tf.errors.OpError as error:
        return f"fails: {str(error).splitlines()[0]}"
    return statistics.median(all_)


def against_fit(subject: Subject, *, repeats: int, report: Callable[[str], None]) -> tuple[dict, list[str]]:
    """Ratios to `keras.Model.fit`, measured in turn, and faults; empty on several replicas."""
    if subject.strategy.num_replicas_in_sync > 1:
        return {}, []
    measured, faults = loop.against_fit(subject, repeats=repeats, report=report)
    rows, settings = compare(measured, against=loop.ONWARD), loop.settings_of(measured)
    return {"rows": rows, "rates": measured, "settings": settings}, faults


def stages_table(found: dict) -> Table:
    """What each stage of the input adds."""
    rows = [
        (row["name"], f"{row['wall_ms']:.3f}", f"{row['cpu_ms']:.3f}", f"{100 * row['share']:.0f} %")
        for row in found["stages"]
    ]
    return Table("the input, stage by stage", ("stage", "ms an image", "CPU ms an image", "share"), rows)


def changes_table(found: dict) -> Table:
    """What each change is predicted to bring."""
    rows = [
        (
            row["name"],
            row["do"],
            "-" if row["gain"] is None else f"{row['predicted_images_per_second']:.0f}",
            "-" if row["gain"] is None else f"{row['gain']:.2f} x",
        )
        for row in found["changes"]
    ]
    return Table("what a change would bring", ("change", "how", "predicted images/s", "gain"), rows)
