"""Prepared sets of TensorFlow Datasets are read as they are stored, and nothing is downloaded."""

import gin
import numpy as np
import pytest
import tensorflow_datasets

from data import sources


@pytest.fixture
def small_set(pictures, prepared) -> dict:
    return prepared(pictures)


@pytest.fixture
def image_folder(photos) -> str:
    names = ["train/cat/1.png", "train/dog/2.png", "train/dog/3.jpg", "val/cat/4.png"]
    return str(photos({name: (4, 5) for name in names}))


class TestBuilders:
    def test_a_builder_of_a_user_module(self, small_set):
        found = sources.tfds(**small_set)
        assert found.count == 12 and found.class_names == ("cat", "dog", "emu") and found.task == "single_label"
        records = list(found.records())
        assert len({record.name for record in records}) == 12
        assert sorted(record.label for record in records) == [0] * 4 + [1] * 4 + [2] * 4
        assert {record.split for record in records} == {-1}

    def test_gin_names_it(self, small_set):
        gin.parse_config("\n".join(f"tfds.{key} = {value!r}" for key, value in small_set.items()))
        assert sources.tfds().count == 12

    def test_the_folder_of_a_prepared_set_needs_no_builder(self, small_set):
        folder = tensorflow_datasets.builder(small_set["name"], data_dir=small_set["data_dir"]).data_dir
        found = sources.tfds(builder_dir=str(folder))
        assert [r.image for r in found.records()] == [r.image for r in sources.tfds(**small_set).records()]

    def test_an_image_folder_has_the_names_and_bytes_of_its_files(self, image_folder):
        found = sources.tfds("image_folder", ["train", "val"], data_dir=image_folder)
        assert found.class_names == ("cat", "dog") and found.count == 4
        records = {record.name: record for record in found.records()}
        assert {name: (record.label, record.split) for name, record in records.items()} == {
            b"train/cat/1.png": (0, 0),
            b"train/dog/2.png": (1, 0),
            b"train/dog/3.jpg": (1, 0),
            b"val/cat/4.png": (0, 1),
        }
        for name, record in records.items():
            with open(f"{image_folder}/{name.decode()}", "rb") as file:
                assert record.image == file.read()

    def test_a_set_of_array_record_files(self, small_set, tmp_path):
        builder = tensorflow_datasets.builder(
            small_set["name"], data_dir=str(tmp_path / "other"), file_format="array_record"
        )
        builder.download_and_prepare()
        found = sources.tfds(builder_dir=str(builder.data_dir), name_feature="file")
        content = {record.name: (record.image, record.label) for record in found.records()}
        expected = sources.tfds(**small_set, name_feature="file").records()
        assert content == {record.name: (record.image, record.label) for record in expected}


class TestSplits:
    def test_instructions_state_the_splits(self, small_set):
        split = {"train": "train[:8]", "validation": "train[8:10]", "test": "train[10:]"}
        found = sources.tfds(**small_set, split=split)
        assert found.count == 12
        assert [record.split for record in found.records()] == [0] * 8 + [1] * 2 + [2] * 2
        assert len({record.name for record in found.records()}) == 12

    @pytest.mark.parametrize("split", ["test", "train[:", ["test"], {"train": "dev"}])
    def test_a_split_that_the_set_lacks_is_named(self, small_set, split, complaint):
        with complaint("tfds.split", "train"):
            sources.tfds(**small_set, split=split)

    @pytest.mark.parametrize("split", [["train[:8]"], {"dev": "train"}, []])
    def test_a_name_that_is_no_split_is_named(self, small_set, split, complaint):
        with complaint("tfds.split", "validation"):
            sources.tfds(**small_set, split=split)


class TestFeatures:
    def test_pixels_that_are_not_encoded_are_arrays(self, small_set):
        encoded = {r.name: r for r in sources.tfds(**small_set).records()}
        for record in sources.tfds(**small_set, image="array").records():
            assert record.image.dtype == np.uint8 and record.image.shape == (8, 10, 3)
            assert record.label == encoded[record.name].label

    def test_a_sequence_of_classes_is_a_set(self, small_set):
        found = sources.tfds(**small_set, label="tags", task="multi_label", name_feature="file")
        assert found.class_names == ("old", "small", "wet")
        labels = {record.name: record.label.tolist() for record in found.records()}
        assert labels[b"cat/00.png"] == [0, 0, 0] and labels[b"cat/03.png"] == [1, 1, 0]

    def test_a_number_is_a_target(self, small_set):
        found = sources.tfds(**small_set, label="score", task="regression")
        assert found.class_names == ("score",)
        assert sorted(record.label.tolist() for record in found.records()) == [[row / 2] for row in range(12)]

    def test_text_is_the_name_of_a_class(self, small_set):
        found = sources.tfds(**small_set, label="file")
        assert found.class_names is None
        assert "cat/00.png" in {record.label for record in found.records()}

    @pytest.mark.parametrize("binding", ["image", "label", "name_feature"])
    def test_one_that_is_not_there_is_named(self, small_set, binding: str, complaint):
        with complaint("'picture'", f"tfds.{binding}", "image, label"):
            sources.tfds(**small_set | {binding: "picture"})

    @pytest.mark.parametrize("image", ["label", "score", "tags"])
    def test_one_that_is_no_image_is_refused(self, small_set, image: str, complaint):
        with complaint(image, "tfds.image"):
            sources.tfds(**small_set, image=image)

    def test_a_label_that_does_not_fit_is_named_with_its_example(self, small_set, complaint):
        with complaint("2", small_set["name"], "tfds.label"):
            list(sources.tfds(**small_set, class_names=["a", "b"]).records())


class TestPreparation:
    def test_a_set_that_is_not_prepared_is_not_prepared_by_itself(self, pictures, builder_module, tmp_path, complaint):
        module = builder_module(pictures)
        arguments = {"name": module, "module": module, "data_dir": str(tmp_path / "prepared")}
        with complaint("not prepared", "download_and_prepare", "tfds.download"):
            sources.tfds(**arguments)
        assert not list((tmp_path / "prepared").glob("**/*.tfrecord*"))
        assert sources.tfds(**arguments, download=True).count == 12

    def test_a_set_of_the_catalogue_is_not_downloaded(self, tmp_path, complaint):
        with complaint("mnist", "not prepared"):
            sources.tfds("mnist", data_dir=str(tmp_path))

    def test_the_fingerprint_tells_sets_and_splits_apart(self, small_set):
        whole, part = (sources.tfds(**small_set, split=split).fingerprint for split in ("train", "train[:8]"))
        assert whole != part and small_set["name"] in whole["set"]
        assert any("tfrecord" in name for name in whole)

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"name": "no_such_set_anywhere"},
            {"name": "mnist", "builder_dir": "x"},
            {"name": "mnist", "module": "no.such.module"},
            {"builder_dir": "no_such_folder"},
            {"name": "image_folder"},
            {"name": "image_folder", "data_dir": "no_such_folder"},
            {"name": "mnist", "task": "ranking"},
        ],
    )
    def test_what_cannot_be_opened_is_named(self, arguments: dict, complaint):
        with complaint("tfds."):
            sources.tfds(**arguments)
