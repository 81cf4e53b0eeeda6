"""Checkpoints are whole or told from those that are, and go back only into what they came from."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from data.errors import RunFailure
from trainer import checkpoints, manifest
from trainer.checkpoints import Checkpoints, damage, find, steps_in

DATA = "data-00000-of-00001"


def variables(value=0.0, *, wide=3):
    """Names as they occur: with slashes, dots and an S after a dot, which TensorFlow escapes."""
    return {
        "model": {
            "backbone/block0_conv/kernel": tf.Variable(np.full((wide, 2), value, np.float32)),
            "head/My.Sense/bias": tf.Variable(np.float32(value)),
            "head/dropout/seed_generator_state": tf.Variable([1, 2], dtype=tf.int32),
        },
        "state": {"step": tf.Variable(int(value), dtype=tf.int64)},
    }


def plain(groups):
    return {f"{group}/{name}": variable.numpy() for group, named in groups.items() for name, variable in named.items()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def written(folder):
    """Checkpoints of the steps 10, 20 and 30 that hold their step as value."""
    for step in (10, 20, 30):
        Checkpoints(folder, variables(step), keep=5).save(step)
    return folder


def restored(folder):
    groups = variables(-1)
    step, sentences = Checkpoints(folder, groups, keep=5).restore_newest()
    return step, sentences, plain(groups)


def test_what_is_saved_comes_back_by_name(written):
    step, sentences, values = restored(written)
    assert (step, sentences) == (30, [])
    for name, expected in plain(variables(30)).items():
        np.testing.assert_array_equal(values[name], expected)
        assert values[name].dtype == expected.dtype
    read = checkpoints.read(find(written, "20"))
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in plain(variables(20)).items()
    }


def test_later_ones_hold_what_the_first_of_a_process_holds(folder):
    """Only the first is described by TensorFlow."""
    saved = variables(10)
    ours = Checkpoints(folder, saved, keep=5)
    for step in (10, 20, 30):
        saved["state"]["step"].assign(step)
        ours.save(step)
    readers = [tf.train.load_checkpoint(str(folder / f"ckpt-{step}")) for step in (10, 20, 30)]
    for kind in ("get_variable_to_shape_map", "get_variable_to_dtype_map"):
        first, *later = [getattr(reader, kind)() for reader in readers]
        assert later == [first, first] and "_CHECKPOINTABLE_OBJECT_GRAPH" in first
    assert not list(folder.glob("*_temp"))
    other = variables(-1)
    tf.train.Checkpoint(**other).restore(str(folder / "ckpt-30")).assert_consumed()
    assert plain(other)["state/step"] == 30 and (plain(other)["model/backbone/block0_conv/kernel"] == 10).all()


def test_an_empty_folder_restores_nothing(folder):
    assert Checkpoints(folder, variables(), keep=3).restore_newest() == (None, [])


def test_a_manifest_lists_every_file_with_size_and_checksum(written):
    manifest = json.loads((written / "ckpt-20.manifest.json").read_text())
    assert manifest["step"] == 20 and manifest["variables"] == 4
    assert manifest["files"].keys() == {"ckpt-20.index", f"ckpt-20.{DATA}"}
    for name, facts in manifest["files"].items():
        assert facts["size"] == (written / name).stat().st_size and len(facts["sha256"]) == 64
    assert {"format", "tensorflow", "keras"} <= manifest.keys()


class TestKeeping:
    def test_the_newest_few_drops_the_rest_with_their_manifests(self, folder):
        saving = Checkpoints(folder, variables(), keep=2)
        for step in (1, 2, 3, 4):
            saving.save(step)
        assert steps_in(folder) == [3, 4]
        assert sorted(path.name for path in folder.glob("*manifest*")) == [f"ckpt-{n}.manifest.json" for n in (3, 4)]
        assert saving.newest() == 4 and saving.newest_name() == str(folder / "ckpt-4")

    def test_counts_those_of_earlier_starts(self, folder):
        for step in (1, 2, 3, 4, 5):
            Checkpoints(folder, variables(), keep=2).save(step)
        assert steps_in(folder) == [4, 5]

    def test_does_not_count_those_that_were_set_aside(self, written):
        flip(written / f"ckpt-30.{DATA}")
        saving = Checkpoints(written, variables(), keep=3)
        assert saving.restore_newest()[0] == 20
        saving.save(40)
        assert steps_in(written) == [10, 20, 40]

    def test_removes_what_a_killed_save_has_left(self, written):
        (written / "ckpt-40_temp").mkdir()
        (written / "ckpt-40_temp" / "part-00000-of-00001").write_bytes(b"x")
        (written / "best").mkdir()
        for part in (written / "checkpoint.part", written / "best" / "ckpt-30.index.part"):
            part.write_bytes(b"x")
        Checkpoints(written, variables(), keep=5)
        assert not list(written.rglob("*.part")) and not (written / "ckpt-40_temp").exists()
        assert steps_in(written) == [10, 20, 30]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


class TestANewestCheckpoint:
    @pytest.mark.parametrize("harm", [flip, truncate, empty, delete])
    @pytest.mark.parametrize("manifest", ["whole", "empty", "gone"])
    def test_with_damaged_data_is_passed_over_and_set_aside(self, written, harm, manifest):
        harm(written / f"ckpt-30.{DATA}")
        if manifest != "whole":
            {"empty": empty, "gone": delete}[manifest](written / "ckpt-30.manifest.json")
        step, sentences, values = restored(written)
        assert step == 20 and values["state/step"] == 20
        assert len(sentences) == 1 and "checkpoint 30 is damaged" in sentences[0] and "damaged" in sentences[0]
        assert steps_in(written) == [10, 20] and steps_in(written / "damaged") == [30]
        assert restored(written)[:2] == (20, []), "the next start has nothing to say any more"

    @pytest.mark.parametrize("harm", [flip, truncate, empty])
    @pytest.mark.parametrize("manifest", ["whole", "gone"])
    def test_with_a_damaged_index_is_passed_over(self, written, harm, manifest):
        harm(written / "ckpt-30.index")
        if manifest == "gone":
            delete(written / "ckpt-30.manifest.json")
        assert restored(written)[0] == 20

    def test_without_index_was_never_finished(self, written):
        delete(written / "ckpt-30.index")
        assert restored(written)[:2] == (20, [])

    @pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"files": 3}', b"\xff"])
    def test_whose_manifest_is_lost_is_read_instead(self, written, content):
        manifest = written / "ckpt-30.manifest.json"
        if content is None:
            delete(manifest)
        else:
            manifest.write_bytes(content)
        assert restored(written)[0] == 30

    @pytest.mark.parametrize("harm", [delete, empty, truncate])
    def test_does_not_need_the_file_that_tensorflow_keeps_beside_it(self, written, harm):
        harm(written / "checkpoint")
        assert restored(written)[0] == 30
        assert tf.train.latest_checkpoint(str(written)) == str(written / "ckpt-30")

    def test_after_a_fall_back_is_the_one_before_that_is_whole(self, written):
        flip(written / f"ckpt-30.{DATA}")
        delete(written / f"ckpt-20.{DATA}")
        step, sentences, _ = restored(written)
        assert step == 10 and len(sentences) == 2

    def test_older_damage_is_left_alone(self, written):
        flip(written / f"ckpt-10.{DATA}")
        assert restored(written)[:2] == (30, []) and steps_in(written) == [10, 20, 30]


def test_when_all_are_damaged_nothing_is_moved_and_every_start_says_so(written, complaint):
    for step in (10, 20, 30):
        flip(written / f"ckpt-{step}.{DATA}")
    for _ in range(2):
        with complaint("none of the checkpoints is whole", "checkpoint 10", "checkpoint 30", str(written)):
            restored(written)
        assert steps_in(written) == [10, 20, 30]


class TestOtherVariables:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda groups: groups["model"].pop("head/My.Sense/bias"), "model/head/My.Sense/bias: float32 [] in the"),
            (lambda groups: groups["model"].update(extra=tf.Variable(1.0)), "model/extra: absent in the checkpoint"),
            (
                lambda groups: groups.update(variables(wide=4)),
                "float32 [3, 2] in the checkpoint, float32 [4, 2] in this",
            ),
            (
                lambda groups: groups["state"].update(step=tf.Variable(1)),
                "int64 [] in the checkpoint, int32 [] in this",
            ),
            (lambda groups: groups.update(ema=groups.pop("state")), "ema/step: absent in the checkpoint"),
        ],
        ids=["one less", "one more", "another shape", "another type", "another group"],
    )
    def test_are_refused_by_name_and_nothing_is_restored_or_moved(self, written, complaint, change, told):
        groups = variables(-1)
        change(groups)
        before = plain(groups)
        flip(written / f"ckpt-30.{DATA}")
        with complaint(told, str(written / "ckpt-20"), "variables differ"):
            Checkpoints(written, groups, keep=5).restore_newest()
        assert all(np.array_equal(value, before[name]) for name, value in plain(groups).items())
        assert steps_in(written) == [10, 20, 30]

    def test_of_other_groups_do_not_matter_to_one_group(self, written, complaint):
        groups = variables(-1)
        checkpoints.restore_group(find(written, "20"), "model", groups["model"])
        values = plain(groups)
        assert values["model/head/My.Sense/bias"] == 20 and values["state/step"] == -1
        groups["model"]["more"] = tf.Variable(1.0)
        with complaint("model/more: absent"):
            checkpoints.restore_group(find(written, "20"), "model", groups["model"])


class TestFinding:
    @pytest.mark.parametrize(("which", "name"), [("last", "ckpt-30"), ("10", "ckpt-10"), ("best", "best/ckpt-20")])
    def test_takes_the_last_the_best_or_a_step(self, written, which, name):
        Checkpoints(written, variables(), keep=5).keep_in("best", [20])
        assert find(written, which) == written / name

    @pytest.mark.parametrize("which", ["15", "best", "newest", "010", ""])
    def test_tells_the_steps_there_are(self, written, complaint, which):
        with complaint(repr(which), "10, 20, 30"):
            find(written, which)

    def test_refuses_a_damaged_one(self, written, complaint):
        flip(written / f"ckpt-30.{DATA}")
        with complaint("damaged", str(written / "ckpt-30")):
            find(written, "last")

    def test_tells_that_one_is_gone_by_now(self, written, complaint):
        prefix = find(written, "10")
        checkpoints.remove(written, 10)
        with complaint("cannot be read", "a running training removes old ones"):
            checkpoints.weights_group(prefix)

    def test_in_a_folder_that_is_not_there_finds_nothing(self, folder, complaint):
        with complaint("'last'", "(none)"):
            find(folder, "last")


class TestTheBest:
    def test_is_the_same_bytes_once_and_survives_its_original(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        best = find(written, "best")
        assert os.path.samefile(written / f"ckpt-20.{DATA}", f"{best}.{DATA}")
        for path in written.glob("ckpt-20.*"):
            path.unlink()
        assert damage(best) is None and checkpoints.read(best)["state/step"] == 20
        assert tf.train.latest_checkpoint(str(written / "best")) == str(best)

    def test_gives_way_to_a_better_one(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        saving.keep_in("best", [30])
        saving.keep_in("best", [30])
        assert steps_in(written / "best") == [30] and damage(find(written, "best")) is None
        assert {path.name for path in (written / "best").iterdir()} == {
            "checkpoint", "ckpt-30.index", f"ckpt-30.{DATA}", "ckpt-30.manifest.json",
        }  # fmt: skip

    def test_stays_where_the_other_is_gone(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        saving.keep_in("best", [15])
        saving.keep_in("best", [-1])
        assert steps_in(written / "best") == [20]

    def test_is_copied_where_the_disk_knows_no_links(self, written, monkeypatch):
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
        Checkpoints(written, variables(), keep=5).keep_in("best", [20])
        assert damage(find(written, "best")) is None

    def test_is_found_only_once_all_of_it_is_there(self, written, monkeypatch):
        """A kill between any two files leaves the old one, or one that is whole."""
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        replace, count = os.replace, 0
        for allowed in range(4):
            count = allowed

            def sometimes(*paths):
                nonlocal count
                if not count:
                    raise KeyboardInterrupt
                count -= 1
                replace(*paths)

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", sometimes)
                with pytest.raises(KeyboardInterrupt):
                    saving.keep_in("best", [30])
            found = find(written, "best")
            assert checkpoints.read(found)["state/step"] == int(found.name.removeprefix("ckpt-"))


@pytest.mark.parametrize("harm", ["a file in place of the folder", "a folder in place of the manifest"])
def test_a_checkpoint_that_cannot_be_written_names_the_last_good_one(written, complaint, harm, tmp_path):
    saving = Checkpoints(written, variables(), keep=5)
    if harm.startswith("a file"):
        shutil.move(written, tmp_path / "away")
        written.write_text("")
        last = "none yet"
    else:
        (written / "ckpt-40.manifest.json" / "x").mkdir(parents=True)
        last = str(written / "ckpt-30")
    with complaint("checkpoint 40 cannot be written", last, "make room", kind=RunFailure):
        saving.save(40)


class TestSavingBehind:
    def test_writes_what_was_there_and_not_what_has_come_since(self, folder):
        groups = variables(1)
        saving = Checkpoints(folder, groups, keep=3)
        saving.save_behind(10)
        for named in groups.values():
            for variable in named.values():
                variable.assign(variable + 1)
        assert saving.newest() == 10
        assert saving.wait().step == 10 and saving.wait() is None
        read = checkpoints.read(folder / "ckpt-10")
        assert read["state/step"] == 1 and (read["model/backbone/block0_conv/kernel"] == 1).all()

    def test_has_one_save_under_way_at_most_and_tells_of_each_once(self, folder):
        saving = Checkpoints(folder, variables(), keep=5)
        for step in (1, 2, 3):
            saving.save_behind(step)
            assert saving.newest() == step
        saving.wait()
        assert saving.done() is None and steps_in(folder) == [1, 2, 3]

    def test_tells_of_a_failure_at_the_next_occasion(self, written, complaint):
        saving = Checkpoints(written, variables(), keep=5)
        (written / "ckpt-40.manifest.json" / "x").mkdir(parents=True)
        saving.save_behind(40)
        with complaint("checkpoint 40 cannot be written", str(written / "ckpt-30"), kind=RunFailure):
            saving.wait()
        assert steps_in(written) == [10, 20, 30] and saving.newest() == 30

    def test_needs_room_before_it_begins(self, written, complaint, monkeypatch):
        usage = shutil.disk_usage(written)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
        with complaint("checkpoint 40 cannot be written", "are free", kind=RunFailure):
            Checkpoints(written, variables(), keep=5).save_behind(40)
        assert steps_in(written) == [10, 20, 30]

    def test_removes_older_ones_only_when_the_manifest_is_written(self, folder, monkeypatch):
        saving = Checkpoints(folder, variables(), keep=1)
        saving.save(1)
        there = []
        write = manifest.write
        monkeypatch.setattr(manifest, "write", lambda *a, **k: (there.append(steps_in(folder)), write(*a, **k)))
        saving.save(2)
        assert there == [[1, 2]] and steps_in(folder) == [2]

    def test_leaves_what_is_whole_where_only_the_notes_of_tensorflow_fail(self, folder, complaint, monkeypatch):
        saving = Checkpoints(folder, variables(), keep=1)
        saving.save(1)
        sweep = tf.train.CheckpointManager._sweep

        def fail(manager):
            sweep(manager)
            raise OSError("no space left")

        monkeypatch.setattr(tf.train.CheckpointManager, "_sweep", fail)
        with complaint("no space left", kind=RunFailure):
            saving.save(2)
        assert steps_in(folder) == [2] and damage(folder / "ckpt-2") is None


class TestPlaces:
    def test_keep_what_the_newest_ones_have_left_behind(self, folder):
        saving = Checkpoints(folder, variables(), keep=1)
        for step in (1, 2, 3, 4):
            saving.save(step, places={"best": [2], "kept": [1, 3]})
        assert (steps_in(folder), steps_in(folder / "best"), steps_in(folder / "kept")) == ([4], [2], [1, 3])
        assert find(folder, "3") == folder / "kept" / "ckpt-3" and damage(folder / "kept" / "ckpt-3") is None

    def test_let_go_of_what_is_wanted_no_more(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("kept", [10, 20])
        saving.keep_in("kept", [20, 30])
        assert steps_in(written / "kept") == [20, 30]

    def test_take_from_each_other_what_is_among_the_newest_no_more(self, folder):
        saving = Checkpoints(folder, variables(), keep=1)
        saving.save(1, places={"kept": [], "best": [1]})
        saving.save(2, places={"kept": [1], "best": [2]})
        assert (steps_in(folder / "kept"), steps_in(folder / "best")) == ([1], [2])

    def test_have_a_damaged_one_replaced_where_that_is_looked_for(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        path = written / "best" / f"ckpt-20.{DATA}"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert damage(written / "best" / "ckpt-20") is not None
        saving.keep_in("best", [20], verify=True)
        assert damage(written / "best" / "ckpt-20") is None

    def test_have_a_best_one_of_the_weights_themselves(self, written):
        saving = Checkpoints(written, variables(), keep=5)
        saving.keep_in("best", [20])
        assert find(written, "best", weights="raw").name == "ckpt-20"
        saving.keep_in("best_raw", [10])
        assert find(written, "best", weights="raw").name == "ckpt-10"
        assert find(written, "best").name == find(written, "best", weights="ema").name == "ckpt-20"


def test_a_checkpoint_of_another_session_is_not_taken(folder):
    Checkpoints(folder, variables(10), keep=5, session="ours").save(10)
    Checkpoints(folder, variables(20), keep=5, session="theirs").save(20)
    groups = variables()
    step, sentences = Checkpoints(folder, groups, keep=5, session="ours").restore_newest()
    assert step == 10 and groups["state"]["step"].numpy() == 10 and "another session, theirs" in sentences[0]


def test_later_ones_are_removed_where_an_earlier_one_is_wanted(written):
    groups = variables()
    assert Checkpoints(written, groups, keep=5).restore_newest(at_most=25) == (20, [])
    assert groups["state"]["step"].numpy() == 20 and steps_in(written) == [10, 20]


def test_a_step_that_comes_again_after_a_roll_back_takes_the_place_of_what_it_was(written):
    groups = variables(30)
    saving = Checkpoints(written, groups, keep=1)
    places = {"kept": [20, 30], "best": [30]}
    for place, steps in places.items():
        saving.keep_in(place, steps)
    saving.restore_newest(at_most=25)
    assert (steps_in(written / "kept"), steps_in(written / "best")) == ([20], [])
    saving.save(30, places=places)
    for place in ("best", "kept"):
        assert checkpoints.read(written / place / "ckpt-30")["state/step"] == 20


def test_a_checkpoint_of_a_later_format_is_refused_and_left_alone(written, complaint):
    path = written / "ckpt-30.manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with complaint("format 99", "ckpt-30"):
        restored(written)
    assert steps_in(written) == [10, 20, 30]
