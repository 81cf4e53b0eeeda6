"""Predicts steps of several replicas and processes from one replica, measures them, and prints both.

python scripts/check_scaling.py --workdir=runs/scaling --gin_file=configs/overhead.gin
python scripts/check_scaling.py --workdir=runs/scaling --gin_file=configs/overhead.gin --devices=gpu

The model is that of `scripts/train.py --plan` with `plan.scaling`, see docs/scaling.md. On GPUs as many of the ways are
measured as there are GPUs for; on CPUs all, which share their cores. Writes WORKDIR/NAME.json for each way, and the
table to WORKDIR/scaling.md.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
import json
from pathlib import Path

from absl import flags

from data.errors import UserError
from trainer.benchmarks import prediction
from trainer.benchmarks.results import Result
from trainer.cluster import Members
from trainer.launching import gpus
from trainer.proofs.ways import Way, define_flags, kind_of, own_way, strategy_of
from trainer.recipe import Recipe
from trainer.workdir import write_json, write_text

# Workers, and replicas of each.
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 1))


def main() -> int:
    own, workdir = flags.FLAGS, Path(launch.required("workdir")).expanduser().absolute()
    launch.parse_gin(own.gin_file, own.gin_param)
    recipe = launch.call(Recipe)
    if recipe.batch_size % max(prediction.PARTS):
        raise UserError(
            f"a batch of {recipe.batch_size}",
            where="gin binding train.batch_size (batch_size)",
            expected=f"a multiple of {max(prediction.PARTS)}, to be cut over as many replicas",
            do=f"--gin_param='batch_size = {max(prediction.PARTS) * (recipe.batch_size // max(prediction.PARTS) + 1)}'",
        )
    if way := own_way(own.devices):
        return _work(recipe, Path(own.result), way)
    kind, found = kind_of(own.devices), {}
    for way in (Way(kind, *shape) for shape in SHAPES):
        if kind == "gpu" and way.workers * way.replicas > len(gpus()):
            continue
        result = workdir / f"{way.name}.json"
        given = [*(f"--gin_file={each}" for each in own.gin_file), *(f"--gin_param={each}" for each in own.gin_param)]
        way.run([__file__, f"--workdir={workdir}", f"--devices={own.devices}", *given], result=result)
        found[way] = prediction.Measured.of(json.loads(result.read_text()))
        print(f"{way}: measured", flush=True)
    title = f"{recipe.model.backbone.name}, {recipe.image_size} px, batch {recipe.batch_size}, {recipe.precision}"
    rows = prediction.compare(found, batch=recipe.batch_size)
    result = Result(figures={}, tables=[prediction.table(rows, title=title)])
    write_text(workdir / "scaling.md", result.markdown("scaling"))
    result.show()
    return 0


def _work(recipe: Recipe, result: Path, way: Way) -> int:
    """As one of the processes that train."""
    members = Members.found(None)
    measured = prediction.measure(recipe, way, strategy_of(way, members))
    if members is None or members.is_chief:
        write_json(result, dataclasses.asdict(measured))
    return 0


def run() -> None:
    """Entry point of `onward-check-scaling`."""
    launch.define_flags()
    define_flags()
    launch.run(main)


if __name__ == "__main__":
    run()
