"""scripts/report.py: where it writes, what it leaves alone, and what it refuses."""

import pytest

from tests.trainer.reports.page import workdirs


def content(folder):
    """The bytes of every file below a folder, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    return workdirs.make(tmp_path / "run").path


def test_a_session_gets_its_page_and_nothing_else_changes(command, run):
    before = content(run)
    done = command("report", f"--workdir={run}")
    assert done.end() == 0, done.printed
    after = content(run)
    assert after.keys() - before.keys() == {"report.html"} and before.items() <= after.items()
    assert f"page: {run / 'report.html'}" in done.printed


def test_sessions_side_by_side_are_a_file_of_their_own(command, run, tmp_path):
    other = workdirs.make(tmp_path / "other", task="binary").path
    before = content(tmp_path)
    output = tmp_path / "both.html"
    done = command("report", f"--workdir={run}", f"--compare={other}", f"--output={output}")
    assert done.end() == 0, done.printed
    assert content(tmp_path).keys() - before.keys() == {"both.html"} and "2 runs side by side" in output.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--workdir is missing"),
        (["--workdir={run}/nowhere"], "there is no session in {run}/nowhere"),
        (["--workdir={run}", "--compare={run}/photos"], "there is no session in {run}/photos"),
        (["--workdir={run}", *["--compare={run}"] * 6], "7 sessions"),
        (["--workdir={run}", "--output={run}/nowhere/page.html"], "cannot be written"),
        (["--workdir={run}", "--drift"], "model"),
    ],
)
def test_wrong_input_is_said_and_nothing_is_written(command, run, arguments, named):
    before = content(run)
    done = command("report", *(text.format(run=run) for text in arguments))
    assert done.end() == 2 and named.format(run=run) in done.printed and "Traceback" not in done.printed, done.printed
    assert content(run) == before
