"""A store holds what was decoded, says what it was decoded from, and is whole or not there."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data import inspection, packing, sources
from data import store as stores
from data.decode import Decoding
from data.errors import RunFailure, UserError
from data.examples import Examples, Record, Stream

DECODING = Decoding(20)
PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def root(tmp_path) -> Path:
    """Twelve PNG photos of several sizes, and one that is broken."""
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for index in range(6):
            pixels = random.integers(0, 256, (20 + index, 30 - index, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{index}.png")
    (tmp_path / "photos" / "dog" / "bad.png").write_bytes(b"\x89PNG")
    return tmp_path / "photos"


@pytest.fixture
def found(root) -> Examples:
    return sources.folder(root=str(root))


@pytest.fixture
def small_shards(monkeypatch):
    """Three images or so a file."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 5000)


def canvas(store: stores.Store, row: int) -> np.ndarray:
    pixels, size = store.canvases()(tf.constant(row, tf.int64))
    return pixels.numpy().reshape(*size.numpy(), 3)


def stream_of(found: Examples, **changes) -> Stream:
    """The same images as a stream of encoded bytes."""

    def records():
        for row in range(len(found)):
            path = Path(found.root) / found.names[row].decode()
            yield Record(name=bytes(found.names[row]), image=path.read_bytes(), label=int(found.labels[row]))

    given = {"title": "a stream", "fingerprint": {"version": "1"}, "count": len(found)}
    return Stream(records=records, **given | changes)


class TestPacking:
    def test_the_canvases_are_the_decoded_images(self, found, tmp_path, small_shards):
        store = packing.pack(found, tmp_path / "store", decoding=DECODING)
        seen = inspection.inspect(found, decoding=DECODING)
        for name in inspection.Inspection.names():
            np.testing.assert_array_equal(getattr(store.inspection, name), getattr(seen, name))
        assert len(store.manifest["shards"]) > 2 and store.manifest["examples"] == 13
        for row in range(13):
            if row in seen.bad:
                continue
            with Image.open(found.where(row)) as image:
                np.testing.assert_array_equal(canvas(store, row), np.asarray(image))

    def test_the_broken_ones_are_told_with_the_reason_and_take_no_room(self, found, tmp_path):
        store = packing.pack(found, tmp_path / "store", decoding=DECODING)
        (row,) = store.inspection.bad
        assert store.name(row) == "dog/bad.png"
        assert store.manifest["bytes"] == store.inspection.sizes.prod(axis=1).sum() * 3

    def test_the_size_is_announced_before_anything_is_written(self, found, tmp_path):
        folder, told = tmp_path / "store", []

        def say(text):
            told.append((text, list(folder.glob("canvases*"))))

        store = packing.pack(found, folder, decoding=DECODING, say=say)
        ((text, written),) = told
        expected = packing.expected_bytes(found, decoding=DECODING)
        assert packing.say_bytes(expected) in text and "free" in text and not written
        # The broken one counts as nothing, as it does in the store.
        assert expected == pytest.approx(store.manifest["bytes"], abs=13)

    def test_the_expected_size_is_that_of_the_shrunk_canvases(self, tmp_path):
        (tmp_path / "a").mkdir()
        for name, shape in (("1.jpg", (130, 170)), ("2.png", (100, 90)), ("3.png", (20, 10))):
            Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "a" / name)
        names = [b"a/1.jpg", b"a/2.png", b"a/3.png"]
        table = Examples.of(names=names, labels=[0, 1, 1], class_names=["x", "y"], root=str(tmp_path))
        sizes = inspection.inspect(table, decoding=DECODING).sizes
        assert sizes.tolist() == [[33, 43], [25, 23], [20, 10]]
        assert packing.expected_bytes(table, decoding=DECODING) == sizes.prod(axis=1).sum() * 3

    def test_progress_counts_every_image(self, found, tmp_path, small_shards):
        told = []
        packing.pack(found, tmp_path / "store", decoding=DECODING, report=told.append)
        assert told == list(range(1, 14))

    def test_images_in_memory_can_be_packed_too(self, tmp_path):
        table = sources.synthetic(examples=5, classes=2, height=21, width=30)
        store = packing.pack(table, tmp_path / "store", decoding=DECODING)
        for row in range(5):
            np.testing.assert_array_equal(canvas(store, row), table.pixels[row])


