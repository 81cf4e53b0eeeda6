"""Proves, on the devices of this machine, that their number changes nothing but speed.

python scripts/check_devices.py --workdir=runs/check
python scripts/check_devices.py --workdir=runs/check --devices=cpu

Trains the same small networks on 1, 2 and 4 replicas and with 2 and 4 workers, and compares weights and figures to
rounding: with clipping, accumulation, class weights, L2, synchronised batch normalisation, SGD and AdamW, an evaluation
that does not divide, and infinite images in mixed_float16, which all skip. Then 2 workers train a session, one of them
is killed, and the session ends in the bits of one left alone; another goes from 2 workers to one process and back, and
ends as one process does, to rounding.

Where there are fewer GPUs than replicas, the first is cut into parts; sessions need two GPUs or run on CPUs. GPUs add
up in float32, not in TF32.

Exit status 0: equal. 3: something differs, or a worker failed; its log is named.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import functools
import os
from pathlib import Path

import numpy as np
from absl import flags

from data.errors import RunFailure
from trainer.cluster import Members
from trainer.launching import gpus
from trainer.proofs import equality, moving
from trainer.proofs.ways import Way, define_flags, kind_of, own_way, strategy_of, ways


def main() -> int:
    own, workdir = flags.FLAGS, Path(launch.required("workdir")).expanduser().absolute()
    if way := own_way(own.devices):
        return _work(Path(own.result), way)
    kind = kind_of(own.devices)
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    reference = None
    for way in ways(kind):
        result = workdir / f"{way.name}.npz"
        way.run([__file__, f"--workdir={workdir}", f"--devices={own.devices}"], result=result)
        with np.load(result) as found:
            numbers = dict(found)
        reference = reference or numbers
        if different := equality.differing(reference, numbers):
            raise _unequal(f"{way}: {'; '.join(different[:8])}", workdir)
        print(f"{way}: {len(numbers)} arrays equal to rounding", flush=True)
    say = functools.partial(print, flush=True)
    devices = "gpu" if kind == "gpu" and len(gpus()) > 1 else "cpu"
    if difference := moving.proved(workdir / "sessions", devices=devices, say=say):
        raise _unequal(difference, workdir)
    return 0


def _work(result: Path, way: Way) -> int:
    """As one of the processes that train."""
    members = Members.found(None)
    numbers = equality.trained(strategy_of(way, members))
    if members is None or members.is_chief:
        np.savez(result, **numbers)
    return 0


def _unequal(found: str, workdir: Path) -> RunFailure:
    return RunFailure(
        found,
        where=str(workdir),
        expected="the same numbers to rounding",
        do="train on one device, and report this with the folder",
    )


def run() -> None:
    """Entry point of `onward-check-devices`."""
    launch.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
