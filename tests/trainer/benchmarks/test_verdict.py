"""What is said of measured rates, and predicted from them."""

import math

import pytest

from trainer.benchmarks.verdict import Change, Speeds, more_hosts, verdict

STAGES = [
    {"name": "read", "wall_ms": 0.5, "cpu_ms": 0.1, "share": 0.25},
    {"name": "decode", "wall_ms": 1.5, "cpu_ms": 3.0, "share": 0.75},
]


def speeds(**changes) -> Speeds:
    return Speeds(
        **({"input": 500, "step": 1000, "both": 480, "input_cpu": 0.004, "cores": 4, "shared": False} | changes)
    )


def test_the_slower_of_input_and_step_is_what_a_recipe_is_bound_by():
    assert (speeds().bound, speeds().factor) == ("input", 2.0)
    assert (speeds(input=3000).bound, speeds(input=3000).factor) == ("compute", 3.0)


def test_beside_a_gpu_both_are_as_fast_as_the_slower_times_what_is_lost_between_them():
    measured = speeds()  # 480 of 500
    assert measured.predicted(input=800) == pytest.approx(0.96 * 800)
    # From there on the step is the slower one.
    assert measured.predicted(input=9000) == pytest.approx(0.96 * 1000)
    assert measured.predicted(step=5000) == pytest.approx(480)


def test_on_a_cpu_an_image_takes_step_and_input_one_after_the_other():
    measured = speeds(shared=True, input=2000, step=500, both=400)  # 2 ms of step, 0.5 ms of input
    assert measured.predicted(cpu=0.001) == pytest.approx(1 / (2e-3 + 0.5e-3 / 4))
    assert measured.predicted(cpu=0.0, input=math.inf) == pytest.approx(500)
    assert measured.predicted(step=1000) == pytest.approx(1 / (1e-3 + 0.5e-3))
    # Nothing makes both faster than the input alone.
    assert measured.predicted(step=100_000) == pytest.approx(1 / (1e-5 + 0.5e-3))
    assert speeds(shared=True, input=410, step=500, both=400).predicted(step=100_000) == pytest.approx(410)


def test_more_hosts_are_as_many_as_the_step_can_take():
    change = more_hosts(speeds(input=300))
    assert "4 such hosts" in change.do and "16 cores" in change.do
    assert change.predicted == pytest.approx(480 / 300 * 1000)
    assert more_hosts(speeds(input=3000, both=900)) is None
    assert more_hosts(speeds(shared=True, both=450)).predicted == pytest.approx(1000)


def test_the_verdict_names_the_bound_the_slowest_stage_and_the_best_change_first():
    changes = [
        Change(name="batch", do="batch_size = 64", predicted=490.0),
        Change(name="store", do="train.store = 'auto'", predicted=960.0),
        Change(name="precision", do="does not fit", predicted=None),
    ]
    found = verdict(speeds(), STAGES, changes, wait=0.52)
    assert (found["bound"], found["slowest_stage"], found["slowest_share"]) == ("input", "decode", 0.75)
    assert [row["name"] for row in found["changes"]] == ["store", "batch", "precision"]
    assert found["changes"][0]["gain"] == pytest.approx(2.0) and found["changes"][2]["gain"] is None
    words = "\n".join(found["sentences"])
    assert "input-bound" in words and "2.00 times as fast" in words and "decode, 75 % of 2.00 ms" in words
    assert "waits for its batch 52 % of the time" in words
    assert "store: train.store = 'auto': 960 images/s predicted, 2.00 x" in words
    # 2 % are not worth a word.
    assert "batch_size = 64" not in words


def test_where_nothing_helps_that_is_said():
    found = verdict(speeds(input=3000, both=990), STAGES, [Change(name="batch", do="", predicted=995.0)], wait=0.0)
    assert found["sentences"][0].startswith("compute-bound: the input alone gives 3000 images/s, 3.00 times")
    assert found["sentences"][-1] == "nothing that was looked into is predicted to gain 3 %"
