"""Cells as people write them become labels, or one complaint that names the rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources import columns


def labels(cells, *, task="single_label", class_names=None, separator=None):
    frame = cells if isinstance(cells, pd.DataFrame) else pd.DataFrame({"label": pd.Series(cells)})
    values, names = columns.labels(frame, task=task, class_names=class_names, separator=separator, where="here")
    return values.tolist(), names


class TestSingleLabel:
    @pytest.mark.parametrize(
        "cells, expected, names",
        [
            (["b10", "b9", "a"], [2, 1, 0], ("a", "b9", "b10")),
            ([10, 9, 10], [1, 0, 1], ("9", "10")),
            (["10", "9"], [1, 0], ("9", "10")),
            ([1.0, 3.0], [0, 1], ("1", "3")),
            ([True, False], [1, 0], ("False", "True")),
            (pd.Categorical(["x", "y", "x"], categories=["y", "x", "z"]), [0, 1, 0], ("x", "y")),
            ([" a", "a"], [0, 1], (" a", "a")),
        ],
    )
    def test_classes_stand_in_natural_order(self, cells, expected, names):
        assert labels(cells) == (expected, names)

    def test_the_order_can_be_stated_and_hold_classes_that_no_row_has(self):
        assert labels(["cat", "dog"], class_names=["dog", "emu", "cat"]) == ([2, 0], ("dog", "emu", "cat"))

    def test_whole_numbers_are_indexes_into_stated_names(self):
        assert labels([1, 0, 2], class_names=["a", "b", "c"]) == ([1, 0, 2], ("a", "b", "c"))

    def test_whole_numbers_that_are_names_are_names(self):
        assert labels([1, 0], class_names=["1", "0"]) == ([0, 1], ("1", "0"))

    @pytest.mark.parametrize("cells", [["cat", "cow", "dog", "pig"], [0, 2, 1, 3]])
    def test_unknown_classes_are_named(self, cells, complaint):
        with complaint("2 rows", "row 2", "row 4", repr(cells[1]), "class_names"):
            labels(cells, class_names=["cat", "dog"])

    @pytest.mark.parametrize("empty", [None, np.nan, "", pd.NA])
    def test_rows_without_a_label_are_named(self, empty, complaint):
        with complaint("2 rows", "row 1", "row 3"):
            labels([empty, "cat", empty])

    def test_only_ten_rows_are_listed(self, complaint):
        with complaint("25 rows", "row 10: ", "and 15 more"):
            labels([None] * 25)

    def test_a_list_in_a_cell_is_named(self, complaint):
        with complaint("row 2", "multi_label"):
            labels(["a", ["b", "c"]])

    @pytest.mark.parametrize("names", ["cat", ["cat", "cat"], []])
    def test_class_names_that_are_none(self, names, complaint):
        with complaint("class_names"):
            labels(["cat"], class_names=names)

    @given(st.lists(st.text(min_size=1), min_size=1))
    def test_each_row_has_the_class_that_its_cell_names(self, cells):
        values, names = labels(cells)
        assert [names[value] for value in values] == cells and len(set(names)) == len(names)


class TestBinary:
    @pytest.mark.parametrize(
        "cells, expected, names",
        [
            ([0, 1, 1], [0, 1, 1], ("0", "1")),
            (["1", "1"], [1, 1], ("0", "1")),
            ([1.0, 0.0], [1, 0], ("0", "1")),
            ([True, False], [1, 0], ("false", "true")),
            (["True", "false"], [1, 0], ("false", "true")),
            (["yes", "no"], [1, 0], ("no", "yes")),
        ],
    )
    def test_what_means_no_is_zero(self, cells, expected, names):
        assert labels(cells, task="binary") == (expected, names)

    @pytest.mark.parametrize("cells", [["good", "bad"], [0, 1], [False, True]])
    def test_two_names_can_be_stated(self, cells):
        assert labels(cells, task="binary", class_names=["good", "bad"]) == ([0, 1], ("good", "bad"))

    @pytest.mark.parametrize("cells", [["a", "b", "c"], ["a"], [0, 1, 2]])
    def test_other_than_two_classes_are_refused(self, cells, complaint):
        with complaint("binary", "single_label"):
            labels(cells, task="binary")


class TestMultiLabel:
    SETS = ([1, 1, 0], [0, 0, 0], [0, 1, 1])

    @pytest.mark.parametrize(
        "cells, separator",
        [
            ([["a", "b"], [], ["b", "c"]], None),
            ([("a", "b"), None, np.array(["c", "b"])], None),
            (["a;b", None, "b; c"], ";"),
            (["b|a", "", "c|b|"], "|"),
        ],
    )
    def test_lists_and_separated_text_are_sets_of_classes(self, cells, separator):
        values, names = labels(pd.Series(cells, dtype=object), task="multi_label", separator=separator)
        assert names == ("a", "b", "c") and values == list(self.SETS)

    def test_whole_numbers_are_indexes_into_stated_names(self):
        cells = [[0, 1], [], [2, 1]]
        assert labels(cells, task="multi_label", class_names=["x", "y", "z"]) == (list(self.SETS), ("x", "y", "z"))

    @pytest.mark.parametrize("dtype", [int, float, bool, str])
    def test_columns_of_zero_and_one_are_classes(self, dtype):
        values = np.array(self.SETS)
        frame = pd.DataFrame(values.astype(dtype), columns=["x", "y", "z"])
        if dtype is str:
            frame = pd.DataFrame(values, columns=["x", "y", "z"]).astype(str)
        assert labels(frame, task="multi_label") == (list(self.SETS), ("x", "y", "z"))
        assert labels(frame, task="multi_label", class_names=["a", "b", "c"])[1] == ("a", "b", "c")

    def test_columns_of_anything_else_are_named(self, complaint):
        with complaint("row 2", "0 or 1"):
            labels(pd.DataFrame({"x": [0, 2], "y": [1, 1]}), task="multi_label")

    def test_text_without_a_separator_is_named(self, complaint):
        with complaint("row 1", "'a;b'", "separator"):
            labels(["a;b"], task="multi_label")

    def test_unknown_classes_are_named(self, complaint):
        with complaint("1 rows", "row 2", "'a;q'"):
            labels(["a", "a;q", "b"], task="multi_label", separator=";", class_names=["a", "b"])


class TestRegression:
    def test_columns_are_numbers(self):
        frame = pd.DataFrame({"x": ["1.5", "-2"], "y": [3, 4]})
        assert labels(frame, task="regression") == ([[1.5, 3], [-2, 4]], ("x", "y"))

    @pytest.mark.parametrize("cell", ["far", None, np.inf, np.nan, [1]])
    def test_what_is_no_finite_number_is_named(self, cell, complaint):
        with complaint("1 rows", "row 2"):
            labels(pd.Series([1, cell], dtype=object), task="regression")

    def test_names_have_to_be_as_many_as_columns(self, complaint):
        with complaint("2 class names", "1 label columns"):
            labels([1.0], task="regression", class_names=["x", "y"])
