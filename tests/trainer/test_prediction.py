"""Predictions: of every image that is named, and to the bit those of an evaluation."""

import functools
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image

from data import splits
from scripts import evaluate, predict
from trainer import checkpoints, data_setup, launch, metrics, prediction
from trainer.answers import Answers
from trainer.exporting import comparing, network, writing
from trainer.exporting.comparing import Agreement
from trainer.exporting.formats import chosen_format
from trainer.prediction import Meaning, given, listed, looked_at
from trainer.recipe import Recipe
from trainer.workdir import Workdir

PHOTOS_RECIPE = Path(__file__).parent.with_name("photos.gin")
PHOTOS = 24
CLASSES = ("cat", "dog", "emu")
EVERYTHING = {"workdir": None, "gin_file": [], "gin_param": [], "devices": "cpu", "checkpoint": "last", "weights": None}
EVERYTHING |= {"model": None, "is_parsed": lambda: False}


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
    given = EVERYTHING | {"workdir": str(workdir), "gin_param": params, "split": "test"}
    given |= {"output": None, "details": False}
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


@pytest.fixture(scope="module")
def exports(sessions):
    """`exports("single_label", "a.keras")`: the session of that task as a file or folder of that name."""

    def make(task, name):
        folder, _ = sessions(task)
        if not (folder / name).exists():
            workdir = Workdir.existing(str(folder / "run"))
            recipe = launch.session_recipe([str(workdir.config)], [], Recipe)
            prefix = checkpoints.find(workdir.checkpoints, "last")
            exported = network.prepare(recipe, prefix, Meaning.of(workdir))
            with pytest.MonkeyPatch.context() as patch:
                fine = Agreement(images=1, difference=0.0, same=1, limit=1.0)
                patch.setattr(comparing, "compare", lambda _, exports, *__, **___: dict.fromkeys(exports, fine))
                writing.write(exported, {folder / name: chosen_format(folder / name, None)}, [])
        return folder / name

    return make


@pytest.mark.parametrize(
    ("task", "name", "views", "flags"),
    [
        ("single_label", "a.keras", "plain", {"top_k": 3}),
        ("single_label", "a.keras", "five crops", {"top_k": 3}),
        ("single_label", "a.tflite", "plain", {"top_k": 3}),
        ("binary", "served", "plain", {}),
    ],
)
def test_an_export_says_what_the_session_says(sessions, exports, run, task, name, views, flags):
    folder, logits = sessions(task)
    answers = Answers(Meaning.of(Workdir.existing(str(folder / "run"))), **flags)
    arguments = {"task": task, "gin_param": VIEWS[views], "workdir": None, "checkpoint": "best", **flags}
    rows = run("moved", model=str(exports(task, name)), **arguments)
    assert len(rows) == PHOTOS
    for photo, expected in logits[views].items():
        # Probabilities in the order of the classes: those that are nearly equal may change places.
        found, wanted = (by_class(row) for row in (rows[photo], answers.row(expected)))
        assert found == pytest.approx(wanted, abs=1e-4)


def by_class(row):
    if "probability" not in row:
        return {name.split("_", 1)[1]: value for name, value in row.items() if name.startswith("probability_")}
    places = [which for which in ("", "_2", "_3") if f"class{which}" in row]
    return {row[f"class{which}"]: row[f"probability{which}"] for which in places}


def test_an_export_names_the_images_that_it_cannot_read(sessions, exports, run):
    folder, _ = sessions("single_label")
    (folder / "odd").mkdir()
    (folder / "odd" / "torn.png").write_bytes(b"no picture")
    (folder / "odd" / "empty.jpg").touch()
    shutil.copy(folder / "moved" / "cat" / "0.png", folder / "odd" / "whole.png")
    arguments = {"model": str(exports("single_label", "a.keras")), "workdir": None, "checkpoint": "best"}
    rows = {Path(name).name: row for name, row in run("odd", "odd/absent.jpg", **arguments).items()}
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons.pop("torn.png").startswith("Unknown image file format") and reasons.pop("whole.png") is None
    assert reasons == {"empty.jpg": "an empty file", "absent.jpg": "cannot be read: No such file or directory"}
    assert rows["whole.png"]["class"] and not rows["torn.png"]["class"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"gin_param": ("train.batch_size = 2",)}, "nothing uses: train.batch_size"),
        ({"gin_param": ("train.evaluation_views = 3",)}, "@five_crop()"),
        ({"checkpoint": "last"}, "--checkpoint beside --model"),
        ({"workdir": "run"}, "both --model and --workdir"),
        ({"model": "absent.keras"}, "nothing at"),
        ({"model": "bare"}, "classes.json"),
        ({"model": "torn.keras"}, "other content"),
        ({"model": "only.weights.h5"}, "no network"),
    ],
)
def test_wrong_exports_and_what_is_not_of_exports_is_refused(sessions, exports, run, complaint, given, told):
    folder, _ = sessions("single_label")
    usual = {"model": exports("single_label", "a.keras"), "workdir": None, "checkpoint": "best"} | given
    (folder / "bare").mkdir(exist_ok=True)
    if usual["model"] in ("torn.keras", "only.weights.h5"):
        exports("single_label", usual["model"])
        if told == "other content":
            with open(folder / usual["model"], "ab") as file:
                file.write(b"more")
    with complaint(told):
        run("moved", **usual | {"model": str(folder / usual["model"])})


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


def test_patterns_are_opened_and_standard_input_is_a_list(photos, tmp_path, monkeypatch):
    photos(dict.fromkeys(("a/1.png", "a/b/2.png", "c[1].png"), (3, 3)))
    monkeypatch.chdir(tmp_path / "photos")
    assert sorted(given(["**/*.png"])) == ["a/1.png", "a/b/2.png", "c[1].png"]
    # A name is no pattern, and a pattern without a match is told as it is.
    assert given(["c[1].png", "*.gif", "a"]) == ["c[1].png", "*.gif", "a"]
    for content, expected in ((b"a/1.png\n\nb c.jpg\r\n", ["a/1.png", "b c.jpg"]), (b"a\nb\0c\0", ["a\nb", "c"])):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert given(["x", "-"]) == ["x", *expected]
