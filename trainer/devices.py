"""From `--devices` to a `tf.distribute` strategy."""

import contextlib
import re

import tensorflow as tf

from data.errors import UserError
from trainer.cluster import START_WITHIN, Members, mirrored
from trainer.quiet import stderr_aside

# Of a number of logical CPUs; TensorFlow would try to make any number.
DIGITS = 3


def set_up(
    devices: str, members: Members | None = None, *, within: float = START_WITHIN
) -> tf.distribute.MirroredStrategy | tf.distribute.MultiWorkerMirroredStrategy:
    """Configures the devices of this process and mirrors over them. Call it once, before TensorFlow uses a device.

    Args:
        devices: `auto` (all GPUs, else the CPU), `cpu`, `cpu:4` (four logical CPUs), `gpu` (all), `gpu:0,1`.
        members: the workers to mirror over together, each with as many devices; None: this process alone.
        within: seconds that the others have to join.

    Raises:
        UserError: malformed, or devices that are not there.
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
            return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(count)])
        return mirrored(members, gpus=count, within=within)
    count = int(detail or 1)
    if members is None:
        with stderr_aside():
            return _mirror_cpus(count)
    if count > 1:
        raise UserError(
            f"--devices={devices} with {len(members.addresses)} workers",
            where="command line",
            expected="one CPU a worker, all that TensorFlow can do there",
            do="--devices=cpu and more workers, or --devices=gpu",
        )
    tf.config.set_visible_devices([], "GPU")
    return mirrored(members, within=within)


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
    return len(chosen)


def _mirror_cpus(count: int) -> tf.distribute.MirroredStrategy:
    if count < 1:
        raise UserError("--devices=cpu:0", where="command line", expected="at least one CPU", do="--devices=cpu")
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu)
    if count > len(configured or [None]):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    names = [f"CPU:{index}" for index in range(count)]
    # TensorFlow's default reduction confuses the collectives of a second strategy on logical CPUs.
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())
