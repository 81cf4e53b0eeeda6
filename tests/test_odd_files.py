"""A folder of broken and odd files goes through inspection, audit and training as the table of `odd_files` says."""

import concurrent.futures
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import pipeline, sources
from data.audit import name_of
from data.augment.apply import Rendering
from data.decode import Decoding
from data.examples import Examples
from data.inspection import Inspection, Looker, inspect
from data.names import printable
from data.store import changed_files
from tests import odd_files
from tests.common_user import obey_permissions
from tests.odd_files import Bad, Good, LeftOut, Refused

TESTS = Path(__file__).resolve().parent
SECONDS = 120
DECODING = Decoding(odd_files.SHORT_SIDE)
VERDICTS = odd_files.verdicts()
SIDE = min(odd_files.HEIGHT, odd_files.WIDTH)


def names_of(*kinds: type) -> set[bytes]:
    return {name for name, verdict in VERDICTS.items() if type(verdict) in kinds}


def like_everybody(function, *arguments, **named):
    """Calls it in a thread for which file permissions hold, even if it is root's."""
    with concurrent.futures.ThreadPoolExecutor(1, initializer=obey_permissions) as pool:
        return pool.submit(function, *arguments, **named).result()


def says(reason: str, words: Bad) -> bool:
    return all(word.lower() in reason.lower() for word in words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "photos"
    odd_files.write(root)
    return root


@pytest.fixture(scope="module")
def found(folder) -> Examples:
    return sources.folder(root=str(folder))


@pytest.fixture(scope="module")
def seen(found) -> Inspection:
    return like_everybody(inspect, found, decoding=DECODING)


@pytest.fixture(scope="module")
def good(found, seen) -> Examples:
    """The table as a session freezes it."""
    found = dataclasses.replace(found, orientations=seen.orientations, kinds=seen.kinds)
    return found.take(seen.reasons == b"")


def test_there_are_many_kinds_of_each_verdict():
    assert len(odd_files.table()) >= 150 and len({odd.name for odd in odd_files.table()}) == len(odd_files.table())
    assert all(names_of(kind) for kind in (Good, Bad, Refused, LeftOut))


class TestInspection:
    def test_the_source_lists_refuses_and_leaves_out_what_the_table_says(self, found):
        refused = dict(found.refused)
        assert set(found.names.tolist()) == names_of(Good, Bad)
        assert set(refused) == names_of(Refused)
        wrong = {name: reason for name, reason in refused.items() if not says(reason, VERDICTS[name])}
        assert not wrong

    def test_exactly_the_bad_ones_are_bad_and_for_the_reason_in_the_table(self, found, seen):
        reasons = {bytes(found.names[row]): reason for row, reason in seen.bad.items()}
        assert set(reasons) == names_of(Bad)
        assert not {name: reason for name, reason in reasons.items() if not says(reason, VERDICTS[name])}
        assert not [reason for reason in reasons.values() if not reason.isprintable() or "{{" in reason]

    def test_the_good_ones_have_the_size_and_orientation_in_the_table(self, found, seen):
        for row in np.flatnonzero(seen.reasons == b""):
            verdict = VERDICTS[bytes(found.names[row])]
            got = tuple(seen.sizes[row].tolist()), int(seen.orientations[row])
            assert got == (verdict.canvas, verdict.orientation), found.names[row]

    def test_a_small_file_that_claims_to_be_enormous_takes_no_memory(self, found):
        # An image of 65,500 x 65,500 pixels would take more than the machine has.
        looker = Looker(DECODING)
        claims = [name for name in names_of(Bad) if b"claims" in name]
        assert len(claims) >= 7
        before = peak_memory()
        for name in claims:
            assert looker.file(os.path.join(os.fsencode(found.root), name)).reason
        assert peak_memory() - before < 2**30

    def test_a_file_that_becomes_readable_counts_as_changed_and_one_that_does_not_as_the_same(self, tmp_path):
        for name in ("a/1.png", "b/2.png"):
            (tmp_path / name).parent.mkdir()
            odd_files.unreadable(tmp_path / name)
        table = sources.folder(root=str(tmp_path))
        before = like_everybody(inspect, table, decoding=DECODING)
        assert list(before.bad) == [0, 1]
        assert like_everybody(changed_files, table, before) == []
        (tmp_path / "b" / "2.png").chmod(0o600)
        assert like_everybody(changed_files, table, before) == [b"b/2.png"]

    def test_what_is_no_file_is_not_opened_to_see_whether_it_changed(self, tmp_path):
        # A pipe that nobody writes to would be waited for without end.
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "folder.jpg").mkdir()
        names = [b"folder.jpg", b"pipe.jpg"]
        table = Examples.of(names=names, labels=[0, 1], class_names=["a", "b"], root=str(tmp_path))
        before = inspect(table, decoding=DECODING)
        assert list(before.bad) == [0, 1] and changed_files(table, before) == []


