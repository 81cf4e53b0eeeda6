"""What only GPUs can show; `scripts/check_devices.py` shows the rest on them, see tests/trainer/test_cluster.py."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer import launch, launching
from trainer.launch import PROJECT
from trainer.proofs import equality

DEVICE = "gpu"
# Listing them takes none into use: the test process itself stays on the CPU.
COUNT = len(tf.config.list_physical_devices("GPU"))
SMALL = str(PROJECT / "tests" / "small.gin")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not COUNT, reason="no GPU that TensorFlow can use")]


def needs(count: int):
    return pytest.mark.skipif(count > COUNT, reason=f"fewer than {count} GPUs")


def run(script: str, workdir: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints, in a process of its own, that has to end with this status."""
    command = [sys.executable, str(PROJECT / "scripts" / f"{script}.py"), f"--workdir={workdir}", *arguments]
    # So that a recipe may import the tests; and sums in float32, not in TF32.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NVIDIA_TF32_OVERRIDE": "0"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    printed = ended.stdout + ended.stderr
    assert ended.returncode == status, printed
    return printed


def train(workdir: Path, *bindings: str, flags: Sequence[str] = ()) -> dict:
    """Trains the small recipe on the first GPU; what its environment.json says."""
    params = [f"--gin_param={binding}" for binding in bindings]
    run("train", workdir, f"--gin_file={SMALL}", f"--devices={DEVICE}:0", *params, *flags)
    return json.loads((workdir / "environment.json").read_text())


def test_a_session_trains_on_one_gpu_and_says_what_is_in_effect(tmp_path):
    facts = train(tmp_path)
    assert (facts["device_kind"], facts["replicas"], facts["reduction"]) == ("GPU", 1, "none, one replica")
    assert facts["accelerators"] and facts["gpu_threads"] == "2 a GPU, gpu_private" and facts["batches_ahead"] == 1
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 9


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_interrupted_it_ends_in_the_same_bits(tmp_path, precision):
    settings = ("train.deterministic = True", f"precision = '{precision}'", "epochs = 4")
    params = [f"--gin_param={setting}" for setting in settings]
    devices = ("--kills=4", "--kinds=kill,term", f"--devices={DEVICE}:0")
    run("prove_resume", tmp_path, f"--gin_file={SMALL}", *params, *devices)


def test_precision_and_xla_are_measured_once_and_kept(tmp_path):
    bindings = ("precision = 'auto'", "train.xla = 'auto'")
    first = train(tmp_path, *bindings)
    assert first["chosen"].keys() == {"precision", "xla"}
    for why in first["chosen"].values():
        assert why.startswith("images a second: ")
    again = train(tmp_path, *bindings, "epochs = 2", flags=["--allow_change=epochs"])
    assert (again["chosen"], again["precision"], again["xla"]) == (first["chosen"], first["precision"], first["xla"])
    settings = launch.settings((tmp_path / "config.gin").read_text())
    assert settings["precision"] == repr(first["precision"]) and settings["train.xla"] in ("'never'", "'always'")


@pytest.mark.parametrize("xla", ["never", "always"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_it_trains_in_every_precision_with_and_without_xla(tmp_path, precision, xla):
    facts = train(tmp_path, f"precision = '{precision}'", f"train.xla = '{xla}'")
    assert facts["precision"] == precision and ("forward" in facts["xla"]) is (xla == "always")


def test_infinite_images_in_half_precision_are_skipped_and_halve_the_scale(tmp_path):
    result = tmp_path / "result.npz"
    run("check_devices", tmp_path, f"--devices={DEVICE}:0", "--replicas=1", f"--result={result}")
    with np.load(result) as found:
        finite, scale = (found[f"overflow/steps/{name}"] for name in ("finite", "loss_scale"))
        weights = [found[name] for name in found if name.startswith("overflow/weights")]
    assert np.flatnonzero(finite == 0).tolist() == list(equality.INFINITE)
    assert scale[-1] == scale[0] / 4 and all(np.isfinite(each).all() for each in weights)


def test_a_batch_that_does_not_fit_ends_with_status_3_and_one_to_try(tmp_path):
    recipe = tmp_path / "hungry.gin"
    hungry = "import tests.trainer.test_failures", f"include '{SMALL}'", "train.loss = @hungry_loss()"
    recipe.write_text("\n".join(hungry))
    printed = run("train", tmp_path / "run", f"--gin_file={recipe}", f"--devices={DEVICE}:0", status=3)
    assert "out of memory" in printed and "batch_size = 4" in printed


TRAINED = """
import sys
import numpy as np
from trainer import devices
from trainer.proofs import equality
spec, way, result = sys.argv[1:]
np.savez(result, **equality.trained(devices.set_up(spec, reduce_by=way)))
"""


@needs(2)
@pytest.mark.parametrize("way", ["auto", "nccl", "hierarchical", "one_device"])
def test_gradients_are_added_up_alike_in_every_way(tmp_path, way):
    results = []
    for spec, by in ((f"{DEVICE}:0", "auto"), (f"{DEVICE}:0,1", way)):
        result = tmp_path / f"{len(results)}.npz"
        environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}
        subprocess.run([sys.executable, "-c", TRAINED, spec, by, str(result)], check=True, env=environment)
        with np.load(result) as found:
            results.append(dict(found))
    assert equality.differing(*results) == []


@needs(4)
def test_two_workers_of_two_gpus_each_are_one_gpu(tmp_path):
    """On GPUs of their own, over NCCL; with fewer, check_devices.py cuts the first into parts."""
    command = [sys.executable, str(PROJECT / "scripts" / "check_devices.py"), f"--workdir={tmp_path}"]
    results = []
    for workers, replicas in ((1, 1), (2, 2)):
        results.append(tmp_path / f"{workers}.npz")
        shape = [f"--devices={DEVICE}", f"--workers={workers}", f"--replicas={replicas}", f"--result={results[-1]}"]
        group = launching.Group(
            [*command, *shape], workers=workers, logs=tmp_path / str(workers), say=lambda line: None
        )
        assert group.run(restarts=0) == 0
    one, four = (dict(np.load(result)) for result in results)
    assert equality.differing(one, four) == []
