"""From `--devices` to a `tf.distribute` strategy."""

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from data.errors import UserError
from data.pipeline import ordered
from trainer import reduction
from trainer.cluster import START_WITHIN, Members, mirrored
from trainer.quiet import stderr_aside

# Of a number of logical CPUs; TensorFlow would try to make any number.
DIGITS = 3
# What mallopt(3) is told: the option by its number in malloc.h, and bytes.
HELD_MEMORY = {"M_MMAP_THRESHOLD": (-3, 2**30), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28)}
# Batches that `distribute_datasets_from_function` has lying on each device before they are asked for.
AHEAD = 1
# Each GPU has threads of its own that start its kernels: the input pipeline, busy on all others, does not delay them.
GPU_THREADS = {"TF_GPU_THREAD_MODE": "gpu_private", "TF_GPU_THREAD_COUNT": "2"}


def set_up(
    devices: str,
    members: Members | None = None,
    *,
    within: float = START_WITHIN,
    reduce_by: str = "auto",
    threads: int | None = None,
) -> tf.distribute.MirroredStrategy | tf.distribute.MultiWorkerMirroredStrategy:
    """Configures the devices of this process and mirrors over them. Call it once, before TensorFlow uses a device.

    Args:
        devices: `auto` (all GPUs, else the CPU), `cpu`, `cpu:4` (four logical CPUs), `gpu` (all), `gpu:0,1`.
        members: the workers to mirror over together, each with as many devices; None: this process alone.
        within: seconds that the others have to join.
        reduce_by: how gradients are added up, one of `trainer.reduction.REDUCTIONS`.
        threads: over which one operation on the CPU is spread; None: as many as there are cores.

    Raises:
        UserError: malformed, devices that are not there, or on which gradients cannot be added up so; TensorFlow is in
            use with another number of threads.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)(?::([\d,]+))?", devices)
    kind, detail = match.groups() if match else (None, None)
    wrong = kind == "cpu" and detail and not (detail.isdigit() and len(detail) <= DIGITS)
    if kind is None or (kind == "auto" and detail) or wrong:
        raise UserError(
            f"--devices={devices}",
            where="command line",
            expected="auto, cpu, cpu:N (N logical CPUs), gpu, or gpu:0,1",
            do="--devices=auto",
        )
    _hold_memory()
    _leave_prefetching_untuned()
    if threads is not None:
        _set_threads(threads)
    # Looking for a driver where there is none prints an error, which for a CPU is none.
    with contextlib.nullcontext() if kind == "gpu" else stderr_aside():
        gpus = tf.config.list_physical_devices("GPU")
    if kind == "gpu" and not gpus:
        raise UserError(
            f"--devices={devices}, and TensorFlow sees no GPU",
            where="command line",
            expected="a GPU with its driver, and the extra `cuda` installed",
            do="pip install -e '.[cuda]', look at nvidia-smi, or use --devices=cpu",
        )
    if kind == "gpu" or (kind == "auto" and gpus):
        count = _choose_gpus(gpus, detail, devices)
        if members is None:
            across = reduction.across(reduce_by, kind="gpu", replicas=count)
            return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(count)], cross_device_ops=across)
        communication = reduction.communication(reduce_by, kind="gpu")
        return mirrored(members, gpus=count, within=within, communication=communication)
    count = int(detail or 1)
    if members is None:
        with stderr_aside():
            return _mirror_cpus(count, reduce_by)
    if count > 1:
        raise UserError(
            f"--devices={devices} with {len(members.addresses)} workers",
            where="command line",
            expected="one CPU a worker, all that TensorFlow can do there",
            do="--devices=cpu and more workers, or --devices=gpu",
        )
    tf.config.set_visible_devices([], "GPU")
    return mirrored(members, within=within, communication=reduction.communication(reduce_by, kind="cpu"))


def _leave_prefetching_untuned() -> None:
    """Gives the part of a distributed dataset that lies on each device the options of all others.

    `distribute_datasets_from_function` makes that part itself, with autotuning, for which the end of its iterator may
    have to wait (see `data.pipeline.ordered`), and offers no argument for it.
    """
    create = getattr(multi_device_iterator_ops, "_create_device_dataset", None)
    if create is not None and not hasattr(create, "__wrapped__"):

        @functools.wraps(create)
        def untuned(*arguments, **named) -> tf.data.Dataset:
            return create(*arguments, **named).with_options(ordered())

        multi_device_iterator_ops._create_device_dataset = untuned


def _hold_memory() -> None:
    """Lets the process hold on to memory that it has freed.

    TensorFlow allocates the activations of every step anew. The C library would give large ones back to the kernel each
    time and take them again page by page, which on a CPU can be a quarter of a step. Elsewhere than on Linux with glibc
    everything stays as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for option, value in HELD_MEMORY.values():
        if mallopt is not None:
            mallopt(option, value)


