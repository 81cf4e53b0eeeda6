"""The prediction for several replicas is that of the model, and what it begins with is measured."""

import dataclasses
import json

import pytest

from trainer import devices, launch, probing
from trainer.benchmarks import prediction
from trainer.benchmarks.prediction import Measured
from trainer.proofs.ways import Way
from trainer.recipe import Recipe

ONE, TWO, FOUR, PROCESSES = (Way("cpu", *shape) for shape in [(1, 1), (1, 2), (1, 4), (2, 1)])
SIZE, BATCH = 10**6, 16


def measured(steps, *, gradients=None, number=None):
    """Of a machine where a replica computes for 2 ms and 1 ms an example, all on one of two cores."""
    return Measured(
        steps=steps, processor=steps, gradients=gradients, number=number, size=SIZE, cores=2
    )  # fmt: skip


def machine():
    alone = {examples: 0.002 + 0.001 * examples for examples in (16, 8, 4)}
    return {
        ONE: measured(alone),
        # 1 MB there and back, 5 ms each; a message takes 1 ms.
        TWO: measured({32: 0.018 + 0.014, 16: 0.010 + 0.014}, gradients=0.012, number=0.002),
        FOUR: measured({64: 0.036 + 0.042, 16: 0.012 + 0.042}, gradients=0.036, number=0.006),
        # Half a megabyte twice, 4 ms each; a message takes 2 ms.
        PROCESSES: measured({32: 0.018 + 0.016, 16: 0.010 + 0.016}, gradients=0.012, number=0.004),
    }


def test_a_machine_that_is_as_the_model_says_is_predicted_exactly():
    rows = prediction.compare(machine(), batch=BATCH)
    assert len(rows) == 3 + 2 + 2 + 2
    for row in rows:
        assert row.predicted == pytest.approx(row.measured, rel=1e-6), row
    assert [row.kind for row in rows[3:]] == ["weak", "strong"] * 3
    assert [row.examples for row in rows] == [16, 8, 4, 16, 8, 16, 4, 16, 8]


def test_what_is_off_is_told():
    found = machine()
    found[FOUR] = dataclasses.replace(found[FOUR], steps={64: 2 * 0.078, 16: 0.054})
    rows = prediction.compare(found, batch=BATCH)
    cells = prediction.table(rows, title="").rows
    assert cells[5][7] == "-50%" and cells[6][7] == "+0%"
    # Four replicas with 16 examples, each 18 ms of processor time.
    assert cells[5][-2:] == ("78.0", "72.0")
    assert cells[5][3:7] == ("156.0", "78.0", "36.0", "42.0")


def test_gpus_share_no_cores_and_reduce_in_a_ring():
    one, two = Way("gpu", 1, 1), Way("gpu", 1, 2)
    found = {one: machine()[ONE], two: measured({32: 0.018 + 0.016, 16: 0.026}, gradients=0.012, number=0.004)}
    rows = prediction.compare(found, batch=BATCH)
    assert [row.predicted for row in rows] == pytest.approx([row.measured for row in rows])


def test_a_way_is_measured_and_read_again(small, monkeypatch):
    for name in ("CALLS", "LEAD", "STEPS"):
        monkeypatch.setattr(probing, name, 1)
    launch.parse_gin([small], [])
    found = prediction.measure(launch.call(Recipe), TWO, devices.set_up("cpu:2"))
    assert set(found.steps) == set(found.processor) == {16, 8}
    assert min(*found.steps.values(), *found.processor.values()) > 0 and found.gradients >= 0
    # Of the longest stage, which trains all: 23,956 parameters.
    assert found.size == 4 * 23956
    assert Measured.of(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_a_batch_that_cannot_be_cut_is_refused_before_anything_is_measured(command, small, tmp_path):
    started = command("check_scaling", f"--workdir={tmp_path}", f"--gin_file={small}", "--gin_param=batch_size = 6")
    assert started.end() == 2, started.printed
    assert "a multiple of 4" in started.printed and "batch_size = 8" in started.printed
    assert not list(tmp_path.iterdir())
