"""Several sources are one, with a name for each example and a class for each name."""

import gin
import numpy as np
import pytest

from data import sources
from data.examples import Examples, Record, Stream


def in_memory(labels, class_names, *, height: int = 4, task: str = "single_label", **columns) -> Examples:
    pixels = np.random.default_rng(height).integers(0, 256, (len(labels), height, 5, 3), dtype=np.uint8)
    names = [b"%d" % row for row in range(len(labels))]
    return Examples.of(
        names=names, labels=np.array(labels), class_names=class_names, pixels=pixels, task=task, **columns
    )


def stream(labels, class_names=None, task: str = "single_label") -> Stream:
    records = [Record(name=b"%d" % row, image=b"x", label=label) for row, label in enumerate(labels)]
    return Stream(
        records=lambda: iter(records),
        title="a stream",
        class_names=class_names,
        task=task,
        fingerprint={"version": "1"},
    )


class TestFiles:
    def test_they_are_one_table_below_the_folder_that_all_have_in_common(self, photos):
        root = photos({f"{name}.png": (4, 5) for name in ("a/cat/1", "a/dog/2", "b/x/emu/1", "b/x/cat/1")})
        gin.parse_config(
            "mixture.sources = [@one/folder, @two/folder]\n"
            f"one/folder.root = '{root}/a'\ntwo/folder.root = '{root}/b/x'"
        )
        mixed = sources.mixture()
        assert mixed.root == str(root) and mixed.class_names == ("cat", "dog", "emu") and mixed.shares == ()
        rows = zip(mixed.names.tolist(), mixed.labels.tolist(), mixed.origins.tolist(), strict=True)
        assert list(rows) == [
            (b"a/cat/1.png", 0, 0),
            (b"a/dog/2.png", 1, 0),
            (b"b/x/cat/1.png", 0, 1),
            (b"b/x/emu/1.png", 2, 1),
        ]

    def test_a_source_inside_the_root_of_another_keeps_its_place(self, photos, tmp_path):
        root = photos({f"{name}.png": (4, 5) for name in ("cat/1", "dog/2")})
        inner = photos({f"{name}.png": (4, 5) for name in ("cat/1", "emu/2")}, below="photos/.inner")
        mixed = sources.mixture([sources.folder(root=str(root)), sources.folder(root=str(inner))])
        assert mixed.root == str(root) and b".inner/emu/2.png" in mixed.names.tolist()

    def test_what_a_source_refuses_stays_refused(self, photos):
        root = photos({f"{name}.png": (4, 5) for name in ("a/cat/1", "a/dog/2", "b/cat/1", "b/dog/2")})
        (root / "b/dog/gone.png").symlink_to("never.png")
        mixed = sources.mixture([sources.folder(root=str(root / part)) for part in "ab"])
        assert [name for name, _ in mixed.refused] == [b"b/dog/gone.png"]

    def test_a_file_in_two_sources_is_named(self, photos, complaint):
        root = photos({f"{name}.png": (4, 5) for name in ("cat/1", "dog/2")})
        with complaint("2 files", "cat/1.png", "more than one source"):
            sources.mixture([sources.folder(root=str(root))] * 2)


class TestMemory:
    def test_images_of_one_size_are_one_table(self):
        first = in_memory([0, 1], ["a", "b"], weights=[1, 2], stated_split=[0, 2])
        second = in_memory([1, 0, 1], ["c", "b"], repeats=[1, 2, 3], groups=[b"g", b"g", b"h"])
        mixed = sources.mixture([first, second], weights=[3, 1])
        assert mixed.names.tolist() == [b"0/0", b"0/1", b"1/0", b"1/1", b"1/2"]
        assert mixed.class_names == ("a", "b", "c") and mixed.labels.tolist() == [0, 1, 1, 2, 1]
        assert mixed.shares == (0.75, 0.25) and mixed.origins.tolist() == [0, 0, 1, 1, 1]
        assert mixed.weights.tolist() == [1, 2, 1, 1, 1] and mixed.repeats.tolist() == [1, 1, 1, 2, 3]
        assert mixed.stated_split.tolist() == [0, 2, -1, -1, -1]
        assert mixed.groups.tolist() == [b"0/0", b"0/1", b"g", b"g", b"h"]
        np.testing.assert_array_equal(mixed.pixels, np.concatenate([first.pixels, second.pixels]))

    def test_labels_of_several_classes_are_spread_over_all_outputs(self):
        first = in_memory([[1, 1]], ["a", "b"], task="multi_label")
        second = in_memory([[1, 0], [1, 1]], ["c", "a"], task="multi_label")
        mixed = sources.mixture([first, second])
        assert mixed.class_names == ("a", "b", "c")
        assert mixed.labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1]]

    @pytest.mark.parametrize("task, labels", [("binary", [0, 1]), ("regression", [[0.5, 1.0], [2.0, 3.0]])])
    def test_outputs_of_other_tasks_have_to_be_the_same(self, task, labels, complaint):
        same = [in_memory(labels, ["x", "y"], task=task)] * 2
        np.testing.assert_array_equal(sources.mixture(same).labels, np.concatenate([labels, labels]))
        with complaint("source 1", task):
            sources.mixture([same[0], in_memory(labels, ["y", "x"], task=task)])


