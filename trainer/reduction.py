"""How gradients are added up over the replicas: by which of TensorFlow's ways, and in how large packs."""

import tensorflow as tf

from data.errors import UserError

COMMUNICATION = tf.distribute.experimental.CommunicationImplementation
# Which of them are possible, by the kind of device and whether there are several workers; the first is that of `auto`.
WAYS = {
    ("cpu", False): ("one_device", "hierarchical"),
    # Of TensorFlow's own choice: NCCL as a collective operation.
    ("gpu", False): ("collective", "nccl", "hierarchical", "one_device"),
    # By itself NCCL on GPUs, ring on CPUs.
    ("cpu", True): ("collective", "ring"),
    ("gpu", True): ("collective", "nccl", "ring"),
}
REDUCTIONS = ("auto", "nccl", "hierarchical", "ring", "one_device")


def across(reduction: str, *, kind: str, replicas: int) -> tf.distribute.CrossDeviceOps | None:
    """What a strategy of one process adds up with; None: TensorFlow's own choice. One replica adds up nothing.

    Args:
        reduction: one of REDUCTIONS. `hierarchical` adds up in two halves of the devices, then these two.
        kind: of the devices, `cpu` or `gpu`.

    Raises:
        UserError: it does not work on so many devices of that kind.
    """
    way = _possible(reduction, kind=kind, workers=False, replicas=replicas)
    # TensorFlow's own choice confuses the collectives of a second strategy on logical CPUs.
    if kind == "cpu" and (way == "one_device" or replicas == 1):
        return tf.distribute.ReductionToOneDevice()
    if way == "collective" or replicas == 1:
        return None
    if way == "hierarchical" and replicas % 2:
        raise UserError(
            f"train.reduction = 'hierarchical' with {replicas} devices",
            where="gin binding train.reduction, with --devices",
            expected="an even number of devices: they are added up in two halves",
            do="--gin_param=\"train.reduction = 'auto'\"",
        )
    makes = {
        "nccl": tf.distribute.NcclAllReduce,
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
        "one_device": tf.distribute.ReductionToOneDevice,
    }
    return makes[way]()


def communication(reduction: str, *, kind: str) -> COMMUNICATION:
    """What a strategy of several workers adds up with.

    Args:
        reduction: one of REDUCTIONS.
        kind: of the devices, `cpu` or `gpu`.

    Raises:
        UserError: it does not work there.
    """
    way = _possible(reduction, kind=kind, workers=True, replicas=2)
    return COMMUNICATION.AUTO if way == "collective" else COMMUNICATION[way.upper()]


def _possible(reduction: str, *, kind: str, workers: bool, replicas: int) -> str:
    possible = WAYS[kind, workers]
    if reduction == "auto":
        return possible[0]
    if reduction not in possible and replicas > 1:
        known = ["auto", *(each for each in possible if each != "collective")]
        of = "several workers" if workers else "one process"
        raise UserError(
            f"train.reduction = {reduction!r} on {kind.upper()}s of {of}",
            where="gin binding train.reduction, with --devices",
            expected=f"one of {', '.join(known)}",
            do="--gin_param=\"train.reduction = 'auto'\"",
        )
    return reduction


def add_up(values, *, most: int | None = None):
    """In replica context: the sums over the replicas.

    Args:
        values: a structure of tensors. Its last ones go first: gradients of the last layers are the first to be known.
        most: bytes that are added up at once, so that they are on their way while earlier layers are at work; a tensor
            is never cut. None: all at once.
    """
    replica, order = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
    if most is None:
        return replica.all_reduce(order, values)
    tensors = tf.nest.flatten(values)
    sums = {}
    for pack in packs([tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors], most):
        reduced = replica.all_reduce(order, [tensors[place] for place in pack])
        sums |= dict(zip(pack, reduced, strict=True))
    return tf.nest.pack_sequence_as(values, [sums[place] for place in range(len(tensors))])


def packs(sizes: list[int], most: int) -> list[list[int]]:
    """Places of tensors of these sizes, from the last to the first, in packs of at most so many bytes or one tensor."""
    found, free = [], 0
    for place in reversed(range(len(sizes))):
        if not found or sizes[place] > free:
            found.append([])
            free = most
        found[-1].append(place)
        free -= sizes[place]
    return found


def in_effect(strategy: tf.distribute.Strategy, *, pack: int | None = None) -> str:
    """By what a strategy really adds up, in TensorFlow's words, and in packs of how many bytes."""
    if strategy.num_replicas_in_sync == 1:
        return "none, one replica"
    extended = strategy.extended
    name = type(extended._cross_device_ops).__name__
    if name.startswith("Collective"):
        name += f" ({extended._communication_options.implementation.name})"
    return name if pack is None else f"{name}, packs of {pack:,} bytes"
