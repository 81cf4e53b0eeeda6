"""The learning rate falls where Keras' ReduceLROnPlateau lets it fall, afresh in each stage, whatever is told twice."""

import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.optimization.plateau import PlateauState, plateau


def keras_factors(merits, **arguments):
    """What Keras' callback makes of a rate of 1, evaluation after evaluation."""
    floor = arguments.pop("floor")
    callback = keras.callbacks.ReduceLROnPlateau(monitor="merit", mode="max", min_lr=floor, **arguments)
    # A plain number: the rounding of the optimizer's float32 is not what is compared.
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(learning_rate=1.0))
    callback.set_model(model)
    callback.on_train_begin()
    factors = []
    for epoch, merit in enumerate(merits):
        callback.on_epoch_end(epoch, {"merit": merit})
        factors.append(model.optimizer.learning_rate)
    return factors


settings_of_one = st.fixed_dictionaries(
    {
        "factor": st.sampled_from([0.1, 0.5]), "patience": st.integers(1, 4), "cooldown": st.integers(0, 3),
        "min_delta": st.sampled_from([0.0, 0.1]), "floor": st.sampled_from([0.0, 0.25]),
    }
)  # fmt: skip
# Few different figures, so that nothing is gained often.
figures = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=25)


@given(arguments=settings_of_one, merits=figures)
def test_it_falls_where_that_of_keras_falls(arguments, merits):
    state = PlateauState(plateau(**arguments))
    factors = []
    for step, merit in enumerate(merits, 1):
        before = state.factor(0)
        assert state.take(step, merit, start=0) == (state.factor(0) < before)
        factors.append(state.factor(0))
    assert factors == keras_factors(merits, **arguments)


@given(arguments=settings_of_one, merits=figures, saved=st.integers(0, 25))
def test_evaluations_told_again_after_a_restart_come_to_the_same(arguments, merits, saved):
    straight, restarted = PlateauState(plateau(**arguments)), PlateauState(plateau(**arguments))
    for step, merit in enumerate(merits, 1):
        straight.take(step, merit, start=0)
        if step <= saved:
            restarted.take(step, merit, start=0)
    for step, merit in enumerate(merits, 1):
        restarted.take(step, merit, start=0)
    for name, variable in straight.variables().items():
        assert variable.numpy() == restarted.variables()[name].numpy()


def test_each_stage_begins_afresh():
    state = PlateauState(plateau(patience=1, factor=0.5))
    for step in (5, 10, 15):
        state.take(step, 0.9, start=0)
    assert state.factor(0) == 0.25
    # The evaluation at step 15 was the first stage's last.
    assert state.factor(15) == 1.0
    state.take(20, 0.1, start=15)
    assert state.factor(15) == 1.0
    state.take(25, 0.1, start=15)
    assert state.factor(15) == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [("factor", 1.0), ("factor", 0), ("patience", 0), ("min_delta", -1.0), ("cooldown", 0.5), ("floor", np.inf)],
)
def test_a_rule_that_makes_no_sense_is_refused(complaint, name, value):
    with complaint(f"{name} = ", f"plateau.{name}"):
        plateau(**{name: value})
