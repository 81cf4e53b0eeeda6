"""scripts/audit.py: one command that can be stopped at any time and goes on."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TESTS = Path(__file__).resolve().parent
TRASHNET = TESTS.parent.parent / "shared" / "data" / "trashnet"
MANY = 200


@pytest.fixture
def audit(command, tmp_path):
    """`audit(root)` starts an audit of a folder in WORKDIR/audit."""

    def start(root, *bindings, workdir=tmp_path / "audit"):
        bindings = [f"--gin_param={binding}" for binding in (f"data_dir = {str(root)!r}", *bindings)]
        recipe = f"--gin_file={TESTS / 'photos.gin'}"
        return command("audit", f"--workdir={workdir}", recipe, "--devices=cpu", *bindings)

    return start


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder that takes a while to look at."""
    root = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(0)
    for row in range(MANY):
        path = root / ("cat" if row % 2 else "dog") / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        noise = random.integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, compress_level=1)
    return root


def document(workdir):
    return json.loads((workdir / "audit.json").read_text())


def noted(workdir):
    journal = workdir / "audit.jsonl"
    return journal.read_text().splitlines()[1:] if journal.exists() else []


def until_half_way(workdir):
    deadline = time.monotonic() + 120
    while len(noted(workdir)) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_audit_that_was_stopped_goes_on_where_it_stood(audit, many, tmp_path, number):
    workdir = tmp_path / "audit"
    stopped = audit(many)
    # Its threads begin as it is: whoever is to stop it half way is not kept waiting for a core by them.
    os.setpriority(os.PRIO_PROCESS, stopped.pid, 19)
    until_half_way(workdir)
    assert stopped.end(number) == (-9 if number == signal.SIGKILL else 75), stopped.printed
    before = noted(workdir)
    assert 20 <= len(before) < MANY and not (workdir / "audit.json").exists()
    # As if it had been killed while it wrote a line.
    with open(workdir / "audit.jsonl", "a") as journal:
        journal.write('{"name": "cat/1')
    again = audit(many)
    assert again.end() == 0, again.printed
    after = noted(workdir)
    assert after[: len(before) - 1] == before[:-1]
    names = [json.loads(line)["name"] for line in after if line.endswith("}")]
    assert len(set(names)) == MANY and len(names) <= MANY + 1
    straight = audit(many, workdir=tmp_path / "straight")
    assert straight.end() == 0 and document(tmp_path / "straight") == document(workdir)


def test_the_report_names_what_is_wrong_and_ends_well(audit, photos, tmp_path):
    root = photos({f"{name}/{row}.png": (20, 30) for name in ("cat", "dog") for row in range(8)})
    shutil.copy(root / "cat" / "0.png", root / "dog" / "same.png")
    (root / "dog" / "1.png").write_bytes(b"no picture")
    shutil.move(root / "dog" / "2.png", root / "dog" / "2.jpg")
    done = audit(root)
    assert done.end() == 0, done.printed
    found = document(tmp_path / "audit")
    assert [image["name"] for image in found["bad"]] == ["dog/1.png"] and found["images"]["good"] == 16
    [group] = found["duplicates"]["listed"]
    assert [image["name"] for image in group["images"]] == ["cat/0.png", "dog/same.png"] and group["conflicting"]
    assert [image["name"] for image in found["misnamed"]["listed"]] == ["dog/2.jpg"]
    assert "17: 16 good, 1 bad" in done.printed and "1 with conflicting labels" in done.printed
    assert "dog/1.png" in (tmp_path / "audit" / "audit.html").read_text()


def test_duplicates_across_splits_are_those_of_the_split_of_the_recipe(audit, photos, tmp_path):
    root = photos({f"{split}/{name}/{split}.png": (20, 30) for split in ("train", "test") for name in ("cat", "dog")})
    shutil.copy(root / "train" / "cat" / "train.png", root / "test" / "cat" / "copy.png")
    shutil.copy(root / "train" / "dog" / "train.png", root / "train" / "dog" / "copy.png")
    assert audit(root).end() == 0
    found = document(tmp_path / "audit")["duplicates"]
    assert found["groups"] == 2 and found["across"] == 1 and found["conflicting"] == 0
    assert [image["name"] for image in found["listed"][0]["images"]] == ["test/cat/copy.png", "train/cat/train.png"]


def test_an_audit_of_images_in_memory(command, tmp_path, small):
    done = command("audit", f"--workdir={tmp_path}", f"--gin_file={small}", "--devices=cpu")
    assert done.end() == 0, done.printed
    assert document(tmp_path)["images"]["good"] == 60


@pytest.mark.parametrize(
    ("workdir", "bindings", "named"),
    [
        ("photos", [], "holds images"),
        ("photos/cat", [], "holds images"),
        ("audit", ["data_dir = '/nowhere'"], "/nowhere"),
        ("audit", ["split_by_hash.validatoin = 0.1"], "validatoin"),
        ("audit", ["split_per_class.test = 0.1"], "split_per_class.test"),
        ("audit", ["split_by_hash.test = 2"], "split_by_hash"),
    ],
)
def test_wrong_input_is_said_before_anything_is_written(audit, photos, tmp_path, workdir, bindings, named):
    root = photos({"cat/0.png": (20, 30), "dog/0.png": (20, 30)})
    before = sorted(tmp_path.rglob("*"))
    done = audit(root, *bindings, workdir=tmp_path / workdir)
    assert done.end() == 2 and named in done.printed and "Traceback" not in done.printed
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not TRASHNET.is_dir(), reason=f"the photos are not at {TRASHNET}")
def test_trashnet_has_three_equal_pairs_with_conflicting_labels_and_no_others(audit, tmp_path):
    done = audit(TRASHNET)
    assert done.end() == 0, done.printed
    found = document(tmp_path / "audit")
    conflicting = [entry for entry in found["duplicates"]["listed"] if entry["conflicting"]]
    pairs = sorted([Path(image["name"]).stem for image in entry["images"]] for entry in conflicting)
    assert pairs == [["glass115", "metal91"], ["glass176", "plastic152"], ["glass389", "plastic332"]]
    assert found["images"]["good"] == 2527 and found["duplicates"]["groups"] == 3
