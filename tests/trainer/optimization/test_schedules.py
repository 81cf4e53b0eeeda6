"""Learning rates are pure functions of the step, and those of the textbooks."""

from functools import partial

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.optimization import schedules

steps_of = schedules.steps_function(examples=100, batch=10)
SCHEDULES = {
    "constant_rate": schedules.constant_rate,
    "linear_decay": schedules.linear_decay,
    "cosine": schedules.cosine,
    "polynomial": schedules.polynomial,
    "exponential": partial(schedules.exponential, factor=0.5, every=(10, "steps")),
    "step_decay": partial(schedules.step_decay, factor=0.5, every=(10, "steps"), milestones=[(3, "steps")]),
}
COOLED = {name: SCHEDULES[name] for name in ("constant_rate", "exponential", "step_decay")}
each = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
# float64 against float64.
EXACT = {"rtol": 1e-12, "atol": 1e-15}


def rates(schedule, total, first=0, last=None):
    return schedule(np.arange(first, total if last is None else last, dtype=np.int64), total, steps_of)


@given(total=st.integers(2, 200), warmup=st.integers(0, 50), final=st.floats(0, 1), peak=st.floats(1e-6, 10))
def test_linear_decay_is_a_line_up_and_a_line_down(total, warmup, final, peak):
    total += warmup
    computed = rates(schedules.linear_decay(peak=peak, warmup=(warmup, "steps"), final=final), total)
    expected = np.interp(np.arange(total), [-1, warmup, total], [0, peak, final * peak])
    np.testing.assert_allclose(computed, expected, rtol=1e-9, atol=1e-12)


@given(total=st.integers(2, 200), warmup=st.integers(0, 50), final=st.floats(0, 1))
def test_cosine_is_that_of_keras_after_a_line_up(total, warmup, final):
    total += warmup
    computed = rates(schedules.cosine(peak=0.5, warmup=(warmup, "steps"), final=final), total)
    theirs = keras.optimizers.schedules.CosineDecay(0.5, total - warmup, alpha=final)
    expected = [float(theirs(step)) for step in range(0, total - warmup, 7)]
    # Theirs is computed in float32.
    np.testing.assert_allclose(computed[warmup::7], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(computed[:warmup], 0.5 * np.arange(1, warmup + 1) / (warmup + 1), **EXACT)


def test_constant_rate_warms_up_from_the_first_step_on():
    computed = rates(schedules.constant_rate(peak=0.4, warmup=(3, "steps")), 6)
    np.testing.assert_allclose(computed, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], **EXACT)


@each
@given(cut=st.integers(1, 49), warmup=st.integers(0, 60))
def test_a_run_that_goes_on_has_the_rates_of_one_that_never_stopped(make, cut, warmup):
    schedule = make(peak=0.3, warmup=(warmup, "steps"))
    whole = rates(schedule, 50)
    np.testing.assert_array_equal(whole, np.concatenate([rates(schedule, 50, 0, cut), rates(schedule, 50, cut)]))
    assert whole.dtype == np.float64 and (whole > 0).all() and (whole <= 0.3).all()


@each
@pytest.mark.parametrize("warmup", [(20, "steps"), (2, "epochs"), (200, "examples"), "2 epochs", ["2", "epochs"]])
def test_a_warm_up_is_a_duration(make, warmup):
    np.testing.assert_array_equal(
        rates(make(peak=1.0, warmup=warmup), 50), rates(make(peak=1.0, warmup=(20, "steps")), 50)
    )


@each
def test_a_warm_up_that_is_no_duration_is_named(make, complaint):
    name = next(key for key, value in SCHEDULES.items() if value is make)
    with complaint(f"{name}.warmup", "'fortnights'"):
        rates(make(peak=1.0, warmup=(2, "fortnights")), 50)


def test_polynomial_is_that_of_keras():
    theirs = keras.optimizers.schedules.PolynomialDecay(0.5, 40, 0.05, power=3.0)
    computed = rates(schedules.polynomial(peak=0.5, power=3.0, final=0.1), 40)
    # Theirs is computed in float32.
    np.testing.assert_allclose(computed, [float(theirs(step)) for step in range(40)], rtol=1e-5, atol=1e-6)


def test_exponential_halves_in_each_period_and_steps_fall_at_its_end_and_at_milestones():
    computed = rates(schedules.exponential(peak=0.8, factor=0.5, every=(1, "epochs")), 31)
    np.testing.assert_allclose(computed, 0.8 * 0.5 ** (np.arange(31) / 10), **EXACT)
    steps = schedules.step_decay(
        peak=0.8, factor=0.1, every=(1, "epochs"), milestones=[(5, "steps"), (250, "examples")], warmup=(2, "steps")
    )
    falls = [0.8, *np.repeat([0.8, 0.08, 0.008, 8e-4, 8e-5], [5, 5, 10, 5, 5])][1:]
    np.testing.assert_allclose(rates(steps, 32)[2:], falls, **EXACT)
    np.testing.assert_allclose(rates(steps, 32)[:2], [0.8 / 3, 1.6 / 3], **EXACT)


@pytest.mark.parametrize("make", COOLED.values(), ids=COOLED.keys())
@given(warmup=st.integers(0, 10), cooldown=st.integers(1, 20), rest=st.integers(1, 30), final=st.floats(0, 1))
def test_a_cool_down_is_a_line_from_where_the_schedule_stands_to_the_final_rate(make, warmup, cooldown, rest, final):
    total, steps = warmup + rest + cooldown, np.arange(warmup + rest + cooldown)
    plain = rates(make(peak=0.3, warmup=(warmup, "steps")), total + 1)
    cooled = rates(make(peak=0.3, warmup=(warmup, "steps"), cooldown=(cooldown, "steps"), final=final), total)
    begin = warmup + rest
    line = np.interp(steps[begin:], [begin, total], [plain[begin], final * 0.3])
    np.testing.assert_allclose(cooled[:begin], plain[:begin], rtol=1e-12)
    np.testing.assert_allclose(cooled[begin:], line, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (lambda: schedules.constant_rate(peak=1.0, warmup=(6, "steps"), cooldown=(5, "steps")), ["6 steps", "5"]),
        (lambda: schedules.step_decay(peak=1.0, every=(0, "steps")), ["step_decay.every"]),
        (lambda: schedules.step_decay(peak=1.0), ["never falls", "step_decay.every"]),
        (lambda: schedules.exponential(peak=1.0, factor=-0.5, every=(1, "steps")), ["exponential.factor"]),
        (lambda: schedules.polynomial(peak=1.0, power="2"), ["polynomial.power"]),
        (lambda: schedules.step_decay(peak=1.0, milestones=[(1, "weeks")]), ["step_decay.milestones", "'weeks'"]),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(complaint, schedule, told):
    with complaint(*told):
        rates(schedule(), 10)


def test_the_rate_grows_with_the_batch_or_with_its_root():
    for scaling, factor in ((None, 1.0), ("linear", 0.25), ("square_root", 0.5)):
        assert schedules.batch_factor(scaling, batch=64, reference=256) == factor
