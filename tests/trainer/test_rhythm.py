"""When it is time is a function of the step."""

import types

import hypothesis.strategies as st
from hypothesis import given

from trainer.rhythm import Rhythm


def rhythm(ends, *, window, evaluate=7, checkpoint=5, keep=None):
    starts = [0, *ends[:-1]]
    stages = [types.SimpleNamespace(start=start, stop=stop) for start, stop in zip(starts, ends, strict=True)]
    plan = types.SimpleNamespace(stages=stages, steps=ends[-1])
    return Rhythm(plan=plan, window=window, evaluate=evaluate, checkpoint=checkpoint, keep=keep)


def test_windows_end_at_multiples_of_their_length_and_with_stages():
    ours, step, found = rhythm([7, 23], window=5), 0, []
    while step < 23:
        step = ours.window_end(step)
        found.append(step)
    assert found == [5, 7, 10, 15, 20, 23]
    assert [step for step in range(24) if ours.is_window_end(step)] == [0, *found]
    assert [step for step in range(24) if ours.is_stage_end(step)] == [7, 23]


def test_from_within_a_window_it_goes_on_to_the_same_end():
    ours = rhythm([7, 23], window=5)
    assert [ours.window_end(step) for step in (11, 14, 15, 21)] == [15, 15, 20, 23]


@given(st.integers(1, 12), st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=3))
def test_each_multiple_has_its_time_at_the_end_of_the_window_it_lies_in_and_nothing_else_has(window, every, lengths):
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    ours = rhythm(ends, window=window)
    expected = {ours.window_end(step - 1) for step in range(1, ends[-1] + 1) if step % every == 0}
    assert {step for step in range(ends[-1] + 1) if ours.is_time(every, step)} == expected


def test_it_is_never_time_for_what_nobody_wants():
    assert not any(rhythm([20], window=4).is_time(None, step) for step in range(21))
