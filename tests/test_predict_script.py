"""scripts/predict.py, as a user starts it."""

import csv
import fcntl
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.models.network import model

TESTS = Path(__file__).resolve().parent
IMAGES = 16


@pytest.fixture(scope="module")
def folder(command, tmp_path_factory):
    """Holds a session in run/ and, in moved/, its photos; data and pre-trained weights are not where they were."""
    folder = tmp_path_factory.mktemp("predict")
    random = np.random.default_rng(0)
    for row in range(IMAGES):
        path = folder / "photos" / ("dog" if row % 2 else "cat") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(path)
    network = model(backbone="convnet", weights=None).build(image_size=16, classes=2, precision="float32")
    network.backbone.save_weights(folder / "before.weights.h5")
    bindings = (f"data_dir = '{folder}/photos'", f"model.weights = '{folder}/before.weights.h5'")
    given = [f"--gin_file={TESTS / 'photos.gin'}", "--devices=cpu", *(f"--gin_param={each}" for each in bindings)]
    trained = command("train", f"--workdir={folder}/run", *given)
    assert trained.end() == 0, trained.printed
    (folder / "photos").rename(folder / "moved")
    (folder / "before.weights.h5").unlink()
    return folder


@pytest.fixture
def predict(command, folder):
    """`predict(*arguments)`: exit status and what is printed."""

    def start(*arguments):
        started = command("predict", f"--workdir={folder}/run", "--devices=cpu", *map(str, arguments))
        return started.end(), started.printed

    return start


def checksums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_image_is_a_row_beside_a_training_that_runs(predict, folder, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    output = tmp_path / "found.csv"
    before = checksums(folder / "run")
    with open(folder / "run" / "onward.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = [folder / "moved", tmp_path / "more", tmp_path / "absent.png", f"--output={output}", "--top_k=2"]
        status, printed = predict(*arguments)
    assert status == 0, printed
    assert checksums(folder / "run") == before
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "class", "probability", "class_2", "probability_2", "reason"]
    named = {row["name"]: row for row in rows}
    bad = {str(tmp_path / name): named.pop(str(tmp_path / name)) for name in ("more/torn.jpg", "absent.png")}
    assert len(named) == IMAGES and len(rows) == IMAGES + 2
    places = [Path(name) for name in named]
    assert places == sorted(places, key=lambda path: (path.parent.name, int(path.stem)))
    for row in named.values():
        assert {row["class"], row["class_2"]} == {"cat", "dog"} and row["reason"] == ""
        # Two float32 numbers, each rounded.
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=2**-23)
    for name, row in bad.items():
        assert not row["class"] and not row["probability"]
        assert f"no prediction for {name}: {row['reason']}" in printed
    assert bad[str(tmp_path / "absent.png")]["reason"] == "cannot be read: No such file or directory"
    assert f"{IMAGES} of {IMAGES + 2} images" in printed


def test_without_output_the_predictions_are_printed(predict, folder):
    image = folder / "moved" / "cat" / "2.png"
    views = ("--gin_param=train.evaluation_views = @views()", "--gin_param=views.scales = (1.0, 0.8)")
    status, printed = predict(image, *views)
    flat = " ".join(printed.split())
    assert status == 0 and re.search(r"2\.png: (cat|dog) [01]\.\d{4} ", flat)
    status, printed = predict(image, "--top_k=2")
    flat = " ".join(printed.split())
    assert status == 0 and re.search(r"2\.png: (cat|dog) [01]\.\d{4}, (cat|dog) 0\.\d{4} ", flat)


def test_nothing_that_decodes_is_an_error_and_leaves_earlier_predictions(predict, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no picture")
    (tmp_path / "found.csv").write_text("earlier")
    status, printed = predict(tmp_path / "torn.png", f"--output={tmp_path}/found.csv")
    assert status == 2 and "none of 1 images decodes" in printed and f"{tmp_path}/torn.png: Unknown" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "found.csv").read_text() == "earlier" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no image is named"),
        (["{moved}", "--output={tmp}/found.txt"], ".csv, .jsonl or .parquet"),
        (["{moved}", "--output={tmp}/nowhere/found.csv"], "--output"),
        (["{moved}", "--output={tmp}/folder.csv"], "is a folder"),
        (["{moved}", "--checkpoint=3"], "no checkpoint '3'"),
        (["{moved}", "--workdir={tmp}"], "no session"),
        (["{moved}", "--top_k=3"], "1 to 2"),
        (["{moved}", "--topk=2"], "topk"),
        (["{moved}", "--gin_param=five_crop.share = 0.8"], "nothing uses: five_crop.share"),
        (["{moved}", "--gin_param=train.evaluation_views = @five_crop"], "@five_crop()"),
        (["{moved}", "--gin_param=train.evaluation_view = 1"], "did you mean evaluation_views"),
        (["{empty}"], "a folder without images"),
    ],
)  # fmt: skip
def test_wrong_input_is_said_in_one_message(predict, folder, tmp_path, arguments, told):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty").mkdir()
    places = {"moved": folder / "moved", "tmp": tmp_path, "empty": tmp_path / "empty"}
    before = sorted(tmp_path.iterdir())
    status, printed = predict(*(argument.format(**places) for argument in arguments))
    assert status == 2 and told in printed and printed.count("error: ") == 1 and "Traceback" not in printed
    assert sorted(tmp_path.iterdir()) == before
