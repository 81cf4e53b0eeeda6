"""The table of examples, and what a session keeps of it."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import examples as tables
from data import sources, splits
from data.errors import UserError
from data.examples import Examples, Frozen


def files(names: list[bytes], labels: list[int]) -> Examples:
    return Examples.of(names=names, labels=np.array(labels), class_names=["cat", "dog"], root="/photos")


def frozen(examples: Examples) -> Frozen:
    sizes = np.arange(2 * len(examples), dtype=np.int32).reshape(-1, 2) + 1
    return Frozen(examples, splits.split_per_class(examples, validation=0.2, test=0.2), sizes, 224)


NAMES = [b"cat/1.jpg", b"cat/2.jpg", b"cat/a very much longer name.jpg", b"dog/1.jpg", b"dog/\xff\xfe.jpg"]
LABELS = [0, 0, 0, 1, 1]


def assert_same(left: Frozen, right: Frozen):
    for column in ("names", "labels", "weights", "stated_split"):
        np.testing.assert_array_equal(getattr(left.examples, column), getattr(right.examples, column))
    assert left.examples.class_names == right.examples.class_names
    assert left.examples.root == right.examples.root
    np.testing.assert_array_equal(left.split, right.split)
    np.testing.assert_array_equal(left.sizes, right.sizes)
    assert left.split.dtype == right.split.dtype and left.sizes.dtype == right.sizes.dtype


class TestTable:
    def test_defaults_are_weight_one_and_no_stated_split(self):
        examples = files(NAMES, LABELS)
        assert len(examples) == 5
        assert examples.weights.tolist() == [1.0] * 5 and examples.weights.dtype == np.float32
        assert examples.stated_split.tolist() == [-1] * 5
        assert examples.labels.dtype == np.int32

    @pytest.mark.parametrize(
        "change",
        [
            {"labels": np.zeros(4)},
            {"labels": np.array([0, 0, 0, 1, 2])},
            {"labels": np.array([0, 0, 0, 1, -1])},
            {"weights": np.ones(6)},
            {"root": None},
            {"pixels": np.zeros((5, 2, 2, 3), np.uint8)},
            {"root": None, "pixels": np.zeros((5, 2, 2, 3), np.float32)},
            {"root": None, "pixels": np.zeros((5, 2, 2, 1), np.uint8)},
            {"root": None, "pixels": np.zeros((4, 2, 2, 3), np.uint8)},
        ],
    )
    def test_columns_that_do_not_fit_are_a_bug_of_the_source(self, change: dict):
        columns = {"names": NAMES, "labels": np.array(LABELS), "class_names": ["cat", "dog"], "root": "/photos"}
        with pytest.raises(ValueError, match="Received"):
            Examples.of(**columns | change)

    def test_take_selects_rows_in_their_order(self):
        examples = sources.synthetic(examples=6, classes=3, height=2, width=2)
        taken = examples.take(np.array([4, 1]))
        assert taken.names.tolist() == [examples.names[4], examples.names[1]]
        assert taken.labels.tolist() == [1, 1]
        np.testing.assert_array_equal(taken.pixels, examples.pixels[[4, 1]])
        assert examples.take(examples.labels == 2).labels.tolist() == [2, 2]

    def test_an_example_is_called_by_the_path_of_its_file(self):
        assert files(NAMES, LABELS).where(3) == "/photos/dog/1.jpg"
        assert sources.synthetic(examples=2, classes=2).where(1) == "synthetic/00000001"

    def test_the_fingerprint_changes_with_every_column(self):
        base = sources.synthetic(examples=4, classes=2, height=2, width=2)
        columns = {
            "names": base.names,
            "labels": base.labels,
            "class_names": base.class_names,
            "weights": base.weights,
            "stated_split": base.stated_split,
            "pixels": base.pixels,
        }
        brighter = base.pixels.copy()
        brighter[3, 1, 1, 2] ^= 1
        changes = [
            {},
            {"names": [b"a", b"b", b"c", b"d"]},
            {"labels": np.array([0, 1, 0, 0])},
            {"class_names": ["one", "two"]},
            {"weights": np.array([1, 1, 1, 2])},
            {"stated_split": np.array([0, 0, 0, 1])},
            {"pixels": brighter},
        ]
        prints = [Examples.of(**columns | change).fingerprint() for change in changes]
        assert len(set(prints)) == len(changes)
        assert prints[0] == base.fingerprint()


class TestFrozen:
    def test_parts_are_disjoint_and_complete(self):
        kept = frozen(sources.synthetic(examples=50, classes=2))
        parts = kept.parts()
        assert set(parts) == {"train", "validation", "test"}
        names = np.concatenate([part.names for part in parts.values()])
        assert sorted(names.tolist()) == kept.examples.names.tolist()

    def test_an_empty_split_has_no_part(self):
        examples = files(NAMES, LABELS)
        assert set(Frozen(examples, np.zeros(5, np.int8), np.ones((5, 2), np.int32), 224).parts()) == {"train"}

    @pytest.mark.parametrize("pixels", [True, False])
    def test_saved_and_restored_it_is_the_same(self, tmp_path, pixels: bool):
        examples = sources.synthetic(examples=10, classes=2) if pixels else files(NAMES, LABELS)
        kept = frozen(examples)
        tables.save(tmp_path / "examples.npz", kept)
        restored = tables.restore(tmp_path / "examples.npz", examples)
        assert_same(restored, kept)
        if pixels:
            np.testing.assert_array_equal(restored.examples.pixels, examples.pixels)
        assert [path.name for path in tmp_path.iterdir()] == ["examples.npz"]

    def test_the_split_and_the_weights_are_those_of_the_first_start(self, tmp_path):
        weights = np.array([1, 2, 3, 4, 5], np.float32)
        first = Examples.of(
            names=NAMES, labels=np.array(LABELS), class_names=["cat", "dog"], root="/photos", weights=weights
        )
        kept = Frozen(first, np.array([2, 0, 1, 0, 0], np.int8), np.full((5, 2), 7, np.int32), 224)
        tables.save(tmp_path / "examples.npz", kept)
        assert_same(tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS)), kept)

    def test_files_that_came_later_are_left_out(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        more = files([b"cat/0.jpg", *NAMES, b"dog/9 with a name longer than all of the others.jpg"], [0, *LABELS, 1])
        assert_same(tables.restore(tmp_path / "examples.npz", more), kept)

    def test_files_found_in_another_order_still_match(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        assert_same(tables.restore(tmp_path / "examples.npz", files(NAMES[::-1], LABELS[::-1])), kept)

    @pytest.mark.parametrize("rows", [[5, 3, 1, 0, 2, 4], [7, 5, 3, 1, 0, 2, 4, 6]])
    def test_pixels_found_in_another_order_still_belong_to_their_names(self, tmp_path, rows: list[int]):
        whole = sources.synthetic(examples=8, classes=2, height=4, width=4)
        kept = frozen(whole.take(np.arange(6)))
        tables.save(tmp_path / "examples.npz", kept)
        restored = tables.restore(tmp_path / "examples.npz", whole.take(np.array(rows)))
        assert_same(restored, kept)
        np.testing.assert_array_equal(restored.examples.pixels, kept.examples.pixels)

    def test_files_that_are_gone_are_named(self, tmp_path, complaint):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        with complaint("2 of 5", "cat/2.jpg", "dog/1.jpg", "/photos", "examples.npz"):
            tables.restore(tmp_path / "examples.npz", files(NAMES[::2], LABELS[::2]))

    def test_files_with_another_label_are_named(self, tmp_path, complaint):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        with complaint("1 of 5", "cat/2.jpg"):
            tables.restore(tmp_path / "examples.npz", files(NAMES, [0, 1, 0, 1, 1]))

    def test_other_classes_are_named(self, tmp_path, complaint):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        other = Examples.of(names=NAMES, labels=np.array(LABELS), class_names=["cat", "wolf"], root="/photos")
        with complaint("wolf", "dog"):
            tables.restore(tmp_path / "examples.npz", other)


class TestDamage:
    @pytest.fixture
    def written(self, tmp_path) -> tuple[Path, Frozen]:
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        return tmp_path / "examples.npz", kept

    def test_other_files_in_its_place_are_the_users_error(self, written, complaint):
        path, _ = written

        def archive(**columns) -> bytes:
            buffer = io.BytesIO()
            np.savez(buffer, **columns)
            return buffer.getvalue()

        array = io.BytesIO()
        np.save(array, np.arange(3))
        with np.load(path) as stored:
            columns = {name: stored[name] for name in stored.files}
        shorter = columns | {"split": columns["split"][:-1]}
        pickled = columns | {"names": np.array([{"a": 1}] * 5)}
        incomplete = {name: column for name, column in columns.items() if name != "sizes"}
        for content in (
            b"",
            b"PK",
            b"no archive",
            array.getvalue(),
            archive(a=1),
            archive(**shorter),
            archive(**pickled),
            archive(**incomplete),
        ):
            path.write_bytes(content)
            with complaint(str(path), "cannot be read"):
                tables.restore(path, files(NAMES, LABELS))

    def test_a_missing_file_is_the_users_error(self, tmp_path, complaint):
        with complaint("examples.npz"):
            tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_truncated_file_is_the_users_error(self, written, share: float):
        path, kept = written
        tables.save(path, kept)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError):
            tables.restore(path, kept.examples)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    def test_a_changed_byte_is_noticed_or_changes_nothing(self, written, share: float, flip: int):
        path, kept = written
        tables.save(path, kept)
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= flip
        path.write_bytes(content)
        try:
            restored = tables.restore(path, kept.examples)
        except UserError:
            return
        assert_same(restored, kept)

    def test_changed_flags_and_methods_of_an_archive_member_are_noticed(self, written):
        # Where zipfile raises neither OSError nor ValueError: compression method, flags and version needed.
        path, kept = written
        whole = path.read_bytes()
        central = whole.find(b"PK\x01\x02")
        for place in range(central + 4, central + 12):
            for flip in (1, 0x20, 0x40, 0xFF):
                content = bytearray(whole)
                content[place] ^= flip
                path.write_bytes(content)
                try:
                    restored = tables.restore(path, kept.examples)
                except UserError:
                    continue
                assert_same(restored, kept)


def test_names_that_are_there_twice_are_refused(complaint):
    with complaint("cat/1.jpg", "again"):
        files([b"cat/1.jpg", b"dog/1.jpg", b"cat/1.jpg"], [0, 1, 0])
