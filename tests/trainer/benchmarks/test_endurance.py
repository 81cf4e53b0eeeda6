"""Sessions that are watched: what they hold after many steps, and what their saves cost."""

import dataclasses

import pytest

from trainer import launch
from trainer.benchmarks import endurance, saving
from trainer.benchmarks.endurance import MOST, Sample, Watched
from trainer.benchmarks.saving import InTurns
from trainer.recipe import Recipe
from trainer.workdir import Workdir


@pytest.fixture
def watched(small, tmp_path):
    """`watched(Watched, 120, "train.window = 10", every=20)`: a trained session of so many steps."""

    def run(kind, steps, *bindings, **arguments):
        launch.parse_gin([small], bindings)
        recipe = endurance.of_length(launch.call(Recipe), steps)
        workdir = Workdir(str(tmp_path / kind.__name__))
        session = kind(recipe, workdir, device_spec="cpu", **arguments)
        try:
            assert session.run() == 0
        finally:
            workdir.disown()
        return session

    return run


def test_120_steps_with_a_save_each_10_open_nothing_that_stays_open(watched):
    told = []
    often = ("train.window = 10", "train.checkpoint_every = (10, 'steps')", "split_by_hash.validation = 0.0")
    session = watched(Watched, 120, *often, every=20, report=told.append)
    assert [each.step for each in session.samples] == list(range(20, 120, 20)) and told == session.samples
    assert all(each.memory > 2**27 and each.threads > 1 and each.descriptors > 2 for each in told)
    added = endurance.growth(session.samples)
    assert all(added[name] <= MOST[name] for name in ("threads", "descriptors", "files")), session.samples


@pytest.mark.parametrize("name", MOST)
def test_what_grows_is_told(name):
    flat = [Sample(step, memory=2**30, threads=40, descriptors=9, files=20) for step in range(1000, 11000, 1000)]
    assert endurance.grown(flat) == []
    # What is there once and stays is no growth.
    early = [dataclasses.replace(each, **{name: getattr(each, name) // 2}) for each in flat[:5]] + flat[5:]
    assert endurance.grown(early) == []
    leak = {"memory": 2**20}.get(name, 1)
    leaking = [
        dataclasses.replace(each, **{name: getattr(each, name) + index * leak}) for index, each in enumerate(flat)
    ]
    [sentence] = endurance.grown([*leaking, dataclasses.replace(leaking[-1], step=11000)])
    assert sentence.startswith(name)


def test_saves_are_made_in_every_other_turn_alone(watched, events):
    rhythm = ("train.checkpoint_every = (2, 'steps')", "train.evaluate_every = (18, 'steps')")
    session = watched(InTurns, 18, *rhythm, turn=6, report=lambda told: None)
    assert {saves: len(seconds) for saves, seconds in session.seconds.items()} == {True: 1, False: 1}
    # The last one is that of the end.
    assert [event["step"] for event in events(session.workdir.path, "checkpoint")] == [6, 8, 10, 18]


def test_what_saving_costs_is_the_ratio_of_turns_of_the_same_round():
    saves, plain = saving.compare({True: [10.0, 22.0, 12.5], False: [9.5, 11.0, 12.0]}, images=100)
    assert saves["images_per_second"] == 8.0 and saves["ratio"] == 0.95
    assert (saves["lowest_ratio"], saves["highest_ratio"]) == (0.5, 0.96)
    assert plain["ratio"] == plain["lowest_ratio"] == plain["highest_ratio"] == 1.0
