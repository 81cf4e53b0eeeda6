"""The workers of one run, each a process with devices of its own: who they are, and what they agree on.

All run the same command on the same workdir. The first one, the chief, owns the workdir, looks at the data first and
writes; the others read. Whatever leads to a collective operation comes from values that are equal on all of them.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from data.errors import RunFailure, UserError
from data.pipeline import Lane
from trainer.signals import SIGNALS, StopRequest

# Seconds that a collective operation waits for a worker that neither comes nor breaks off its connection.
SILENCE = 300.0
# The same where the others wait for work that only the chief does, such as decoding every image.
PATIENCE = 30 * 24 * 3600.0
# Seconds that a worker has to join, where nobody says otherwise; between two looks for those that are missing.
START_WITHIN, RETRY = 600.0, 0.2
# Numbers that are added up at once.
WIDTH = 1024
# Of workers on a SLURM node the first listens here, the next on the port after it.
SLURM_PORT = 8888
COMMUNICATION = tf.distribute.experimental.CommunicationImplementation
LOST = "lost another worker"
# What operations say when a worker is gone; what else names a collective operation is of the same cause.
_BROKEN_OFF = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


@dataclasses.dataclass(frozen=True)
class Members:
    """The workers of a run, as one of them knows them.

    Attributes:
        addresses: host:port of each; the first is the chief.
        index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this process is the first of them."""
        return self.index == 0

    @classmethod
    def found(cls, named: str | None, *, environment: Mapping[str, str] = os.environ) -> "Members | None":
        """Who they are; None: this process works alone.

        Args:
            named: as `--cluster` gives it: `slurm`; or addresses with commas between, in which {0..7} stands for each
                of these numbers, while JOB_COMPLETION_INDEX (of an indexed job of Kubernetes) says which is our own;
                None: what TF_CONFIG says, if anything.
            environment: variables of the process.

        Raises:
            UserError: they cannot be made out.
        """
        try:
            if named == "slurm":
                addresses, index = _of_slurm()
            elif named:
                addresses, index = _listed(named), int(environment["JOB_COMPLETION_INDEX"])
            elif environment.get("TF_CONFIG"):
                addresses, index = _of_tf_config(json.loads(environment["TF_CONFIG"]))
            else:
                return None
            if not 0 <= index < len(addresses):
                raise ValueError(f"this is worker {index} of {len(addresses)}")
            ports = [int(re.fullmatch(r"[^\s:]+:(\d+)", address)[1]) for address in addresses]
            if len(set(addresses)) < len(addresses) or not all(0 < port < 65536 for port in ports):
                raise ValueError(f"addresses {', '.join(addresses)}")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the workers of this run cannot be made out: {type(error).__name__}: {error}",
                where=f"--cluster={named}" if named else "TF_CONFIG in the environment",
                expected='{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}} in '
                "TF_CONFIG; or --cluster=slurm below srun; or --cluster='onward-{0..3}.onward:2222' in an indexed job",
                do="correct it, or unset TF_CONFIG and leave --cluster out to train in one process",
            ) from error
        return cls(tuple(addresses), index) if len(addresses) > 1 else None

    def wait_for_all(self, *, within: float) -> None:
        """Returns when every worker is there. TensorFlow waits too, but for ever, and hears no signal meanwhile.

        Raises:
            UserError: the port is taken.
            RunFailure: some have not come within so many seconds.
        """
        deadline, missing = time.monotonic() + within, dict(enumerate(self.addresses))
        del missing[self.index]
        # Whoever connects is answered by the kernel; later TensorFlow listens here.
        with self._listener():
            while missing := {index: each for index, each in missing.items() if not _answers(each)}:
                if time.monotonic() > deadline:
                    names = ", ".join(f"worker {index} at {address}" for index, address in missing.items())
                    raise RunFailure(
                        f"not all of {len(self.addresses)} workers have come within {within:g} s; missing: {names}",
                        where=f"--start_within, seen by worker {self.index} at {self.addresses[self.index]}",
                        expected="the same command running at each address",
                        do="look at what that worker says; start all of them, or raise --start_within",
                    )
                time.sleep(RETRY)

    def _listener(self) -> socket.socket:
        port = int(self.addresses[self.index].rsplit(":", 1)[1])
        try:
            return socket.create_server(("", port), backlog=2 * len(self.addresses))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be listened on: {error.strerror}",
                where=f"the address of worker {self.index}, {self.addresses[self.index]}",
                expected="a free port of this machine",
                do="end what listens there, or choose another port for this worker on all of them",
            ) from error


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def _of_tf_config(config: dict) -> tuple[list[str], int]:
    cluster, task = config["cluster"], config["task"]
    kinds = [kind for kind in ("chief", "worker") if kind in cluster]
    if set(cluster) - set(kinds):
        raise ValueError(f"jobs {', '.join(cluster)}; only a chief and workers train")
    before = sum(len(cluster[kind]) for kind in kinds[: kinds.index(task["type"])])
    return [address for kind in kinds for address in cluster[kind]], before + int(task["index"])


def _of_slurm() -> tuple[list[str], int]:
    # Which GPUs a task sees is SLURM's own affair, so the resolver is asked for nothing but names.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=SLURM_PORT, gpus_per_node=2**16, gpus_per_task=1, auto_set_gpu=False
    )
    # Its cluster_spec sorts hosts as text: rank 0 of node[9-10] would be sought on node10.
    tasks = resolver._task_configuration
    addresses = [f"{host}:{SLURM_PORT + local}" for host, count in tasks.items() for local in range(count)]
    return addresses, resolver._rank


def _listed(named: str) -> list[str]:
    """`a-{0..2}:80,b:80` -> the addresses of a-0, a-1, a-2 and b."""
    addresses = []
    for part in named.split(","):
        span = re.search(r"\{(\d+)\.\.(\d+)\}", part)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [None]
        addresses += [part if number is None else part.replace(span[0], str(number)) for number in numbers]
    return addresses


class Cluster:
    """What the workers of a run have in common; of a process that works alone too.

    Args:
        strategy: over all of their devices; None is that of nobody, who works alone.
        members: None: this process works alone.

    Attributes:
        workers: how many there are.
        index: which of them this process is.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, members: Members | None = None):
        self.workers = 1 if members is None else len(members.addresses)
        self.index = 0 if members is None else members.index
        self._strategy = strategy
        self._total = tf.function(self._reduced, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes."""
        return self.index == 0

    def sum(self, values: np.ndarray, *, patience: float = SILENCE) -> np.ndarray:
        """The sum over the workers of up to WIDTH numbers, exact if whole and below 2**24; all have to ask for it.

        Args:
            patience: seconds that the others may let wait.
        """
        if self.workers == 1:
            return values
        # One length, one trace.
        padded = np.zeros(WIDTH, np.float32)
        padded[: len(values)] = values
        return self._total(tf.constant(padded), patience).numpy()[: len(values)]

    def _reduced(self, values: tf.Tensor, patience: float) -> tf.Tensor:
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=patience)
        local = self._strategy.num_replicas_in_sync // self.workers

        def of_replica():
            replica = tf.distribute.get_replica_context()
            # Once for each worker, however many replicas it has.
            first = replica.replica_id_in_sync_group % local == 0
            own = tf.where(first, values, tf.zeros_like(values))
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, own, options)

        return self._strategy.experimental_local_results(self._strategy.run(of_replica))[0]

    def told(self, value, *, patience: float = SILENCE):
        """The chief's value, on every worker; all have to ask for it.

        Args:
            value: ready for JSON; that of others than the chief does not matter.
        """
        if self.workers == 1:
            return value
        text = json.dumps(value).encode() if self.is_chief else b""
        length = int(self.sum(np.float32([len(text)]), patience=patience)[0])
        sent = np.zeros(length, np.float32)
        sent[: len(text)] = np.frombuffer(text, np.uint8)
        parts = [self.sum(sent[start : start + WIDTH]) for start in range(0, length, WIDTH)]
        return json.loads(np.concatenate(parts).astype(np.uint8).tobytes())

    def follow(self) -> None:
        """Has all but the chief wait until it leads."""
        if not self.is_chief:
            self.meet(patience=PATIENCE)

    def lead(self) -> None:
        """Has the others come to where the chief is: what it has written is there for them."""
        if self.is_chief:
            self.meet(patience=PATIENCE)
        self.meet(patience=PATIENCE)

    def meet(self, *, patience: float = SILENCE) -> None:
        """Waits until all workers have come here."""
        self.sum(np.zeros(1, np.float32), patience=patience)

    def stop(self, own: StopRequest) -> "StopRequest | SharedStop":
        """A request to this worker as one to all of them."""
        return own if self.workers == 1 else SharedStop(own, self)

    @contextlib.contextmanager
    def together(self, *, newest: str) -> Iterator[None]:
        """Within, the loss of another worker is told as such.

        Args:
            newest: where the run would go on from, for the message.

        Raises:
            RunFailure: another worker is gone.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if self.workers == 1 or not (isinstance(error, _BROKEN_OFF) or "ollective" in str(error)):
                raise
            named = {int(index) for index in re.findall(r"/task:(\d+)", str(error))} - {self.index}
            which = f", worker {named.pop()}" if len(named) == 1 else ""
            late = isinstance(error, tf.errors.DeadlineExceededError)
            raise RunFailure(
                f"{LOST}{which}: {f'silent for {SILENCE:g} s' if late else 'its connection broke off'}",
                where=f"worker {self.index} of {self.workers}; checkpoints: {newest}",
                expected="all workers at work",
                do="look at what the others say, then run the same command on each again; it goes on from the newest "
                "checkpoint (scripts/launch.py does so by itself)",
            ) from error


ALONE = Cluster()


def mirrored(
    members: Members,
    *,
    gpus: int = 0,
    within: float = START_WITHIN,
    communication: COMMUNICATION = COMMUNICATION.AUTO,
) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy over the devices of all workers, once all have joined.

    Args:
        gpus: how many each has; 0: each has one CPU.
        within: seconds that the others have to join.
        communication: of reductions; by itself NCCL on GPUs.
    """
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(members.addresses)}),
        task_type="worker",
        task_id=members.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=SILENCE, implementation=communication)
    members.wait_for_all(within=within)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, communication_options=options)
    # Every worker's stream is as long as that of the others: nobody has to ask, each step, who has still a batch.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


def lane(context: tf.distribute.InputContext) -> Lane:
    """The batches of a stream that this worker feeds its replicas with."""
    own = context.num_replicas_in_sync // context.num_input_pipelines
    return Lane(context.input_pipeline_id * own, own, context.num_replicas_in_sync)


class SharedStop:
    """A request to any worker, known to all of them from the same step on.

    Args:
        own: listens in this process.

    Attributes:
        requested: as in `StopRequest`; what `agreed` found last.
        flag: None: a compiled loop has to be the same on all workers, so it asks no single one.
    """

    flag = None

    def __init__(self, own: StopRequest, cluster: Cluster):
        self._own, self._cluster = own, cluster
        self.requested: str | None = None

    def agreed(self) -> str | None:
        """What has been requested of any worker; all have to ask at the same time."""
        names = [signal.Signals(number).name for number in SIGNALS] + ["time limit"]
        own = np.float32([name == self._own.requested for name in names])
        asked = np.flatnonzero(self._cluster.sum(own))
        if self.requested is None and asked.size:
            self.requested = names[asked[0]]
        return self.requested

    def listen(self) -> None:
        self._own.listen()

    def reached(self) -> None:
        self._own.reached()

    def close(self) -> None:
        self._own.close()
