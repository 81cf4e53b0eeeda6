"""Trains a recipe in a workdir, or goes on where the workdir stands.

python scripts/train.py --workdir=runs/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
python scripts/train.py --workdir=runs/more --init_from=runs/photos ...  (a new session with weights of another)
python scripts/train.py --cluster=slurm ...  (as one of several processes that train together; see scripts/launch.py)
python scripts/train.py --plan --gin_file=configs/finetune.gin --gin_param="data_dir = 'photos'"
python scripts/train.py --backbones
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from absl import flags

from trainer import plan
from trainer.cluster import START_WITHIN, Members
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
        seconds=None if flags.FLAGS.time_limit is None else 60 * flags.FLAGS.time_limit,
        members=Members.found(flags.FLAGS.cluster),
        start_within=flags.FLAGS.start_within,
    )
    return session.run()


def tell_plan() -> int:
    """Prints what the recipe would do in each stage, and to which variable."""
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    console = Console()
    where = {"device_spec": flags.FLAGS.devices, "init_from": flags.FLAGS.init_from}
    explained = plan.explain(launch.call(Recipe), console, **where)
    console.header(explained.rows)
    for line in ("", *plan.LEGEND, "", *explained.table, *explained.scaling):
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
    flags.DEFINE_float(
        "time_limit", None, "Minutes after its start at which the command saves and stops, exit 75.", lower_bound=0
    )
    flags.DEFINE_string(
        "cluster",
        None,
        "Trains together with other processes that run the same command: slurm, or their addresses, such as "
        "'onward-{0..3}.onward:2222' in an indexed job of Kubernetes. Without it TF_CONFIG decides, where it is set.",
    )
    flags.DEFINE_float("start_within", START_WITHIN, "Seconds that the others have to join.", lower_bound=1)
    flags.DEFINE_list("allow_change", [], "Settings that may differ from the last start, as the error names them.")


def run() -> None:
    """Entry point of `onward-train`."""
    launch.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
