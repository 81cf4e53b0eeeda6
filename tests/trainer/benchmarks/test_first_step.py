"""The way of a session to its first step, timed part by part."""

import dataclasses

import pytest

from trainer import launch
from trainer.benchmarks.first_step import FirstStep, Reached
from trainer.benchmarks.starts import PARTS, STEP
from trainer.recipe import Recipe
from trainer.workdir import Workdir


@pytest.fixture
def reached(small, tmp_path):
    """`reached(jump)`: the session in that folder, as far as it is measured."""

    def run(jump=None):
        launch.parse_gin([small], [])
        recipe = launch.call(Recipe)
        stage = dataclasses.replace(recipe.stages[-1], length=(10**9, "steps"))
        never = {"evaluate_every": (10**9, "steps"), "checkpoint_every": (10**9, "steps")}
        recipe = dataclasses.replace(recipe, stages=[stage], window=1, **never)
        workdir = Workdir(str(tmp_path / "run"))
        session = FirstStep(recipe, workdir, device_spec="cpu", jump=jump)
        try:
            with pytest.raises(Reached):
                session.run()
        finally:
            workdir.disown()
        return session

    return run


def test_a_session_is_timed_to_its_first_step_and_goes_on_at_step_one_million(reached, events, tmp_path):
    reached(STEP)
    session = reached()
    assert session.resuming and session.step == STEP + 2
    assert [event["step"] for event in events(tmp_path / "run", "resume")] == [STEP]
    seconds = session.seconds()
    assert set(PARTS) <= set(seconds) and min(seconds.values()) >= 0
    parts = ("import", "modules", "data", "model", "restore", "first")
    assert sum(seconds[part] for part in parts) == pytest.approx(seconds["total"], abs=0.1)
    assert seconds["start"] == pytest.approx(seconds["total"] - seconds["import"] - seconds["compile"])
