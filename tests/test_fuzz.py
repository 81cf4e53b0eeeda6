"""Whatever happens to recipes, flags and the files of a workdir: the answer is a message, or what is right.

FUZZ_EDITS=5000 FUZZ_RUNS=20 FUZZ_SEED=1 python -m pytest -n 0 tests/test_fuzz.py   (the long form)
"""

import contextlib
import functools
import json
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from data import feature_store, frozen, sources
from data import store as stores
from data.errors import RunFailure, UserError
from data.names import SESSION_LOCK
from scripts import train
from tests import edits
from trainer import checkpoints, launch, losses
from trainer.checkpoints import Checkpoints
from trainer.optimization.stages import plan
from trainer.proofs import damage
from trainer.proofs.damage import Case
from trainer.recipe import Recipe
from trainer.reports import environment, summary
from trainer.reports.console import Console
from trainer.reports.log import MetricsLog
from trainer.state import rhythm
from trainer.workdir import Workdir, read_json

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
EDITS, RUNS = int(os.environ.get("FUZZ_EDITS", 500)), int(os.environ.get("FUZZ_RUNS", 4))
SEED = int(os.environ.get("FUZZ_SEED", 0))
RECIPES = sorted([*TESTS.glob("*.gin"), *PROJECT.glob("configs/*.gin"), *PROJECT.glob("configs/*/*.gin")])
SMALL = TESTS / "small.gin"
STEPS, DONE = 6, 4
RECIPE = ("head/stage.length = (6, 'steps')", "train.checkpoint_every = (2, 'steps')", "train.deterministic = True")
UNREADABLE = (UserError, LookupError, TypeError, ValueError, AttributeError)
FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


def run_of(workdir: Path, photos: Path) -> list[str]:
    """The arguments of scripts/train.py."""
    params = (f"data_dir = '{photos}'", *RECIPE)
    where = [f"--workdir={workdir}", "--devices=cpu", f"--gin_file={TESTS / 'photos.gin'}"]
    return [*where, *(f"--gin_param={param}" for param in params)]


