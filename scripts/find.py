"""Finds a learning rate: trains a copy of the network with a rate that rises each step, until the loss blows up.

python scripts/find.py --output=finds/head --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
python scripts/find.py --output=finds/blocks --workdir=runs/photos --checkpoint=last --stage=blocks

Writes rate.json and rate.png into the folder --output, and nothing else: not into a session. With --workdir the network
has the weights of a checkpoint of that session, else those that a new session would begin with. The largest and the
fastest batch are a matter of scripts/benchmark.py --part=sweep.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from data.errors import UserError
from trainer import checkpoints, choosing, data_setup, devices, features, finder, losses, rendering
from trainer.batches import share_of
from trainer.finder import Weights
from trainer.rate_curve import MARGIN, Curve, plot
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir, write_bytes, write_json


def main() -> int:
    session, folder = _session(), Path(launch.required("output")).expanduser().absolute()
    rates = np.geomspace(flags.FLAGS.lowest, flags.FLAGS.highest, flags.FLAGS.steps)
    launch.parse_gin(flags.FLAGS.gin_file or ([str(session.config)] if session else []), flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    weights = _weights(session)
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    strategy = devices.set_up(flags.FLAGS.devices, reduce_by=recipe.reduction, threads=recipe.threads)
    if session is None:
        recipe, _ = choosing.assumed(recipe, strategy)
    else:
        recipe = choosing.remembered(recipe, session.written_config())
    launch.call(rendering.check, recipe, recipe.stages)
    features.check(recipe)
    share_of(recipe, strategy.num_replicas_in_sync)
    with contextlib.ExitStack() as stack:
        place = session or Workdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-find-")))
        data = data_setup.open_data(recipe, place, console, resuming=session is not None)
        data_setup.training_part(recipe, data.parts()["train"])
        launch.call(recipe.optimizer.make)
        loss = launch.call(partial(losses.chosen, outputs=data.examples.outputs), recipe.loss, data.examples.task)
        launch.check_consumed()
        curve, planned = finder.find(
            recipe,
            data,
            strategy=strategy,
            loss=loss,
            stage=flags.FLAGS.stage,
            weights=weights,
            rates=rates,
            report=console.count("trying learning rates", len(rates)),
        )
    console.close()
    title = f"{recipe.model.backbone.name}, stage {planned.stage.name}, batch {recipe.batch_size}, {recipe.precision}"
    with _written(folder):
        write_json(folder / "rate.json", {"title": title, "rate_factor": recipe.rate_factor, **curve.facts()})
        write_bytes(folder / "rate.png", plot(curve, title=title))
    for sentence in told(curve, stage=planned.stage.name, factor=recipe.rate_factor):
        console.say(sentence)
    console.say(f"{title}: {folder / 'rate.png'}")
    return 0


def _session() -> Workdir | None:
    given = flags.FLAGS
    if not 0 < given.lowest < given.highest < float("inf"):
        raise UserError(
            f"--lowest={given.lowest:g} --highest={given.highest:g}",
            where="command line",
            expected="rates above 0, the lowest below the highest",
            do="leave them out",
        )
    if given.workdir and given.init_from:
        raise UserError(
            "both --workdir and --init_from are given",
            where="command line",
            expected="one place that the weights come from",
            do="leave one of them out",
        )
    return Workdir.existing(given.workdir) if given.workdir else None


def _weights(session: Workdir | None) -> Weights:
    if session is None:
        return Weights(source=flags.FLAGS.init_from)
    prefix = checkpoints.find(session.checkpoints, flags.FLAGS.checkpoint, weights="raw")
    return Weights(prefix=prefix, group=checkpoints.weights_group(prefix, "raw"))


@contextlib.contextmanager
def _written(folder: Path):
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"the result cannot be written: {error}",
            where="--output",
            expected="a folder that this user can make and write",
            do="choose another --output",
        ) from error


def told(found: Curve, *, stage: str, factor: float) -> list[str]:
    """Sentences on a curve.

    Args:
        stage: its name.
        factor: of the rates of the recipe, by its batch size.
    """
    count, first, last = len(found.rates), found.rates[0], found.rates[-1]
    sentences = [f"{count} steps with learning rates from {first:.1e} to {last:.1e}"]
    if found.blow_up is None:
        sentences.append("the loss did not blow up: a higher --highest would show where it does")
    else:
        sentences.append(
            f"the loss blows up at {found.blow_up:.1e}; a {MARGIN:g}th of that is {found.blow_up / MARGIN:.1e}"
        )
    if found.steepest is None:
        sentences.append("the loss hardly falls: more --steps or another range may show where it does")
        return sentences
    sentences.append(f"it falls fastest at {found.steepest:.1e}")
    shown = found.suggested if factor == 1 else float(f"{found.suggested / factor:.1e}")
    why = "" if factor == 1 else f" (times {factor:g}, by train.learning_rate_scaling, that is {found.suggested:g})"
    sentences.append(f"suggested as the peak of the schedule of the stage {stage}: {shown:g}{why}")
    return sentences


def run() -> None:
    """Entry point of `onward-find`."""
    launch.define_flags()
    flags.DEFINE_string("output", None, "Folder for rate.json and rate.png.")
    flags.DEFINE_string("stage", None, "Whose training is tried; by default the first one's.")
    flags.DEFINE_string("checkpoint", "last", "With --workdir: best, last, or a step.")
    flags.DEFINE_string("init_from", None, "Whose weights to begin with, as in scripts/train.py.")
    flags.DEFINE_integer("steps", 100, "Steps from the lowest rate to the highest.", lower_bound=10)
    flags.DEFINE_float("lowest", 1e-7, "The first learning rate.")
    flags.DEFINE_float("highest", 10.0, "The last one, if the loss does not blow up before.")
    launch.run(main)


if __name__ == "__main__":
    run()
