"""Predictions: of every image that is named, and to the bit those of an evaluation."""

import csv
import functools
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import splits
from data.examples import TASKS
from scripts import evaluate, predict
from trainer import data_setup, launch, metrics, prediction
from trainer.prediction import Answers, Meaning, listed, looked_at
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

PHOTOS_RECIPE = Path(__file__).parent.with_name("photos.gin")
PHOTOS = 24
CLASSES = ("cat", "dog", "emu")
EVERYTHING = {"workdir": None, "gin_file": [], "gin_param": [], "devices": "cpu", "checkpoint": "last", "weights": None}


def write_photos(root):
    """Noise in all sizes, some of it turned by EXIF, some larger than the network sees."""
    random = np.random.default_rng(0)
    names = []
    for row in range(PHOTOS):
        kind = CLASSES[row % 3]
        name = f"{kind}/{row}.{'jpg' if row % 2 else 'png'}"
        size = (17 + row, 24) if row % 4 else (70, 40)
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if row % 3 else 1
        (root / kind).mkdir(parents=True, exist_ok=True)
        image.save(root / name, exif=exif)
        names.append(name)
    return names


@pytest.fixture(scope="module")
def sessions(open_session, tmp_path_factory):
    """`sessions("binary")`: the folder of a session, and the logits that scripts/evaluate.py computes, by views.

    The photos are no longer where they were, but beside it.
    """

    @functools.cache
    def make(task):
        folder = tmp_path_factory.mktemp(task)
        names = write_photos(folder / "photos")
        rows = [f"{name},{name[:3] if task == 'single_label' else int(name.startswith('cat'))}" for name in names]
        (folder / "photos.csv").write_text("\n".join(["image,label", *rows]) + "\n")
        usual = [line for line in PHOTOS_RECIPE.read_text().splitlines() if not line.startswith("folder.")]
        recipe = folder / "recipe.gin"
        recipe.write_text("\n".join([
            *usual, "train.source = @table", f"table.task = '{task}'", f"table.path = '{folder}/photos.csv'",
            f"table.root = '{folder}/photos'", "head/stage.length = (1, 'steps')", "train.store = None",
        ]))  # fmt: skip
        session = open_session(folder / "run", recipe=str(recipe))
        # All that a session does but training: random weights are as good here.
        for part in (session._set_up, session._restore, session._record_start, session._save):
            part()
        session.checkpoints.wait()
        session.stop.close()
        with pytest.MonkeyPatch.context() as patch:
            logits = {
                name: evaluated_logits(folder / "run", params, patch)
                for name, params in VIEWS.items()
                if task == "single_label" or not params
            }
        (folder / "photos").rename(folder / "moved")
        return folder, logits

    return make


VIEWS = {"plain": (), "five crops": ("train.evaluation_views = @five_crop()", "five_crop.share = 0.8")}
# How the first of several tests asks for them, so that it is done once.
PLAIN = {"task": "single_label", "gin_param": (), "top_k": 3}


def evaluated_logits(workdir, params, patch):
    """Name of each image of the split test -> the logits of which scripts/evaluate.py makes its figures."""
    seen = []
    batch_sums = metrics.batch_sums

    def watched(labels, weights, logits, losses, **others):
        tf.numpy_function(lambda *arrays: seen.append(arrays), [weights, logits], [])
        return batch_sums(labels, weights, logits, losses, **others)

    patch.setattr(metrics, "batch_sums", watched)
    given = EVERYTHING | {"workdir": str(workdir), "gin_param": params, "split": "test", "output": None}
    patch.setattr(flags, "FLAGS", SimpleNamespace(**given))
    assert evaluate.main() == 0
    patch.undo()
    logits = np.concatenate([logits[weights > 0] for weights, logits in seen])
    with np.load(workdir / "examples.npz") as stored:
        names = stored["names"][stored["split"] == splits.TEST]
    assert len(names) == len(logits) >= 3
    return {name.decode(): row for name, row in zip(names.tolist(), logits, strict=True)}


@pytest.fixture(scope="module")
def run(sessions, tmp_path_factory):
    """`run(paths, top_k=3)`: what scripts/predict.py writes of them, rows by name without the folder."""

    @functools.cache
    def start(*paths, task="single_label", **given):
        folder, _ = sessions(task)
        output = tmp_path_factory.mktemp("output") / "predictions.jsonl"
        usual = EVERYTHING | {"workdir": str(folder / "run"), "top_k": None, "threshold": None, "output": str(output)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flags, "FLAGS", SimpleNamespace(**(usual | given)))
            assert predict.main([str(folder / path) for path in paths]) == 0
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return {row["name"].removeprefix(f"{folder}/moved/"): row for row in rows}

    return start


