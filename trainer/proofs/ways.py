"""How many replicas and workers a proof tries, and the devices of each."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from absl import flags

from data.errors import RunFailure
from trainer import devices, launching
from trainer.cluster import COMMUNICATION, Members, mirrored

# Megabytes of a part of a GPU.
PART = 2048


@dataclasses.dataclass(frozen=True)
class Way:
    """So many workers, with so many replicas each, on devices of a kind: `cpu` or `gpu`."""

    kind: str
    workers: int
    replicas: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.workers}x{self.replicas}"

    def __str__(self) -> str:
        workers = f"{self.workers} workers" if self.workers > 1 else "1 process"
        return f"{workers}, {self.replicas} {self.kind.upper()} replica{'s' * (self.replicas > 1)} each"

    def run(self, script: Sequence[str], *, result: Path) -> None:
        """Runs a script in each of the workers.

        Args:
            script: its file and flags; it gets those of `define_flags` as well.
            result: where the chief of the workers is to write; their logs go to a folder beside it.

        Raises:
            RunFailure: one of them failed.
        """
        result.parent.mkdir(parents=True, exist_ok=True)
        own = [f"--workers={self.workers}", f"--replicas={self.replicas}", f"--result={result}"]
        command, logs = [sys.executable, *script, *own], result.with_suffix("")
        status = launching.Group(command, workers=self.workers, logs=logs, say=lambda line: None).run(restarts=0)
        if status:
            raise RunFailure(
                f"{self}: a process ended with status {status}",
                where=str(logs),
                expected="all to come to their end",
                do="look into the logs there",
            )


def define_flags() -> None:
    """Registers the flags that tell a process, which `Way.run` has started, what it is."""
    flags.DEFINE_integer("workers", 1, "Of a process that this script starts: how many there are.")
    flags.DEFINE_integer("replicas", 0, "Likewise: how many replicas each has.")
    flags.DEFINE_string("result", None, "Likewise: where the numbers go.")


def own_way(devices: str) -> Way | None:
    """The way of this process, if `Way.run` has started it."""
    given = flags.FLAGS
    return Way(kind_of(devices), given.workers, given.replicas) if given.replicas else None


def ways(kind: str) -> list[Way]:
    """Those that a machine can do; a worker of several CPUs TensorFlow cannot."""
    several = [(2, 2)] if kind == "gpu" else []
    return [Way(kind, *shape) for shape in [(1, 1), (1, 2), (1, 4), (2, 1), (4, 1), *several]]


def kind_of(spec: str) -> str:
    """`gpu` or `cpu`, whichever `--devices` means here."""
    if spec != "auto":
        return spec.split(":")[0]
    return "gpu" if launching.gpus() else "cpu"


def strategy_of(way: Way, members: Members | None) -> tf.distribute.Strategy:
    """The strategy of this process; where there are too few GPUs, over parts of the first."""
    if way.kind == "cpu":
        return devices.set_up(f"cpu:{way.replicas}", members)
    gpus = tf.config.list_physical_devices("GPU")
    first = 0 if members is None else members.index * way.replicas
    own = range(first, first + way.replicas)
    if way.workers * way.replicas <= len(gpus):
        return devices.set_up(f"gpu:{','.join(map(str, own))}", members)
    tf.config.set_visible_devices(gpus[:1], "GPU")
    part = tf.config.LogicalDeviceConfiguration(memory_limit=PART)
    tf.config.set_logical_device_configuration(gpus[0], [part] * way.replicas)
    # NCCL refuses two replicas on one GPU.
    if members is not None:
        return mirrored(members, gpus=way.replicas, communication=COMMUNICATION.RING)
    names = [f"GPU:{index}" for index in range(way.replicas)]
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())
