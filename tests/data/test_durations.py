"""Durations in steps, epochs or examples become whole steps."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import durations


@settings(max_examples=300, deadline=None)
@given(
    amount=st.integers(0, 1000),
    unit=st.sampled_from(durations.UNITS),
    examples=st.integers(1, 10**7),
    batch=st.integers(1, 4096),
)
@example(amount=870, unit="epochs", examples=3_927_897, batch=135)
@example(amount=3, unit="epochs", examples=100, batch=10)
def test_whole_amounts_are_exact_and_rounded_up(amount: int, unit: str, examples: int, batch: int):
    shown = {"steps": amount * batch, "epochs": amount * examples, "examples": amount}[unit]
    expected = math.ceil(Fraction(shown, batch))
    assert durations.steps((amount, unit), examples=examples, batch=batch, where="x") == expected


@settings(max_examples=200, deadline=None)
@given(hundredths=st.integers(0, 500), examples=st.integers(1, 10**6), batch=st.integers(1, 1024))
@example(hundredths=7, examples=100, batch=7)
def test_decimal_fractions_mean_what_they_say(hundredths: int, examples: int, batch: int):
    expected = math.ceil(Fraction(hundredths * examples, 100 * batch))
    assert durations.steps((hundredths / 100, "epochs"), examples=examples, batch=batch, where="x") == expected


@pytest.mark.parametrize("duration", [(3, "epochs"), [3, "epochs"], "3 epochs", (3.0, "epoch"), "3 epoch"])
def test_the_ways_to_write_a_duration_agree(duration):
    assert durations.steps(duration, examples=100, batch=8, where="x") == 38


@pytest.mark.parametrize(
    "duration",
    [
        (3, "weeks"),
        "3",
        "epochs",
        "three epochs",
        (-1, "steps"),
        (math.inf, "steps"),
        (math.nan, "steps"),
        (1, 2),
        (1, "steps", "more"),
        5,
        None,
        "",
    ],
)
def test_anything_else_is_the_users_error_and_names_the_binding(duration, complaint):
    with complaint("Stage.length", repr(duration)):
        durations.steps(duration, examples=100, batch=8, where="Stage.length")