def peak_memory() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TestPixels:
    def upright(self, canvas: np.ndarray, orientation: int) -> np.ndarray:
        return {1: canvas, 3: canvas[::-1, ::-1], 6: np.rot90(canvas, -1), 8: np.rot90(canvas)}[orientation]

    def test_every_canvas_shows_what_the_table_says(self, good):
        looker, compared = Looker(DECODING), 0
        for name in good.names.tolist():
            verdict = VERDICTS[name]
            if verdict.shows is not None:
                canvas = looker.file(os.path.join(os.fsencode(good.root), name)).canvas
                shown = self.upright(canvas.astype(np.float64), verdict.orientation)
                assert shown.shape == verdict.shows.shape, name
                assert np.abs(shown - verdict.shows).max() <= verdict.within, name
                compared += 1
        assert compared > 70

    def test_so_does_what_the_network_sees(self, good):
        """The centre, pixel for pixel, through the pipeline and the kernel."""
        shows = [VERDICTS[name].shows for name in good.names.tolist()]
        usual = [shown is not None and min(shown.shape[:2]) == SIDE for shown in shows]
        table = good.take(np.array(usual))
        view = pipeline.View(
            image_size=(SIDE, SIDE),
            fit="native",
            crop=1.0,
            decoding=DECODING,
            capacity=odd_files.HEIGHT * odd_files.WIDTH,
        )
        [batch] = pipeline.evaluation_batches(table, batch=len(table), view=view)
        pixels = Rendering(size=(SIDE, SIDE)).images(batch).numpy()
        assert not batch["replaced"].numpy().any() and len(table) > 60
        for name, square in zip(table.names.tolist(), pixels, strict=True):
            verdict = VERDICTS[name]
            top, left = ((length - SIDE) // 2 for length in verdict.shows.shape[:2])
            expected = verdict.shows[top : top + SIDE, left : left + SIDE]
            # Turning is by sines and cosines that are whole numbers: only the weights of the taps round.
            assert np.abs(square - expected).max() <= verdict.within + 0.01, name


@pytest.fixture(scope="module")
def server() -> Iterator[Callable]:
    """Takes the requests of `command_server.py`."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(TESTS / "common_user.py"), str(TESTS / "command_server.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip

    def ask(**request) -> int:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait(timeout=SECONDS)
    process.stdout.close()


@pytest.fixture
def run(server, folder, tmp_path) -> Callable[..., tuple[int, str]]:
    """`run("train", *bindings)` on the folder in WORKDIR/train: exit status and what was printed."""

    def start(script: str, *bindings: str) -> tuple[int, str]:
        bindings = [f"--gin_param={binding}" for binding in (f"data_dir = {str(folder)!r}", *bindings)]
        arguments = [f"--workdir={tmp_path / script}", f"--gin_file={TESTS / 'photos.gin'}", "--devices=cpu", *bindings]
        output = tmp_path / "printed.txt"
        pid = server(start=script, arguments=arguments, output=str(output))
        return server(wait=pid, seconds=SECONDS), output.read_text()

    return start


class TestTraining:
    @pytest.mark.parametrize("store", ["None", "'auto'"])
    def test_a_start_that_refuses_bad_images_names_them_in_one_message(self, run, folder, tmp_path, store):
        status, printed = run("train", f"train.store = {store}", "train.bad_images = 'refuse'")
        assert status == 2 and "Traceback" not in printed
        message = printed[printed.index("error: ") :].splitlines()
        bad = names_of(Bad, Refused)
        total = len(names_of(Good)) + len(bad)
        assert message[0].startswith(f"error: {len(bad)} of {total} images do not decode: ")
        assert [line.split(":")[0].strip() for line in message[1:]] == ["where", "expected", "do"]
        named = {name for name in bad if f"{folder}/{printable(name)}: " in message[0]}
        assert len(named) >= 10 and message[0].endswith(f"and {len(bad) - len(named)} more")
        assert all(line.isprintable() for line in printed.splitlines())
        assert not (tmp_path / "train" / "examples.npz").exists()

    @pytest.mark.parametrize("store", ["None", "'auto'"])
    def test_a_start_that_drops_them_names_each_and_trains_on_all_others(self, run, folder, tmp_path, store):
        status, printed = run("train", f"train.store = {store}", "train.bad_images = 'drop'")
        assert status == 0 and "Traceback" not in printed, printed
        lines = printed.splitlines()
        assert all(line.isprintable() for line in lines)
        for name in names_of(Bad, Refused):
            start = f"left out {folder}/{printable(name)}: "
            [reason] = [line.removeprefix(start) for line in lines if line.startswith(start)]
            assert says(reason, VERDICTS[name]), (name, reason)
        assert sum(line.startswith("left out ") for line in lines) == len(names_of(Bad, Refused))
        with np.load(tmp_path / "train" / "examples.npz", allow_pickle=False) as frozen:
            assert set(frozen["names"].tolist()) == names_of(Good)
        summary = json.loads((tmp_path / "train" / "summary.json").read_text())
        assert summary["steps"] == 4
        assert (tmp_path / "train" / "store").exists() == (store == "'auto'")


def test_an_audit_reports_exactly_these_verdicts(run, tmp_path):
    status, printed = run("audit")
    assert status == 0 and "Traceback" not in printed, printed
    assert all(line.isprintable() for line in printed.splitlines())
    document = json.loads((tmp_path / "audit" / "audit.json").read_text())
    reasons = {name_of(image): image["reason"] for image in document["bad"]}
    assert set(reasons) == names_of(Bad, Refused)
    assert not {name: reason for name, reason in reasons.items() if not says(reason, VERDICTS[name])}
    assert document["images"]["good"] == len(names_of(Good))
    assert document["images"]["turned"] == sum(getattr(it, "orientation", 1) != 1 for it in VERDICTS.values())


SMALL = [odd.content for odd in odd_files.table() if isinstance(odd.content, bytes) and 0 < len(odd.content) < 20_000]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    content=st.sampled_from(SMALL),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
    in_header=st.booleans(),
    kept=st.floats(0.05, 1) | st.just(1.0),
)
def test_whatever_bytes_are_damaged_there_is_a_canvas_or_a_reason(content, flips, in_header, kept):
    damaged = bytearray(content)
    for place, value in flips:
        damaged[int(place * min(len(damaged), 128 if in_header else len(damaged)))] ^= value
    sight = Looker(DECODING).image(bytes(damaged[: max(1, int(kept * len(damaged)))]))
    assert bool(sight.reason) == (sight.canvas is None)
    if sight.canvas is not None:
        assert sight.canvas.dtype == np.uint8 and sight.canvas.shape[2] == 3 and sight.canvas.size > 0