class TestStreams:
    def test_images_of_different_sizes_follow_each_other(self):
        parts = in_memory([0, 1], ["a", "b"]), in_memory([0, 1], ["b", "c"], height=6, weights=[1, 2])
        mixed = sources.mixture(parts, weights=[1, 1])
        assert mixed.count == 4 and mixed.class_names == ("a", "b", "c") and mixed.shares == (0.5, 0.5)
        records = list(mixed.records())
        assert [record.name for record in records] == [b"0/0", b"0/1", b"1/0", b"1/1"]
        assert [record.label for record in records] == [0, 1, 1, 2]
        assert [record.origin for record in records] == [0, 0, 1, 1]
        assert [record.weight for record in records] == [1, 1, 1, 2]
        np.testing.assert_array_equal(records[3].image, parts[1].pixels[1])

    def test_files_are_read_and_those_that_cannot_be_are_empty(self, photos):
        root = photos({f"{name}.png": (4, 5) for name in ("cat/1", "dog/2")})
        files = sources.folder(root=str(root))
        mixed = sources.mixture([files, in_memory([0], ["emu"])])
        (root / "dog/2.png").unlink()
        images = [record.image for record in mixed.records()]
        assert images[0] == (root / "cat/1.png").read_bytes() and images[1] == b"" and images[2].shape == (4, 5, 3)

    def test_the_fingerprint_changes_with_a_file(self, photos):
        root = photos({f"{name}.png": (4, 5) for name in ("cat/1", "dog/2")})

        def fingerprint() -> dict:
            return sources.mixture([sources.folder(root=str(root)), in_memory([0], ["emu"])]).fingerprint

        before = fingerprint()
        assert fingerprint() == before
        (root / "dog/2.png").write_bytes(b"other")
        assert fingerprint() != before

    def test_classes_that_only_the_labels_show_are_united_by_name(self):
        mixed = sources.mixture([stream(["dog", "cat"]), stream([1, 0], ("cat", "emu"))])
        assert mixed.class_names is None and mixed.count is None
        assert [record.label for record in mixed.records()] == ["dog", "cat", "emu", "cat"]

    def test_known_classes_are_united_by_name(self):
        mixed = sources.mixture([stream(["dog", 1], ("cat", "dog")), stream([1, 0], ("dog", "emu"))])
        assert mixed.class_names == ("cat", "dog", "emu")
        assert [record.label for record in mixed.records()] == [1, 1, 2, 1]

    def test_sets_of_classes_are_spread_over_all_outputs(self):
        labels = np.array([1, 1], np.float32)
        mixed = sources.mixture(
            [stream([labels], ("a", "b"), "multi_label"), stream([labels], ("c", "a"), "multi_label")]
        )
        assert [record.label.tolist() for record in mixed.records()] == [[1, 1, 0], [1, 0, 1]]


class TestUserErrors:
    @pytest.mark.parametrize("count, weights", [(0, None), (1, None), (2, [1]), (2, [1, 1, 1])])
    def test_too_few_sources_or_weights(self, count: int, weights, complaint):
        with complaint("mixture.sources"):
            sources.mixture([in_memory([0, 1], ["a", "b"])] * count, weights=weights)

    @pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
    def test_weights_that_are_none(self, weight: float, complaint):
        with complaint("mixture.weights"):
            sources.mixture([in_memory([0, 1], ["a", "b"])] * 2, weights=[1, weight])

    def test_other_tasks(self, complaint):
        with complaint("source 1", "multi_label", "single_label"):
            sources.mixture([in_memory([0], ["a", "b"]), in_memory([[0, 1]], ["a", "b"], task="multi_label")])

    def test_a_mixture_with_weights_of_its_own(self, complaint):
        plain = in_memory([0, 1], ["a", "b"])
        with complaint("source 1", "mixture"):
            sources.mixture([plain, sources.mixture([plain, plain], weights=[1, 2])])
