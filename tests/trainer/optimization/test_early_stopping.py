"""Training ends where evaluations stop getting better."""

import pytest

from trainer.optimization.early_stopping import EarlyStoppingState, early_stopping


def state(**rule):
    return EarlyStoppingState(early_stopping(**rule))


def done_after(ours, merits, steps=None):
    for step, merit in zip(steps or range(10, 10 * len(merits) + 1, 10), merits, strict=True):
        ours.take(step, merit)
        if ours.done:
            return step
    return None


def test_it_ends_after_so_many_evaluations_without_a_gain():
    assert done_after(state(patience=2), [0.5, 0.6, 0.6, 0.55, 0.9]) == 40


def test_a_gain_begins_the_count_again():
    assert done_after(state(patience=2), [0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.6]) == 70


def test_a_gain_too_small_is_none():
    assert done_after(state(patience=2, min_delta=0.05), [0.5, 0.54, 0.54]) == 30


def test_evaluations_of_the_first_steps_do_not_count():
    assert done_after(state(patience=1, start_from=20), [0.9, 0.8, 0.5, 0.6, 0.5]) == 50


def test_an_evaluation_seen_before_changes_nothing():
    ours = state(patience=2)
    assert done_after(ours, [0.5, 0.4, 0.4, 0.4], [10, 20, 20, 20]) is None
    copy = state(patience=2)
    for name, variable in copy.variables().items():
        variable.assign(ours.variables()[name])
    assert done_after(copy, [0.4, 0.4], [20, 30]) == 30


@pytest.mark.parametrize("rule", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1}, {"start_from": -1}])
def test_numbers_out_of_range_are_refused(rule, complaint):
    with complaint(*(f"early_stopping.{name}" for name in rule)):
        early_stopping(**rule)
