"""Workdirs as sessions leave them, of every task, without a training."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import Decoding
from data.examples import Examples
from data.frozen import Frozen, save
from data.inspection import Inspection, Sight
from trainer.outcomes import Details
from trainer.workdir import Workdir

# What a name would do to a page that took it for HTML, or could not write it.
HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "caf\udce9 {{ 7 * 7 }} \u202e\n</style>")
STEPS, BATCH, COUNT = 40, 8, 24
CONFIG = "batch_size = 8\ntrain.source = @folder\nfolder.root = '</pre><script>alert(3)</script>'\n"


def make(path: Path, *, task: str = "single_label", names=HOSTILE, steps: int = STEPS, seed: int = 0) -> Workdir:
    """Writes one, with the images of the examples in PATH/photos."""
    random = np.random.default_rng(seed)
    workdir = Workdir(str(path))
    class_names = tuple(names[:2] if task == "binary" else names)
    examples = table(path / "photos", class_names, task, random)
    inspection = Inspection.of([Sight(size=(6, 8))] * COUNT)
    split = np.repeat(np.arange(3, dtype=np.int8), COUNT // 3)
    save(workdir.examples, Frozen(examples, split, inspection, Decoding(short_side=8)))
    workdir.config.write_text(CONFIG)
    write(workdir.classes, list(class_names))
    write(workdir.environment, {"versions": {"python": "<b>3</b>"}, "devices": ["CPU:0"], "cores": 2, "seed": None})
    write(workdir.stages, stages())
    figures = {"loss": 0.5, "accuracy": 0.75} if task != "regression" else {"loss": 0.5, "mean_absolute_error": 0.25}
    events = log(figures, steps)
    workdir.metrics.write_text("".join(json.dumps(event) + "\n" for event in events))
    best = {"split": "validation", "metric": "loss", "value": 0.5, "step": steps}
    final = {split: figures | {"examples": 8} for split in ("validation", "test")}
    drift = {"backbone/<i>conv</i>": 0.25, "head/logits": 1.5, "head/new": None}
    write(
        workdir.summary, {"steps": steps, "epochs": 2.5, "final": final, "best": best, "drift": drift, "seconds": 12.0}
    )
    for index, name in enumerate(("train", "validation", "test")):
        details(examples.take(split == index), name, figures, steps, random).write(workdir.predictions / f"{name}.npz")
    return workdir


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def table(root: Path, class_names: tuple[str, ...], task: str, random: np.random.Generator) -> Examples:
    root.mkdir()
    names = sorted(f"{index:02}<b onclick=x>&amp;.png".encode() for index in range(COUNT))
    for name in names:
        Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(root / name.decode())
    labels = {
        "single_label": np.arange(COUNT) % len(class_names),
        "binary": np.arange(COUNT) % 2,
        "multi_label": random.integers(0, 2, (COUNT, len(class_names))),
        "regression": random.normal(size=(COUNT, len(class_names))),
    }[task]
    return Examples.of(names=names, labels=labels, class_names=class_names, task=task, root=str(root))


def stages() -> dict:
    cells = [{"trained": 0, "low": None, "high": None}, {"trained": 30, "low": 0.5, "high": 1.0}]
    about = {"batchnorm": "frozen", "image_size": 8, "operations": ["<u>flip</u>"]}
    return {
        "stages": [
            {"name": "<i>head</i>", "start": 0, "stop": 10, "trains": ["head"], **about},
            {"name": "all", "start": 10, "stop": STEPS, "trains": ["all"], **about},
        ],
        "layers": [
            {"name": "backbone/<i>conv</i>", "parameters": 30, "normalises": False, "stages": cells},
            {"name": "backbone/bn", "parameters": 4, "normalises": True, "stages": cells[:1] * 2},
            {"name": "head/logits", "parameters": 30, "normalises": False, "stages": cells[1:] * 2},
        ],
    }


def log(figures: dict[str, float], steps: int) -> list[dict]:
    """The events of a run of two stages that was stopped once."""
    events = [{"event": "start", "step": 0, "weights": None}, {"event": "stage", "step": 0, "stage": "<i>head</i>"}]
    for step in range(1, steps + 1):
        rate = 1e-2 if step <= 10 else 1e-4
        told = {"loss": 2 / step, "learning_rate": rate, "images_per_second": 90.0 + step % 3, "data_wait": 0.01}
        told |= {name: value for name, value in figures.items() if name != "loss"}
        events.append({"event": "train", "step": step, "epoch": step / 16, **told})
        if step == 10:
            events += [{"event": "stage", "step": step, "stage": "all"}, {"event": "resume", "step": step}]
        if step % 20 == 0 or step == steps:
            events += [
                {"event": "eval", "step": step, "split": split, **figures, "examples": 8}
                for split in ("validation", "test")
            ]
    return [
        *events,
        {"event": "replaced", "step": steps, "count": 1, "image": "<b>x</b>"},
        {"event": "stop", "step": steps, "reason": "done"},
    ]


def details(examples: Examples, split: str, figures: dict, step: int, random: np.random.Generator) -> Details:
    count, classes, task = len(examples), len(examples.class_names), examples.task
    columns: dict[str, object] = {}
    if task in ("single_label", "binary"):
        predicted = np.roll(examples.labels, 1)
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (examples.labels, predicted), 1)
        sure = random.uniform(0.5, 1, count).astype(np.float32)
        columns = {
            "predicted": predicted,
            "predicted_probability": sure,
            "label_probability": 1 - sure,
            "confusion": confusion,
        }
    elif task == "multi_label":
        columns = {"probabilities": random.uniform(size=(count, classes)).astype(np.float32)}
    else:
        columns = {"predictions": (examples.labels + 0.1).astype(np.float32)}
    if task != "regression":
        weight = np.arange(15.0)
        columns |= {"calibration_weight": weight, "calibration_confidence": weight / 2, "calibration_right": weight / 3}
    figure = "mean_absolute_error" if task == "regression" else "f1"
    return Details(
        task=task,
        split=split,
        weights="",
        step=step,
        root=examples.root,
        class_names=examples.class_names,
        figures=figures,
        names=examples.names,
        labels=examples.labels,
        example_weights=examples.weights,
        seen=np.ones(count, bool),
        losses=np.arange(count, dtype=np.float32),
        each={"examples": np.arange(classes), figure: np.linspace(0, 1, classes), "roc_auc": np.full(classes, np.nan)},
        **columns,
    )
