"""Trains a recipe in a workdir, or goes on where the workdir stands.

python scripts/train.py --workdir=runs/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
python scripts/train.py --workdir=runs/more --init_from=runs/photos ...  (a new session with weights of another)
python scripts/train.py --plan --gin_file=configs/finetune.gin --gin_param="data_dir = 'photos'"
python scripts/train.py --backbones
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from absl import flags

from trainer import plan
from trainer.models.backbones import BACKBONES
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.session import Session
from trainer.workdir import Workdir


def main() -> int:
    if flags.FLAGS.backbones:
        Console().backbones(BACKBONES.values())
        return 0
    if flags.FLAGS.plan:
        return tell_plan()
    workdir = Workdir(launch.required("workdir"))
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    session = Session(
        recipe,
        workdir,
        device_spec=flags.FLAGS.devices,
        allow_change=flags.FLAGS.allow_change,
        init_from=flags.FLAGS.init_from,
    )
    return session.run()


def tell_plan() -> int:
    """Prints what the recipe would do in each stage, and to which variable."""
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    console = Console()
    where = {"device_spec": flags.FLAGS.devices, "init_from": flags.FLAGS.init_from}
    explained = plan.explain(launch.call(Recipe), console, **where)
    console.header(explained.rows)
    for line in ("", *plan.LEGEND, "", *explained.table):
        console.say(line)
    return 0


def define_flags() -> None:
    """Registers the flags of this script alone."""
    flags.DEFINE_bool("backbones", False, "Only list the backbones: image size, parameters, blocks, weights.")
    flags.DEFINE_bool("plan", False, "Only tell what would train when and at which rate; writes nothing.")
    flags.DEFINE_string(
        "init_from",
        None,
        "Whose weights a new session begins with: a workdir, checkpoint, .keras, .h5, .weights.h5 or SavedModel, or "
        "the word imagenet. A session that goes on does not read it.",
    )
    flags.DEFINE_list("allow_change", [], "Settings that may differ from the last start, as the error names them.")


def run() -> None:
    """Entry point of `onward-train`."""
    launch.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
