"""Harms each file of small sessions in each way, and shows that training goes on to the same weights or refuses.

python scripts/prove_damage.py --workdir=runs/damage

Exit status 0: nothing wrong. 1: a traceback, other weights than those of the straight run, or a refusal that changed
files. The sessions are of configs/damage.gin: one on images, interrupted by a kill; one on features, interrupted while
they were computed, and once more while training; and one that has come to its end.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from rich.console import Console
from rich.table import Table

from data.errors import UserError
from scripts import train
from trainer.proofs import damage
from trainer.proofs.damage import Case, Outcome

IMAGES, CLASSES = 40, ("cat", "dog", "emu")
KILLED_AT = 14
FEATURES = (
    "train.features = @features()",
    "train.store = None",
    "train.anchor = None",
    "all/stage.trains = 'head'",
    "all/stage.batchnorm = 'frozen'",
)
OTHER = ("seed = 1", "split_by_hash.seed = 1")
SEED = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """A session to be harmed.

    Attributes:
        bindings: beside those of the recipe.
        before: what its process does first, to be interrupted; None: nothing, it comes to its end.
        straight: name of the kind whose end is the right one.
    """

    bindings: tuple[str, ...]
    before: Callable[[], None] | None
    straight: str


KINDS = {
    "finished": Kind((), None, "finished"),
    "images": Kind((), lambda: damage.end_at(KILLED_AT), "finished"),
    "features finished": Kind(FEATURES, None, "features finished"),
    "features": Kind(FEATURES, lambda: damage.end_at(KILLED_AT), "features finished"),
    "features half": Kind(FEATURES, damage.end_amid_features, "features finished"),
}
# What is harmed in which; what a session on features shares with one on images is harmed there.
HARMED = {
    "images": ("*",),
    "features": ("features/*",),
    "features half": ("features/*",),
    "finished": (
        "summary.json",
        "metrics.jsonl",
        "report.html",
        "stages.json",
        "predictions/*",
        "checkpoints/ckpt-*",
        "checkpoints/best/ckpt-*",
    ),
}


def main() -> int:
    workdir = Path(launch.required("workdir")).absolute()
    _make_room(workdir)
    _draw_photos(workdir / "photos")
    for name, kind in KINDS.items():
        for owner, more in (("ours", ()), *([("other", OTHER)] if name in HARMED else [])):
            status = _train(workdir / owner / name, workdir, (*kind.bindings, *more), before=kind.before)
            if status not in (0, -9):
                raise _failed(workdir / owner / name, status)
    print("the sessions are there", flush=True)
    chosen = [
        case
        for name, below in HARMED.items()
        for case in damage.cases(name, workdir / "ours" / name, workdir / "other" / name)
        if any(map(Path(case.path).match, below)) and _wanted(case)
    ]
    print(f"{len(chosen)} cases", flush=True)
    usual = {name: _usual(workdir, name) for name in HARMED}
    outcomes = {}
    for number, case in enumerate(chosen, 1):
        outcomes[case] = found = _outcome(workdir, case, usual[case.session])
        print(
            f"{number}/{len(chosen)} {case.session}: {case.path} {case.harm}: {found.opinion}  {found.told}", flush=True
        )
    _tell(outcomes)
    return 1 if any(outcome.opinion == "WRONG" for outcome in outcomes.values()) else 0


def _wanted(case: Case) -> bool:
    return any(map(Path(case.path).match, flags.FLAGS.files)) and case.harm in flags.FLAGS.harms


def _make_room(workdir: Path) -> None:
    """Removes what an earlier proof has left, and nothing else."""
    left = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if left - {"photos", "ours", "other", "cases"}:
        raise UserError(
            f"{workdir} holds something else than an earlier proof",
            where="--workdir",
            expected="a folder that is new, or from an earlier proof",
            do="choose another --workdir",
        )
    for name in left:
        shutil.rmtree(workdir / name)


def _draw_photos(root: Path) -> None:
    random = np.random.default_rng(SEED)
    for index in range(IMAGES):
        path = root / CLASSES[index % len(CLASSES)] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def _train(folder: Path, workdir: Path, bindings: tuple[str, ...], *, before: Callable[[], None] | None) -> int:
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = [f"--workdir={folder}", f"--gin_file={launch.PROJECT / 'configs' / 'damage.gin'}", "--devices=cpu"]
    given += [f"--gin_param={binding}" for binding in (f"data_dir = {str(workdir / 'photos')!r}", *bindings)]
    return damage.train(given, train.main, output=_log(folder), before=before or (lambda: None))


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _failed(folder: Path, status: int) -> UserError:
    return UserError(
        f"a session that nothing has harmed ended with status {status}",
        where=str(_log(folder)),
        expected="status 0, or its kill",
        do="look into what it printed",
    )


def _usual(workdir: Path, name: str) -> str:
    """What a start prints where nothing is harmed; it ends as the straight run does."""
    folder = workdir / "cases" / "usual"
    found = _outcome(workdir, Case(name, "", ""), "")
    if found.opinion != "goes on":
        raise UserError(
            f"a session that nothing has harmed {found.opinion}: {found.told}",
            where=str(folder),
            expected="that it ends as a straight one",
            do="try scripts/prove_resume.py",
        )
    return _log(workdir / "cases" / "case").read_text()


def _outcome(workdir: Path, case: Case, usual: str) -> Outcome:
    kind, folder = KINDS[case.session], workdir / "cases" / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(workdir / "ours" / case.session, folder)
    if case.harm:
        damage.inflict(case, folder, workdir / "other" / case.session, seed=flags.FLAGS.seed)
    harmed = damage.contents(folder)
    status = _train(folder, workdir, kind.bindings, before=None)
    straight = workdir / "ours" / kind.straight
    printed = _log(folder).read_text(errors="replace")
    return damage.judge(case, status, printed, folder=folder, harmed=harmed, straight=straight, usual=usual)


def _tell(outcomes: dict[Case, Outcome]) -> None:
    """Prints a table, and writes it as Markdown where that is wanted."""
    files = list(dict.fromkeys((case.session, case.path) for case in outcomes))
    harms = [harm for harm in damage.HARMS if harm in flags.FLAGS.harms]
    rows = [
        (session, path, *(getattr(outcomes.get(Case(session, path, harm)), "opinion", "-") for harm in harms))
        for session, path in files
    ]
    table = Table("session", "file", *harms)
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    print(", ".join(f"{count} {opinion}" for opinion, count in Counter(o.opinion for o in outcomes.values()).items()))
    if flags.FLAGS.markdown:
        lines = [f"| {' | '.join(row)} |" for row in (("session", "file", *harms), ("---",) * (2 + len(harms)), *rows)]
        Path(flags.FLAGS.markdown).write_text("\n".join(lines) + "\n")


def run() -> None:
    """Entry point of `onward-prove-damage`."""
    launch.define_flags()
    train.define_flags()
    flags.DEFINE_multi_string("files", ["*"], "Only files whose paths in the workdir match this pattern.")
    flags.DEFINE_list("harms", list(damage.HARMS), f"Which harms, of: {', '.join(damage.HARMS)}.")
    flags.DEFINE_integer("seed", SEED, "Draws which byte is flipped and where a file ends.")
    flags.DEFINE_string("markdown", None, "File for the table as Markdown.")
    launch.run(main)


if __name__ == "__main__":
    run()
