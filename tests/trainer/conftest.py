"""Sessions in the test's own process, and what they leave behind in it."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorflow.python.framework import config as tensorflow_config

from trainer import launch
from trainer.recipe import Recipe
from trainer.reports.page import writing
from trainer.session import Session
from trainer.signals import SIGNALS
from trainer.workdir import Workdir

# Measured or drawn, not computed: they differ from run to run.
TIMES = ("time", "seconds", "images_per_second", "data_wait", "session")


@pytest.fixture(autouse=True)
def as_before():
    """Takes back what a session changes for the whole process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    tensorflow_config.disable_op_determinism()


@pytest.fixture(autouse=True)
def without_augmentation_sheets(monkeypatch):
    """A second for each session that comes to its end."""
    monkeypatch.setattr("trainer.reports.page.sheet.section", lambda *_: None)


@pytest.fixture(scope="session")
def open_session(small) -> Iterator[Callable[..., Session]]:
    """`open_session(folder, "epochs = 2")`: a session as scripts/train.py makes it, ready to run.

    The folder's earlier session counts as ended: its lock is released.
    """
    owners: dict[Path, Workdir] = {}

    def release(folder: Path) -> None:
        if folder in owners:
            owners.pop(folder).disown()

    def make(folder: Path, *bindings: str, recipe: str = small, devices: str = "cpu", **arguments) -> Session:
        release(folder)
        launch.parse_gin([recipe], bindings)
        workdir = Workdir(str(folder))
        owners[folder] = workdir
        return Session(launch.call(Recipe), workdir, device_spec=devices, **arguments)

    yield make
    for folder in list(owners):
        release(folder)


write_page = writing.at_end


@pytest.fixture(scope="module")
def no_page() -> Iterator[None]:
    """Sessions end without their page, which takes a fifth of a small one, in modules that are about something else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "at_end", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def finished_once(open_session, tmp_path_factory) -> Path:
    """The folder of the small recipe, trained straight to its end with deterministic operations; with its page."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "at_end", write_page)
        assert open_session(folder, "train.deterministic = True").run() == 0
    tensorflow_config.disable_op_determinism()
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(finished_once, tmp_path / "finished"))


@pytest.fixture
def content() -> Callable[[Path], dict[str, str]]:
    """Checksum of every file below a folder but the lock, by its name."""

    def look(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "onward.lock")
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return look


@pytest.fixture
def events() -> Callable[..., list[dict]]:
    """`events(folder, "train")`: those of metrics.jsonl, strictly JSON, without what a clock measured."""

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    def read(folder: Path, kind: str | None = None, *, times: bool = False) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line, parse_constant=refuse) for line in lines]
        wanted = [event for event in found if kind in (None, event["event"])]
        return [{k: v for k, v in event.items() if times or k not in TIMES} for event in wanted]

    return read
