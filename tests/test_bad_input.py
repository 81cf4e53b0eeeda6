"""Whatever is wrong with the input is told in one message that names it; status 2, and the workdir is none the worse.

Each case is the command as a user gives it, in a process of its own.
"""

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import keras
import pytest

PARTS = ("error: ", "  where: ", "  expected: ", "  do: ")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is wrong: bindings and flags, where {tmp} is the test's folder, and what is done to the photos before."""

    told: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    harm: Callable[[Path], object] = lambda tmp: None


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def only_cats(tmp):
    for path in (tmp / "photos" / "dog").iterdir():
        path.unlink()
    (tmp / "photos" / "dog").rmdir()


def weights_of_something_else(tmp):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="other")]).save_weights(tmp / "other.weights.h5")


CASES = {
    "no data folder is named": Case(("folder.root", "data_dir"), bindings=("data_dir = None",)),
    "the data folder is missing": Case(("{tmp}/nowhere",), bindings=("data_dir = '{tmp}/nowhere'",)),
    "the data folder is a file": Case(
        ("{tmp}/file",), bindings=("data_dir = '{tmp}/file'",), harm=lambda tmp: write(tmp / "file", b"")
    ),
    "the data folder is empty": Case(
        ("{tmp}/empty", "found 0 class folder"), bindings=("data_dir = '{tmp}/empty'",),
        harm=lambda tmp: (tmp / "empty").mkdir(),
    ),
    "a class has no images": Case(
        ("class folder without images: emu",), harm=lambda tmp: write(tmp / "photos" / "emu" / "notes.txt", b"soon")
    ),
    "there is only one class": Case(("found 1 class folder(s): cat", "{tmp}/photos"), harm=only_cats),
    "an image does not decode": Case(
        ("1 of 17 images do not decode", "{tmp}/photos/cat/torn.jpg", "bad_images = 'drop'"),
        harm=lambda tmp: write(tmp / "photos" / "cat" / "torn.jpg", b"\xff\xd8\xff\xe0 and no more"),
    ),
    "many images do not decode": Case(
        ("12 of 28 images do not decode", "{tmp}/photos/cat/t0.png", "and 2 more"),
        harm=lambda tmp: [write(tmp / "photos" / "cat" / f"t{n}.png", b"") for n in range(12)],
    ),
    "the backbone is unknown": Case(("'convnett'", "did you mean convnet"), bindings=("backbone = 'convnett'",)),
    "the weights are absent": Case(("{tmp}/none.h5",), bindings=("model.weights = '{tmp}/none.h5'",)),
    "the weights are no HDF5": Case(
        ("{tmp}/text.h5", "neither HDF5"), bindings=("model.weights = '{tmp}/text.h5'",),
        harm=lambda tmp: write(tmp / "text.h5", b"not weights at all"),
    ),
    "the weights are of another model": Case(
        ("{tmp}/other.weights.h5", "'convnet'", "none was loaded"),
        bindings=("model.weights = '{tmp}/other.weights.h5'",), harm=weights_of_something_else,
    ),
    "the weights to begin with are of another model": Case(
        ("{tmp}/other.weights.h5", "0 of 15 variables", "none was loaded"),
        flags=("--init_from={tmp}/other.weights.h5",), harm=weights_of_something_else,
    ),
    "there are no such weights": Case(("convnet", "model.weights"), bindings=("model.weights = 'imagenet'",)),
    "the batch does not divide": Case(
        ("batch of 9", "2 replicas", "batch_size = 10"), bindings=("batch_size = 9",), flags=("--devices=cpu:2",)
    ),
    "the workdir lies below a file": Case(
        ("{tmp}/file/run", "--workdir"), flags=("--workdir={tmp}/file/run",),
        harm=lambda tmp: write(tmp / "file", b""),
    ),
    "the workdir cannot be made": Case(("/proc/run", "--workdir"), flags=("--workdir=/proc/run",)),
    "there is no GPU": Case(("--devices=gpu", "no GPU", "cuda"), flags=("--devices=gpu",)),
    "the devices are malformed": Case(("--devices=cpu:two", "cpu:N"), flags=("--devices=cpu:two",)),
    "the images are too small": Case(
        ("mobilenetv2_035", "16 x 16", "image_size"), bindings=("backbone = 'mobilenetv2_035'",)
    ),
    "the precision is unknown": Case(("'float64'", "mixed_bfloat16"), bindings=("precision = 'float64'",)),
    "a stage has no steps": Case(("stage head has no steps",), bindings=("head/stage.length = (0, 'epochs')",)),
    "a length has no unit": Case(("head/stage.length", "epochs"), bindings=("head/stage.length = 5",)),
    "an interval is nothing": Case(("train.evaluate_every", "0"), bindings=("train.evaluate_every = (0, 'epochs')",)),
    "the workdir is the data folder": Case(("{tmp}/photos", "--workdir"), flags=("--workdir={tmp}/photos",)),
    "a pattern matches nothing": Case(
        ("'hedd'", "head/head_logits", "head/stage.trains"), bindings=("head/stage.trains = 'hedd'",)
    ),
    "nothing trains": Case(("nothing trains",), bindings=("head/stage.trains = []",)),
    "a factor is for nothing that trains": Case(
        ("'backbone'", "head/stage.factors"), bindings=("head/stage.factors = [('backbone', 0.1)]",)
    ),
    "two stages have one name": Case(
        ("['head', 'head']", "train.stages"), bindings=("train.stages = [@head/stage(), @head/stage()]",)
    ),
    "a head cannot take the size of a stage": Case(
        ("16 x 16 does not work for 24 x 24", "head/stage.image_size"),
        bindings=("model.head = @mlp()", "mlp.hidden = [4]", "head/stage.image_size = 24"),
    ),
    "a learning rate is a word": Case(("schedule of the stage head",), bindings=("learning_rate = 'fast'",)),
    "a batch is empty": Case(("train.batch_size = 0",), bindings=("batch_size = 0",)),
    "a binding is unknown": Case(("'windo'", "did you mean window"), bindings=("train.windo = 3",)),
    "a binding is of no use": Case(("sgd.momentum",), bindings=("sgd.momentum = 0.8",)),
    "a binding is no gin": Case(("backbone = convnet", "quotes"), bindings=("backbone = convnet",)),
    "a recipe is missing": Case(("nowhere.gin",), flags=("--gin_file=nowhere.gin",)),
}  # fmt: skip


