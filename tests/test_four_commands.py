"""The four commands of README.md, from a folder of photos to report, predictions and export, in shortened form."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
TITLE = "From a folder of photos to a model in four commands"
CLASSES = ("cat", "dog", "emu")
NEW = 3
# A network that is built in a moment, on small images, for a few steps.
SMALL = ("backbone = 'convnet'", "model.weights = None", "image_size = 16", "batch_size = 8", "epochs = 1")
SHORT = {
    # Its training is that of tests/test_scripts.py.
    "quickstart": ["--plan"],
    "train": [f"--gin_param={binding}" for binding in (*SMALL, "train.tensorboard = None")],
}


def shown() -> list[list[str]]:
    """Words of each command of the section; what it prints is left out."""
    section = (PROJECT / "README.md").read_text().split(f"## {TITLE}\n")[1].split("\n## ")[0]
    block = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0].replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ ")) for line in block.splitlines() if line.startswith("$ ")]


def as_started(words: list[str]) -> tuple[str, str, list[str]]:
    """Name of what is shortened, script and arguments of a command."""
    if words[0] == "./scripts/quickstart":
        script = PROJECT / "scripts" / "quickstart"
        assert os.access(script, os.X_OK)
        started = re.search(r'scripts/train\.py" --gin_file="\$root/(\S+)" "\$@"', script.read_text())
        return "quickstart", "train", [f"--gin_file={started[1]}", "--workdir=runs/quickstart", *words[1:]]
    python, script, *arguments = words
    assert python == ".venv/bin/python" and (PROJECT / script).is_file()
    return Path(script).stem, Path(script).stem, arguments


@pytest.fixture
def folder(tmp_path):
    """Where somebody keeps photos/ and new/."""
    random = np.random.default_rng(0)
    names = [f"photos/{name}/{row}.jpg" for name in CLASSES for row in range(10)]
    for name in [*names, *(f"new/{row}.jpg" for row in range(NEW))]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_they_lead_from_photos_to_report_predictions_and_export(command, folder):
    commands = [as_started(words) for words in shown()]
    assert [name for name, *_ in commands] == ["quickstart", "train", "predict", "export"]
    for name, script, arguments in commands:
        started = command(script, *SHORT.get(name, []), "--devices=cpu", *arguments, folder=folder)
        # An export is read again by a process that imports TensorFlow anew.
        assert started.end(within=600) == 0, started.printed

    workdir, report = folder / "runs" / "photos", folder / "runs" / "photos" / "report.html"
    assert json.loads((workdir / "summary.json").read_text())["final"]["test"]["examples"] > 0
    assert all(name in report.read_text() for name in CLASSES)
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"new/{row}.jpg" for row in range(NEW)]
    assert all(row["class"] in CLASSES and not row["reason"] for row in rows)
    network = keras.models.load_model(folder / "photos.keras")
    assert network(np.zeros((1, 16, 16, 3), np.float32)).shape == (1, len(CLASSES))
    assert json.loads((folder / "photos.keras.classes.json").read_text())["classes"] == list(CLASSES)