def _set_threads(count: int) -> None:
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
    except RuntimeError as error:
        raise UserError(
            f"TensorFlow is in use in this process with other threads: {error}",
            where=f"gin binding train.threads = {count}",
            expected="the number that this process began with",
            do="start anew (in a notebook: restart its kernel), or leave train.threads out",
        ) from error


def _choose_gpus(gpus: list, detail: str | None, devices: str) -> int:
    wanted = [int(index) for index in detail.split(",") if index] if detail else list(range(len(gpus)))
    if not wanted or len(set(wanted)) < len(wanted) or max(wanted) >= len(gpus):
        raise UserError(
            f"--devices={devices}",
            where="command line",
            expected=f"different indexes below {len(gpus)}, the number of GPUs TensorFlow sees",
            do="--devices=gpu takes all of them",
        )
    chosen = [gpus[index] for index in wanted]
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)
    # Read when TensorFlow first uses a GPU.
    for name, value in GPU_THREADS.items():
        os.environ.setdefault(name, value)
    return len(chosen)


def batches(
    strategy: tf.distribute.Strategy, of_worker: Callable[[tf.distribute.InputContext], tf.data.Dataset]
) -> Iterator:
    """The batches of every replica, for compiled loops.

    Args:
        of_worker: the dataset of a worker, whose elements its replicas take in turn.
    """
    if _is_one_cpu(strategy):
        # Batches are where they belong as soon as they are made: to hand them over takes further threads.
        return iter(of_worker(tf.distribute.InputContext()))
    return iter(strategy.distribute_datasets_from_function(of_worker))


def _is_one_cpu(strategy: tf.distribute.Strategy) -> bool:
    mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    return mirrored and strategy.num_replicas_in_sync == 1 and "CPU" in strategy.extended.worker_devices[0]


def in_effect(strategy: tf.distribute.Strategy, *, pack: int | None = None) -> dict[str, object]:
    """What TensorFlow has made of the wishes: for environment.json and the header of a run.

    Args:
        pack: bytes of gradients that are added up at once; None: all.
    """
    gpu = "GPU" in strategy.extended.worker_devices[0]
    threads = {name: os.environ.get(name) for name in GPU_THREADS} if gpu else {}
    return {
        "reduction": reduction.in_effect(strategy, pack=pack),
        "gpu_threads": f"{threads['TF_GPU_THREAD_COUNT']} a GPU, {threads['TF_GPU_THREAD_MODE']}" if gpu else None,
        "batches_ahead": None if _is_one_cpu(strategy) else AHEAD,
    }


def _mirror_cpus(count: int, reduce_by: str) -> tf.distribute.MirroredStrategy:
    if count < 1:
        raise UserError("--devices=cpu:0", where="command line", expected="at least one CPU", do="--devices=cpu")
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu)
    if count > len(configured or [None]):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    names = [f"CPU:{index}" for index in range(count)]
    across = reduction.across(reduce_by, kind="cpu", replicas=count)
    return tf.distribute.MirroredStrategy(names, cross_device_ops=across)
