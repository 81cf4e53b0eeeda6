"""Trains a recipe straight and interrupted at random moments, and compares every variable and every figure bit for bit.

python scripts/prove_resume.py --workdir=runs/proof --gin_file=configs/proof.gin --kills=20
python scripts/prove_resume.py ... --kinds=kill,devices --devices=cpu:1  (goes on with 1, 2 or 4 replicas)

Interrupted is by: kill (SIGKILL), term (SIGTERM, SIGINT or SIGUSR1), disk (no file may grow any more), damage (a kill,
and a file of the newest checkpoint is harmed), devices (a kill, then another number of replicas; only if named, since
sums in another order are equal to rounding, not bit for bit). How many hit start-up, training, evaluation and saving
(packing and features where there are any) is fixed, when exactly is drawn. Where a run is over before all
interruptions were made, another one takes the rest. Works with any recipe that has `train.deterministic = True`.

Exit status 0: equal. 1: something differs, or a run did not end as it has to; the first such thing is printed.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from absl import flags

from data.errors import UserError
from data.names import SESSION_LOCK
from scripts import train
from trainer import checkpoints
from trainer.proofs import interruptions
from trainer.proofs.announcing import announce_phases
from trainer.proofs.comparison import Rounding, first_difference
from trainer.proofs.interruptions import Interrupter, Interruption, Training, Unexpected
from trainer.recipe import Recipe
from trainer.reports.log import MetricsLog


def main() -> int:
    workdir = Path(launch.required("workdir"))
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    if not recipe.deterministic:
        raise UserError(
            "the operations of this recipe need not give the same bits twice",
            where="gin binding train.deterministic",
            expected="True",
            do="--gin_param='train.deterministic = True'",
        )
    chance = random.Random(flags.FLAGS.seed)
    straight = workdir / "straight"
    for earlier in (straight, *workdir.glob("interrupted*")):
        _remove(earlier)
    began = time.monotonic()
    _train(straight, devices=flags.FLAGS.devices)
    seconds = time.monotonic() - began
    _say(f"straight run: {seconds:.0f} s")

    kinds = _possible(flags.FLAGS.kinds, straight)
    phases = _phases(straight)
    left = interruptions.planned(flags.FLAGS.kills, kinds=kinds, phases=phases, chance=chance)
    _say(f"{len(left)} interruptions, seed {flags.FLAGS.seed}: {_counted(left)}")
    files = (straight / "checkpoints").glob("ckpt-*")
    largest = max(path.stat().st_size for path in files if path.is_file())
    steps, batch = checkpoints.steps_in(straight / "checkpoints")[-1], recipe.batch_size
    interrupter = Interrupter(
        chance,
        checkpoint_bytes=largest,
        # So that those in training lie all over it.
        windows=max(3, steps // recipe.window // len(left)),
        patience=max(300.0, 3 * seconds),
    )
    rounding = Rounding(steps, terms=batch) if "devices" in kinds else None
    run, total, fruitless = 0, 0, 0
    while left:
        run += 1
        folder, before = workdir / ("interrupted" if run == 1 else f"interrupted-{run}"), len(left)
        try:
            total += _interrupted(folder, left, interrupter, chance)
        except Unexpected as found:
            return _different(str(found), folder)
        fruitless = fruitless + 1 if len(left) == before else 0
        if fruitless == 2:
            raise UserError(
                f"two whole runs had no moment for these interruptions: {_counted(left)}",
                where="--gin_file, --kinds",
                expected="a run of more steps, with more evaluations and checkpoints",
                do="lengthen a stage, save or evaluate more often, or lower --kills",
            )
        if difference := first_difference(straight, folder, rounding=rounding):
            return _different(difference, folder)
    _say(f"interrupted {total} times in {run} runs; a stop took {interrupter.slowest_stop:.1f} s at most")
    return 0


def _interrupted(folder: Path, left: list[Interruption], interrupter: Interrupter, chance: random.Random) -> int:
    """Trains to the end, interrupted as long as something is left; takes what was done from the list.

    Returns:
        how often.
    """
    devices, goes_on_from, made, other = flags.FLAGS.devices, None, 0, False
    while left:
        begun = checkpoints.steps_in(folder / "checkpoints")
        wanted = next((each for each in left if not (begun and each.phase in interruptions.ONCE)), None)
        if wanted is None:
            break
        hold = interrupter.moment(wanted)
        training = Training(_command(__file__, folder, devices=devices), hold=hold, log=folder.with_suffix(".log"))
        # Other replicas shall have a part in the weights.
        hit, restored = interrupter.interrupt(training, wanted, hold=hold, folder=folder, saved=other)
        if restored is not None:
            if goes_on_from is not None and restored.step not in goes_on_from:
                raise Unexpected(f"went on from step {restored.step}, not from {goes_on_from}")
            goes_on_from = None
        if hit is None:
            return made
        made += 1
        told = hit.told + (f" (went on from {restored.step})" if restored else "")
        goes_on_from = hit.goes_on_from or goes_on_from
        other = wanted.kind == "devices"
        if other:
            devices = chance.choice([each for each in interruptions.DEVICES if each != devices])
            told += f"; goes on with --devices={devices}"
        if hit.phase == wanted.phase:
            left.remove(wanted)
        _say(f"{len(left)} left, {wanted.kind}: {told}")
    _train(folder, devices=devices)
    resumed = [event["step"] for event in MetricsLog(folder / "metrics.jsonl").find("resume")]
    if goes_on_from is not None and resumed and resumed[-1] not in goes_on_from:
        raise Unexpected(f"went on from step {resumed[-1]}, not from {goes_on_from}")
    return made


def _possible(kinds: list[str], straight: Path) -> list[str]:
    """The kinds that are wanted and can be."""
    unknown = sorted(set(kinds) - set(interruptions.KINDS))
    if unknown or not kinds:
        raise UserError(
            f"--kinds={','.join(kinds)}",
            where="command line",
            expected=f"some of {', '.join(interruptions.KINDS)}",
            do="correct it",
        )
    if "damage" in kinds and len(checkpoints.steps_in(straight / "checkpoints")) < 2:
        kinds = [kind for kind in kinds if kind != "damage"] or ["kill"]
        _say("the recipe keeps one checkpoint: none is harmed")
    return kinds


def _phases(straight: Path) -> list[str]:
    """The phases of a run, as its workdir shows them."""
    log = MetricsLog(straight / "metrics.jsonl")
    there = {
        "packing": (straight / "store").exists(),
        "features": (straight / "features").exists(),
        "evaluation": bool(log.find("eval")),
    }
    return [phase for phase in interruptions.PHASES if there.get(phase, True)]


def _counted(left: list[Interruption]) -> str:
    by_phase, by_kind = Counter(each.phase for each in left), Counter(each.kind for each in left)
    phases = ", ".join(f"{by_phase[phase]} in {phase}" for phase in interruptions.PHASES if by_phase[phase])
    return f"{phases}; " + ", ".join(f"{count} {kind}" for kind, count in sorted(by_kind.items()))


def _remove(workdir: Path) -> None:
    """Removes the workdir of an earlier proof, and nothing else."""
    if workdir.is_dir() and any(workdir.iterdir()) and not (workdir / SESSION_LOCK).exists():
        raise UserError(
            f"{workdir} is there and is no workdir of a session",
            where="--workdir",
            expected="a folder that is new, or from an earlier proof",
            do="choose another --workdir",
        )
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.with_suffix(".log").unlink(missing_ok=True)


def _command(script: str, workdir: Path, *, devices: str) -> list[str]:
    workdir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, os.path.abspath(script), f"--workdir={workdir}", f"--devices={devices}"]
    command += [f"--gin_file={path}" for path in flags.FLAGS.gin_file]
    return command + [f"--gin_param={binding}" for binding in flags.FLAGS.gin_param]


def _train(workdir: Path, *, devices: str) -> None:
    """Trains to the end with scripts/train.py.

    Raises:
        UserError: it does not come to its end.
    """
    command, log = _command(train.__file__, workdir, devices=devices), workdir.with_suffix(".log")
    with open(log, "a") as output:
        status = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    if status:
        raise UserError(
            f"the training ended with status {status}: " + "\n".join(log.read_text().splitlines()[-12:]),
            where=str(workdir),
            expected="a recipe that trains to its end",
            do="try it with scripts/train.py first",
        )


def _different(difference: str, folder: Path) -> int:
    print(f"DIFFERENT: {difference}\n  see {folder} and {folder.with_suffix('.log')}")
    return 1


def _say(text: str) -> None:
    print(text, flush=True)


def announced_training() -> int:
    announce_phases(flags.FLAGS.announce, flags.FLAGS.hold)
    return train.main()


def run() -> None:
    """Entry point of `onward-prove-resume`."""
    launch.define_flags()
    train.define_flags()
    flags.DEFINE_integer("kills", 20, "How often the run is interrupted.", lower_bound=1)
    flags.DEFINE_list("kinds", ["kill", "term", "disk", "damage"], "How: some of kill, term, disk, damage, devices.")
    flags.DEFINE_integer("seed", 0, "Draws the moments.")
    flags.DEFINE_integer("announce", None, "For this script's own use: file descriptor of a pipe.")
    flags.DEFINE_string("hold", "", "For this script's own use: where to wait for the interruption.")
    launch.run(lambda: announced_training() if flags.FLAGS.announce else main())


if __name__ == "__main__":
    run()
