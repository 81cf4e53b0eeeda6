"""The functions of trainer/notebook.py, in the test's own process, and the page that shows them."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import gin
import numpy as np
import pytest
from absl import flags
from PIL import Image

from data.errors import UserError
from trainer import notebook
from trainer.session import Session
from trainer.signals import SIGNALS
from trainer.workdir import read_json

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "python.md").read_text()
IMAGES = 24


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder at hand, with photos/ of two classes, and new/, where one file is torn."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for row in range(IMAGES):
        path = tmp_path / "photos" / ("dog" if row % 2 else "cat") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(path)
    (tmp_path / "new").mkdir()
    Image.fromarray(random.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "torn.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def small_photos():
    """The recipe that stands in for those with a large network: split as they are."""
    return [str(PROJECT / "tests" / "photos.gin"), str(PROJECT / "tests" / "split.gin")]


def test_what_the_page_shows_runs_and_tells_what_the_session_has_written(folder, small_photos):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    parsed, names = flags.FLAGS.is_parsed(), {}
    short = blocks[0].replace('"configs/extend.gin"', repr(small_photos))
    assert short != blocks[0]
    with gin.unlock_config():
        for block in (short, *blocks[1:]):
            exec(block, names)
    gin.exit_interactive_mode()
    assert flags.FLAGS.is_parsed() == parsed

    run, evaluation, found = names["run"], names["evaluation"], names["predictions"]
    assert run.done and run.workdir == folder / "runs" / "photos"
    assert run.summary == read_json(run.workdir / "summary.json") and run.summary["steps"] == 4
    assert run.history()["step"].tolist() == [1, 2, 3, 4]
    assert set(run.history("eval")["split"]) == {"validation", "test"}
    assert evaluation.figures["accuracy"] == pytest.approx(run.summary["final"]["test"]["accuracy"])
    assert evaluation.confusion.sum() == evaluation.figures["examples"] == len(evaluation.names)
    assert names["worst"]["loss"].is_monotonic_decreasing
    assert list(found) == ["name", "class", "probability", "class_2", "probability_2", "reason"]
    rows = found.set_index("name").fillna("")
    assert rows.loc["new/a.png", "class"] in ("cat", "dog") and not rows.loc["new/a.png", "reason"]
    assert not rows.loc["new/torn.png", "class"] and rows.loc["new/torn.png", "reason"]


@pytest.fixture
def interrupted(monkeypatch):
    """An interrupt arrives in the window that ends at step 2."""
    report = Session._report

    def note(session, *arguments):
        report(session, *arguments)
        if session.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            while session.stop.requested is None:
                time.sleep(0.01)

    monkeypatch.setattr(Session, "_report", note)


def test_an_interrupt_saves_and_the_same_call_goes_on(folder, small_photos, interrupted, complaint):
    start = {"workdir": "run", "params": ["data_dir = 'photos'"], "devices": "cpu"}
    first = notebook.train(small_photos, **start)
    assert not first.done and not first.summary and first.history("stop")["step"].tolist() == [2]
    again = notebook.train(small_photos, **start)
    assert again.done and again.history()["step"].tolist() == [1, 2, 3, 4]
    with complaint("'nothing'", "test"):
        notebook.evaluate("run", split="nothing", devices="cpu")
    with complaint("cpu:5", "restart the kernel"):
        notebook.predict("run", "photos", devices="cpu:5")


def test_what_is_wrong_is_raised_and_leaves_the_process_and_the_workdir_as_they_were(folder, small_photos, complaint):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    threads = set(threading.enumerate())
    start = {"workdir": "run", "params": ["data_dir = 'nowhere'"], "devices": "cpu"}
    with pytest.raises(UserError, match="nowhere") as caught:
        notebook.train(small_photos, **start)
    # As a command prints it, and nothing of gin's.
    shown = caught.value._render_traceback_()
    assert [line.split(":")[0].strip() for line in shown] == ["error", "where", "expected", "do"]
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=60)
    assert set(threading.enumerate()) <= threads
    # It belongs to nobody: the next call takes it.
    with complaint("nowhere"):
        notebook.train(small_photos, **start)
    with complaint("there is no session"):
        notebook.predict("new", "photos", devices="cpu")


def test_training_elsewhere_than_in_the_main_thread_is_refused(small_photos, tmp_path):
    raised = []

    def start():
        try:
            notebook.train(small_photos, workdir=tmp_path / "run")
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=start, name="helper")
    thread.start()
    thread.join()
    assert "thread helper" in str(raised[0]) and not (tmp_path / "run").exists()
