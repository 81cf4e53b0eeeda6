"""The commands as a user starts them, in shortened form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
TRASHNET = PROJECT.parent / "shared" / "data" / "trashnet"


def start(script, *arguments, timeout=600):
    command = [sys.executable, str(PROJECT / "scripts" / script), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


@pytest.mark.parametrize(
    ("recipe", "kinds", "phases"),
    [
        ("proof", ["kill", "disk"], "1 in training, 1 in saving"),
    ],
)
def test_a_run_that_is_interrupted_ends_in_the_same_bits(tmp_path, recipe, kinds, phases):
    how = [f"--kills={len(kinds)}", f"--kinds={','.join(kinds)}", "--gin_param=epochs = 2", "--devices=cpu"]
    file = f"--gin_file={PROJECT / 'configs' / f'{recipe}.gin'}"
    proved = start("prove_resume.py", f"--workdir={tmp_path}", file, *how)
    assert proved.returncode == 0, proved.stdout + proved.stderr
    assert phases in proved.stdout and all(f"1 {kind}" in proved.stdout for kind in kinds)
    assert "variables of checkpoints/ckpt-" in proved.stdout and "equal bit for bit" in proved.stdout


def test_the_recipe_that_proves_features_trains(command, tmp_path):
    file = f"--gin_file={PROJECT / 'configs' / 'proof_features.gin'}"
    short = ("--gin_param=epochs = 0.5", "--gin_param=image_size = 32", "--gin_param=features.views = 1")
    trained = command("train", f"--workdir={tmp_path}", file, *short, "--gin_param=train.threads = 1", "--devices=cpu")
    assert trained.end() == 0, trained.printed
    assert json.loads((tmp_path / "environment.json").read_text())["threads"] == 1


def test_the_quickstart_trains_lite0_on_digits_and_evaluates_a_checkpoint_of_it(command, tmp_path):
    workdir = f"--workdir={tmp_path / 'digits'}"
    recipe = f"--gin_file={PROJECT / 'configs' / 'quickstart.gin'}"
    short = ["--gin_param=epochs = 0.1", "--gin_param=head/stage.length = (3, 'steps')", "--devices=cpu"]
    trained = command("train", workdir, recipe, *short)
    assert trained.end() == 0, trained.printed
    summary = json.loads((tmp_path / "digits" / "summary.json").read_text())
    assert summary["final"]["test"]["examples"] == 1000
    again = command("train", workdir, recipe, *short)
    assert again.end() == 0 and "complete" in again.printed

    output = tmp_path / "test.json"
    how = ("--split=test", "--checkpoint=last", f"--output={output}", "--devices=cpu:2")
    evaluated = command("evaluate", workdir, *how)
    assert evaluated.end() == 0, evaluated.printed
    figures = json.loads(output.read_text())
    assert figures["accuracy"] == summary["final"]["test"]["accuracy"]
    assert figures["examples"] == sum(map(sum, figures["confusion"])) == 1000


@pytest.mark.skipif(not TRASHNET.is_dir(), reason=f"the photos are not at {TRASHNET}")
def test_a_folder_of_photos_trains_a_new_head(tmp_path):
    trained = start(
        "train.py",
        f"--workdir={tmp_path}",
        f"--gin_file={PROJECT / 'configs' / 'extend.gin'}",
        f"--gin_param=data_dir = {str(TRASHNET)!r}",
        "--gin_param=head/stage.length = (10, 'steps')",
        "--gin_param=image_size = 64",
        "--gin_param=cosine.warmup = (2, 'steps')",
    )
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    # The largest of the six classes has .235.
    assert summary["final"]["test"]["accuracy"] > 0.3
