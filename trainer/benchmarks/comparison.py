"""Whether two measurements differ by more than the noise."""

import re
from collections.abc import Sequence

import numpy as np
from scipy import stats

from data.errors import UserError
from trainer.benchmarks import results, trials
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console

# A difference this unlikely by chance, and whose interval does not hold 1, is more than the noise.
SIGNIFICANCE, COVERAGE, RESAMPLES = 0.01, 0.95, 4000
# Processes of each value, in turn: what differs from process to process is noise too.
PROCESSES = 2


def run(wanted: str, settings: Settings, console: Console) -> Result:
    """--compare: `A.json,B.json`, or `NAME=VALUE,VALUE` (or `;`) of a gin binding or of the flag `devices`.

    Raises:
        UserError: neither of the two.
    """
    if "=" in wanted:
        names, documents = _values(wanted, settings, console)
        both = zip(names, documents, strict=True)
        turns = {f"{name}, process {turn}": each for name, all_ in both for turn, each in enumerate(all_, 1)}
        faults = trials.faults(turns)
    else:
        names = wanted.split(",")
        if len(names) != 2:
            raise _unclear(wanted)
        documents, faults = [[results.read(name)] for name in names], []
    first, second = (pooled(each) for each in documents)
    shared = [name for name in first if name in second]
    if not shared:
        raise UserError(
            f"nothing was measured in both: {', '.join(first)}; {', '.join(second)}",
            where="--compare",
            expected="results of the same part",
            do="run the same part twice",
        )
    rows = [{"name": name, **compared(first[name], second[name])} for name in shared]
    told = [f"{row['name']}: {sentence(row, names)}" for row in rows]
    changed = [] if "=" in wanted else different(documents[0][0], documents[1][0])
    return Result(
        figures={"compared": list(names), "rows": rows, "different": changed},
        tables=[table(names, rows)],
        sentences=[*told, *(f"also different: {each}" for each in changed)],
        faults=faults,
    )


def _unclear(wanted: str) -> UserError:
    return UserError(
        f"--compare={wanted}",
        where="command line",
        expected="two files of --output, A.json,B.json; or two values of one setting: train.window=1,20",
        do="correct it",
    )


def _values(wanted: str, settings: Settings, console: Console) -> tuple[list[str], list[list[dict]]]:
    """Measures both values in turn, each several times in a process of its own."""
    name, _, values = wanted.partition("=")
    # For values that have commas themselves.
    parts = values.split(";" if ";" in values else ",")
    if len(parts) != 2 or not re.fullmatch(r"[\w./]+", name):
        raise _unclear(wanted)
    documents: list[list[dict]] = [[], []]
    for turn in range(PROCESSES):
        for place, value in enumerate(parts):
            console.say(f"process {turn + 1} of {PROCESSES}: {name} = {value}")
            changed = {name: value} if name == "devices" else {"bindings": [f"{name} = {value}"]}
            documents[place].append(trials.run("rates", settings, **changed).expected())
    return [f"{name} = {value}" for value in parts], documents


def pooled(documents: Sequence[dict]) -> dict[str, list[float]]:
    """Rates of each contestant over all documents."""
    return {name: [rate for each in documents for rate in each["rates"][name]] for name in documents[0]["rates"]}


def compared(first: Sequence[float], second: Sequence[float]) -> dict:
    """The second against the first.

    Returns:
        ratio of the medians; low and high, its interval by bootstrap (percentiles over RESAMPLES draws of as many
        windows with replacement); p of the two-sided test of Mann and Whitney; beyond_noise, both together.
    """
    ratio, random = float(np.median(second) / np.median(first)), np.random.default_rng(0)
    draws = [
        np.median(random.choice(np.asarray(rates, float), (RESAMPLES, len(rates))), axis=1) for rates in (first, second)
    ]
    outside = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(draws[1] / draws[0], [outside, 100 - outside])
    p = float(stats.mannwhitneyu(first, second, alternative="two-sided").pvalue)
    return {
        "first": float(np.median(first)),
        "second": float(np.median(second)),
        "ratio": ratio,
        "low": float(low),
        "high": float(high),
        "p": p,
        "windows": [len(first), len(second)],
        "beyond_noise": bool(p < SIGNIFICANCE and not low <= 1 <= high),
    }


def sentence(row: dict, names: Sequence[str]) -> str:
    """Whether the difference is more than the noise, and how that is known."""
    how = f"{100 * COVERAGE:.0f} % interval {row['low']:.3f} to {row['high']:.3f}, p = {row['p']:.2g}"
    if not row["beyond_noise"]:
        return f"no difference beyond the noise: {names[1]} is {row['ratio']:.3f} times as fast as {names[0]} ({how})"
    which = "faster" if row["ratio"] > 1 else "slower"
    return f"{names[1]} is {which}, beyond the noise: {row['ratio']:.3f} times as fast as {names[0]} ({how})"


def different(first: dict, second: dict) -> list[str]:
    """What else differs: versions, machine, devices, git revision, settings."""
    before, now = ({**each["environment"], "config": each["config_hash"]} for each in (first, second))
    return [f"{name}: {before.get(name)} and {now[name]}" for name in now if before.get(name) != now[name]]


def table(names: Sequence[str], rows: list[dict]) -> Table:
    """The rows for people."""
    cells = [
        (
            row["name"],
            f"{row['first']:.1f}",
            f"{row['second']:.1f}",
            f"{row['ratio']:.3f} x",
            f"{row['low']:.3f} to {row['high']:.3f}",
            f"{row['p']:.2g}",
            "yes" if row["beyond_noise"] else "no",
        )
        for row in rows
    ]
    return Table("", ("images/s", *names, "ratio", "95 % interval", "p", "beyond the noise"), cells)
