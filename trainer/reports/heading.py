"""The header of a run: what will happen. And what can be done with its workdir afterwards."""

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from data.frozen import Frozen
from trainer.launch import PROJECT
from trainer.optimization.stages import Plan
from trainer.recipe import Recipe
from trainer.state import TrainingState

# Class names that are told.
LISTED = 8
RESULTS = "metrics.jsonl, tensorboard/, checkpoints/best/, report.html; messages of TensorFlow: log.txt"
SCRIPTS = PROJECT / "scripts"
# What to do with a workdir once there is one: script, its arguments, what for.
NEXT = (
    ("evaluate", "", "figures of every class, confusion matrix"),
    ("predict", "IMAGE_OR_FOLDER", "what other images show"),
    ("export", "--output=MODEL.keras", "the network for other programs"),
    ("report", "", "all there is to know, as one page"),
    ("preview", "--output=FOLDER", "what the network sees"),
)


def rows(
    recipe: Recipe,
    state: TrainingState,
    plan: Plan,
    data: Frozen,
    *,
    environment: dict,
    workdir: Path,
    step: int,
    weights: str,
) -> list[tuple[str, str]]:
    """What will happen, as name and value; `weights`: where those of the first step come from."""
    network, names = state.network, data.examples.class_names
    counts = ", ".join(f"{len(part)} {name}" for name, part in data.parts().items())
    rows = [
        ("data", f"{data.examples.root or recipe.source.__name__}: {counts}"),
        ("task", data.examples.task),
        (
            "outputs" if data.examples.task == "regression" else "classes",
            f"{len(names)}: {', '.join(names[:LISTED])}{' ...' if len(names) > LISTED else ''}",
        ),
        (
            "model",
            f"{recipe.model.backbone.name} at {recipe.image_size} px, {network.model.count_params():,} parameters",
        ),
        ("weights", weights),
    ]
    for planned in plan.stages:
        chosen = state.trainable[planned.stage.name].names
        size = sum(math.prod(network.variables[name].shape) for name in chosen)
        trains = f"{', '.join(planned.stage.trains)} ({len(chosen)} variables, {size:,} parameters)"
        rows.append((f"stage {planned.stage.name}", f"steps {planned.start} to {planned.stop}: trains {trains}"))
    if state.cut is not None:
        numbers = f"{' x '.join(map(str, state.cut.prefix.shape))} numbers of {recipe.features.dtype}"
        rows.append(
            ("features", f"{numbers} behind {state.cut.prefix.layer}, {recipe.features.views} view(s) an image")
        )
    devices = f"{environment['replicas']} x {environment['device_kind']}"
    devices += f" on {environment['workers']} workers" if environment["workers"] > 1 else ""
    rows.append(("devices", f"{devices}, {recipe.precision}, global batch {recipe.batch_size}"))
    rows.append(("in effect", _in_effect(environment)))
    rows.extend((f"{name} chosen", why) for name, why in environment["chosen"].items())
    rows.append(("workdir", f"{workdir}{f', goes on at step {step}' if step else ''}"))
    rows.append(("results", RESULTS))
    rows.extend(("note", note) for note in data.examples.notes)
    return rows


def _in_effect(environment: dict) -> str:
    """How the devices compute, in one sentence."""
    threads = environment["threads"]
    told = [f"XLA: {environment['xla']}", f"{threads} thread{'s' * (threads > 1)}"]
    told += [f"GPU threads: {environment['gpu_threads']}"] if environment["gpu_threads"] else []
    told += [f"gradients by {environment['reduction']}"] if environment["replicas"] > 1 else []
    ahead = environment["batches_ahead"]
    return "; ".join([*told, f"{ahead} batch ahead on each device"] if ahead else told)


def commands(workdir: Path) -> list[tuple[str, str]]:
    """What to type next, as whoever started this process would, and what for."""
    folder = shlex.quote(_short(str(workdir)))
    rows = [(f"{_script(name)} --workdir={folder} {more}".rstrip(), purpose) for name, more, purpose in NEXT]
    return [*rows, (f"tensorboard --logdir={folder}", "curves and pictures in a browser")]


def _script(name: str) -> str:
    """How one of the scripts is started: from the same place, with the same Python."""
    own = Path(sys.argv[0])
    if own.name.startswith("onward-"):
        return shlex.quote(str(own.with_name(f"onward-{name}"))) if os.sep in sys.argv[0] else f"onward-{name}"
    same = shutil.which("python") == sys.executable
    scripts = own.parent if (own.parent / f"{name}.py").exists() else Path(_short(str(SCRIPTS)))
    return f"{'python' if same else shlex.quote(_short(sys.executable))} {shlex.quote(str(scripts / name))}.py"


def _short(path: str) -> str:
    """Relative to the folder at hand where it lies below."""
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below
