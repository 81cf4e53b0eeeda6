"""Sources find images and say what they left out and why."""

import errno
import os
from pathlib import Path

import pytest

from data import sources
from data.examples import SPLITS
from data.names import natural


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


class TestFolder:
    def test_classes_come_in_natural_order_and_files_by_name_with_their_labels(self, tmp_path):
        names = [
            "class10/a.jpg",
            "class9/img10.JPG",
            "class9/img9.png",
            "class9/img.bmp",
            "class/z.gif",
            "class9/b.jpeg",
            "class9/c.WebP",
        ]
        found = sources.folder(root=str(touch(tmp_path, *names)))
        assert found.class_names == ("class", "class9", "class10")
        assert found.names.tolist() == [
            b"class/z.gif",
            b"class9/b.jpeg",
            b"class9/c.WebP",
            b"class9/img.bmp",
            b"class9/img10.JPG",
            b"class9/img9.png",
            b"class10/a.jpg",
        ]
        assert found.labels.tolist() == [0, 1, 1, 1, 1, 1, 2]
        assert found.stated_split.tolist() == [-1] * 7
        assert found.root == str(tmp_path) and found.pixels is None and not found.notes

    def test_the_natural_order_knows_numbers_anywhere(self):
        mixed = ["b", "a10", "a9b", "a", "a9", "10", "9", "a09", "", "a9b10", "a9b9"]
        ordered = ["", "9", "10", "a", "a09", "a9", "a9b", "a9b9", "a9b10", "a10", "b"]
        assert sorted(mixed, key=natural) == ordered
        assert sorted(mixed[::-1], key=natural) == ordered

    def test_images_below_a_class_folder_belong_to_the_class(self, tmp_path):
        found = sources.folder(root=str(touch(tmp_path, "cat/x.jpg", "cat/2020/may/y.jpg", "dog/z.jpg")))
        assert found.names.tolist() == [b"cat/x.jpg", b"cat/2020/may/y.jpg", b"dog/z.jpg"]
        assert found.labels.tolist() == [0, 0, 1]

    def test_wanted_classes_give_the_order_of_the_outputs(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg", "emu/y.jpg")
        found = sources.folder(root=str(tmp_path), class_names=["emu", "cat"])
        assert found.class_names == ("emu", "cat")
        assert found.names.tolist() == [b"emu/y.jpg", b"cat/x.jpg"]
        assert found.labels.tolist() == [0, 1]

    def test_hidden_files_and_folders_are_left_out(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "cat/.y.jpg", "cat/.thumbs/z.jpg", "dog/z.jpg", ".cache/z.jpg")
        found = sources.folder(root=str(tmp_path))
        assert found.names.tolist() == [b"cat/x.jpg", b"dog/z.jpg"]
        assert not found.notes

    def test_files_that_are_no_images_by_their_names_are_counted_and_one_is_named(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "cat/notes.txt", "dog/z.jpg", "dog/raw/z.nef")
        found = sources.folder(root=str(tmp_path))
        assert len(found) == 2
        (note,) = found.notes
        assert "2 files" in note and "cat/notes.txt" in note

    def test_images_beside_the_class_folders_are_counted_and_one_is_named(self, tmp_path):
        touch(tmp_path, "loose10.jpg", "loose9.jpg", "README.md", "cat/x.jpg", "dog/z.jpg")
        (note,) = sources.folder(root=str(tmp_path)).notes
        assert "2 images" in note and "loose9.jpg" in note

    @pytest.mark.parametrize("name", [b"dog/caf\xe9.jpg", b"dog/two\nlines.jpg", b"dog/ blank .jpg"])
    def test_names_that_are_not_utf8_or_have_line_breaks_survive(self, tmp_path, name: bytes):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg")
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
        found = sources.folder(root=str(tmp_path))
        assert name in found.names.tolist()
        assert os.path.exists(os.path.join(os.fsencode(found.root), name))

    def test_a_home_or_relative_path_is_made_absolute(self, tmp_path, monkeypatch):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        for root in ("~/photos", "photos", "./photos/"):
            assert sources.folder(root=root).root == str(tmp_path / "photos")


class TestSplitLevel:
    NAMES = ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "test/dog/3.jpg")

    def test_it_is_recognised_and_stated(self, tmp_path):
        found = sources.folder(root=str(touch(tmp_path, *self.NAMES)))
        assert found.class_names == ("cat", "dog")
        stated = {name: SPLITS[split] for name, split in zip(found.names.tolist(), found.stated_split, strict=True)}
        assert stated == {
            b"train/cat/1.jpg": "train",
            b"train/dog/1.jpg": "train",
            b"val/cat/2.jpg": "validation",
            b"test/dog/3.jpg": "test",
        }

    @pytest.mark.parametrize("part, split", sorted(sources.SPLIT_FOLDERS.items()))
    def test_all_its_names_are_known(self, tmp_path, part: str, split: str):
        touch(tmp_path, f"{part}/cat/1.jpg", f"{part}/dog/1.jpg")
        found = sources.folder(root=str(tmp_path), split_level=True)
        assert {SPLITS[index] for index in found.stated_split} == {split}

    def test_it_can_be_denied(self, tmp_path):
        touch(tmp_path, "train/1.jpg", "test/1.jpg")
        found = sources.folder(root=str(tmp_path), split_level=False)
        assert found.class_names == ("test", "train") and (found.stated_split == -1).all()

    def test_class_folders_that_only_look_like_it_are_classes(self, tmp_path):
        found = sources.folder(root=str(touch(tmp_path, "train/1.jpg", "bus/1.jpg")))
        assert found.class_names == ("bus", "train") and (found.stated_split == -1).all()

    def test_other_folders_beside_it_are_named(self, tmp_path, complaint):
        touch(tmp_path, *self.NAMES, "extra/cat/1.jpg")
        with complaint("extra", str(tmp_path), "split_level"):
            sources.folder(root=str(tmp_path), split_level=True)

    def test_a_class_of_one_part_only_is_a_class(self, tmp_path):
        found = sources.folder(root=str(touch(tmp_path, *self.NAMES, "test/emu/1.jpg")))
        assert found.class_names == ("cat", "dog", "emu")


