"""scripts/preview.py: what it writes, what it leaves alone, and what it refuses."""

from pathlib import Path

import pytest
from PIL import Image

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def root(photos):
    return photos({f"{name}/{row}.png": (20, 30) for name in ("cat", "dog") for row in range(12)})


def recipe(root, *bindings):
    bindings = (f"data_dir = {str(root)!r}", *bindings)
    return [f"--gin_file={TESTS / 'photos.gin'}", *(f"--gin_param={binding}" for binding in bindings)]


ROTATED = ("train.policy = @policy()", "policy.operations = [@rotation()]", "rotation.degrees = 30")


def test_a_preview_before_any_training_writes_a_sheet_and_a_page_and_nothing_else(command, root, tmp_path):
    before = set(tmp_path.rglob("*"))
    workdir = tmp_path / "run"
    done = command("preview", f"--workdir={workdir}", "--devices=cpu", "--examples=2", *recipe(root, *ROTATED))
    assert done.end() == 0, done.printed
    page, sheet = (workdir / "preview" / name for name in ("preview.html", "preview.png"))
    assert set(tmp_path.rglob("*")) - before == {workdir, workdir / "preview", page, sheet}
    assert Image.open(sheet).format == "PNG"
    # Two examples with six draws each, and a row of five magnitudes; each number is a caption and a description.
    assert page.read_text().count("<img ") == 2 * 7 + 5
    assert page.read_text().count("rotation: degrees") == 2 * (2 * 6 + 5)
    assert str(page) in done.printed and str(sheet) in done.printed and "warning" not in done.printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--output"),
        (["--output={tmp}/photos/cat/seen"], "is in the data folder"),
        (["--output={tmp}/seen", "--draws=-1"], "--draws"),
        (["--output={tmp}/seen", "--gin_param=rotation.degres = 3"], "degres"),
        (["--output={tmp}/seen", "--gin_param=rotation.degrees = 3"], "rotation.degrees"),
        (["--output={tmp}/file/seen"], "cannot be written"),
        (["--output={tmp}/file"], "cannot be written"),
    ],
)
def test_wrong_input_is_said_and_nothing_is_written(command, root, tmp_path, arguments, named):
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    done = command("preview", "--devices=cpu", *recipe(root), *(text.format(tmp=tmp_path) for text in arguments))
    assert done.end() == 2 and named in done.printed and "Traceback" not in done.printed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_workdir_without_a_session_needs_a_recipe(command, tmp_path):
    done = command("preview", f"--workdir={tmp_path / 'run'}", "--devices=cpu")
    assert done.end() == 2 and "there is no session" in done.printed and not list(tmp_path.iterdir())
