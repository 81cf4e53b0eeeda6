"""Numbers that go bad: what counts as that, what such a step leaves as it was, and when enough is enough."""

import numpy as np
import pytest
import tensorflow as tf

from data import skipping
from data.errors import RunFailure
from tests.trainer import tiny
from trainer import failures
from trainer.guard import GuardState, guard
from trainer.optimization.optimizers import adam, sgd
from trainer.reports.log import MetricsLog
from trainer.rollback import possible, suspects

RATE = np.float32(0.1)


def told_loss(labels, logits):
    """As large as the labels say, with a gradient of its own."""
    return tf.reduce_mean(labels, axis=-1) + 0.01 * tf.reduce_sum(tf.tanh(logits), axis=-1)


def told(*losses):
    """A batch a step whose loss is about the number given."""
    batches = tiny.material(len(losses), 4, task="regression")
    return batches | {"label": np.broadcast_to(np.float32(losses)[:, None, None], batches["label"].shape).copy()}


def without(batches, *steps):
    return {name: np.delete(values, steps, axis=0) for name, values in batches.items()}


def trained(batches, *, rule=None, rates=None, replicas=1, **settings):
    run = tiny.Run(
        rule or adam(), replicas=replicas, task="regression", loss=told_loss, length=8, guard=guard(**settings)
    )
    return run, run.train(batches, np.full(len(batches["label"]), RATE) if rates is None else np.float32(rates))


def records(text, *, loss_scale=1.0):
    """What a window records of steps: `.` good, `n` not finite, `s` a spike, `w` weights broken."""
    given = {"finite": "n", "spike": ".nw", "sound": "w"}
    columns = {name: np.float32([mark not in marks for mark in text]) for name, marks in given.items()}
    scales = np.float32([loss_scale] * len(text))
    return columns | {"loss": np.arange(len(text), dtype=np.float32), "loss_scale": scales}


class TestASpike:
    @pytest.fixture(scope="class")
    def spikes(self):
        run = tiny.Run(adam(), task="regression", loss=told_loss, length=8, guard=guard(spike=4.0, memory=2))

        def of(*losses):
            """Which of these losses, from the start of a stage on, are spikes."""
            run.guard.begin_stage()
            return run.train(told(*losses), np.full(len(losses), RATE))["spike"].tolist()

        return of

    def test_changes_nothing_but_the_count_of_steps(self):
        batches = told(5, 5, 6, 23, 5, 30, 6)
        run, seen = trained(batches, replicas=2, spike=4.0, memory=3)
        assert seen["spike"].tolist() == [0, 0, 0, 1, 0, 1, 0]
        plain, _ = trained(without(batches, 3, 5), replicas=2)
        for name, value in run.weights().items():
            assert value.tobytes() == plain.weights()[name].tobytes(), name

    def test_is_none_before_the_mean_has_its_steps_and_never_enters_it(self, spikes):
        # The mean is 5 before step 3 and still before step 4.
        assert spikes(1, 9, 21, 21, 19) == [0, 0, 1, 1, 0]

    def test_is_no_number_that_is_not_finite(self, spikes):
        assert spikes(1, 1, np.inf, np.nan, 9) == [0, 0, 0, 0, 1]

    def test_is_judged_by_the_losses_of_its_stage(self, spikes):
        assert spikes(1, 1, 1) == [0, 0, 0]
        assert spikes(50, 50, 250) == [0, 0, 1]

    def test_is_not_looked_for_where_the_mean_is_not_above_zero(self, spikes):
        assert spikes(-1, -1, -1, 5) == [0, 0, 0, 0]


def test_the_step_whose_update_breaks_the_weights_is_told():
    _, seen = trained(told(1, 1, 1, 1), rule=sgd(), rates=[0.1, 0.1, np.inf, 0.1], not_finite="roll_back")
    assert seen["finite"].tolist() == [1, 1, 1, 0] and seen["sound"].tolist() == [1, 1, 0, 0]