@pytest.fixture
def start(command, photos, tmp_path) -> Callable:
    """`start("train", *arguments)` on 16 photos of cats and dogs; later arguments win."""
    photos({f"{kind}/{index}.png": (18, 20) for kind in ("cat", "dog") for index in range(8)})
    recipe = Path(__file__).with_name("photos.gin")

    def run(script, *arguments, bindings=()):
        shared = {"train": [f"--gin_file={recipe}", f"--gin_param=data_dir = '{tmp_path}/photos'"], "evaluate": []}
        given = [*shared[script], f"--workdir={tmp_path}/run", "--devices=cpu", *arguments]
        started = command(script, *given, *(f"--gin_param={binding}" for binding in bindings))
        return started.end(), started.printed

    return run


def assert_one_message(printed, *told):
    message = printed[printed.index("error: ") :]
    assert message.count("error: ") == 1 and "Traceback" not in printed
    for part in PARTS:
        line = next(line for line in message.splitlines() if line.startswith(part))
        assert line.removeprefix(part).strip()
    for each in told:
        assert each in message


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_run_is_refused_when(case, start, tmp_path):
    case.harm(tmp_path)

    def here(texts):
        return [text.replace("{tmp}", str(tmp_path)) for text in texts]

    status, printed = start("train", *here(case.flags), bindings=here(case.bindings))
    assert status == 2, printed
    assert_one_message(printed, *here(case.told))
    workdir = tmp_path / "run"
    # Images that were decoded before the mistake was found are kept for the next start.
    assert not workdir.exists() or {path.name for path in workdir.iterdir()} <= {"onward.lock", "store"}


def test_a_run_is_refused_when_another_process_has_the_workdir(start, tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / "onward.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"host": "here", "boot": "", "pid": os.getpid(), "started": 0.0}) + "\n")
        lock.flush()
        status, printed = start("train")
    assert status == 2
    assert_one_message(printed, f"pid {os.getpid()} on here", f"{tmp_path}/run")


def test_a_run_that_was_refused_can_be_put_right_in_the_same_workdir(start, tmp_path):
    """And an image that was named may be left out, by name again."""
    write(tmp_path / "photos" / "dog" / "torn.png", b"\x89PNG")
    for bindings in (["head/stage.trains = 'hedd'"], ["model.weights = 'none.h5'"], []):
        assert start("train", bindings=bindings)[0] == 2
    status, printed = start("train", bindings=["train.bad_images = 'drop'"])
    assert status == 0, printed
    assert f"left out {tmp_path}/photos/dog/torn.png" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sum(figures["examples"] for figures in summary["final"].values()) < 16

    split = next(iter(summary["final"]))
    for arguments, told in (
        (["--checkpoint=77"], ["'77'", "one of the steps"]),
        (["--split=trian"], ["'trian'", "train"]),
        ([f"--split={split}", f"--output={tmp_path}/nowhere/t.json"], ["--output", f"{tmp_path}/nowhere/t.json"]),
        ([f"--workdir={tmp_path}/other"], [f"no session in {tmp_path}/other"]),
    ):
        status, printed = start("evaluate", *arguments)
        assert status == 2, printed
        assert_one_message(printed, *told)
    assert not (tmp_path / "other").exists()
