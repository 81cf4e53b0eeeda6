"""Arrays of any layout become uint8 RGB images, or one complaint."""

import sys

import gin
import numpy as np
import pytest

from data import sources


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestImages:
    def test_rgb_is_taken_as_it_is(self):
        pixels = images(3, 4, 5, 3)
        found = sources.arrays(pixels, np.array([1, 0, 1]))
        assert found.pixels is pixels and not found.notes
        assert found.labels.tolist() == [1, 0, 1] and found.class_names == ("0", "1")

    @pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1)])
    def test_grey_becomes_three_equal_channels(self, shape):
        pixels = images(*shape)
        found = sources.arrays(pixels, [0, 1, 1])
        assert found.pixels.shape == (3, 4, 5, 3)
        for channel in range(3):
            np.testing.assert_array_equal(found.pixels[..., channel], pixels.reshape(3, 4, 5))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("high", [1, 255])
    def test_float_in_a_known_range_comes_back_as_the_levels_it_was(self, dtype, high: int):
        pixels = images(4, 3, 3, 3)
        found = sources.arrays((pixels * (high / 255)).astype(dtype), [0, 1, 1, 0])
        np.testing.assert_array_equal(found.pixels, pixels)
        (note,) = found.notes
        assert f"{high:g} as white" in note

    def test_float_is_rounded_and_the_largest_change_is_said(self):
        found = sources.arrays(np.array([0.0, 0.4, 100.3, 255.0])[:, None, None], [0, 1, 1, 0])
        assert found.pixels[:, 0, 0, 0].tolist() == [0, 0, 100, 255]
        assert "0.4 of 255" in found.notes[0]

    @pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
    def test_a_stated_range_is_stretched_to_black_and_white_and_clipped(self, dtype):
        pixels = np.array([100, 340, 500, 501, 99], dtype)[:, None, None]
        found = sources.arrays(pixels, [0, 1, 1, 0, 0], low=100, high=500)
        assert found.pixels[:, 0, 0, 0].tolist() == [0, 153, 255, 255, 0]

    def test_many_pieces_give_what_one_gives(self, monkeypatch):
        pixels = images(7, 2, 2, 3) / 255
        whole = sources.arrays(pixels, range(7)).pixels
        monkeypatch.setattr(sys.modules["data.sources.arrays"], "PIECE", 2 * pixels[0].nbytes)
        np.testing.assert_array_equal(sources.arrays(pixels, range(7)).pixels, whole)

    @pytest.mark.parametrize(
        "pixels",
        [
            np.full((2, 3, 3), -0.5),
            np.full((2, 3, 3), 256.0),
            np.zeros((2, 3, 3), np.uint16),
            np.zeros((2, 3, 3), np.int32),
            np.full((2, 3, 3), np.nan),
            np.zeros((2, 3, 3), complex),
            np.zeros((2, 3, 3, 4), np.uint8),
            np.zeros((2, 3), np.uint8),
            np.zeros((0, 3, 3), np.uint8),
            np.zeros((2, 0, 3), np.uint8),
        ],
    )
    def test_what_is_no_image_or_of_no_known_range_is_refused(self, pixels, complaint):
        with complaint("images"):
            sources.arrays(pixels, [0] * len(pixels))

    @pytest.mark.parametrize(
        "limits", [{"low": 0}, {"high": 1}, {"low": 1, "high": 1}, {"low": 0, "high": float("nan")}]
    )
    def test_a_range_that_is_none_is_refused(self, limits: dict, complaint):
        with complaint("arrays.low"):
            sources.arrays(images(2, 3, 3), [0, 1], **limits)

    def test_not_a_number_in_a_stated_range_is_refused(self, complaint):
        with complaint("finite"):
            sources.arrays(np.full((2, 3, 3), np.nan), [0, 1], low=0, high=1)


