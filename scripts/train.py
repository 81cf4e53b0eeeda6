"""Trains a recipe in a workdir, or goes on where the workdir stands.

python scripts/train.py --workdir=runs/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from absl import flags

from trainer.recipe import Recipe
from trainer.session import Session
from trainer.workdir import Workdir


def main() -> int:
    workdir = Workdir(launch.required("workdir"))
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    session = Session(recipe, workdir, device_spec=flags.FLAGS.devices, allow_change=flags.FLAGS.allow_change)
    return session.run()


def define_flags() -> None:
    """Registers the flags of this script alone."""
    flags.DEFINE_list("allow_change", [], "Settings that may differ from the last start, as the error names them.")


def run() -> None:
    """Entry point of `onward-train`."""
    launch.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
