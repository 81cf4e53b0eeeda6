"""The picture of a confusion matrix."""

import numpy as np
import pytest

from trainer.reports import confusion

FULL, EMPTY = confusion.FULL.astype(int).tolist(), confusion.EMPTY.astype(int).tolist()


def test_a_cell_is_as_dark_as_its_share_of_the_row():
    drawn = confusion.picture(np.diag([5, 9]), ["cat", "dog"])
    cell = confusion.WIDE

    def corner(row, column):
        return drawn[20 + row * cell + 2, drawn.shape[1] - (2 - column) * cell + 2].tolist()

    assert corner(0, 0) == corner(1, 1) == FULL and corner(0, 1) == corner(1, 0) == EMPTY


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 300, 2000])
def test_it_stays_of_a_size_that_can_be_shown(classes):
    drawn = confusion.picture(np.eye(classes, dtype=int), [f"a long name of class {n}\n" for n in range(classes)])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    assert max(drawn.shape) <= 1300 and min(drawn.shape[:2]) >= 60


def test_a_class_without_examples_is_empty():
    drawn = confusion.picture(np.zeros((30, 30), int), [str(n) for n in range(30)])
    assert (drawn == EMPTY).all()