class TestLabels:
    @pytest.mark.parametrize(
        "labels, task, expected, names",
        [
            (np.array([3, 1]), "single_label", [1, 0], ("1", "3")),
            (np.array([[3], [1]], np.uint8), "single_label", [1, 0], ("1", "3")),
            (np.array(["b", "a"]), "single_label", [1, 0], ("a", "b")),
            (np.array([b"b", b"a"]), "single_label", [1, 0], ("a", "b")),
            (np.array([0.5, 2.0]), "regression", [[0.5], [2]], ("0",)),
            (np.array([[0.5, 1], [2, 3]]), "regression", [[0.5, 1], [2, 3]], ("0", "1")),
            (np.array([[0, 1], [1, 1]]), "multi_label", [[0, 1], [1, 1]], ("0", "1")),
            (np.array([[True, False], [False, False]]), "multi_label", [[1, 0], [0, 0]], ("0", "1")),
        ],
    )
    def test_their_type_and_shape_say_what_they_are(self, labels, task, expected, names):
        found = sources.arrays(images(2, 3, 3), labels)
        assert (found.task, found.labels.tolist(), found.class_names) == (task, expected, names)

    def test_the_task_can_be_stated(self):
        found = sources.arrays(images(2, 3, 3), [1, 0], task="binary", class_names=["ok", "broken"])
        assert found.task == "binary" and found.class_names == ("ok", "broken") and found.outputs == 1

    @pytest.mark.parametrize("labels", [[0], [0, 1, 2], np.zeros((2, 2, 2)), 1, np.zeros((2, 0))])
    def test_labels_of_another_shape_are_refused(self, labels, complaint):
        with complaint("labels of shape"):
            sources.arrays(images(2, 3, 3), labels)

    @pytest.mark.parametrize("task", ["ranking", "binary"])
    def test_a_task_that_does_not_fit_is_refused(self, task: str, complaint):
        with complaint(task, "arrays.task"):
            sources.arrays(images(2, 3, 3), np.eye(2), task=task)


class TestNames:
    def test_made_up_ones_sort_as_the_rows_stand(self):
        names = sources.arrays(images(11, 2, 2), range(11)).names.tolist()
        assert names == sorted(names) and len(set(names)) == 11

    @pytest.mark.parametrize("names", [["x", "y"], [b"x", b"y"], np.array(["x", "y"]), np.array([b"x", b"y"])])
    def test_they_can_be_stated(self, names):
        assert sources.arrays(images(2, 2, 2), [0, 1], names=names).names.tolist() == [b"x", b"y"]

    def test_they_have_to_be_as_many_as_images(self, complaint):
        with complaint("names of shape [1]"):
            sources.arrays(images(2, 2, 2), [0, 1], names=["x"])


class TestFiles:
    def test_npy_is_mapped_and_not_read(self, tmp_path):
        pixels = images(3, 4, 5, 3)
        np.save(tmp_path / "images.npy", pixels)
        np.save(tmp_path / "labels.npy", ["a", "b", "a"])
        found = sources.arrays(str(tmp_path / "images.npy"), str(tmp_path / "labels.npy"))
        assert isinstance(found.pixels, np.memmap)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.labels.tolist() == [0, 1, 0]

    def test_npz_holds_both_under_stated_names(self, tmp_path):
        pixels = images(3, 4, 5, 3)
        np.savez(tmp_path / "set.npz", x=pixels, y=[1, 0, 1], n=["c", "b", "a"])
        gin.parse_config(f"arrays.images = '{tmp_path}/set.npz'\narrays.image_key = 'x'\narrays.label_key = 'y'")
        found = sources.arrays(name_key="n")
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.labels.tolist() == [1, 0, 1] and found.names.tolist() == [b"c", b"b", b"a"]

    @pytest.mark.parametrize("key", ["image_key", "label_key"])
    def test_an_array_that_is_not_in_the_file_is_named(self, tmp_path, key: str, complaint):
        np.savez(tmp_path / "set.npz", images=images(2, 2, 2), labels=[0, 1])
        with complaint("'x_train'", "images, labels", f"arrays.{key}"):
            sources.arrays(str(tmp_path / "set.npz"), **{key: "x_train"})

    @pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00", b"PK\x03\x04broken"])
    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_broken_files_are_named(self, tmp_path, content: bytes, suffix: str, complaint):
        (tmp_path / f"set.{suffix}").write_bytes(content)
        with complaint(str(tmp_path / f"set.{suffix}"), "arrays.images"):
            sources.arrays(str(tmp_path / f"set.{suffix}"), [0])

    def test_python_objects_are_never_loaded(self, tmp_path, complaint):
        np.save(tmp_path / "set.npy", np.array([{}, {}], object), allow_pickle=True)
        with complaint("without Python objects"):
            sources.arrays(str(tmp_path / "set.npy"), [0, 1])

    def test_a_file_that_is_not_there_is_named(self, tmp_path, complaint):
        with complaint(str(tmp_path / "none.npy")):
            sources.arrays(str(tmp_path / "none.npy"), [0])

    def test_neither_images_nor_labels(self, tmp_path, complaint):
        with complaint("arrays.images"):
            sources.arrays()
        with complaint("arrays.labels"):
            sources.arrays(images(2, 2, 2))


def test_float_images_that_are_just_above_one_are_ambiguous(complaint):
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    images[0, 0, 0, 0] = 1.0000002
    with complaint("arrays.low", "arrays.high"):
        sources.arrays(images, labels=np.array([0, 1, 0, 1]))
    assert sources.arrays(images, labels=np.array([0, 1, 0, 1]), low=0.0, high=1.0).pixels.max() == 255
