"""Windows of steps, timed in turn in one run: rates, their spread, and ratios of those that were measured together."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

# Trains, or takes, one window and returns when its figures have reached the host.
Round = Callable[[], None]
# What an input pipeline has made ready while others ran is gone through before a clock starts: so many batches at
# least, for so many seconds at least. Of small images on many cores it can be a hundred.
LEAD, LEAD_SECONDS = 16, 1.0
# Seconds in which next to nothing is done once all others are at rest.
IDLE = 0.3
# Windows that one contestant has before it is another's turn: as many as fit, but not more.
TURN_SECONDS, MOST_IN_TURN = 2.0, 4
PERCENTILES = (10, 50, 90)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something whose windows are timed.

    Attributes:
        run: one window.
        images: that it takes.
        batches: that it takes from an input pipeline, whose buffers are emptied before its clock starts; 0: none.
    """

    run: Round
    images: int
    batches: int = 0


def in_turn(
    contestants: dict[str, Contestant], *, repeats: int, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Images per second over the windows of each contestant, measured in turn, each once the others are at rest.

    Args:
        contestants: warm ones, each of which has run before.
        repeats: turns of each.
        report: is told what was measured.

    Returns:
        contestant -> images a second of each window.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name, contestant in contestants.items():
            wait_until_idle()
            if contestant.batches:
                take(contestant.run, batches=contestant.batches)
            first = timed(contestant.run)
            more = int(np.clip(TURN_SECONDS / first, 1, MOST_IN_TURN)) - 1
            rates[name] += [contestant.images / each for each in (first, *(timed(contestant.run) for _ in range(more)))]
        last = ", ".join(f"{name} {all_[-1]:.1f}" for name, all_ in rates.items())
        report(f"round {repeat + 1} of {repeats}, images/s: {last}")
    return rates


def timed(run: Round) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def take(run: Round, *, batches: int, least: int = LEAD) -> int:
    """Runs what takes so many batches of an input pipeline until it has taken more than can lie there ready.

    Args:
        least: batches that it takes at least, for LEAD_SECONDS at least.

    Returns:
        how many it has taken.
    """
    began, taken = time.perf_counter(), 0
    while taken < least or time.perf_counter() - began < LEAD_SECONDS:
        run()
        taken += batches
    return taken


def wait_until_idle() -> None:
    """Returns once what others have left running has made ready all that it has room for."""
    while True:
        before = time.process_time()
        time.sleep(IDLE)
        if time.process_time() - before < IDLE / 10:
            return


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile, as `median`, `p10` and `p90`."""
    low, median, high = np.percentile(values, PERCENTILES)
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def rounds_of(
    rounds: dict[str, Round],
    *,
    images: int | dict[str, int],
    repeats: int,
    report: Callable[[str], None],
    hopeless: float = math.inf,
    leads: Mapping[str, Round] = MappingProxyType({}),
) -> dict[str, list[float]]:
    """Images per second of each contestant, measured in turn, each once the others are at rest.

    Each first has one round of warm-up, with its trace.

    Args:
        images: in one round, of all alike or by contestant.
        repeats: measurements of each.
        report: is told what was measured.
        hopeless: what is so many times slower than the fastest in the first round is measured no more.
        leads: what a contestant does before its clock starts.

    Returns:
        contestant -> [repeats] images per second.
    """
    for name, run in rounds.items():
        report(f"{name}: trace and first round {timed(run):.1f} s")
    measured: dict[str, list[float]] = {name: [] for name in rounds}
    left = dict(rounds)
    for repeat in range(repeats):
        for name, run in left.items():
            wait_until_idle()
            leads.get(name, lambda: None)()
            measured[name].append((images if isinstance(images, int) else images[name]) / timed(run))
        last = ", ".join(f"{name} {measured[name][-1]:.1f}" for name in left)
        report(f"round {repeat + 1} of {repeats}: {last}")
        fastest = max(all_[0] for all_ in measured.values())
        left = {name: run for name, run in rounds.items() if measured[name][0] * hopeless > fastest}
    return measured


def ratio(own: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """What `own` is of `other`, measured in the same rounds, as far as both were: median, lowest and highest ratio."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=False)]
    return {"ratio": statistics.median(ratios), "lowest_ratio": min(ratios), "highest_ratio": max(ratios)}


def compare(measured: dict[str, list[float]], *, against: str) -> list[dict]:
    """One row a contestant: median images per second, and the ratio of `against` to it with its range over rounds."""
    return [
        {"name": name, "images_per_second": statistics.median(speeds), **ratio(measured[against], speeds)}
        for name, speeds in measured.items()
    ]


def range_of(row: dict) -> str:
    """`0.94 to 1.02`, of a row that has a ratio."""
    return f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
