"""The data of a session: found, looked at once, split, packed, frozen."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data import sources, splits
from data.errors import RunFailure
from data.examples import Examples, Record, Stream
from trainer import data_setup, launch
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

PASSES = []


@gin.configurable
def pictures_one_by_one(root: str, version: int = 1) -> Stream:
    """The PNG files of a folder, as a source that can only be read in sequence."""

    def records():
        PASSES.append(root)
        for path in sorted(Path(root).glob("*/*.png"), reverse=True):
            yield Record(
                name=f"{path.parent.name}/{path.name}".encode(), image=path.read_bytes(), label=path.parent.name
            )

    return Stream(records=records, title="pictures", fingerprint={"version": str(version)})


TABLES: list[Examples] = []


@gin.configurable
def given_table() -> Examples:
    return TABLES[-1]


@pytest.fixture
def root(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, 256, (18 + index % 3, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def recipe(small) -> Callable[..., Recipe]:
    """`recipe("train.store = None")`: the one for photos, with further bindings."""

    def parse(*bindings: str) -> Recipe:
        launch.parse_gin([str(Path(small).with_name("photos.gin"))], bindings)
        return launch.call(Recipe)

    return parse


@pytest.fixture
def opened(recipe, tmp_path) -> Callable:
    """`opened("data_dir = ...")`: the frozen data of a first start in tmp_path/run."""

    def make(*bindings: str, resuming: bool = False, allow: Sequence[str] | None = (), folder: str = "run"):
        workdir = Workdir(str(tmp_path / folder))
        data = data_setup.open_data(recipe(*bindings), workdir, Console(), resuming=resuming, allow=allow)
        if not resuming:
            data_setup.tables.save(workdir.examples, data)
        return data

    return make


def test_the_table_is_sorted_by_name_and_its_split_goes_with_the_names(root, opened):
    data = opened(f"data_dir = {str(root)!r}")
    names = data.examples.names.tolist()
    assert names == sorted(names)
    found = sources.folder(root=str(root))
    expected = dict(zip(found.names.tolist(), splits.split_by_hash(found).tolist(), strict=True))
    assert dict(zip(names, data.split.tolist(), strict=True)) == expected


def test_a_rule_that_goes_by_the_order_of_the_source_sees_that_order(root, opened):
    """Classes stated as dog, cat: the last rows of the source are cats."""
    data = opened(
        f"data_dir = {str(root)!r}",
        "folder.class_names = ['dog', 'cat']",
        "train.split = @split_as_keras",
        "split_as_keras.rule = 'fit'",
    )
    held_out = data.examples.names[data.split == splits.VALIDATION].tolist()
    assert held_out == sorted(b"cat/%d.png" % index for index in (6, 7, 8, 9))


class TestStores:
    def test_auto_packs_into_the_workdir_and_gives_the_same_inspection_as_the_files(self, root, opened):
        packed = opened(f"data_dir = {str(root)!r}")
        plain = opened(f"data_dir = {str(root)!r}", "train.store = None", folder="plain")
        assert packed.examples.store is not None and plain.examples.store is None
        for name in packed.inspection.names():
            np.testing.assert_array_equal(getattr(packed.inspection, name), getattr(plain.inspection, name))

    def test_auto_does_not_pack_what_would_fill_disk_or_memory(self, root, opened, monkeypatch):
        monkeypatch.setattr(data_setup.packing, "expected_bytes", lambda *a, **k: 10**15)
        assert opened(f"data_dir = {str(root)!r}").examples.store is None

    def test_auto_goes_on_without_a_store_when_the_disk_is_full_after_all(
        self, root, opened, monkeypatch, capsys, tmp_path
    ):
        def full(*arguments, **options):
            raise RunFailure("the disk is too full", where="", expected="", do="")

        monkeypatch.setattr(data_setup.packing, "pack", full)
        assert opened(f"data_dir = {str(root)!r}").examples.store is None
        assert "training from the files: the disk is too full" in capsys.readouterr().out
        with pytest.raises(RunFailure):
            opened(f"data_dir = {str(root)!r}", f"train.store = '{tmp_path}/named'", folder="other")

    def test_a_named_store_is_shared_by_sessions(self, root, opened, tmp_path):
        binding = f"train.store = '{tmp_path}/shared'"
        opened(f"data_dir = {str(root)!r}", binding)
        before = (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns
        second = opened(f"data_dir = {str(root)!r}", binding, folder="second")
        assert (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns == before
        assert second.examples.store.folder == tmp_path / "shared"
        assert not (tmp_path / "run" / "store").exists()

    def test_a_named_store_of_another_size_is_refused(self, root, opened, tmp_path, complaint):
        binding = f"train.store = '{tmp_path}/shared'"
        opened(f"data_dir = {str(root)!r}", binding)
        with complaint("a short side of 16", "a short side of 8"):
            opened(f"data_dir = {str(root)!r}", binding, "image_size = 8", folder="second")


FROM_FILES = (
    "cropping/policy.operations = [@random_resized_crop()]",
    "random_resized_crop.pixels = 'decode'",
    "head/stage.policy = @cropping/policy()",
)


class TestCropsFromFiles:
    """A stage whose policy crops out of the files at full resolution."""

    def test_auto_makes_no_store(self, root, opened, tmp_path):
        assert opened(f"data_dir = {str(root)!r}", *FROM_FILES).examples.store is None
        assert opened(f"data_dir = {str(root)!r}", *FROM_FILES, resuming=True).examples.store is None
        assert not (tmp_path / "run" / "store").exists()

    def test_from_the_canvas_they_leave_the_store(self, root, opened):
        bindings = [*FROM_FILES, "random_resized_crop.pixels = 'canvas'"]
        assert opened(f"data_dir = {str(root)!r}", *bindings).examples.store is not None

    @pytest.mark.parametrize(
        "bindings, culprit",
        [
            (["train.store = '{tmp}/store'"], "{tmp}/store"),
            (["train.source = @pictures_one_by_one", "pictures_one_by_one.root = '{root}'"], "pictures"),
            (["train.source = @synthetic", "synthetic.examples = 20"], "in memory"),
        ],
    )
    def test_without_files_they_are_refused(self, root, opened, tmp_path, complaint, bindings, culprit):
        places = {"tmp": tmp_path, "root": root}
        filled = [binding.format(**places) for binding in bindings]
        with complaint(culprit.format(**places), "random_resized_crop.pixels = 'canvas'"):
            opened(f"data_dir = {str(root)!r}", *FROM_FILES, *filled)
        assert not (tmp_path / "store").exists()


class TestStreams:
    def test_become_a_table_like_that_of_the_folder(self, root, opened):
        streamed = opened("train.source = @pictures_one_by_one", f"pictures_one_by_one.root = {str(root)!r}")
        files = opened(f"data_dir = {str(root)!r}", folder="files")
        for name in ("names", "labels", "orientations"):
            np.testing.assert_array_equal(getattr(streamed.examples, name), getattr(files.examples, name))
        np.testing.assert_array_equal(streamed.split, files.split)
        assert streamed.examples.class_names == files.examples.class_names

    def test_are_not_read_again_on_resume(self, root, opened):
        bindings = "train.source = @pictures_one_by_one", f"pictures_one_by_one.root = {str(root)!r}"
        first = opened(*bindings)
        before = len(PASSES)
        again = opened(*bindings, resuming=True)
        assert len(PASSES) == before
        np.testing.assert_array_equal(again.examples.store_rows, first.examples.store_rows)

    def test_need_a_store(self, root, opened, complaint):
        with complaint("pictures can only be read in sequence", "train.store = 'auto'"):
            opened(
                "train.source = @pictures_one_by_one", f"pictures_one_by_one.root = {str(root)!r}", "train.store = None"
            )

    def test_that_changed_are_packed_anew_before_the_session_and_refused_in_one(
        self, root, opened, tmp_path, complaint
    ):
        bindings = "train.source = @pictures_one_by_one", f"pictures_one_by_one.root = {str(root)!r}"
        opened(*bindings)
        opened(*bindings, "pictures_one_by_one.version = 2")
        manifest = json.loads((tmp_path / "run" / "store" / "manifest.json").read_text())
        assert manifest["source"] == {"version": "2"}
        with complaint("version: 2 -> 3"):
            opened(*bindings, "pictures_one_by_one.version = 3", resuming=True)


BINDINGS = (
    "train.source = @given_table",
    "train.split = @split_by_hash",
    "split_by_hash.validation = 0",
    "split_by_hash.test = 0",
)


class TestTrainingPart:
    @pytest.fixture
    def table(self) -> Examples:
        count = 40
        labels = (np.arange(count) >= 30).astype(np.int32)
        table = sources.synthetic(examples=count, classes=2, height=4, width=4)
        TABLES.append(dataclasses.replace(table, labels=labels))
        return TABLES[-1]

    def test_class_weights_go_into_the_loss_and_leave_evaluation_alone(self, table, opened, recipe):
        frozen = opened(*BINDINGS)
        chosen = recipe(*BINDINGS, "train.class_weights = 'balanced'")
        train, order = data_setup.training_part(chosen, frozen.parts()["train"])
        np.testing.assert_allclose(train.weights, np.where(train.labels == 0, 40 / 60, 40 / 20), rtol=1e-6)
        assert (frozen.parts()["train"].weights == 1).all() and order.epoch_length == 40

    def test_balanced_sampling_shows_the_classes_equally_often(self, table, opened, recipe):
        frozen = opened(*BINDINGS)
        train, order = data_setup.training_part(
            recipe(*BINDINGS, "train.sampling = @balanced"), frozen.parts()["train"]
        )
        for epoch in range(3):
            _, rows = order.rows(tf.range(40 * epoch, 40 * (epoch + 1), dtype=tf.int64))
            assert np.bincount(train.labels[rows.numpy()]).tolist() == [20, 20]

    def test_classes_that_the_sampling_leaves_out_are_told(self, table, opened, capsys):
        name = table.class_names[0]
        replay = ("train.sampling = @replay", f"replay.old = ['{name}']")
        opened(*BINDINGS, *replay, "replay.share = 0.1")
        assert "no training image" not in capsys.readouterr().out
        opened(*BINDINGS, *replay, "replay.share = 0.0")
        assert f"shows no training image of {name}:" in capsys.readouterr().out

    def test_an_unknown_class_in_the_weights_is_the_users_error(self, table, opened, recipe, complaint):
        frozen = opened(*BINDINGS)
        with complaint("bird", "train.class_weights"):
            data_setup.training_part(recipe(*BINDINGS, "train.class_weights = {'bird': 2.0}"), frozen.parts()["train"])


class TestResuming:
    @pytest.mark.parametrize("kind", ["arrays", "stream"])
    def test_other_images_under_the_same_names_are_refused_unless_allowed(
        self, kind, root, opened, tmp_path, complaint, capsys
    ):
        if kind == "arrays":
            TABLES.append(sources.synthetic(examples=40, classes=2, height=16, width=16))
            bindings = BINDINGS
        else:
            bindings = "train.source = @pictures_one_by_one", f"pictures_one_by_one.root = {str(root)!r}"
        opened(*bindings)
        opened(*bindings, resuming=True)
        if kind == "arrays":
            TABLES.append(dataclasses.replace(TABLES[-1], pixels=TABLES[-1].pixels ^ 1))
        else:
            for path in root.rglob("*.png"):
                Image.fromarray(np.full((18, 20, 3), 200, np.uint8)).save(path)
            shutil.rmtree(tmp_path / "run" / "store")
        with complaint("images are not what they were", "--allow_change=data.images"):
            opened(*bindings, resuming=True)
        assert "not what they were" not in capsys.readouterr().out
        today = opened(*bindings, resuming=True, allow=["data.images"])
        assert "images are not what they were" in capsys.readouterr().out
        data_setup.tables.save(tmp_path / "run" / "examples.npz", today)
        opened(*bindings, resuming=True)

    def test_a_file_of_other_content_is_refused_unless_allowed(self, root, opened, tmp_path, complaint, capsys):
        there = f"data_dir = {str(root)!r}", "train.store = None"
        opened(*there)
        copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
        opened(f"data_dir = {str(copy)!r}", "train.store = None", resuming=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "cat" / "3.png")
        with complaint("1 images are not what they were", str(root / "cat" / "3.png"), "--allow_change=data.images"):
            opened(*there, resuming=True)
        assert "not what they were" not in capsys.readouterr().out
        opened(*there, resuming=True, allow=None)
        assert "1 images are not what they were" in capsys.readouterr().out, "who only reads is told"
        today = opened(*there, resuming=True, allow=["data.images"])
        row = today.examples.names.tolist().index(b"cat/3.png")
        assert today.inspection.sizes[row].tolist() == [20, 20], "half of 40: there is room for it"
        data_setup.tables.save(tmp_path / "run" / "examples.npz", today)
        capsys.readouterr()
        opened(*there, resuming=True)
        assert not capsys.readouterr().out

    def test_a_file_of_other_content_does_not_matter_beside_a_store(self, root, opened, capsys):
        there = f"data_dir = {str(root)!r}"
        opened(there)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "cat" / "3.png")
        capsys.readouterr()
        opened(there, resuming=True)
        assert not capsys.readouterr().out

    def test_a_file_that_broke_is_told_and_left_to_replacement(self, root, opened, capsys):
        there = f"data_dir = {str(root)!r}", "train.store = None"
        opened(*there)
        (root / "cat" / "3.png").write_bytes(b"")
        opened(*there, resuming=True)
        assert "1 images are not what they were" in capsys.readouterr().out

    def test_a_table_of_another_session_is_refused(self, root, opened, tmp_path, complaint):
        there = f"data_dir = {str(root)!r}"
        first = opened(there)
        workdir = tmp_path / "run"
        (workdir / "environment.json").write_text('{"session": "one"}')
        data_setup.tables.save(workdir / "examples.npz", first, session="one")
        opened(there, resuming=True)
        data_setup.tables.save(workdir / "examples.npz", first, session="two")
        with complaint("of another session, two, not one", "examples.npz"):
            opened(there, resuming=True)

    def test_another_size_leaves_the_store_alone_and_reads_the_files(self, root, opened, tmp_path, capsys, complaint):
        there = f"data_dir = {str(root)!r}"
        opened(there)
        before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "store").iterdir()}
        Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(root / "cat" / "3.png")
        with complaint("1 images are not what they were", "--allow_change=data.images"):
            opened(there, "image_size = 8", resuming=True)
        smaller = opened(there, "image_size = 8", resuming=True, allow=["data.images"])
        assert smaller.examples.store is None and smaller.decoding.short_side == 8
        assert smaller.inspection.sizes.max() <= 15
        assert f"1 images are not what they were when the session started: {root}/cat/3.png" in capsys.readouterr().out
        assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "store").iterdir()} == before

    def test_shares_are_exact_of_what_was_not_dropped_and_the_session_goes_on(self, root, opened):
        for index in range(5):
            (root / "cat" / f"{index}.png").write_bytes(b"")
        rule = (
            f"data_dir = {str(root)!r}",
            "train.bad_images = 'drop'",
            "train.split = @split_per_class",
            "split_per_class.test = 0.2",
        )
        first = opened(*rule)
        assert np.bincount(first.examples.labels[first.split == splits.TEST]).tolist() == [1, 2]
        np.testing.assert_array_equal(opened(*rule, resuming=True).split, first.split)

    def test_a_rule_that_cannot_cut_what_was_not_dropped_is_refused_at_once(self, root, opened, complaint):
        (root / "cat" / "0.png").write_bytes(b"")
        rule = "split_as_keras.rule = 'image_dataset_from_directory'", "split_as_keras.seed = 1"
        with complaint("0.05 of 19 images holds none"):
            opened(
                f"data_dir = {str(root)!r}",
                "train.bad_images = 'drop'",
                "train.split = @split_as_keras",
                "split_as_keras.validation = 0.05",
                *rule,
            )


@pytest.mark.parametrize(
    "rule", [lambda table: None, lambda table: np.full(len(table), 3), lambda table: np.zeros(3, int)]
)
def test_what_a_rule_of_ones_own_returns_is_checked(rule, root, recipe, tmp_path, complaint):
    changed = dataclasses.replace(recipe(f"data_dir = {str(root)!r}"), split=rule)
    with complaint("train.split", "0 for train"):
        data_setup.open_data(changed, Workdir(str(tmp_path / "run")), Console(), resuming=False)


def test_a_wrong_sampling_is_told_before_images_are_decoded(root, opened, tmp_path, complaint):
    with complaint("bird"):
        opened(f"data_dir = {str(root)!r}", "train.class_weights = {'bird': 2.0}")
    assert not (tmp_path / "run" / "store").exists()


def test_a_rule_that_leaves_nothing_to_train_on_is_told(root, recipe, tmp_path, complaint):
    rule = dataclasses.replace(recipe(f"data_dir = {str(root)!r}"), split=lambda table: np.ones(len(table), int))
    with complaint("none of 20 images is left to train on", "train.split"):
        data_setup.open_data(rule, Workdir(str(tmp_path / "run")), Console(), resuming=False)