def draws(*names: object) -> random.Random:
    return random.Random(repr((SEED, *names)))


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory) -> Path:
    """A folder with `photos`, `done`, a session of six steps with a store, and `half`, the same as it was at step 4."""
    root, pixels = tmp_path_factory.mktemp("fuzz"), np.random.default_rng(0)
    for index in range(16):
        path = root / "photos" / ["cat", "dog"][index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = tf.io.encode_png(pixels.integers(0, 256, (20, 18, 3), dtype=np.uint8))
        path.write_bytes(encoded.numpy())
    started = command("train", *run_of(root / "done", root / "photos"))
    assert started.end() == 0, started.printed
    shutil.copytree(root / "done", root / "half")
    half = root / "half"
    for path in (half / "summary.json", *half.glob(f"checkpoints/ckpt-{STEPS}.*"), *half.glob("checkpoints/best/*")):
        path.unlink()
    log = MetricsLog(half / "metrics.jsonl")
    log.cut(DONE)
    return root


@pytest.fixture
def half(straight, tmp_path) -> Path:
    """A copy of the session that was interrupted."""
    return Path(shutil.copytree(straight / "half", tmp_path / "half"))


def survives(original: bytes, edit: Callable, count: int, check: Callable[[bytes], None], *, name: str) -> None:
    """Runs the check on so many edits, and tells all that fail."""
    failures = {}
    for number in range(count):
        edited = edit(original, draws(name, number))
        try:
            check(edited)
        except UserError as error:
            assert all((error.found, error.where, error.expected, error.do))
        except Exception:
            failures.setdefault(traceback.format_exc()[-1500:], (number, edited[:3000]))
    assert not failures, "\n".join(f"edit {number}: {edited!r}\n{told}" for told, (number, edited) in failures.items())


def share(part: float) -> int:
    return max(1, round(EDITS * part))


# -- recipes and flags ------------------------------------------------------------------------------------------------


def begin(files: list[str], params: list[str]) -> None:
    """All that a start does with a recipe before it looks at data."""
    launch.parse_gin(files, params)
    recipe = launch.call(Recipe)
    planned = plan(recipe.stages, examples=44, batch=recipe.batch_size, rate_factor=recipe.rate_factor)
    rhythm(recipe, planned, validates=True)
    planned.learning_rates(0, 3)
    launch.call(recipe.optimizer.make)
    launch.call(functools.partial(losses.chosen, outputs=4), recipe.loss, "single_label")
    launch.check_consumed()


def test_a_recipe(tmp_path):
    path, count = tmp_path / "edited.gin", share(0.3)
    for number in range(count):
        recipe = draws("recipe", number).choice([SMALL, *RECIPES])

        def check(edited: bytes) -> None:
            path.write_bytes(edited)
            begin([str(path)], ["data_dir = 'x'"])

        survives(recipe.read_bytes(), edits.text, 1, check, name=f"recipe {number}")


def test_a_binding_on_the_command_line():
    for number in range(share(0.1)):
        binding = draws("binding", number).choice([line for line in SMALL.read_bytes().splitlines() if b" = " in line])
        check = lambda edited: begin([str(SMALL)], [edited.decode(errors="surrogateescape")])  # noqa: E731
        survives(binding, edits.text, 1, check, name=f"binding {number}")


def test_flags(monkeypatch):
    known = flags.FlagValues()
    for kind in ("string", "multi_string", "bool", "list", "integer", "float", "enum"):
        define = getattr(flags, f"DEFINE_{kind}")
        monkeypatch.setattr(flags, f"DEFINE_{kind}", functools.partial(define, flag_values=known))
    launch.define_flags()
    train.define_flags()
    given = "--workdir=x --gin_file=a.gin --gin_param=epochs=3 --devices=cpu:2 --allow_change=a,b --plan --nobackbones"

    def check(edited: bytes) -> None:
        known.unparse_flags()
        with contextlib.suppress(flags.Error, RecursionError):
            known(["train.py", *edited.decode(errors="surrogateescape").split(" ")])

    survives(given.encode(), edits.text, share(0.06), check, name="flags")


# -- the files of a workdir -------------------------------------------------------------------------------------------


def test_the_config_of_a_session(half):
    workdir = Workdir.existing(str(half))
    config = workdir.config.read_bytes()

    def check(edited: bytes) -> None:
        workdir.config.write_bytes(edited)
        workdir.check_config(config.decode(), [])

    survives(config, edits.text, share(0.08), check, name="config")


def test_the_events_of_a_session(straight, tmp_path):
    launch.parse_gin([str(TESTS / "photos.gin")], RECIPE)
    planned = plan(launch.call(Recipe).stages, examples=12, batch=8)
    content = (straight / "done" / "metrics.jsonl").read_bytes()
    path = tmp_path / "metrics.jsonl"

    def check(edited: bytes) -> None:
        path.write_bytes(edited)
        log = MetricsLog(path)
        log.cut(STEPS)
        log.append([{"event": "resume", "step": STEPS, "time": 1.0}])
        assert MetricsLog(path).events == log.events
        sum(event["count"] for event in log.find("replaced"))
        made = summary.make(log, planned, step=STEPS, deciding="validation", best=DONE, metric="accuracy")
        json.dumps(made, allow_nan=False)
        Console().results(made, tmp_path)

    survives(content, edits.lines, share(0.12), check, name="events")


def test_what_a_session_wrote_as_json(straight, half):
    workdir = Workdir.existing(str(half))
    here = json.loads(workdir.environment.read_text())

    def compare(edited: bytes) -> None:
        workdir.environment.write_bytes(edited)
        environment.mismatches(read_json(workdir.environment), here)

    survives(workdir.environment.read_bytes(), edits.document, share(0.04), compare, name="environment")

    def show(edited: bytes) -> None:
        workdir.summary.write_bytes(edited)
        # A summary that cannot be shown is made again.
        with contextlib.suppress(*UNREADABLE):
            Console().results(read_json(workdir.summary), half)

    survives((straight / "done" / "summary.json").read_bytes(), edits.document, share(0.04), show, name="summary")


def test_checkpoints(tmp_path):
    """What is restored is what was saved at that step; otherwise nothing is."""
    variable = tf.Variable(tf.zeros(4))
    groups, whole = {"model": {"x": variable}}, tmp_path / "whole"
    saved = Checkpoints(whole, groups, keep=3)
    for step in (2, 4, 6):
        variable.assign(tf.fill([4], float(step)))
        saved.save(step)
    folder = tmp_path / "edited"
    for name, part in (("ckpt-6.manifest.json", 0.06), ("ckpt-6.index", 0.02), ("ckpt-6.data-00000-of-00001", 0.02),
                       ("checkpoint", 0.02)):  # fmt: skip

        def check(edited: bytes, name: str = name) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(edited)
            with contextlib.suppress(UserError):
                checkpoints.read(checkpoints.find(folder, "last"))
            variable.assign(tf.zeros(4))
            step, _ = Checkpoints(folder, groups, keep=3).restore_newest()
            assert step in (4, 6) and variable.numpy().tolist() == [step] * 4
            there = {path.name for path in folder.rglob("*") if path.is_file()}
            assert there >= {path.name for path in whole.iterdir()} - {name}

        edit = edits.document if name.endswith(".json") else edits.bytes_of
        survives((whole / name).read_bytes(), edit, share(part), check, name=name)


def test_the_frozen_table(straight, half):
    path, found = half / "examples.npz", sources.folder(root=str(straight / "photos"))
    content = path.read_bytes()
    right, _ = frozen.restore(path, found)

    def check(edited: bytes) -> None:
        path.write_bytes(edited)
        table, _ = frozen.restore(path, found)
        assert table.examples.fingerprint() == right.examples.fingerprint()
        assert table.split.tobytes() == right.split.tobytes() and table.decoding == right.decoding
        assert table.inspection.sizes.tobytes() == right.inspection.sizes.tobytes()

    survives(content, edits.bytes_of, share(0.08), check, name="examples.npz")


def test_a_store(straight, half):
    found, folder = sources.folder(root=str(straight / "photos")), half / "store"
    table, _ = frozen.restore(half / "examples.npz", found)

    def canvases() -> list[bytes]:
        store = stores.open_for(folder, table.examples, table.inspection, decoding=table.decoding)
        read = store.canvases()
        rows = stores.rows_of(table.examples.names, store.names)
        return [read(tf.constant(row))[0].numpy().tobytes() for row in rows]

    right = canvases()
    for name, part in (("manifest.json", 0.05), ("canvases-00000.npz", 0.05), ("canvases-00000.bin", 0.03)):
        content = (folder / name).read_bytes()

        def check(edited: bytes, name: str = name) -> None:
            (folder / name).write_bytes(edited)
            assert canvases() == right

        edit = edits.document if name.endswith(".json") else edits.bytes_of
        survives(content, edit, share(part), check, name=f"store/{name}")
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("finished", [True, False])
def test_features(tmp_path, finished: bool):
    """What is missing or damaged is computed again."""

    def computed(folder: Path, stop: int = 4) -> np.ndarray | None:
        parts = feature_store.parts_of(folder, {"train": 4}, shape=(3,), dtype="float32")
        with feature_store.writing(folder, {"layer": "x"}, parts, say=lambda text: None) as store:
            if isinstance(store, feature_store.Writer):
                for row in range(store.done("train"), stop):
                    store.write("train", np.array([row]), FEATURES[[row]], broken=np.zeros(1, bool))
                    store.save("train", row + 1)
                if stop < 4:
                    return None
                store = store.finish()
        return store.parts["train"].reader()(tf.range(4, dtype=tf.int64)).numpy()

    folder, whole = tmp_path / "edited", tmp_path / "whole"
    computed(whole, 4 if finished else 3)
    for name in sorted(path.name for path in whole.iterdir() if path.stat().st_size):

        def check(edited: bytes, name: str = name) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(edited)
            with contextlib.suppress(UserError):
                feature_store.open_features(folder)
            np.testing.assert_array_equal(computed(folder), FEATURES)

        edit = edits.document if name.endswith(".json") else edits.bytes_of
        survives((whole / name).read_bytes(), edit, share(0.02), check, name=f"features/{name}")


# -- whole runs -------------------------------------------------------------------------------------------------------

EDITED = (
    "config.gin", "metrics.jsonl", "environment.json", "classes.json", "examples.npz", "store/manifest.json",
    "checkpoints/checkpoint", f"checkpoints/ckpt-{DONE}.manifest.json", f"checkpoints/ckpt-{DONE}.index",
)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file but that of the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SESSION_LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights(folder: Path) -> dict[str, bytes]:
    stored = checkpoints.read(checkpoints.find(folder / "checkpoints", "last"))
    return {name: value.tobytes() for name, value in stored.items()}


@pytest.mark.parametrize("number", range(RUNS))
def test_a_run(straight, half, command, tmp_path, number: int):
    """Of edited recipes and bindings, and in a workdir of which a file was edited: that ends as it would have."""
    draw, edited = draws("run", number), number % 2
    given = run_of(half, straight / "photos")
    if edited:
        path = half / draw.choice(EDITED)
        edit = edits.lines if path.suffix == ".jsonl" else edits.document if path.suffix == ".json" else edits.bytes_of
        path.write_bytes(edit(path.read_bytes(), draw))
    else:
        recipe = tmp_path / "edited.gin"
        recipe.write_bytes(edits.text((TESTS / "photos.gin").read_bytes(), draw))
        # Bindings win over files: it stays short.
        given = [*given, f"--gin_file={recipe}"]
    before = contents(half)
    started = command("train", *given)
    status = started.end()
    assert "Traceback" not in started.printed, started.printed
    if status == UserError.exit_status:
        assert "error: " in started.printed
        assert contents(half) == before
    elif edited:
        assert status == 0, started.printed
        assert weights(half) == weights(straight / "done")
    else:
        assert status in (0, RunFailure.exit_status, launch.STOPPED), started.printed


# -- files that are damaged, as scripts/prove_damage.py has it ---------------------------------------------------------

NEWEST = f"checkpoints/ckpt-{DONE}.data-00000-of-00001"


@pytest.mark.parametrize(
    ("path", "harm", "opinion"),
    [
        (NEWEST, "flipped", "goes on from before"),
        ("store/canvases-00000.bin", "flipped", "goes on"),
        ("examples.npz", "truncated", "refuses"),
    ],
)
def test_a_damaged_file(straight, half, command, path: str, harm: str, opinion: str):
    case = Case("half", path, harm)
    damage.inflict(case, half, half, seed=SEED)
    harmed = damage.contents(half)
    started = command("train", *run_of(half, straight / "photos"))
    status = started.end()
    about = {"folder": half, "harmed": harmed, "straight": straight / "done", "usual": ""}
    assert damage.judge(case, status, started.printed, **about).opinion == opinion, started.printed


class TestTheProofOfDamage:
    """It can fail."""

    @pytest.fixture
    def judged(self, straight, half) -> Callable[..., str]:
        def opinion(status: int, printed: str, folder: Path = half, change: Callable[[], object] = lambda: None) -> str:
            harmed = damage.contents(folder)
            change()
            about = {"folder": folder, "harmed": harmed, "straight": straight / "done", "usual": ""}
            return damage.judge(Case("half", "classes.json", "empty"), status, printed, **about).opinion

        return opinion

    def test_notices_tracebacks_and_other_ends(self, judged):
        assert judged(1, "ValueError") == judged(0, "Traceback (most recent call last):") == judged(-9, "") == "WRONG"
        assert judged(2, "error: x\n") == "refuses"
        assert judged(2, "") == "WRONG"

    def test_notices_a_refusal_that_changes_files(self, judged, half):
        assert judged(2, "error: x\n", change=(half / "config.gin").unlink) == "WRONG"

    def test_notices_other_weights(self, judged, straight, half):
        assert judged(0, "") == "WRONG", "it has not come to the end"
        assert judged(0, "", folder=straight / "done") == "goes on"
        done, last = straight / "done" / "checkpoints", half / "checkpoints" / f"ckpt-{STEPS}"
        for path in done.glob(f"ckpt-{STEPS}.*"):
            shutil.copy(path, last.parent)
        variables = {name: tf.Variable(value) for name, value in checkpoints.read(done / f"ckpt-{STEPS}").items()}
        variables["model/head/head_logits/bias"].assign_add([0.0, 1e-7])
        Checkpoints(last.parent, {"x": variables}, keep=3).save(STEPS)
        assert judged(0, "") == "WRONG"

    def test_harms_a_file_and_not_what_it_is_linked_to(self, tmp_path):
        for folder in ("ours", "other"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a").write_bytes(folder.encode())
        os.link(tmp_path / "ours" / "a", tmp_path / "ours" / "linked")
        found = {case.harm: case for case in damage.cases("x", tmp_path / "ours", tmp_path / "other", files="a")}
        assert tuple(found) == damage.HARMS
        contents = {}
        for harm, case in found.items():
            damage.inflict(case, tmp_path / "ours", tmp_path / "other", seed=1)
            contents[harm] = (tmp_path / "ours" / "a").read_bytes() if harm != "missing" else None
            (tmp_path / "ours" / "a").write_bytes(b"ours")
        assert contents["another's"] == b"other" and contents["empty"] == b"" and contents["missing"] is None
        assert b"ours".startswith(contents["truncated"]) and len(contents["truncated"]) < 4
        assert len(contents["flipped"]) == 4 and sum(map(int.__ne__, contents["flipped"], b"ours")) == 1
        assert (tmp_path / "ours" / "linked").read_bytes() == b"ours"