@pytest.mark.parametrize(
    ("task", "views", "flags"),
    [("single_label", "plain", {"top_k": 3}), ("single_label", "five crops", {}), ("binary", "plain", {})],
)
def test_predictions_are_to_the_bit_those_of_an_evaluation(sessions, run, content, task, views, flags):
    folder, logits = sessions(task)
    before = content(folder / "run")
    # Among others, in another order than the evaluation has them.
    rows = run("moved", task=task, gin_param=VIEWS[views], **flags)
    assert len(rows) == PHOTOS and all(row["reason"] is None for row in rows.values())
    answers = Answers(Meaning.of(Workdir.existing(str(folder / "run"))), **flags)
    for name, expected in logits[views].items():
        assert rows[name] == {"name": f"{folder}/moved/{name}", "reason": None, **answers.row(expected)}
    assert len({str(row) for row in logits[views].values()}) == len(logits[views])
    assert content(folder / "run") == before


def test_an_image_has_the_same_prediction_alone(run):
    [(name, row)] = run("moved/emu/8.png", top_k=3).items()
    assert row == run("moved", **PLAIN)[name]


def test_views_change_the_predictions(sessions):
    _, logits = sessions("single_label")
    for name, plain in logits["plain"].items():
        assert (logits["five crops"][name] != plain).any()


def test_two_replicas_say_the_same_of_every_image_in_the_same_order(run):
    one, two = run("moved", **PLAIN), run("moved", devices="cpu:2")
    assert list(one) == list(two) == sorted(one, key=lambda name: (name[:3], int(name[4:-4])))
    for name, row in one.items():
        # A network may compute a batch of another size in another order.
        assert two[name]["probability"] == pytest.approx(row["probability"], rel=2**-16)


def test_an_image_that_breaks_while_others_are_predicted_has_a_reason(sessions, run, monkeypatch):
    folder, _ = sessions("single_label")
    copies = shutil.copytree(folder / "moved", folder / "copies")

    def looked_at_and_lost(*arguments, **named):
        found = looked_at(*arguments, **named)
        (copies / "dog" / "4.png").write_bytes(b"gone")
        return found

    monkeypatch.setattr(prediction, "looked_at", looked_at_and_lost)
    rows = {os.path.relpath(name, copies): row for name, row in run("copies/dog", top_k=3).items()}
    lost = rows.pop("dog/4.png")
    assert lost["reason"] == prediction.GONE and lost["class"] is None
    whole = run("moved", **PLAIN)
    assert len(rows) == PHOTOS // 3 - 1
    for name, row in rows.items():
        assert row | {"name": ""} == whole[name] | {"name": ""}


@pytest.mark.parametrize("harm", ["classes.json", "examples.npz", "names", "object"])
def test_a_session_that_does_not_say_what_its_outputs_mean_is_refused(sessions, tmp_path, complaint, harm):
    folder, _ = sessions("single_label")
    workdir = Workdir.existing(str(shutil.copytree(folder / "run", tmp_path / "run")))
    if harm == "names":
        workdir.classes.write_text("[1, 2]")
    elif harm == "object":
        workdir.classes.write_text("{}")
    else:
        (workdir.path / harm).write_bytes(b"\x00")
    with complaint(str(workdir.classes), "put them back"):
        Meaning.of(workdir)


# -- what is found --------------------------------------------------------------------------------------------------


def test_folders_are_searched_for_images_in_natural_order(photos, tmp_path, monkeypatch):
    root = photos(dict.fromkeys(("b/10.png", "b/9.png", "b/deep/er/1.PNG", "a.webp", "b/.hidden/1.png"), (3, 3)))
    for name in ("b/notes.txt", "b/.dot.png", "run/onward.lock", "run/sheet.png", "named"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    monkeypatch.chdir(tmp_path)
    expected = ["photos/a.webp", "photos/b/9.png", "photos/b/10.png", "photos/b/deep/er/1.PNG"]
    assert listed(["photos"]) == dict.fromkeys(expected, "")
    # What is named is taken, and once.
    named = listed(["photos/named", "photos/b/notes.txt", "photos/b", "photos/b/9.png", str(root / "b" / "10.png")])
    assert list(named) == [
        "photos/b/9.png",
        "photos/b/10.png",
        "photos/b/deep/er/1.PNG",
        "photos/b/notes.txt",
        "photos/named",
    ]


def test_what_cannot_be_searched_is_listed_with_the_reason(photos, tmp_path):
    root = photos({"a/1.png": (3, 3), "b/2.png": (3, 3)})
    (root / "empty").mkdir()
    (root / "a" / "back").symlink_to(root)
    (root / "a" / "3.png").symlink_to(root / "b" / "2.png")
    found = {
        os.path.relpath(name, root): reason for name, reason in listed(map(str, [root / "a", root / "empty"])).items()
    }
    assert found == {"a/1.png": "", "a/3.png": "", "a/back": "a link to a folder", "empty": "a folder without images"}


def test_names_of_any_bytes_are_found_and_looked_at(small, tmp_path):
    launch.parse_gin([small], [])
    recipe = launch.call(Recipe)
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe9.png", "日本\n.png".encode(), b" .png"):
        path = os.path.join(os.fsencode(folder), name)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(os.fsdecode(path), "PNG")
    images = listed([str(folder), str(folder / "absent.jpg")])
    table, reasons = looked_at(images, recipe)
    assert len(table.examples) == 3 and table.inspection.sizes.tolist() == [[20, 30]] * 3
    assert [reason for reason in reasons.values() if reason] == ["cannot be read: No such file or directory"]
    assert list(reasons) == list(images) and len(reasons) == 4
    assert data_setup.view(recipe, table).uniform


# -- what it says ---------------------------------------------------------------------------------------------------

LOGITS = st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3).map(np.float32)
SINGLE = Meaning("single_label", CLASSES)