class TestStreams:
    def test_become_a_table_with_all_they_said(self, found, tmp_path, small_shards):
        plain = stream_of(found)

        def records():
            for row, record in enumerate(plain.records()):
                group = f"g{row % 3}".encode()
                label = "cat" if record.label == 0 else "dog"
                yield dataclasses.replace(
                    record,
                    label=label,
                    weight=row + 1,
                    repeat=0.5 * row + 1,
                    split=row % 3,
                    group=group,
                    origin=row % 2,
                )

        stream = dataclasses.replace(plain, records=records, shares=(0.25, 0.75), notes=("a note",))
        table = packing.pack(stream, tmp_path / "store", decoding=DECODING).examples(stream)
        assert table.class_names == ("cat", "dog") and table.task == "single_label" and table.shares == (0.25, 0.75)
        np.testing.assert_array_equal(table.names, found.names)
        np.testing.assert_array_equal(table.labels, found.labels)
        np.testing.assert_array_equal(table.weights, np.arange(13) + 1)
        np.testing.assert_array_equal(table.repeats, 0.5 * np.arange(13) + 1)
        np.testing.assert_array_equal(table.stated_split, np.arange(13) % 3)
        np.testing.assert_array_equal(table.groups, [f"g{row % 3}".encode() for row in range(13)])
        np.testing.assert_array_equal(table.origins, np.arange(13) % 2)
        assert table.notes == ("a note",)

    def test_numbers_without_names_are_classes_from_0(self, found, tmp_path):
        stream = stream_of(found)
        assert packing.pack(stream, tmp_path / "store", decoding=DECODING).examples(stream).class_names == ("0", "1")

    def test_label_vectors_stay_vectors(self, found, tmp_path):
        plain = stream_of(found)

        def records():
            for row, record in enumerate(plain.records()):
                yield dataclasses.replace(record, label=np.array([row / 2, -row], np.float32))

        stream = dataclasses.replace(plain, records=records, task="regression", class_names=("x", "y"))
        table = packing.pack(stream, tmp_path / "store", decoding=DECODING).examples(stream)
        np.testing.assert_array_equal(table.labels, [[row / 2, -row] for row in range(13)])

    def test_a_label_of_no_class_is_the_users_error(self, found, tmp_path, complaint):
        stream = stream_of(found, class_names=("only",))
        with complaint("labels are of no class", "dog/", "only"):
            packing.pack(stream, tmp_path / "store", decoding=DECODING).examples(stream)

    def test_are_read_once_and_opened_without_reading_afterwards(self, found, tmp_path):
        stream, passes = stream_of(found), []
        counted = dataclasses.replace(stream, records=lambda: passes.append(1) or stream.records())
        packing.pack(counted, tmp_path / "store", decoding=DECODING)
        before = len(passes)
        packing.pack(counted, tmp_path / "store", decoding=DECODING)
        assert len(passes) == before

    def test_of_another_version_are_refused_with_both(self, found, tmp_path, complaint):
        packing.pack(stream_of(found), tmp_path / "store", decoding=DECODING)
        with complaint("version: 1 -> 2", str(tmp_path / "store")):
            packing.pack(stream_of(found, fingerprint={"version": "2"}), tmp_path / "store", decoding=DECODING)


