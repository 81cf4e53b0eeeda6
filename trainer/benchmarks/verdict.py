"""What holds a recipe back, and what a change would bring, by the rates that were measured. Pure functions.

Where a GPU trains, input and step go on side by side: both together are as fast as the slower one, times what was
measured to be lost between them. Where a CPU trains, they share its cores: an image takes the time of the step alone
and, on top, a time in proportion to the processor time of its input, as much as was measured.
"""

import dataclasses
import math

INPUT, COMPUTE = "input", "compute"
# What changes less than this is not worth a word.
WORTH = 1.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speeds:
    """Rates in images a second.

    Attributes:
        input, step, both: of the input alone, the step alone, and both together.
        input_cpu: processor seconds of an image in the input pipeline.
        cores: of the host.
        shared: whether the step runs on the same cores.
    """

    input: float
    step: float
    both: float
    input_cpu: float
    cores: int
    shared: bool

    def predicted(self, *, step: float | None = None, input: float | None = None, cpu: float | None = None) -> float:
        """Rate of both together if one of the others, or the processor time of the input, were so."""
        step, fed = step or self.step, input or self.input
        if not self.shared:
            return self.both / min(self.step, self.input) * min(step, fed)
        extra = max(0.0, 1 / self.both - 1 / self.step)
        used = self.input_cpu if cpu is None else cpu
        return min(1 / (1 / step + extra * used / self.input_cpu), max(fed, self.both))

    @property
    def bound(self) -> str:
        """`input` or `compute`."""
        return INPUT if self.input < self.step else COMPUTE

    @property
    def factor(self) -> float:
        """How many times as fast the faster one of input and step is."""
        return max(self.input, self.step) / min(self.input, self.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """Something that could be changed.

    Attributes:
        name: store, placement, threads, batch or precision.
        do: how.
        predicted: images a second; None: it does not work here, as `do` says.
    """

    name: str
    do: str
    predicted: float | None


def more_hosts(speeds: Speeds) -> Change | None:
    """What more cores for the input would bring; None: nothing."""
    if speeds.shared:
        do = "have other hosts make the batches: train.data_service = @data_service()"
        return Change(name="threads", do=do, predicted=speeds.predicted(cpu=0.0, input=math.inf))
    if speeds.bound == COMPUTE:
        return None
    times = math.ceil(speeds.factor)
    do = f"{times * speeds.cores} cores in place of {speeds.cores}, or train.data_service with {times} such hosts"
    return Change(name="threads", do=do, predicted=speeds.predicted(input=times * speeds.input))


def verdict(speeds: Speeds, stages: list[dict], changes: list[Change], *, wait: float) -> dict:
    """All of it, JSON-ready.

    Args:
        stages: rows of `trainer.benchmarks.cuts.stages`.
        changes: whatever was looked into.
        wait: share of the time in which the step waited for its batch.

    Returns:
        bound (input or compute), factor, end_to_end (both over step alone), data_wait, slowest_stage and its share,
        changes, the best first: name, do, predicted_images_per_second, gain; and all that in sentences.
    """
    slowest = max(stages, key=lambda row: row["wall_ms"])
    rows = [
        {
            "name": change.name,
            "do": change.do,
            "predicted_images_per_second": change.predicted,
            "gain": None if change.predicted is None else change.predicted / speeds.both,
        }
        for change in changes
    ]
    rows.sort(key=lambda row: -(row["gain"] or 0.0))
    found = {
        "bound": speeds.bound,
        "factor": speeds.factor,
        "end_to_end": speeds.both / speeds.step,
        "data_wait": wait,
        "slowest_stage": slowest["name"],
        "slowest_share": slowest["share"],
        "stages": stages,
        "changes": rows,
    }
    return found | {"sentences": sentences(found, speeds)}


def sentences(found: dict, speeds: Speeds) -> list[str]:
    """The verdict in words."""
    step, given, times = f"{speeds.step:.0f}", f"{speeds.input:.0f}", f"{found['factor']:.2f} times"
    bound = {
        INPUT: f"the step alone takes {step} images/s, the input alone gives {given}; it should be {times} as fast",
        COMPUTE: f"the input alone gives {given} images/s, {times} what the step alone takes ({step})",
    }
    cores = f"; they share {speeds.cores} cores" if speeds.shared else ""
    whole, waits = sum(row["wall_ms"] for row in found["stages"]), f"{100 * found['data_wait']:.0f} %"
    share = f"{100 * found['slowest_share']:.0f} %"
    told = [
        f"{found['bound']}-bound: {bound[found['bound']]}",
        f"both together give {speeds.both:.0f} images/s, {found['end_to_end']:.3f} of the step alone; the step waits "
        f"for its batch {waits} of the time{cores}",
        f"slowest stage of the input: {found['slowest_stage']}, {share} of {whole:.2f} ms an image",
    ]
    worth = [row for row in found["changes"] if (row["gain"] or 0.0) >= WORTH]
    told += [
        f"{row['name']}: {row['do']}: {row['predicted_images_per_second']:.0f} images/s predicted, {row['gain']:.2f} x"
        for row in worth
    ]
    if not worth:
        told.append(f"nothing that was looked into is predicted to gain {100 * (WORTH - 1):.0f} %")
    return told
