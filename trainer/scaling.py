"""How fast many GPUs on many hosts would train a recipe, predicted from what one of them does. Pure functions.

A step of n GPUs lasts as long as its input, or as its computation and the reduction behind it, whichever is longer:

    step(n) = max(input(n), compute(batch of a GPU) + (1 - overlap) * reduction(n))

docs/scaling.md writes the model down with what it assumes. Times are in seconds, sizes in bytes, bandwidths in bytes a
second.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import gin
import numpy as np
from scipy.optimize import nnls

from data.errors import expect

# Of how many GPUs a plan tells.
COUNTS = tuple(2**power for power in range(10))
# A step adds up one number, the weight of its batch, before it adds up gradients.
NUMBER = 4
# The least that a change has to bring to be told of.
WORTH_WHILE = 1.05
# By what a batch is made larger: no further than where twice as much brings less than that.
FACTORS = (2, 4, 8, 16)
WEAK, STRONG = "weak", "strong"
PROBE = "probe"


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds that one GPU computes: `fixed` for any batch, and `per_example` for each example."""

    fixed: float
    per_example: float

    @classmethod
    def of(cls, measured: Mapping[int, float]) -> "StepTime":
        """The line that is relatively nearest to what was measured, with both parts at least 0.

        Args:
            measured: examples of a batch -> seconds of its step, above 0. Of one batch alone all is per example.
        """
        if len(measured) == 1:
            ((examples, seconds),) = measured.items()
            return cls(0.0, seconds / examples)
        seconds = np.array(list(measured.values()))
        columns = np.column_stack([np.ones(len(measured)), list(measured)])
        fixed, per_example = nnls(columns / seconds[:, None], np.ones(len(measured)))[0]
        return cls(float(fixed), float(per_example))

    def seconds(self, examples: float) -> float:
        """Of a step of so many examples."""
        return self.fixed + self.per_example * examples


@dataclasses.dataclass(frozen=True)
class Link:
    """What a GPU in its host, or a host among hosts, sends: bytes a second, and seconds until a message is there."""

    bandwidth: float
    latency: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
    """Hosts that are alike.

    Attributes:
        gpus: of each host.
        within: of a GPU to the others of its host.
        between: of a host to the others.
        input_rate: images a second that the CPUs of a host make ready; infinite where they are not looked at.
        store_rate: the same from a packed store; None: nobody knows, or that is `input_rate`.
    """

    gpus: int
    within: Link
    between: Link
    input_rate: float = math.inf
    store_rate: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be trained.

    Attributes:
        step: of one GPU.
        gradient_bytes: that are added up over the GPUs, once a step.
        packs: in how many equal parts they are, one after the other (`train.reduction_bytes`).
        overlap: share of the reduction of gradients, 0..1, during which the GPU goes on computing. `trainer.step`
            reduces behind the whole backward pass: 0.
    """

    step: StepTime
    gradient_bytes: int
    packs: int = 1
    overlap: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A step of so many GPUs.

    Attributes:
        hosts: that they are spread over, as evenly as they can be.
        batch: examples of all GPUs together.
        input: seconds in which the CPUs of the host with the most GPUs make its share of the batch ready.
        compute: seconds that each GPU computes.
        reduction: seconds in which it waits for sums over all of them.
    """

    gpus: int
    hosts: int
    batch: int
    input: float
    compute: float
    reduction: float

    @property
    def step(self) -> float:
        """Seconds."""
        return max(self.input, self.compute + self.reduction)

    @property
    def images_per_second(self) -> float:
        """Of all GPUs together."""
        return self.batch / self.step

    @property
    def bottleneck(self) -> str:
        """`input`, `compute` or `reduction`: the longest of what the step waits for."""
        if self.input > self.compute + self.reduction:
            return "input"
        return "reduction" if self.reduction > self.compute else "compute"


@dataclasses.dataclass(frozen=True)
class Change:
    """What to do, and how many images a second it would give."""

    what: str
    images_per_second: float