class TestChanges:
    @pytest.fixture
    def packed(self, found, tmp_path) -> Path:
        packing.pack(found, tmp_path / "store", decoding=DECODING)
        return tmp_path / "store"

    def reopen(self, root: Path, folder: Path, **changes) -> stores.Store:
        return packing.pack(sources.folder(root=str(root)), folder, **{"decoding": DECODING} | changes)

    def test_a_complete_store_is_opened_and_not_written(self, root, packed):
        before = {path.name: path.stat().st_mtime_ns for path in packed.iterdir()}
        self.reopen(root, packed)
        assert {path.name: path.stat().st_mtime_ns for path in packed.iterdir()} == before

    def test_added_files_are_named(self, root, packed, complaint):
        shutil.copy(root / "cat" / "1.png", root / "cat" / "new.png")
        with complaint("1 images added: cat/new.png", str(packed)):
            self.reopen(root, packed)

    @pytest.mark.parametrize("same_size", [True, False])
    def test_changed_files_are_named(self, root, packed, complaint, same_size: bool):
        path = root / "cat" / "1.png"
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content if same_size else content + b"more")
        with complaint("1 images changed or gone: cat/1.png"):
            self.reopen(root, packed)

    def test_files_that_were_only_touched_or_copied_are_the_same(self, root, packed):
        for path in root.rglob("*.png"):
            os.utime(path, (1, 1))
        self.reopen(root, packed)

    def test_fewer_files_are_fine(self, root, packed):
        (root / "cat" / "2.png").unlink()
        found = sources.folder(root=str(root))
        attached = packing.pack(found, packed, decoding=DECODING).attach(found)
        assert attached.store.names[attached.store_rows].tolist() == found.names.tolist()

    @pytest.mark.parametrize("decoding", [Decoding(21), Decoding(20, (0, 0, 0)), Decoding(None)])
    def test_another_decoding_is_refused(self, root, packed, complaint, decoding: Decoding):
        with complaint("a short side of 20", "remove this one and pack again"):
            self.reopen(root, packed, decoding=decoding)

    def test_a_store_of_ones_own_is_packed_anew(self, root, packed):
        store = self.reopen(root, packed, decoding=Decoding(10), start_over=True)
        assert store.decoding == Decoding(10)
        np.testing.assert_array_equal(store.inspection.sizes[0], [10, 15])


HARMS = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: os.truncate(folder / "manifest.json", 100),
    "a manifest of something else": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a missing file": lambda folder: (folder / "canvases-00001.bin").unlink(),
    "a truncated file": lambda folder: os.truncate(folder / "canvases-00001.bin", 100),
    "a missing table": lambda folder: (folder / "canvases-00001.npz").unlink(),
    "a truncated table": lambda folder: os.truncate(folder / "canvases-00001.npz", 300),
}


class TestDamage:
    @pytest.fixture
    def packed(self, found, tmp_path, small_shards) -> stores.Store:
        return packing.pack(found, tmp_path / "store", decoding=DECODING)

    @pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
    def test_is_noticed_when_a_store_is_opened(self, found, packed, complaint, harm: Callable):
        harm(packed.folder)
        with complaint("no store can be opened", str(packed.folder)):
            stores.open_store(packed.folder, found, decoding=DECODING)

    def test_a_manifest_that_names_files_elsewhere_is_refused(self, found, packed, complaint):
        manifest = json.loads((packed.folder / "manifest.json").read_text())
        manifest["shards"][0]["file"] = "../photos/cat/0.png"
        (packed.folder / "manifest.json").write_text(json.dumps(manifest))
        with complaint("outside the store"):
            stores.open_store(packed.folder, found, decoding=DECODING)

    def test_a_changed_byte_is_found_by_the_checksums(self, packed):
        assert packed.damage() == []
        path = packed.folder / "canvases-00002.bin"
        content = bytearray(path.read_bytes())
        content[7] ^= 1
        path.write_bytes(content)
        assert packed.damage() == ["canvases-00002.bin"]


PACK = """
import sys, time
from data import packing, sources
from data.decode import Decoding
from pathlib import Path
packing.SHARD_BYTES = 5000
def slowly(done):
    time.sleep(0.02)
packing.pack(sources.folder(root=sys.argv[1]), Path(sys.argv[2]), decoding=Decoding(20), report=slowly)
"""


