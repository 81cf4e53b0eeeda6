"""Trains with several workers on this machine, each a process of scripts/train.py, and takes its flags.

python scripts/launch.py --workers=2 --workdir=runs/photos --gin_file=configs/extend.gin ...
python scripts/launch.py --workers=4 --restarts=10 --start_within=120 --workdir=runs/photos ...

Shows what worker 0 prints; all is in WORKDIR/workers/worker-N.log. If a worker dies, all are started again and go on
from the newest checkpoint. Signals are passed on: SIGTERM saves and stops all.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from pathlib import Path

from absl import flags

from data.errors import UserError
from scripts import train
from trainer import launching


def main() -> int:
    own, workdir = flags.FLAGS, Path(launch.required("workdir")).expanduser().absolute()
    found = [] if own.devices.startswith("cpu") else launching.gpus()
    if own.devices.startswith("gpu:"):
        raise UserError(
            f"--devices={own.devices}",
            where="command line",
            expected="auto, cpu or gpu: the GPUs that CUDA_VISIBLE_DEVICES names are dealt out to the workers",
            do=f"CUDA_VISIBLE_DEVICES={own.devices.removeprefix('gpu:')} and --devices=gpu",
        )
    group = launching.Group(
        launching.train_command(_arguments(), project=launch.PROJECT),
        workers=own.workers,
        environments=launching.dealt(found, workers=own.workers) if found else None,
        logs=workdir / "workers",
        show_all=own.show_all,
    )
    return group.run(restarts=own.restarts)


def _arguments() -> list[str]:
    """The flags of scripts/train.py that were given."""
    arguments = []
    for module in (launch, train):
        for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]:
            if flag.present:
                values = flag.value if isinstance(flag, flags.MultiFlag) else [None]
                arguments += [flag.serialize() if value is None else f"--{flag.name}={value}" for value in values]
    return arguments


def define_flags() -> None:
    """Registers the flags of this script alone."""
    flags.DEFINE_integer("workers", 2, "How many workers.", lower_bound=1)
    flags.DEFINE_integer("restarts", 3, "How many times all are started again after a failure.", lower_bound=0)
    flags.DEFINE_bool("show_all", False, "Shows what all workers print, not only the first.")


def run() -> None:
    """Entry point of `onward-launch`."""
    launch.define_flags()
    train.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