class TestAVerdict:
    def test_lets_good_steps_pass(self):
        assert GuardState(guard()).judge(0, records("....")) is None

    @pytest.mark.parametrize(
        ("text", "settings", "expected"),
        [
            (".n..", {}, (12, "not finite", "stop")),
            (".n..", {"not_finite": "roll_back"}, (12, "not finite", "roll_back")),
            (".sn.", {"not_finite": "roll_back"}, (13, "not finite", "roll_back")),
            (".sn.", {"on_spike": "roll_back"}, (12, "spike", "roll_back")),
            (".s..", {"on_spike": "stop"}, (12, "spike", "stop")),
            (".wnn", {"not_finite": "roll_back"}, (12, "weights", "roll_back")),
            (".wnn", {"not_finite": "skip"}, (12, "weights", "stop")),
            ("nn.n", {"not_finite": "skip", "tries": 2}, None),
            ("nsn.", {"not_finite": "skip", "tries": 2}, (13, "not finite", "stop")),
        ],
    )
    def test_names_the_first_step_that_cannot_be_passed_over(self, text, settings, expected):
        fault = GuardState(guard(spike=2.0, **settings)).judge(10, records(text))
        assert (fault and (fault.step, fault.reason, fault.action)) == expected
        assert fault is None or fault.loss == fault.step - 11

    def test_counts_skips_in_a_row_over_windows_and_checkpoints(self):
        settings = guard(not_finite="skip", tries=3)
        before, after = GuardState(settings), GuardState(settings)
        assert before.judge(0, records("n.nn")) is None
        for name, variable in after.variables().items():
            variable.assign(before.variables()[name])
        fault = after.judge(4, records("nn"))
        assert fault.step == 6 and "in a row before it: 3" in fault.tried

    def test_takes_what_a_loss_scale_skips_for_nothing(self):
        state = GuardState(guard(not_finite="skip", tries=1))
        assert state.judge(0, records("n")) is None
        assert state.judge(1, records("nnnn", loss_scale=2.0)) is None
        assert state.judge(5, records("n")).step == 6

    def test_ends_after_so_many_roll_backs(self):
        state = GuardState(guard(not_finite="roll_back", tries=2))
        state.go_without(skipping.adding((), 8, 16), roll_backs=1)
        assert state.left_out == ((8, 16),) and state.judge(0, records("n")).action == "roll_back"
        state.go_without(skipping.adding(state.left_out, 0, 4), roll_backs=2)
        fault = state.judge(0, records("n"))
        assert fault.action == "stop" and "before it: 2" in fault.tried and state.left_out == ((0, 4), (8, 16))

    @pytest.mark.parametrize(
        ("saved", "batches", "told"),
        [([], 1, "nothing saved"), ([5, 6], 2, "no checkpoint of step 4"), ([4, 6], 2, "")],
    )
    def test_of_a_roll_back_ends_the_run_where_there_is_no_way_back(self, saved, batches, told):
        wanted = GuardState(guard(not_finite="roll_back")).judge(5, records("n"))
        fault = possible(wanted, saved, batches=batches)
        assert (fault.action, told in fault.tried) == ("stop" if told else "roll_back", True)


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("n", {}, ("NaN or infinite at step 8", "a.png, b.png", "8 to 15", "guard.not_finite = 'roll_back'")),
        ("s", {"on_spike": "stop"}, ("loss jumps to 0 at step 8", "guard.on_spike = 'roll_back'")),
        ("w", {"not_finite": "skip"}, ("weights NaN or infinite at step 8", "ckpt-6", "guard.not_finite")),
        (
            "nn",
            {"not_finite": "skip", "tries": 1},
            ("at step 9", "skipped in a row before it: 1", "a larger guard.tries"),
        ),
    ],
)
def test_what_ends_a_run_is_told_with_step_images_and_the_way_on(text, settings, expected):
    fault = GuardState(guard(spike=2.0, **settings)).judge(7, records(text))
    about = {"positions": [8, 16], "images": ["a.png", "b.png"], "last": "ckpt-6"}
    error = failures.of_step(fault, "head", **about)
    assert isinstance(error, RunFailure)
    assert all(part in str(error) for part in (*expected, "in the stage head"))


def test_images_of_every_bad_batch_are_suspects(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")

    def bad(event, *images, reason="not finite"):
        log.append([{"event": event, "step": 1, "reason": reason, "images": list(images)}])
        return suspects(log, "not finite")

    assert bad("skip", "d", reason="spike") == [] and bad("skip", "a", "b", "c") == []
    assert bad("rollback", "c", "b") == ["c", "b"]
    assert bad("rollback", "b") == ["b"]
    assert bad("skip", "a") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("not_finite", "ignore"), ("on_spike", None), ("spike", 1), ("spike", float("inf")), ("spike", True),
        ("memory", 0), ("tries", 0), ("tries", 65), ("batches", 1.5),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_told(name, value, complaint):
    with complaint(f"{name} = {value!r}", f"guard.{name}"):
        guard(**{name: value})
