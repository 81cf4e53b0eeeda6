"""Stages lie end to end, and where a step falls is a matter of arithmetic."""

import numpy as np
import pytest

from trainer import launch
from trainer.optimization.schedules import constant_rate, cosine
from trainer.optimization.stages import Stage, plan, stage


def make(name, length, *, schedule=None, **others):
    values = {"trains": ("all",), "batchnorm": None, **others}
    return Stage(name=name, length=length, schedule=schedule or constant_rate(peak=1.0), **values)


def test_lengths_in_any_unit_follow_one_another():
    run = plan([make("a", (3, "steps")), make("b", (2, "epochs")), make("c", "25 examples")], examples=100, batch=8)
    # 2 epochs of 100 in batches of 8 are 25 steps; 25 examples are 4, the last one in part.
    assert [(each.stage.name, each.start, each.stop) for each in run.stages] == [
        ("a", 0, 3), ("b", 3, 28), ("c", 28, 32),
    ]  # fmt: skip
    assert run.steps == 32
    assert (run.epoch(0), run.epoch(25), run.epoch(32)) == (0, 2, 2.56)


def test_each_stage_has_its_own_schedule_from_its_own_start():
    slow = cosine(peak=0.5, warmup=(2, "steps"))
    run = plan([make("a", (4, "steps")), make("b", (6, "steps"), schedule=slow)], examples=100, batch=8)
    np.testing.assert_array_equal(run.learning_rates(1, 4), [1, 1, 1])
    alone = plan([make("b", (6, "steps"), schedule=slow)], examples=100, batch=8)
    np.testing.assert_array_equal(run.learning_rates(4, 10), alone.learning_rates(0, 6))
    np.testing.assert_array_equal(run.learning_rates(6, 8), alone.learning_rates(2, 4))


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([], ["train.stages"]),
        ([make("a", (1, "steps")), make("a", (2, "steps"))], ["['a', 'a']", "a gin scope of its own"]),
        ([make("a", (1, "steps")), make("b", (0, "epochs"))], ["stage b has no steps", "b/stage.length"]),
        ([make("a", (-1, "epochs"))], ["(-1, 'epochs')", "a/stage.length"]),
        ([make("a", 5)], ["5 is no duration", "a/stage.length"]),
        ([make("a", (5, "minutes"))], ["'minutes'", "steps, epochs, examples"]),
        ([make("a", (1, "steps"), schedule=constant_rate(peak="1e-3"))], ["schedule of the stage a fails"]),
        ([make("a", (1, "steps"), schedule=constant_rate(peak=-1.0))], ["schedule of the stage a gives [-1.]"]),
        ([make("a", (1, "steps"), schedule=constant_rate(peak=1e39))], ["schedule of the stage a gives"]),
        ([make("a", (9, "steps"), schedule=cosine(peak=1.0, final=-1.0))], ["gives [-0.93", "at step 8 of 9", "final"]),
        ([make("a", (1, "steps"), schedule=constant_rate)], ["a/stage.schedule", "needs its ()"]),
        ([make("a", (1, "steps"), schedule=lambda step, total, steps_of: 0.1)], ["a/stage.schedule"]),
        ([make("a", (1, "steps"), schedule=lambda *of: {}["rate"])], ["fails: KeyError", "a/stage.schedule"]),
        ([make("a", (1, "steps"), schedule=cosine(peak=1.0, warmup="soon"))], ["'soon'", "cosine.warmup"]),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_before_it_starts(complaint, stages, told):
    with complaint(*told):
        plan(stages, examples=100, batch=8)


class TestInGin:
    def stages(self, *bindings):
        common = "x/stage.trains = ['head', 'last 2 blocks']", "y/stage.trains = 'head'"
        launch.parse_gin([], [*common, "stage.schedule = @constant_rate()", "constant_rate.peak = 0.1", *bindings])
        return launch.call(stage_pair)

    def test_a_stage_is_named_by_its_scope_and_a_length_takes_macros(self):
        one, other = self.stages("x/stage.length = (%many, 'epochs')", "many = 7", "y/stage.length = '3 steps'")
        assert (one.name, one.length, one.trains, one.batchnorm) == (
            "x",
            (7, "epochs"),
            ("head", "last 2 blocks"),
            None,
        )
        assert (other.name, other.length, other.trains) == ("y", "3 steps", ("head",))

    def test_an_unknown_mode_of_batch_normalisation_is_named_with_the_stage(self, complaint):
        with complaint("'thawed'", "x/stage.batchnorm", "frozen, recalibrate, train"):
            self.stages("stage.length = (1, 'steps')", "x/stage.batchnorm = 'thawed'")

    @pytest.mark.parametrize(
        ("binding", "told"),
        [
            ("x/stage.factors = [('head', 0)]", ["factors = [('head', 0)]", "numbers above 0"]),
            ("x/stage.factors = [('!head', 0.5)]", ["'!head'"]),
            ("x/stage.factors = ['head', 0.5]", ["x/stage.factors"]),
            ("x/stage.layer_decay = 0.0", ["layer_decay = 0.0", "at most 1"]),
            ("x/stage.layer_decay = 1.5", ["layer_decay = 1.5"]),
            ("x/stage.image_size = 0", ["image_size = 0", "above 0"]),
            ("x/stage.image_size = (24, 32)", ["image_size = (24, 32)"]),
            ("x/stage.trains = ['head', 3]", ["['head', 3]", "x/stage.trains"]),
        ],
    )
    def test_a_value_that_cannot_be_is_named_with_its_binding(self, complaint, binding, told):
        with complaint(*told, "gin binding x/stage."):
            self.stages("stage.length = (1, 'steps')", binding)


def stage_pair():
    import gin

    with gin.config_scope("x"):
        one = stage()
    with gin.config_scope("y"):
        return one, stage()
