"""The report shows every task, takes no name for HTML, needs nothing else, and is never worth a training."""

import html.parser
import json
import re
from pathlib import Path

import gin
import numpy as np
import pytest

from data.examples import TASKS, Record, Stream
from data.names import printable
from tests.trainer.reports.page import workdirs
from trainer import outcomes
from trainer.reports.console import Console
from trainer.reports.page import chosen, history, pictures, run, sheet, writing
from trainer.workdir import Workdir

# Before the fixture of sessions replaces it.
SHEET = sheet.section
PARTS = (
    "config.gin", "environment.json", "stages.json", "metrics.jsonl", "summary.json", "examples.npz",
    "predictions/test.npz", "predictions/train.npz",
)  # fmt: skip
# JSON that is no file of a session.
ANOTHER_KIND = b'{"layers": 3, "stages": [7], "best": "x", "final": 1, "drift": {"a": "b"}}'


class Page(html.parser.HTMLParser):
    """Its tags, its text, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.addresses, self.attributes = set(), "", [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, data):
        self.text += data


def page_of(workdir):
    found = run.read(workdir)
    picture = pictures.of_files(str(workdir.path / "photos"))
    return writing.single(found, picture=picture, sheet=lambda: None)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_page_and_no_name_is_taken_for_html(tmp_path, task):
    text = page_of(workdirs.make(tmp_path / "run", task=task))
    page = Page(text)
    assert "cannot be shown" not in page.text and "cannot be read" not in page.text
    assert page.tags.isdisjoint({"script", "i", "b", "u", "iframe", "object", "link"})
    assert not any(name.startswith("on") for name in page.attributes)
    assert page.addresses and all(each.startswith(("data:image/", "#")) for each in page.addresses)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    for name in workdirs.HOSTILE[:2]:
        assert name in page.text
    assert "caf\\xe9 {{ 7 * 7 }} \\u202e\\n</style>" in page.text or task == "binary"
    assert text.encode() and "<b onclick=x>" in page.text and "</pre><script>" in page.text
    assert text.count("<img ") == sum(each.startswith("data:") for each in page.addresses) >= 8


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("harm", ["missing", "empty", "another kind"])
def test_a_file_that_is_missing_or_damaged_costs_its_section_alone(tmp_path, name, harm):
    workdir = workdirs.make(tmp_path / "run")
    path = workdir.path / name
    path.unlink()
    if harm != "missing":
        path.write_bytes(b"" if harm == "empty" else ANOTHER_KIND)
    page = Page(page_of(workdir))
    for section in ("Results", "Curves", "Classes", "Calibration", "Stages", "Drift", "Environment", "Configuration"):
        assert section in page.text
    told = any(phrase in page.text for phrase in ("cannot be read", "cannot be shown"))
    # Of these, anything is something.
    assert told == (harm != "missing") or name in ("config.gin", "metrics.jsonl", "environment.json")


def test_without_word_of_single_examples_the_page_says_how_to_get_it(tmp_path):
    workdir = workdirs.make(tmp_path / "a run")
    for path in workdir.predictions.iterdir():
        path.unlink()
    page = Page(page_of(workdir))
    for split in ("train", "test"):
        assert f"scripts/evaluate.py --workdir='{workdir.path}' --split={split} --details" in page.text


def test_a_workdir_that_has_only_begun_has_a_page(tmp_path):
    workdir = workdirs.make(tmp_path / "run")
    for path in (*workdir.predictions.iterdir(), workdir.summary):
        path.unlink()
    begun = workdir.metrics.read_text().splitlines()[:1]
    workdir.metrics.write_text("\n".join(begun) + '\n{"event": "tra')
    page = Page(page_of(workdir))
    assert "There has been no evaluation yet" in page.text and "not finished" in page.text


def test_the_page_stays_small_whatever_the_run(tmp_path):
    workdir = workdirs.make(tmp_path / "run", names=[f"class {index}" for index in range(500)], steps=5_000)
    assert len(page_of(workdir)) < 600_000


def test_several_sessions_stand_side_by_side_with_what_differs(tmp_path):
    workdir = [workdirs.make(tmp_path / name, seed=seed) for seed, name in enumerate(("<b>one", "two"))]
    workdir[1].config.write_text(workdirs.CONFIG.replace("= 8", "= 16"))
    found = [run.read(each) for each in workdir]
    page = Page(writing.several(found))
    assert page.tags.isdisjoint({"b", "i", "script"}) and "<b>one" in page.text
    assert "batch_size" in page.text and "folder.root" not in page.text and "16" in page.text
    with_nothing = run.read(Workdir(str(tmp_path / "empty")))
    assert "empty" in Page(writing.several([*found, with_nothing])).text


class TestWhatIsWorthALook:
    @pytest.fixture
    def details(self, tmp_path):
        return outcomes.read(workdirs.make(tmp_path / "run", names=("a", "b", "c")).predictions / "test.npz")

    def test_mistakes_are_the_most_confident_first_and_only_mistakes(self, details):
        found = chosen.mistakes(details, 100)
        rows = [each.row for each in found]
        assert set(rows) == set(np.flatnonzero(details.predicted != details.labels).tolist())
        assert (np.diff(details.predicted_probability[rows]) <= 0).all()
        first = found[0]
        names = (details.class_names[each[first.row]] for each in (details.labels, details.predicted))
        assert first.text.startswith("{}, taken for {}".format(*names))

    def test_the_most_lost_have_the_greatest_losses(self, details):
        assert [each.row for each in chosen.lost(details, 3)] == np.argsort(-details.losses)[:3].tolist()

    def test_what_was_not_seen_or_does_not_count_is_not_shown(self, details):
        details.seen[:] = False
        assert chosen.mistakes(details, 9) == [] and chosen.lost(details, 9) == []


def test_a_log_is_read_into_columns_with_gaps_where_a_figure_is_missing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    events = [{"event": "train", "step": step, "loss": loss} for step, loss in ((1, 2.0), (2, None))]
    events.append({"event": "stop", "step": 2})
    path.write_text("\n".join(map(json.dumps, events)) + '\n{"event": "train", "st')
    found = history.read(path)
    assert found.steps.tolist() == [1, 2] and found.columns.keys() == {"loss"}
    assert found.columns["loss"][0] == 2 and np.isnan(found.columns["loss"][1]) and found.events == events[2:]


def test_names_cannot_lead_out_of_the_folder_of_images(tmp_path, photos):
    photos({"secret.png": (8, 8), "below/in.png": (8, 8)})
    picture = pictures.of_files(str(tmp_path / "photos" / "below"))
    assert picture(b"in.png").startswith("data:image/jpeg;base64,")
    assert picture(b"../secret.png") is None and picture(str(tmp_path / "photos" / "secret.png").encode()) is None


@gin.configurable
def one_by_one() -> Stream:
    """A source that can only be read in sequence."""
    records = (Record(name=b"a", image=np.zeros((4, 4, 3), np.uint8), label=0),)
    return Stream(records=lambda: iter(records), title="records", fingerprint={}, class_names=("a", "b"))


def test_a_source_that_would_have_to_be_packed_is_left_alone(tmp_path, small):
    workdir = workdirs.make(tmp_path / "run")
    source = "\ntrain.source = @one_by_one\n"
    workdir.config.write_text(Path(small).read_text().replace("train.source = @synthetic", source))
    before = sorted(workdir.path.rglob("*"))
    assert "manifest.json is not there" in Page(writing.on_demand(workdir, Console())).text
    assert sorted(workdir.path.rglob("*")) == before


class TestOfASession:
    def test_its_end_writes_a_page_with_what_trained_and_what_it_says(self, finished):
        page = Page((finished / "report.html").read_text())
        assert "complete" in page.text and "class0" in page.text and "cannot be shown" not in page.text
        assert re.search(r"backbone/\w+ … backbone/\w+", page.text) and "head/head_logits" in page.text
        assert "frozen" in page.text and "trains" in page.text

    def test_on_demand_there_is_the_same_page_with_pictures_from_memory_and_nothing_is_changed(
        self, finished, content, monkeypatch
    ):
        monkeypatch.setattr(sheet, "section", SHEET)
        before = content(finished)
        text = writing.on_demand(Workdir.existing(str(finished)), Console())
        page = Page(text)
        assert content(finished) == before
        assert "Each image as an evaluation sees it" in page.text and "rotation: degrees" in page.text
        assert page.addresses and "data:image/png" in text and "no picture" not in page.text

    def test_whatever_goes_wrong_is_told_in_one_line(self, finished, capsys, monkeypatch):
        errors = {"single": RuntimeError("two\nlines"), "write_text": OSError(28, "No space left on device")}
        for name, error in errors.items():
            with monkeypatch.context() as patch:
                patch.setattr(writing, name, lambda *_, error=error, **__: (_ for _ in ()).throw(error))
                writing.at_end(Workdir(str(finished)), None, type("Data", (), {"examples": None}), Console())
            told = capsys.readouterr().out.strip().splitlines()
            assert len(told) == 1 and told[0].startswith("no report: ")

    def test_where_the_data_is_gone_the_page_says_so(self, finished):
        (finished / "examples.npz").unlink()
        text = writing.on_demand(Workdir.existing(str(finished)), Console())
        assert "examples.npz is not there" in Page(text).text
        assert printable(str(finished)) in Page(text).text