class TestLinks:
    def test_a_link_to_a_file_below_the_root_is_an_image(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg")
        (tmp_path / "dog/y.jpg").symlink_to("../cat/x.jpg")
        assert sources.folder(root=str(tmp_path)).names.tolist() == [b"cat/x.jpg", b"dog/y.jpg", b"dog/z.jpg"]

    def test_a_root_that_is_a_link_itself_is_followed(self, tmp_path):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg")
        (tmp_path / "photos/dog/y.jpg").symlink_to(tmp_path / "photos/cat/x.jpg")
        (tmp_path / "link").symlink_to("photos")
        assert len(sources.folder(root=str(tmp_path / "link"))) == 3

    def refused(self, root: Path) -> dict[bytes, str]:
        found = sources.folder(root=str(root))
        assert found.names.tolist() == [b"cat/x.jpg", b"dog/z.jpg"]
        return dict(found.refused)

    def test_a_link_out_of_the_root_is_refused(self, tmp_path):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg", "photos2/secret.jpg")
        (tmp_path / "photos/dog/y.jpg").symlink_to(tmp_path / "photos2/secret.jpg")
        refused = self.refused(tmp_path / "photos")
        assert refused.keys() == {b"dog/y.jpg"}
        assert "out of the data folder" in refused[b"dog/y.jpg"]
        assert str(tmp_path / "photos2/secret.jpg") in refused[b"dog/y.jpg"]

    @pytest.mark.parametrize("target", ["elsewhere", "photos/cat", "photos"])
    def test_a_link_to_a_folder_is_refused_wherever_it_leads(self, tmp_path, target: str):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg", "elsewhere/a.jpg")
        (tmp_path / "photos/dog/more").symlink_to(tmp_path / target)
        refused = self.refused(tmp_path / "photos")
        assert refused.keys() == {b"dog/more"} and str(tmp_path / target) in refused[b"dog/more"]

    @pytest.mark.parametrize("target", ["never.jpg", "gone.jpg"])
    def test_a_link_to_nothing_or_to_itself_is_refused(self, tmp_path, target: str):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg")
        (tmp_path / "dog/gone.jpg").symlink_to(target)
        refused = self.refused(tmp_path)
        assert refused.keys() == {b"dog/gone.jpg"} and "nothing" in refused[b"dog/gone.jpg"]

    def test_a_link_to_itself_beside_the_classes_is_no_class(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg")
        (tmp_path / "loop").symlink_to("loop")
        assert not self.refused(tmp_path)

    def test_a_pipe_is_refused_and_not_opened(self, tmp_path):
        touch(tmp_path, "cat/x.jpg", "dog/z.jpg")
        os.mkfifo(tmp_path / "dog/pipe.png")
        refused = self.refused(tmp_path)
        assert refused.keys() == {b"dog/pipe.png"} and "pipe" in refused[b"dog/pipe.png"]

    def test_a_link_that_is_no_image_by_its_name_is_only_counted(self, tmp_path):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg", "notes.txt")
        (tmp_path / "photos/dog/notes.txt").symlink_to(tmp_path / "notes.txt")
        assert not self.refused(tmp_path / "photos")

    def test_a_split_that_is_a_link_is_refused(self, tmp_path):
        touch(tmp_path, "photos/train/cat/x.jpg", "photos/train/dog/z.jpg", "elsewhere/cat/a.jpg")
        (tmp_path / "photos/test").symlink_to(tmp_path / "elsewhere")
        found = sources.folder(root=str(tmp_path / "photos"))
        assert found.names.tolist() == [b"train/cat/x.jpg", b"train/dog/z.jpg"]
        assert [name for name, _ in found.refused] == [b"test"]

    def test_a_class_of_nothing_but_refused_entries_is_a_class_without_images(self, tmp_path, complaint):
        touch(tmp_path, "photos/cat/x.jpg", "photos/dog/z.jpg", "elsewhere/a.jpg")
        (tmp_path / "photos/emu").symlink_to(tmp_path / "elsewhere")
        with complaint("class folder without images: emu", str(tmp_path / "elsewhere")):
            sources.folder(root=str(tmp_path / "photos"))


class TestUserErrors:
    def test_no_folder_named(self, complaint):
        with complaint("folder.root", "data_dir"):
            sources.folder()

    def test_a_folder_that_does_not_exist(self, tmp_path, complaint):
        with complaint(str(tmp_path / "photo"), os.strerror(errno.ENOENT)):
            sources.folder(root=str(tmp_path / "photo"))

    def test_a_file_instead_of_a_folder(self, tmp_path, complaint):
        touch(tmp_path, "photos.zip")
        with complaint(str(tmp_path / "photos.zip"), os.strerror(errno.ENOTDIR)):
            sources.folder(root=str(tmp_path / "photos.zip"))

    @pytest.mark.parametrize("below", ["", "cat", "cat/old"])
    def test_a_folder_that_cannot_be_listed(self, tmp_path, below: str, monkeypatch, complaint):
        touch(tmp_path, "cat/old/x.jpg", "dog/z.jpg")
        locked, scandir = str(tmp_path / below), os.scandir

        def guarded(path):  # root may list anything, so permission bits would not do
            if os.fspath(path).rstrip("/") == locked:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
        with complaint(locked, os.strerror(errno.EACCES)):
            sources.folder(root=str(tmp_path))

    def test_an_empty_folder(self, tmp_path, complaint):
        with complaint("found 0 class folder", str(tmp_path)):
            sources.folder(root=str(tmp_path))

    def test_one_class_where_two_are_needed(self, tmp_path, complaint):
        with complaint("found 1 class folder", "cat", str(tmp_path)):
            sources.folder(root=str(touch(tmp_path, "cat/x.jpg")))

    @pytest.mark.parametrize("other", ["dog/.hidden.jpg", "dog/readme.txt", "dog/sub/.x"])
    def test_a_class_without_images(self, tmp_path, other: str, complaint):
        with complaint("dog", str(tmp_path), "*.png"):
            sources.folder(root=str(touch(tmp_path, "cat/x.jpg", other)))

    def test_a_class_without_images_below_a_split_level(self, tmp_path, complaint):
        touch(tmp_path, "train/cat/x.jpg", "train/dog/readme.txt", "test/cat/y.jpg")
        with complaint("dog", str(tmp_path / "*" / "dog")):
            sources.folder(root=str(tmp_path))

    def test_a_wanted_class_without_a_folder(self, tmp_path, complaint):
        with complaint("emu", "cat, dog", "folder.class_names"):
            sources.folder(root=str(touch(tmp_path, "cat/x.jpg", "dog/z.jpg")), class_names=["cat", "emu"])

    def test_a_class_wanted_twice(self, tmp_path, complaint):
        with complaint("cat", "folder.class_names"):
            sources.folder(root=str(touch(tmp_path, "cat/x.jpg", "dog/z.jpg")), class_names=["cat", "dog", "cat"])