class TestInterruption:
    def test_killed_at_any_moment_it_goes_on_and_ends_in_the_same_bytes(self, root, found, tmp_path, small_shards):
        straight = packing.pack(found, tmp_path / "straight", decoding=DECODING)
        folder = tmp_path / "killed"
        whole = len(straight.manifest["shards"])
        for shards in (1, 3):
            child = subprocess.Popen([sys.executable, "-c", PACK, str(root), str(folder)], cwd=PROJECT)
            deadline = time.monotonic() + 120
            while not (folder / f"canvases-{shards - 1:05}.npz").exists() and time.monotonic() < deadline:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert not (folder / "manifest.json").exists()
            with pytest.raises(UserError):
                stores.open_store(folder, found, decoding=DECODING)
        kept = (folder / "canvases-00000.bin").stat().st_mtime_ns
        assert len(list(folder.glob("*.npz"))) < whole
        store = packing.pack(found, folder, decoding=DECODING)
        assert (folder / "canvases-00000.bin").stat().st_mtime_ns == kept
        assert store.manifest == straight.manifest
        for path in straight.folder.glob("*.bin"):
            assert (folder / path.name).read_bytes() == path.read_bytes()
        assert not list(folder.glob("*.part")) and not (folder / "packing.json").exists()

    @pytest.fixture
    def unfinished(self, found, tmp_path, small_shards) -> Path:
        def stop(done):
            if done == 9:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            packing.pack(found, tmp_path / "store", decoding=DECODING, report=stop)
        assert not list((tmp_path / "store").glob("*.part"))
        assert list((tmp_path / "store").glob("*.npz"))
        return tmp_path / "store"

    def test_what_changed_meanwhile_is_packed_again(self, root, found, unfinished):
        Image.fromarray(np.full((22, 22, 3), 7, np.uint8)).save(root / "cat" / "0.png")
        store = packing.pack(found, unfinished, decoding=DECODING)
        np.testing.assert_array_equal(canvas(store, 0), np.full((22, 22, 3), 7))

    def test_an_unfinished_store_of_something_else_is_not_thrown_away_unasked(self, found, unfinished, complaint):
        fewer = found.take(np.arange(5))
        with complaint("unfinished store of other images", str(unfinished)):
            packing.pack(fewer, unfinished, decoding=DECODING)
        assert len(packing.pack(fewer, unfinished, decoding=DECODING, start_over=True).names) == 5

    def test_a_stream_that_went_on_must_give_the_same_examples(self, found, tmp_path, small_shards, complaint):
        def stop(done):
            if done == 9:
                raise KeyboardInterrupt

        folder, stream = tmp_path / "store", stream_of(found)
        with pytest.raises(KeyboardInterrupt):
            packing.pack(stream, folder, decoding=DECODING, report=stop)
        other = stream_of(found.take(np.arange(13)[::-1]))
        with complaint("where it gave"):
            packing.pack(other, folder, decoding=DECODING)
        told = []
        table = packing.pack(stream, folder, decoding=DECODING, report=told.append).examples(stream)
        np.testing.assert_array_equal(table.names, found.names)
        assert told[0] > 1 and told[-1] == 13


class TestAFullDisk:
    def test_is_told_before_anything_is_written(self, found, tmp_path, complaint, monkeypatch):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
        with complaint("are needed", "1 kB are free", "train.store = None", kind=RunFailure):
            packing.pack(found, tmp_path / "store", decoding=DECODING)
        assert not list((tmp_path / "store").glob("canvases*"))

    def test_leaves_nothing_half_written_and_goes_on_when_there_is_room(
        self, found, tmp_path, complaint, monkeypatch, small_shards
    ):
        replace, files = os.replace, []

        def full(source, target):
            files.append(target)
            if str(target).endswith("00001.bin"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(packing.os, "replace", full)
            with complaint("too full", "No space left", kind=RunFailure):
                packing.pack(found, tmp_path / "store", decoding=DECODING)
        assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
            "canvases-00000.bin",
            "canvases-00000.npz",
            "packing.json",
            "store.lock",
        ]
        assert packing.pack(found, tmp_path / "store", decoding=DECODING).damage() == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
    def test_a_disk_that_is_really_full(self, found, tmp_path, complaint):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            # The header of the only image says little, its canvas is large: nothing warns beforehand.
            stream = stream_of(found, count=None)
            with complaint("too full", kind=RunFailure):
                packing.pack(stream, disk / "store", decoding=DECODING)
            assert not list((disk / "store").glob("*.part"))
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_folder_that_cannot_be_written_is_the_users_error(self, found, complaint):
        with complaint("cannot be written", "/proc/store"):
            packing.pack(found, Path("/proc/store"), decoding=DECODING)


