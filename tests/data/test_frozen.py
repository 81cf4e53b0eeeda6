"""What a session keeps of its data."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import frozen as tables
from data import sources, splits
from data.decode import Decoding
from data.errors import UserError
from data.examples import Examples
from data.frozen import Frozen
from data.inspection import Inspection, Sight


def files(names: list[bytes], labels: list[int]) -> Examples:
    return Examples.of(names=names, labels=np.array(labels), class_names=["cat", "dog"], root="/photos")


def seen(count: int) -> Inspection:
    return Inspection.of(
        [
            Sight(size=(2 * row + 1, 2 * row + 2), kind=row % 5, digest=bytes([row] * 16), file_size=row)
            for row in range(count)
        ]
    )


def frozen(examples: Examples) -> Frozen:
    split = splits.split_per_class(examples, validation=0.2, test=0.2)
    return Frozen(examples, split, seen(len(examples)), Decoding(224, (1, 2, 3)))


NAMES = [b"cat/1.jpg", b"cat/2.jpg", b"cat/a very much longer name.jpg", b"dog/1.jpg", b"dog/\xff\xfe.jpg"]
LABELS = [0, 0, 0, 1, 1]


def assert_same(left: Frozen, right: Frozen):
    assert left.examples.columns().keys() == right.examples.columns().keys()
    for name, column in left.examples.columns().items():
        np.testing.assert_array_equal(column, right.examples.columns()[name])
    for name in ("class_names", "task", "shares", "root"):
        assert getattr(left.examples, name) == getattr(right.examples, name)
    np.testing.assert_array_equal(left.split, right.split)
    assert left.split.dtype == right.split.dtype and left.decoding == right.decoding
    for name in Inspection.names():
        ours, theirs = getattr(left.inspection, name), getattr(right.inspection, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


class TestFrozen:
    def test_parts_are_disjoint_and_complete(self):
        kept = frozen(sources.synthetic(examples=50, classes=2))
        parts = kept.parts()
        assert set(parts) == {"train", "validation", "test"}
        names = np.concatenate([part.names for part in parts.values()])
        assert sorted(names.tolist()) == kept.examples.names.tolist()

    def test_an_empty_split_has_no_part(self):
        examples = files(NAMES, LABELS)
        assert set(Frozen(examples, np.zeros(5, np.int8), seen(5), Decoding(224)).parts()) == {"train"}

    @pytest.mark.parametrize("pixels", [True, False])
    def test_saved_and_restored_it_is_the_same(self, tmp_path, pixels: bool):
        examples = sources.synthetic(examples=10, classes=2) if pixels else files(NAMES, LABELS)
        kept = frozen(examples)
        tables.save(tmp_path / "examples.npz", kept)
        restored = tables.restore(tmp_path / "examples.npz", examples)[0]
        assert_same(restored, kept)
        if pixels:
            np.testing.assert_array_equal(restored.examples.pixels, examples.pixels)
        assert [path.name for path in tmp_path.iterdir()] == ["examples.npz"]

    def test_the_split_and_the_weights_are_those_of_the_first_start(self, tmp_path):
        weights = np.array([1, 2, 3, 4, 5], np.float32)
        first = Examples.of(
            names=NAMES, labels=np.array(LABELS), class_names=["cat", "dog"], root="/photos", weights=weights
        )
        kept = Frozen(first, np.array([2, 0, 1, 0, 0], np.int8), seen(5), Decoding(None))
        tables.save(tmp_path / "examples.npz", kept)
        assert_same(tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS))[0], kept)

    def test_files_that_came_later_are_left_out(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        more = files([b"cat/0.jpg", *NAMES, b"dog/9 with a name longer than all of the others.jpg"], [0, *LABELS, 1])
        assert_same(tables.restore(tmp_path / "examples.npz", more)[0], kept)

    def test_files_found_in_another_order_still_match(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        assert_same(tables.restore(tmp_path / "examples.npz", files(NAMES[::-1], LABELS[::-1]))[0], kept)

    @pytest.mark.parametrize("rows", [[5, 3, 1, 0, 2, 4], [7, 5, 3, 1, 0, 2, 4, 6]])
    def test_pixels_found_in_another_order_still_belong_to_their_names(self, tmp_path, rows: list[int]):
        whole = sources.synthetic(examples=8, classes=2, height=4, width=4)
        kept = frozen(whole.take(np.arange(6)))
        tables.save(tmp_path / "examples.npz", kept)
        restored = tables.restore(tmp_path / "examples.npz", whole.take(np.array(rows)))[0]
        assert_same(restored, kept)
        np.testing.assert_array_equal(restored.examples.pixels, kept.examples.pixels)

    def test_files_that_are_gone_are_told_and_stay_in_the_table(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        restored, gone = tables.restore(tmp_path / "examples.npz", files(NAMES[::2], LABELS[::2]))
        assert gone.tolist() == [1, 3]
        assert_same(restored, kept)

    def test_pixels_in_memory_that_are_gone_are_refused(self, tmp_path, complaint):
        whole = sources.synthetic(examples=10, classes=2)
        tables.save(tmp_path / "examples.npz", frozen(whole))
        with complaint("2 of 10", "synthetic/00000008", "examples.npz"):
            tables.restore(tmp_path / "examples.npz", whole.take(np.arange(8)))

    @pytest.mark.parametrize("task", ["multi_label", "regression"])
    def test_label_vectors_groups_and_repeats_are_kept(self, tmp_path, task: str):
        table = Examples.of(
            names=NAMES,
            labels=np.eye(5, 2),
            class_names=["x", "y"],
            task=task,
            root="/photos",
            groups=[b"a"] * 5,
            repeats=[1, 2, 3, 1, 2],
        )
        table = dataclasses.replace(table, shares=(0.25, 0.75), origins=np.array([0, 1, 1, 0, 0], np.int16))
        kept = Frozen(table, np.zeros(5, np.int8), seen(5), Decoding(224))
        tables.save(tmp_path / "examples.npz", kept)
        assert_same(tables.restore(tmp_path / "examples.npz", table)[0], kept)
        other = dataclasses.replace(table, labels=np.eye(5, 2, k=1, dtype=np.float32))
        with pytest.raises(UserError, match="other labels"):
            tables.restore(tmp_path / "examples.npz", other)

    def test_files_with_another_label_are_named(self, tmp_path, complaint):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        with complaint("1 of 5 examples have other labels (cat/2.jpg: cat -> dog)"):
            tables.restore(tmp_path / "examples.npz", files(NAMES, [0, 1, 0, 1, 1]))

    @pytest.mark.parametrize(
        ("column", "values", "told"),
        [
            ("labels", np.array([0, 1, 0, 1, 1], np.int32), "labels (cat/2.jpg: cat -> dog)"),
            ("weights", np.array([1, 0.5, 1, 1, 1], np.float32), "weights (cat/2.jpg: 1.0 -> 0.5)"),
            ("repeats", np.array([1, 2, 1, 1, 1], np.float32), "repeats (cat/2.jpg: 1.0 -> 2.0)"),
        ],
    )
    def test_a_session_goes_on_with_another_column_only_where_it_is_allowed(
        self, tmp_path, complaint, column, values, told
    ):
        path, kept = tmp_path / "examples.npz", frozen(files(NAMES, LABELS))
        tables.save(path, kept)
        today = dataclasses.replace(files(NAMES, LABELS), **{column: values})
        with complaint(f"1 of 5 examples have other {told}", f"--allow_change=lr,data.{column}"):
            tables.restore(path, today, allow=["lr"])
        restored = tables.restore(path, today, allow=[f"data.{column}"])[0]
        assert_same(restored, dataclasses.replace(kept, examples=today))

    def test_what_is_gone_keeps_what_it_had(self, tmp_path):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        left = files(NAMES[:2] + NAMES[3:], LABELS[:2] + LABELS[3:])
        for allow in ([], ["data.labels"]):
            restored, gone = tables.restore(tmp_path / "examples.npz", left, allow=allow)
            assert gone.tolist() == [2] and restored.examples.labels.tolist() == LABELS

    def test_what_a_session_makes_no_use_of_is_told(self, tmp_path):
        kept = frozen(files(NAMES, LABELS))
        tables.save(tmp_path / "examples.npz", kept)
        split = np.array([2, -1, -1, -1, -1, -1], np.int8)
        more = dataclasses.replace(files([*NAMES, b"dog/new.jpg"], [*LABELS, 1]), stated_split=split)
        restored, _ = tables.restore(tmp_path / "examples.npz", more, allow=[])
        new, other = restored.examples.notes
        assert "1 images are not of this session" in new and "dog/new.jpg" in new
        assert "1 images are now said to be of another split" in other and "cat/1.jpg" in other
        np.testing.assert_array_equal(restored.split, kept.split)
        assert tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS), allow=[])[0].examples.notes == ()

    @pytest.mark.parametrize("session", [None, "one"])
    def test_it_belongs_to_its_session(self, tmp_path, complaint, session):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)), session=session)
        tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS), session="one")
        tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS))
        if session is not None:
            with complaint("of another session, one, not two"):
                tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS), session="two")

    def test_other_classes_are_named(self, tmp_path, complaint):
        tables.save(tmp_path / "examples.npz", frozen(files(NAMES, LABELS)))
        for names, labels, told in (
            (["cat", "wolf"], LABELS, "2 of 5 examples have other labels (dog/1.jpg: dog -> wolf"),
            (["cat", "wolf"], LABELS, "other classes (new: wolf; gone: dog)"),
            (["ape", "cat", "dog"], [1, 1, 1, 2, 2], "started with: other classes (new: ape)"),
            (["dog", "cat"], [1, 1, 1, 0, 0], "started with: other classes (in another order)"),
        ):
            other = Examples.of(names=NAMES, labels=np.array(labels), class_names=names, root="/photos")
            with complaint(told, "--init_from"):
                tables.restore(tmp_path / "examples.npz", other, allow=[])


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
        incomplete = {name: column for name, column in columns.items() if name != "seen_sizes"}
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
                tables.restore(path, files(NAMES, LABELS))[0]

    def test_a_missing_file_is_the_users_error(self, tmp_path, complaint):
        with complaint("examples.npz"):
            tables.restore(tmp_path / "examples.npz", files(NAMES, LABELS))[0]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_truncated_file_is_the_users_error(self, written, share: float):
        path, kept = written
        tables.save(path, kept)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError):
            tables.restore(path, kept.examples)[0]

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    def test_a_changed_byte_is_noticed_or_changes_nothing(self, written, share: float, flip: int):
        path, kept = written
        tables.save(path, kept)
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= flip
        path.write_bytes(content)
        try:
            restored = tables.restore(path, kept.examples)[0]
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
                    restored = tables.restore(path, kept.examples)[0]
                except UserError:
                    continue
                assert_same(restored, kept)
