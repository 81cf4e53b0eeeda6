"""The best evaluations are remembered, the best one first."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from trainer.ranking import CAPACITY, Ranking


def test_evaluations_are_ranked_and_a_worse_one_is_not_kept():
    best = Ranking(keep=2)
    assert best.steps == []
    assert [best.take(*each) for each in [(10, 0.5), (20, 0.7), (30, 0.6), (40, 0.4)]] == [True, True, True, False]
    assert best.steps == [20, 30]


def test_of_equal_ones_the_first_stays():
    best = Ranking(keep=1)
    assert best.take(10, 0.5) and not best.take(20, 0.5)
    assert best.steps == [10]


def test_a_gain_too_small_is_none():
    best = Ranking(keep=1, gain=0.1)
    assert [best.take(*each) for each in [(10, 0.5), (20, 0.55), (30, 0.61)]] == [True, False, True]


def test_one_seen_before_changes_nothing():
    best = Ranking(keep=3)
    best.take(10, 0.5)
    assert not best.take(10, 0.9)
    assert best.steps == [10]


def test_what_is_not_kept_now_is_remembered_for_when_more_is():
    best = Ranking(keep=1)
    for step, merit in [(10, 0.5), (20, 0.7), (30, 0.6)]:
        best.take(step, merit)
    more = Ranking(keep=2)
    for name, variable in more.variables().items():
        variable.assign(best.variables()[name])
    assert more.steps == [20, 30]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 1.0]), max_size=40))
def test_the_best_are_those_of_a_stable_sort(merits):
    best = Ranking(keep=CAPACITY)
    for step, merit in enumerate(merits):
        best.take(step, merit)
    ranked = sorted((step for step, merit in enumerate(merits) if merit > -math.inf), key=lambda s: -merits[s])
    assert best.steps == ranked[:CAPACITY]


@pytest.mark.parametrize("keep", [1, 3])
def test_an_evaluation_that_is_kept_is_told(keep):
    best = Ranking(keep=keep)
    told = [best.take(step, -float(step)) for step in range(5)]
    assert told == [step < keep for step in range(5)]