def test_two_that_want_the_same_store_pack_it_once(found, tmp_path, small_shards):
    said, packed = [], []

    def pack(name: str) -> None:
        def report(done):
            packed.append(name)
            time.sleep(0.02)

        packing.pack(found, tmp_path / "store", decoding=DECODING, say=said.append, report=report)

    threads = [threading.Thread(target=pack, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(packed)) == 1 and len(packed) == 13
    assert sum("waiting for it" in text for text in said) == 1


def test_a_table_is_attached_by_name_whatever_its_order(found, tmp_path):
    store = packing.pack(found, tmp_path / "store", decoding=DECODING)
    shuffled = found.take(np.random.default_rng(0).permutation(13))
    np.testing.assert_array_equal(store.names[store.attach(shuffled).store_rows], shuffled.names)
    stranger = dataclasses.replace(found, names=np.array([b"x%d" % row for row in range(13)]))
    with pytest.raises(KeyError):
        store.attach(stranger)


class TestFoldersOfOthers:
    def test_a_folder_with_other_files_is_refused_and_left_alone(self, found, tmp_path, complaint):
        folder = tmp_path / "mine"
        folder.mkdir()
        for name in ("thesis.part", "canvases-00007.jpg", "canvases-draw.png"):
            (folder / name).write_bytes(b"precious")
        with complaint("thesis.part", str(folder)):
            packing.pack(found, folder, decoding=DECODING)
        assert len(list(folder.iterdir())) == 3

    def test_packing_removes_no_file_that_is_not_its_own(self, found, tmp_path, small_shards):
        folder = tmp_path / "store"
        packing.pack(found, folder, decoding=DECODING)
        for name in ("thesis.part", "canvases-00007.jpg", "canvases-draw.png"):
            (folder / name).write_bytes(b"precious")
        packing.pack(found, folder, decoding=Decoding(10), start_over=True)
        assert {path.name for path in folder.iterdir()} >= {"thesis.part", "canvases-00007.jpg", "canvases-draw.png"}

    def test_whoever_only_reads_needs_no_permission_to_write(self, found, tmp_path, monkeypatch):
        packing.pack(found, tmp_path / "store", decoding=DECODING)
        (tmp_path / "store" / "store.lock").unlink()
        packing.pack(found, tmp_path / "store", decoding=DECODING)
        assert not (tmp_path / "store" / "store.lock").exists()

    def test_a_store_in_a_data_folder_is_no_class(self, root, found):
        packing.pack(found, root / "store", decoding=DECODING)
        assert sources.folder(root=str(root)).class_names == found.class_names


def test_a_packing_in_another_order_of_the_same_table_goes_on(found, tmp_path, small_shards):
    def stop(done):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(found.take(np.arange(13)[::-1]), tmp_path / "store", decoding=DECODING, report=stop)
    told = []
    packing.pack(found, tmp_path / "store", decoding=DECODING, report=told.append)
    assert told[0] > 1


def test_other_images_in_memory_are_refused(tmp_path, complaint):
    table = sources.synthetic(examples=5, classes=2, height=21, width=30)
    packing.pack(table, tmp_path / "store", decoding=DECODING)
    with complaint("images in memory are others"):
        packing.pack(dataclasses.replace(table, pixels=table.pixels ^ 1), tmp_path / "store", decoding=DECODING)


def test_a_stream_of_nothing_leaves_no_store(found, tmp_path, complaint):
    stream = stream_of(found.take(np.arange(0)))
    with complaint("nothing to pack", "a stream"):
        packing.pack(stream, tmp_path / "store", decoding=DECODING)
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.parametrize("change", ["content", "size"])
def test_a_store_of_other_images_of_the_same_names_is_not_the_sessions(root, found, tmp_path, complaint, change: str):
    before = inspection.inspect(found, decoding=DECODING)
    shape = (20, 30, 3) if change == "content" else (25, 25, 3)
    Image.fromarray(np.full(shape, 9, np.uint8)).save(root / "cat" / "0.png")
    packing.pack(found, tmp_path / "store", decoding=DECODING)
    good = np.flatnonzero(before.reasons == b"")
    with complaint("1 images in the store are others", "cat/0.png"):
        stores.open_for(tmp_path / "store", found.take(good), before.take(good), decoding=DECODING)