def ring_seconds(size: float, *, members: int, link: Link) -> float:
    """Of a ring all-reduce.

    Each member sends 2 (n - 1) messages of 1 / n of the size, the least that any all-reduce can send (Patarasuk, Yuan
    2009, Bandwidth optimal all-reduce algorithms for clusters of workstations); each message also costs its latency
    (Thakur, Rabenseifner, Gropp 2005, Optimization of collective communication operations in MPICH). Adding is free.
    """
    return 2 * (members - 1) * (size / members / link.bandwidth + link.latency)


def star_seconds(size: float, *, members: int, link: Link) -> float:
    """Of a reduction on one member, which gets all from each other one and sends the sum back to it, one by one."""
    return 2 * (members - 1) * (size / link.bandwidth + link.latency)


def spread(gpus: int, *, per_host: int) -> tuple[int, int]:
    """Hosts, and GPUs of the one with the most, where as few hosts as can be take even shares."""
    hosts = math.ceil(gpus / per_host)
    return hosts, math.ceil(gpus / hosts)


def reduction_seconds(size: float, *, gpus: int, hosts: Hosts) -> float:
    """Of a hierarchical all-reduce.

    A ring within each host leaves every GPU the sum of its share, rings between the hosts add these shares up, all at
    the same time over the one link of the host, and a ring within each host deals them out: within, both halves of a
    ring all-reduce of the whole; between, one of the whole. The phases are those of Goyal et al. 2017, Accurate, large
    minibatch SGD, section 4.
    """
    count, local = spread(gpus, per_host=hosts.gpus)
    return ring_seconds(size, members=local, link=hosts.within) + ring_seconds(size, members=count, link=hosts.between)


def predict(load: Load, hosts: Hosts, *, gpus: int, batch: int) -> Prediction:
    """A step.

    Args:
        batch: of all GPUs together; each has an equal share.
    """
    count, local = spread(gpus, per_host=hosts.gpus)
    examples = batch / gpus
    sizes = (load.gradient_bytes / load.packs, NUMBER)
    pack, weight = (reduction_seconds(size, gpus=gpus, hosts=hosts) for size in sizes)
    return Prediction(
        gpus=gpus,
        hosts=count,
        batch=batch,
        input=local * examples / hosts.input_rate,
        compute=load.step.seconds(examples),
        reduction=(1 - load.overlap) * load.packs * pack + weight,
    )


def table(load: Load, hosts: Hosts, *, kind: str, batch: int, counts: Sequence[int] = COUNTS) -> list[Prediction]:
    """A prediction for each number of GPUs.

    Args:
        kind: `weak`, where each GPU has the same batch however many there are, or `strong`, where all together have.
        batch: that of one GPU, or of all together. Strong scaling leaves numbers out that it does not divide over.
    """
    if kind == WEAK:
        return [predict(load, hosts, gpus=gpus, batch=batch * gpus) for gpus in counts]
    return [predict(load, hosts, gpus=gpus, batch=batch) for gpus in counts if batch % gpus == 0]


def efficiency(prediction: Prediction, load: Load, hosts: Hosts, *, kind: str) -> float:
    """Images a second against as many times those of one GPU, with the same batch per GPU (weak) or in all; 0..1."""
    batch = prediction.batch // prediction.gpus if kind == WEAK else prediction.batch
    alone = predict(load, hosts, gpus=1, batch=batch)
    return prediction.images_per_second / (prediction.gpus * alone.images_per_second)


def changes(prediction: Prediction, load: Load, hosts: Hosts) -> list[Change]:
    """What would make a step of so many GPUs faster by `WORTH_WHILE`, each by itself, as far as the model knows."""
    again = {"gpus": prediction.gpus, "batch": prediction.batch}
    if prediction.bottleneck == "input":
        found = []
        if hosts.store_rate is not None:
            stored = dataclasses.replace(hosts, input_rate=hosts.store_rate)
            found.append(Change("packed store", predict(load, stored, **again).images_per_second))
        workers = math.ceil(prediction.input / (prediction.compute + prediction.reduction))
        served = dataclasses.replace(hosts, input_rate=workers * hosts.input_rate)
        rate = predict(load, served, **again).images_per_second
        found.append(Change(f"{workers} data workers a host", rate))
    else:
        found = [_larger_batch(prediction, load, hosts)]
    return [each for each in found if each.images_per_second >= WORTH_WHILE * prediction.images_per_second]


