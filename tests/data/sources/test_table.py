"""Tables of any kind give the rows' files and labels, or one complaint that names the rows."""

import os
import sys
from pathlib import Path

import gin
import numpy as np
import pandas as pd
import pytest

from data import sources
from data.examples import SPLITS

FILES = ("cat/a.jpg", "dog/b.jpg", "cat/c.jpg")


@pytest.fixture
def root(tmp_path) -> Path:
    for name in FILES:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


def read(root: Path, **columns):
    """The table of a frame whose columns that are arguments of `table` have their names."""
    arguments = {key: columns.pop(key) for key in ("task", "class_names", "separator") if key in columns}
    frame = pd.DataFrame({"image": list(FILES), "label": ["cat", "dog", "cat"]} | columns)
    named = {key: key for key in ("weight", "repeat", "split", "group") if key in frame}
    return sources.table(frame=frame, root=str(root), **named, **arguments)


class TestKinds:
    FRAME = pd.DataFrame({"file": FILES, "kind": ["NA", "dog", "NA"], "w": [1, 0.5, 2], "other": ["x", None, 'y,"z']})

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".CSV"])
    def test_every_kind_of_table_gives_the_same_examples(self, root, suffix: str):
        path = root / f"table{suffix}"
        match suffix.lower():
            case ".csv" | ".tsv":
                self.FRAME.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
            case ".parquet":
                self.FRAME.to_parquet(path)
            case _:
                self.FRAME.to_json(path, orient="records", lines=True)
        found = sources.table(str(path), image="file", label="kind", weight="w")
        assert found.names.tolist() == [name.encode() for name in FILES]
        assert found.class_names == ("NA", "dog")
        assert found.labels.tolist() == [0, 1, 0]
        assert found.weights.tolist() == [1, 0.5, 2]
        assert found.root == str(root) and found.task == "single_label" and (found.stated_split == -1).all()

    def test_json_lines_are_read_piece_by_piece(self, root, monkeypatch):
        # `data.sources.table` is the function.
        monkeypatch.setattr(sys.modules["data.sources.table"], "JSON_ROWS", 1)
        path = root / "table.jsonl"
        rows = [
            f'{{"image": "{name}", "label": {label}}}' for name, label in zip(FILES, ("1", '"dog"', "10"), strict=True)
        ]
        path.write_text("\n".join(rows))
        found = sources.table(str(path))
        assert found.class_names == ("1", "10", "dog") and found.labels.tolist() == [0, 2, 1]

    def test_gin_names_the_columns(self, root):
        self.FRAME.to_csv(root / "table.csv", index=False)
        gin.parse_config(f"table.path = '{root}/table.csv'\ntable.image = 'file'\ntable.label = 'kind'")
        assert len(sources.table()) == 3

    def test_names_that_are_not_utf8_and_line_breaks_in_quotes_survive(self, root):
        names = (b"cat/caf\xe9.jpg", b"dog/two\nlines.jpg")
        for name in names:
            open(os.path.join(os.fsencode(root), name), "wb").close()
        (root / "table.csv").write_bytes(b'image,label\n%s,cat\n"%s",dog\n' % names)
        assert sources.table(str(root / "table.csv")).names.tolist() == list(names)

    def test_the_mark_that_excel_writes_in_front_is_no_part_of_a_name(self, root):
        (root / "table.csv").write_bytes(b"\xef\xbb\xbfimage,label\ncat/a.jpg,cat\ndog/b.jpg,dog\n")
        assert len(sources.table(str(root / "table.csv"))) == 2


class TestPaths:
    def test_relative_ones_start_from_the_root_that_is_stated(self, root, tmp_path):
        pd.DataFrame({"image": FILES, "label": "aba"}).assign(label=list("aba")).to_csv(tmp_path / "t.csv", index=False)
        found = sources.table(str(tmp_path / "t.csv"), root=str(root))
        assert found.root == str(root) and found.names.tolist() == [name.encode() for name in FILES]

    def test_detours_and_absolute_paths_below_the_root_are_the_same_files(self, root):
        found = read(root, image=["./cat//a.jpg", "cat/../dog/b.jpg", str(root / "cat/c.jpg")])
        assert found.names.tolist() == [name.encode() for name in FILES]

    def test_a_root_that_is_a_link_is_followed(self, root, tmp_path):
        (tmp_path / "link").symlink_to(root)
        found = read(tmp_path / "link", image=[str(root / FILES[0]), str(tmp_path / "link" / FILES[1]), FILES[2]])
        assert found.names.tolist() == [name.encode() for name in FILES]

    def test_a_link_to_a_file_below_the_root_is_an_image(self, root):
        (root / "cat/link.jpg").symlink_to("../dog/b.jpg")
        assert read(root, image=[*FILES[:2], "cat/link.jpg"]).names[2] == b"cat/link.jpg"

    def test_all_rows_that_point_nowhere_or_out_are_named_together(self, root, tmp_path, complaint):
        (tmp_path / "secret.jpg").touch()
        (root / "cat/out.jpg").symlink_to(tmp_path / "secret.jpg")
        (root / "out").symlink_to(tmp_path)
        (root / "cat/nothing.jpg").symlink_to("never.jpg")
        os.mkfifo(root / "pipe")
        wrong = [
            "cat/gone.jpg", "no/a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "cat/out.jpg",
            "out/secret.jpg", "cat", None, "cat/a.jpg/b.jpg", "cat/nothing.jpg", "pipe", "a\0b",
        ]  # fmt: skip
        frame = pd.DataFrame({"image": ["dog/b.jpg", *wrong], "label": "x"})
        with complaint(
            "12 rows", "row 2: 'cat/gone.jpg' no such file", "row 3: 'no/a.jpg' no such file",
            "row 4: '../secret.jpg' leads out", "row 5: ", "row 6: 'cat/out.jpg' is a link that leads out",
            "row 7: 'out/secret.jpg' leads out", "row 8: 'cat' is a folder", "row 9: ", "row 10: 'cat/a.jpg/b.jpg'",
            "row 11: 'cat/nothing.jpg' is no file", "and 2 more",
        ):  # fmt: skip
            sources.table(frame=frame, root=str(root))

    def test_the_same_file_in_two_rows_is_named_with_whether_the_labels_agree(self, root, complaint):
        with complaint("2 rows", "1 with conflicting", "row 2", "row 1, ANOTHER LABEL", "row 3", "row 1, same label"):
            read(root, image=["cat/a.jpg", "./cat/a.jpg", "cat//a.jpg"])


