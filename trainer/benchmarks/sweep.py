"""Batch size, precision, XLA, threads, window length, in turn: the best of each; the largest batch that fits."""

import dataclasses
import io
from collections.abc import Callable

import pandas as pd

from trainer.benchmarks import rates, trials
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.trials import Outcome
from trainer.reports.console import Console

# Times that the batch is doubled, and halvings of what lies between the last that fits and the first that does not.
DOUBLINGS, HALVINGS = 6, 3
WINDOWS = (1, 20, 100)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Two settings differ if one is so many times as fast as the other.
FASTER = 1.02


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one trial is run with."""

    batch: int
    precision: str
    xla: str
    window: int
    threads: int | None = None

    @property
    def bindings(self) -> list[str]:
        """The same in gin."""
        return [
            f"train.batch_size = {self.batch}",
            f"train.precision = '{self.precision}'",
            f"train.xla = '{self.xla}'",
            f"train.window = {self.window}",
            f"train.threads = {self.threads}",
        ]

    def __str__(self) -> str:
        xla = ", XLA" if self.xla == "always" else ""
        return f"batch {self.batch}, {self.precision}{xla}, windows of {self.window}{_threads(self.threads)}"


def _threads(count: int | None) -> str:
    return f", threads: {count}" if count else ""


def run(settings: Settings, console: Console) -> Result:
    """--part=sweep. Each setting in a process of its own, whose memory may give out."""
    settings = dataclasses.replace(settings, repeats=min(settings.repeats, 3))
    recipe, documents = settings.recipe(), {}

    def rate(setting: Setting) -> float | None:
        """Images a second of both together; None: the setting does not fit the memory, or does not work."""
        if setting not in documents:
            outcome = trials.run("rates", settings, bindings=setting.bindings)
            documents[setting] = outcome
            console.say(f"{setting}: {told(outcome)}")
        document = documents[setting].document
        return None if document is None else document["images_per_second"][rates.BOTH]["median"]

    first = Setting(recipe.batch_size, _known(recipe.precision), "never", recipe.window, recipe.threads)
    if rate(first) is None:
        documents[first].expected()
    gpu = documents[first].document["environment"]["device_kind"] == "GPU"
    best, fits = largest_and_best(first, rate, most=settings.most_batch or first.batch * 2**DOUBLINGS)
    for precision in PRECISIONS if gpu else PRECISIONS[:2]:
        best = faster(best, dataclasses.replace(best, precision=precision), rate)
    if gpu:
        best = faster(best, dataclasses.replace(best, xla="always"), rate)
    else:
        best = faster(best, dataclasses.replace(best, threads=None if best.threads == 1 else 1), rate)
    for window in WINDOWS:
        best = faster(best, dataclasses.replace(best, window=window), rate)
    rows = [row(setting, outcome) for setting, outcome in documents.items()]
    measured = {str(each): found.document["rates"][rates.BOTH] for each, found in documents.items() if found.document}
    return Result(
        figures={
            "title": documents[first].document["title"],
            "rows": rows,
            "rates": measured,
            "best": dataclasses.asdict(best) | {"images_per_second": rate(best)},
            "largest_batch": fits,
        },
        tables=[table(documents[first].document["title"], rows)],
        sentences=[
            f"best found: {best}: {rate(best):.1f} images/s, {rate(best) / rate(first):.2f} times {first}",
            _largest(fits),
        ],
        faults=trials.faults({str(each): found.document for each, found in documents.items() if found.document}),
        environment=documents[first].document["environment"],
        plot=plot(documents[first].document["title"], rows),
    )


def _known(precision: str) -> str:
    return precision if precision in PRECISIONS else PRECISIONS[0]


def _largest(fits: dict) -> str:
    if fits["too_large"] is None:
        return f"batch {fits['fits']} fits; larger ones were not tried (--most_batch)"
    return f"largest batch found to fit: {fits['fits']}; {fits['too_large']} does not"


def largest_and_best(
    first: Setting, rate: Callable[[Setting], float | None], *, most: int
) -> tuple[Setting, dict[str, int | None]]:
    """Doubles the batch while it fits, then looks between.

    Args:
        first: a setting that fits.
        rate: setting -> images a second, None where it does not fit.
        most: batch that is tried at most.

    Returns:
        the fastest setting, and the batches `fits` and `too_large` (None: none was).
    """
    best, fits, too_large, batch = first, first.batch, None, 2 * first.batch
    while batch <= most and too_large is None:
        setting = dataclasses.replace(first, batch=batch)
        if rate(setting) is None:
            too_large = batch
        else:
            best, fits, batch = faster(best, setting, rate), batch, 2 * batch
    for _ in range(HALVINGS if too_large else 0):
        # Whatever divides the first batch over replicas and parts divides these.
        between = (fits + too_large) // 2 // first.batch * first.batch
        if not fits < between < too_large:
            break
        setting = dataclasses.replace(first, batch=between)
        if rate(setting) is None:
            too_large = between
        else:
            best, fits = faster(best, setting, rate), between
    return best, {"fits": fits, "too_large": too_large}


def faster(best: Setting, other: Setting, rate: Callable[[Setting], float | None]) -> Setting:
    """The other if it is faster by more than FASTER, else the best so far."""
    found = rate(other)
    return other if found is not None and found > FASTER * rate(best) else best


def told(outcome: Outcome) -> str:
    """What came of a trial, in a few words."""
    if outcome.document is None:
        return f"fails: {outcome.said.splitlines()[-1:]}" if outcome.fits else "does not fit"
    return f"{outcome.document['images_per_second'][rates.BOTH]['median']:.1f} images/s"


def row(setting: Setting, outcome: Outcome) -> dict:
    """A row of the table."""
    found = {"name": str(setting), **dataclasses.asdict(setting), "fits": outcome.fits}
    if outcome.document is None:
        return found | {"said": outcome.said}
    speeds = {name: each["median"] for name, each in outcome.document["images_per_second"].items()}
    names = ("host_peak", "device_peak", "trace_seconds", "compile_seconds")
    return found | {"images_per_second": speeds, **{name: outcome.document[name] for name in names}}


def plot(title: str, rows: list[dict]) -> bytes:
    """Images a second over the batch, a line for each of the other settings; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="global batch", ylabel="images a second, both together", title=title)
    axes.set_xscale("log", base=2)
    measured = pd.DataFrame([each | {"rate": each["images_per_second"][rates.BOTH]} for each in rows if _works(each)])
    # All of a setting but its batch.
    measured["other"] = [str(_setting(each)).split(", ", 1)[1] for each in rows if _works(each)]
    for name, lines in measured.sort_values("batch").groupby("other"):
        axes.plot(lines["batch"], lines["rate"], marker="o", label=name)
    for each in rows:
        if not _works(each):
            axes.axvline(each["batch"], color="C3", linestyle=":", label=f"batch {each['batch']}: none")
    axes.set_ylim(bottom=0)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _setting(row: dict) -> Setting:
    return Setting(**{field.name: row[field.name] for field in dataclasses.fields(Setting)})


def _works(row: dict) -> bool:
    return "images_per_second" in row


def table(title: str, rows: list[dict]) -> Table:
    """The rows for people."""
    cells = []
    for each in rows:
        setting = (
            str(each["batch"]),
            each["precision"],
            each["xla"],
            str(each["window"]),
            str(each["threads"] or "all"),
        )
        if not _works(each):
            cells.append((*setting, *["-"] * 4, "fails" if each["fits"] else "does not fit"))
            continue
        speeds = [f"{each['images_per_second'][name]:.1f}" for name in (rates.BOTH, rates.STEP, rates.INPUT)]
        peak = each["device_peak"] or each["host_peak"]
        starts = f"{each['trace_seconds'] + each['compile_seconds']:.1f} s"
        cells.append((*setting, *speeds, starts, f"{peak / 2**20:.0f} MiB"))
    columns = (
        "batch",
        "precision",
        "XLA",
        "window",
        "threads",
        "both, images/s",
        "step",
        "input",
        "trace, compile",
        "most memory",
    )
    return Table(f"{title}; images/s", columns, cells)