def _larger_batch(prediction: Prediction, load: Load, hosts: Hosts) -> Change:
    """The smallest of `FACTORS` whose double brings nothing worth while."""
    rates = {
        factor: predict(load, hosts, gpus=prediction.gpus, batch=factor * prediction.batch).images_per_second
        for factor in (*FACTORS, 2 * FACTORS[-1])
    }
    enough = (factor for factor in FACTORS if rates[2 * factor] < WORTH_WHILE * rates[factor])
    factor = next(enough, FACTORS[-1])
    return Change(f"batch x {factor}", rates[factor])


def shared_seconds(alone: float, processor: float, *, replicas: int, cores: int) -> float:
    """Seconds that replicas compute which share the cores of one machine, where none is a device of its own.

    No replica is faster than alone, and all together need the processor time of each: work is only dealt out better.

    Args:
        alone: seconds of one replica that has all cores.
        processor: seconds of all cores together that it takes for that.
    """
    return max(alone, replicas * processor / cores)


@gin.configurable("scaling")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a plan is told of the hosts, as `plan.scaling = @scaling()`; in gin its fields are `scaling.FIELD`.

    Whatever is `probe` is measured where the plan is made; nothing else is.

    Attributes:
        gpus_per_host: that train together on one host.
        within_bandwidth: bytes a second that a GPU sends to the others of its host; `probe` needs two GPUs.
        within_latency: seconds until a message is there.
        between_bandwidth, between_latency: the same of a host and the others. All of its GPUs share that bandwidth.
        step_seconds: examples of a batch -> seconds of a step of one GPU; two batches tell what a step costs before its
            first example.
        decode_rate: images a second that the CPUs of a host make ready from files, or None: as many as are asked for.
        store_rate: the same from a packed store; None: there is to be none.
        cores_per_host: of the CPUs of a host, to which rates that are measured here are scaled; None: as many as here.
        overlap: share of the reduction during which a GPU goes on computing, 0..1. Without `train.reduction_bytes` it
            is 0; with it, whatever a profile shows.
    """

    gpus_per_host: int
    within_bandwidth: float | str
    within_latency: float
    between_bandwidth: float
    between_latency: float
    step_seconds: Mapping[int, float] | str = PROBE
    decode_rate: float | str | None = PROBE
    store_rate: float | str | None = PROBE
    cores_per_host: int | None = None
    overlap: float = 0.0

    def __post_init__(self):
        expect("scaling.gpus_per_host", self.gpus_per_host, _is_count(self.gpus_per_host), "a whole number above 0")
        within = self.within_bandwidth == PROBE or _is_positive(self.within_bandwidth)
        expect("scaling.within_bandwidth", self.within_bandwidth, within, "bytes a second, or 'probe'")
        expect(
            "scaling.between_bandwidth", self.between_bandwidth, _is_positive(self.between_bandwidth), "bytes a second"
        )
        for name in ("within_latency", "between_latency"):
            latency = getattr(self, name)
            expect(f"scaling.{name}", latency, latency == 0 or _is_positive(latency), "seconds, at least 0")
        steps = self.step_seconds
        timed = isinstance(steps, Mapping) and steps
        timed = timed and all(_is_count(batch) and _is_positive(seconds) for batch, seconds in steps.items())
        expect(
            "scaling.step_seconds",
            steps,
            steps == PROBE or timed,
            "{32: 0.11, 128: 0.35}: seconds by batch, or 'probe'",
        )
        for name in ("decode_rate", "store_rate"):
            rate = getattr(self, name)
            expect(
                f"scaling.{name}", rate, rate in (None, PROBE) or _is_positive(rate), "images a second, 'probe' or None"
            )
        cores = self.cores_per_host
        expect("scaling.cores_per_host", cores, cores is None or _is_count(cores), "None, or a whole number above 0")
        share = self.overlap == 0 or (_is_positive(self.overlap) and self.overlap <= 1)
        expect("scaling.overlap", self.overlap, share, "a share, 0 to 1")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
