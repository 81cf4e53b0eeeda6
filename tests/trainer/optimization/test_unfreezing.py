"""Gradual unfreezing is a list of stages like any other."""

import gin
import numpy as np
import pytest

from trainer import launch
from trainer.optimization.schedules import constant_rate, cosine
from trainer.optimization.stages import plan
from trainer.optimization.unfreezing import unfreezing
from trainer.recipe import Recipe

EPOCH = (1, "epochs")


def test_trains_the_head_first_and_then_more_and_more_blocks():
    stages = unfreezing(length=EPOCH, schedule=constant_rate(peak=1.0), blocks=[0, 1, 4, "all"])
    assert [(stage.name, stage.trains) for stage in stages] == [
        ("unfreezing-0", ("head",)), ("unfreezing-1", ("head", "last 1 block")),
        ("unfreezing-4", ("head", "last 4 blocks")), ("unfreezing-all", ("all",)),
    ]  # fmt: skip


def test_each_stage_has_its_length_and_a_lower_rate_on_the_same_schedule():
    lengths = [(2, "steps"), "4 steps", (6, "steps")]
    stages = unfreezing(length=lengths, schedule=cosine(peak=0.8), blocks=[0, 1, 2], rate_factor=0.25)
    run = plan(stages, examples=100, batch=10)
    assert [(each.start, each.stop) for each in run.stages] == [(0, 2), (2, 6), (6, 12)]
    for power, planned in enumerate(run.stages):
        steps = planned.stop - planned.start
        expected = 0.25**power * cosine(peak=0.8)(np.arange(steps), steps, lambda *_: 0)
        np.testing.assert_array_equal(run.learning_rates(planned.start, planned.stop), expected)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"blocks": []}, "unfreezing.blocks"),
        ({"blocks": [0, 2, 2]}, "[0, 2, 2]"),
        ({"blocks": ["all", 2]}, "['all', 2]"),
        ({"blocks": 3}, "whole numbers that grow"),
        ({"length": [EPOCH, EPOCH]}, "one length, or 4"),
        ({"rate_factor": 0}, "unfreezing.rate_factor"),
        ({"layer_decay": 2.0}, "unfreezing.layer_decay"),
    ],
)
def test_what_makes_no_sense_is_refused(complaint, wrong, told):
    with complaint(told):
        unfreezing(**{"length": EPOCH, "schedule": constant_rate(peak=1.0)} | wrong)


def test_stands_for_the_stages_of_a_recipe_or_among_them(small):
    gradual = ["unfreezing.length = (1, 'epochs')", "unfreezing.schedule = @cosine()", "cosine.peak = 1.0"]
    for stages, names in (
        ("@unfreezing()", ["unfreezing-0", "unfreezing-1", "unfreezing-2", "unfreezing-4"]),
        ("[@head/stage(), @more/unfreezing()]", ["head", "more-1", "more-3"]),
    ):
        blocks = ["more/unfreezing.blocks = [1, 3]"] if "more" in stages else []
        gin.clear_config()
        launch.parse_gin([small], [*gradual, *blocks, f"train.stages = {stages}"])
        assert [stage.name for stage in launch.call(Recipe).stages] == names


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"length": (0, "steps")}, "unfreezing.length"), ({"schedule": constant_rate}, "unfreezing.schedule")],
)
def test_what_only_a_run_can_tell_names_the_same_bindings(complaint, wrong, told):
    stages = unfreezing(**{"length": EPOCH, "schedule": constant_rate(peak=1.0)} | wrong)
    with complaint(f"gin binding {told}"):
        plan(stages, examples=100, batch=10)