@given(logits=LOGITS)
def test_the_most_probable_classes_come_first(logits):
    row = Answers(SINGLE, top_k=3).row(logits)
    exponentials = np.exp(logits.astype(np.float64))
    shares = dict(zip(CLASSES, exponentials / exponentials.sum(), strict=True))
    assert list(row) == ["class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    named = {row[f"class{which}"]: row[f"probability{which}"] for which in ("", "_2", "_3")}
    assert named == pytest.approx(shares, rel=2**-23)
    assert list(named.values()) == sorted(named.values(), reverse=True)
    assert row["class"] == CLASSES[logits.argmax()]
    assert Answers(SINGLE).row(logits) == {name: row[name] for name in ("class", "probability")}


@given(logits=LOGITS)
def test_yes_or_no_and_sets_are_decided_as_an_evaluation_does(logits):
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    several = Answers(Meaning("multi_label", CLASSES)).row(logits)
    assert several.pop("class") == [name for name, logit in zip(CLASSES, logits, strict=True) if logit > 0]
    expected = {f"probability_{name}": value for name, value in zip(CLASSES, probabilities, strict=True)}
    assert several == pytest.approx(expected, rel=2**-23)
    binary = Answers(Meaning("binary", ("no", "yes"))).row(logits[:1])
    assert binary == {"class": "yes" if logits[0] > 0 else "no", "probability_yes": several["probability_cat"]}


def test_a_threshold_moves_the_decision_and_not_the_probabilities():
    logits = np.float32(np.log([0.2 / 0.8, 0.6 / 0.4, 0.9 / 0.1]))
    chosen = {
        threshold: Answers(Meaning("multi_label", CLASSES), threshold=threshold).row(logits)
        for threshold in (0, 0.5, 0.7, 1)
    }
    assert [row.pop("class") for row in chosen.values()] == [list(CLASSES), ["dog", "emu"], ["emu"], []]
    assert all(row == chosen[0] for row in chosen.values())
    binary = Meaning("binary", ("no", "yes"))
    assert Answers(binary, threshold=0.7).row(logits[1:2])["class"] == "no"


def test_numbers_that_are_not_finite_are_no_prediction():
    for logits in ([0, np.nan, 0], [0, np.inf, 0]):
        assert Answers(SINGLE).row(np.float32(logits)) == {"reason": prediction.NOT_FINITE}


@pytest.mark.parametrize("task", TASKS)
def test_csv_and_jsonl_hold_the_same(task, tmp_path):
    answers = Answers(Meaning(task, CLASSES[1:]))
    [good] = [answers.row(logits) for logits in [np.float32([0.3, 0.2][: 1 if task == "binary" else 2])]]
    rows = [{"name": 'a "b", c', **good}, {"name": "d", "reason": "torn"}]
    found = {}
    for ending in ("csv", "jsonl"):
        path = tmp_path / f"found.{ending}"
        with predict._writer(str(path), answers.columns, Console()) as write:
            for row in rows:
                write(row)
            assert not path.exists()
        found[ending] = path.read_text()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "found.csv", tmp_path / "found.jsonl"]
    lines = [json.loads(line) for line in found["jsonl"].splitlines()]
    cells = list(csv.DictReader(found["csv"].splitlines()))
    assert [list(line) for line in lines] == [list(row) for row in cells] == [answers.columns] * 2
    assert lines == [dict.fromkeys(answers.columns) | row for row in rows]
    for line, row in zip(lines, cells, strict=True):
        texts = {key: ";".join(value) if isinstance(value, list) else value for key, value in line.items()}
        assert row == {key: "" if value is None else str(value) for key, value in texts.items()}


def test_a_file_that_was_not_finished_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), predict._writer(str(path), ["name"], Console()) as write:
        write({"name": "a"})
        raise KeyboardInterrupt
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_a_regression_says_its_numbers():
    answers = Answers(Meaning("regression", ("height", "width")))
    assert answers.row(np.float32([0.1, -3e7])) == {"value_height": 0.1, "value_width": -3e7}
    assert answers.columns == ["name", "value_height", "value_width", "reason"]


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ("single_label", {"top_k": 4}, "1 to 3"),
        ("single_label", {"top_k": 0}, "--top_k=0"),
        ("single_label", {"threshold": 0.5}, "no --threshold for the task single_label"),
        ("multi_label", {"threshold": 1.5}, "--threshold=1.5"),
        ("multi_label", {"threshold": float("nan")}, "--threshold=nan"),
        ("multi_label", {"top_k": 2}, "no --top_k for the task multi_label"),
        ("regression", {"threshold": 0.5}, "leave it out"),
    ],
)
def test_flags_out_of_range_or_of_another_task_are_refused(task, given, told, complaint):
    with complaint(told):
        Answers(Meaning(task, CLASSES), **given)