class TestOtherColumns:
    def test_weights_repeats_splits_and_groups_are_taken(self, root):
        found = read(root, weight=["0", "1.5", "2"], repeat=[1, 2.5, 3], split=["val", None, "test"], group=[7, 7, 8])
        assert found.weights.tolist() == [0, 1.5, 2] and found.repeats.tolist() == [1, 2.5, 3]
        assert [SPLITS[split] if split >= 0 else None for split in found.stated_split] == ["validation", None, "test"]
        assert found.groups.tolist() == [b"7", b"7", b"8"]

    @pytest.mark.parametrize("weight", [-1, np.nan, np.inf, "heavy", None, 1e300])
    def test_weights_that_are_none_are_named(self, root, weight, complaint):
        with complaint("1 rows", "row 2", "'weight'", "at least 0"):
            read(root, weight=[1, weight, 1])

    @pytest.mark.parametrize("repeat", [0, -1, 1e-60])
    def test_repeat_factors_have_to_be_above_zero(self, root, repeat: float, complaint):
        with complaint("row 3", "above 0"):
            read(root, repeat=[1, 1, repeat])

    def test_names_of_no_split_are_named(self, root, complaint):
        with complaint("row 1", "'dev'", "validation"):
            read(root, split=["dev", "train", "test"])

    def test_rows_without_a_group_are_named(self, root, complaint):
        with complaint("row 2", "group"):
            read(root, group=["a", None, "b"])


class TestUserErrors:
    def test_no_table(self, complaint):
        with complaint("table.path"):
            sources.table()

    def test_a_frame_without_a_root(self, complaint):
        with complaint("root="):
            sources.table(frame=pd.DataFrame())

    @pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
    def test_no_such_file(self, tmp_path, name: str, complaint):
        with complaint(str(tmp_path / name), "table.path"):
            sources.table(str(tmp_path / name))

    def test_a_kind_that_is_unknown(self, tmp_path, complaint):
        with complaint("photos.xlsx", ".parquet"):
            sources.table(str(tmp_path / "photos.xlsx"))

    @pytest.mark.parametrize(
        "name, content",
        [
            ("t.csv", b"image,label\na.jpg,cat\nb.jpg,dog,emu\n"),
            ("t.csv", b"image,label\na.jpg,cat,1\nb.jpg,dog,2\n"),
            ("t.csv", b""),
            ("t.csv", b'image,label\n"a.jpg,cat\n'),
            ("t.jsonl", b'{"image": "a.jpg", "label": 1}\n{"image": '),
            ("t.jsonl", b"a.jpg cat\n"),
            ("t.parquet", b"PAR1 and so on"),
        ],
    )
    def test_a_broken_file(self, tmp_path, name: str, content: bytes, complaint):
        (tmp_path / name).write_bytes(content)
        with complaint(str(tmp_path / name), "cannot read"):
            sources.table(str(tmp_path / name))

    def test_parquet_without_the_package_that_reads_it(self, tmp_path, monkeypatch, complaint):
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        with complaint("pyarrow", "onward[parquet]"):
            sources.table(str(tmp_path / "t.parquet"))

    @pytest.mark.parametrize("content", [b"image,label\n", b"image;label\na.jpg;cat\n", b"file,label\na,b\n"])
    def test_no_rows_or_not_the_columns(self, tmp_path, content: bytes, complaint):
        (tmp_path / "t.csv").write_bytes(content)
        with complaint(str(tmp_path / "t.csv")):
            sources.table(str(tmp_path / "t.csv"))

    def test_a_column_that_is_not_there(self, root, complaint):
        with complaint("'species'", "table.label", "'image', 'label'"):
            sources.table(frame=pd.DataFrame({"image": FILES, "label": FILES}), root=str(root), label="species")

    @pytest.mark.parametrize("arguments", [{"task": "ranking"}, {"label": ["a", "b"]}, {"label": []}])
    def test_a_task_that_is_none_or_does_not_fit_the_columns(self, root, arguments: dict, complaint):
        with complaint("gin binding table."):
            sources.table(frame=pd.DataFrame({"image": FILES, "a": FILES, "b": FILES}), root=str(root), **arguments)
