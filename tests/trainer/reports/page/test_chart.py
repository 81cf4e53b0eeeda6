"""Curves have few points, within their field, whatever the values."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.reports.page.chart import POINTS, Series, chart, resampled, said, ticks

values = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=900)


def series(y, **others):
    y = np.array(y, np.float64)
    return Series(name="a", look="train", x=np.arange(1, len(y) + 1), y=y, **others)


def numbers(path):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


@given(values, st.booleans())
def test_every_point_is_within_the_field(y, logarithmic):
    drawn = chart("t", [series(y, dotted=True)], span=(0, len(y)), logarithmic=logarithmic)
    finite = [value for value in y if np.isfinite(value) and (value > 0 or not logarithmic)]
    assert (drawn is None) == (not finite)
    if drawn is not None:
        line = drawn.lines[0]
        places = [*numbers(line.path), *numbers(line.band), *(each for path, _ in line.dots for each in numbers(path))]
        assert all(0 <= place <= 1000 for place in places)
        assert len(numbers(line.path)) <= 2 * POINTS + 2
        assert all(-0.01 <= tick.at <= 100.01 for tick in (*drawn.across, *drawn.up))


def test_a_long_series_is_drawn_as_means_between_the_least_and_the_greatest():
    y = np.tile([0.0, 4.0], 50 * POINTS)
    x, means, least, greatest = resampled(series(y))
    assert len(x) == POINTS and (np.diff(x) > 0).all()
    assert np.allclose(means, 2) and (least == 0).all() and (greatest == 4).all()
    assert chart("t", [series(y)], span=(0, len(y))).lines[0].band
    assert not chart("t", [series(y[:POINTS])], span=(0, POINTS)).lines[0].band


def test_a_value_stands_as_high_as_its_tick():
    drawn = chart("t", [series([0.0, 1.0, 2.0])], span=(1, 3))
    heights = dict(zip([0.0, 1.0, 2.0], numbers(drawn.lines[0].path)[1::2], strict=True))
    for tick in drawn.up:
        if float(tick.text) in heights:
            assert heights[float(tick.text)] == pytest.approx(1000 - 10 * tick.at, abs=0.1)


def test_a_logarithmic_axis_gives_every_decade_the_same_height():
    drawn = chart("t", [series([1e-4, 1e-3, 1e-2])], span=(1, 3), logarithmic=True)
    low, middle, high = numbers(drawn.lines[0].path)[1::2]
    assert middle - high == pytest.approx(low - middle, abs=0.2)
    bounded = chart("t", [series([1e-9, 1e-3, 1e-2])], span=(1, 3), logarithmic=True, bounds=(1e-4, np.inf))
    assert {"0.001", "0.01"} <= {tick.text for tick in bounded.up} and numbers(bounded.lines[0].path)[1] == 1000


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_few_and_in_order(low, size):
    places = [tick.at for tick in ticks(low, low + size)]
    assert len(places) <= 7 and places == sorted(places)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1250, "1,250"), (0.7314, "0.731"), (2e-5, "2e-5"), (-3.0, "-3"), (1e-3, "0.001")]
)
def test_numbers_are_said_in_few_signs(value, text):
    assert said(value) == text
