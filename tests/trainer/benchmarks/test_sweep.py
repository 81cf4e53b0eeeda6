"""The best setting found, the largest batch that fits, and what trials in processes of their own say of it."""

import io

import numpy as np
import pytest
from PIL import Image

from data.errors import RunFailure, UserError
from trainer.benchmarks import rates, sweep
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.sweep import Setting, largest_and_best
from trainer.benchmarks.trials import Outcome
from trainer.reports.console import Console

FIRST = Setting(batch=8, precision="float32", xla="never", window=10)


def search(fits, speed, *, most=8 * 2**6):
    tried = []

    def rate(setting):
        tried.append(setting.batch)
        return speed(setting.batch) if setting.batch <= fits else None

    best, found = largest_and_best(FIRST, rate, most=most)
    return best.batch, found, set(tried)


@pytest.mark.parametrize("fits", [8, 15, 100, 200])
def test_the_largest_batch_is_found_to_the_size_of_the_first(fits):
    best, found, tried = search(fits, lambda batch: batch)
    # Three halvings are as near as it gets.
    assert found["fits"] <= fits < found["too_large"] and found["too_large"] - found["fits"] <= max(
        8, found["fits"] / 4
    )
    assert best == found["fits"] and all(batch % 8 == 0 for batch in tried) and len(tried) < 12


def test_the_search_ends_where_it_is_told_to():
    best, found, tried = search(10**9, lambda batch: 100 - abs(batch - 32), most=100)
    assert tried == {8, 16, 32, 64} and best == 32 and found == {"fits": 64, "too_large": None}


def test_what_is_hardly_faster_is_not_better():
    best, _, _ = search(10**9, lambda batch: 100 + batch / 1000)
    assert best == 8


def test_a_setting_is_bound_whatever_the_recipe_says():
    assert FIRST.bindings == [
        "train.batch_size = 8", "train.precision = 'float32'", "train.xla = 'never'", "train.window = 10",
        "train.threads = None",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said", "fits"),
    [
        (3, "error: out of memory: OOM when allocating tensor", False),
        (-9, "", False),
        (1, "terminate called after throwing an instance of 'std::bad_alloc'", False),
        (2, "error: a global batch of 9 does not divide", True),
    ],
)
def test_a_process_that_memory_ended_does_not_fit_and_any_other_failure_is_one(status, said, fits):
    outcome = Outcome(None, status, said)
    assert outcome.fits == fits and ("does not fit" in sweep.told(outcome)) == (not fits)
    with pytest.raises(UserError) as caught:
        outcome.expected()
    assert isinstance(caught.value, RunFailure) == (status != 2) and said in str(caught.value)
    row = sweep.row(FIRST, outcome)
    assert row["fits"] == fits and sweep.table("", [row]).rows[0][:4] == ("8", "float32", "never", "10")


def machine(tried, kind, *, threads="None"):
    """Stands in for `trials.run`: a machine on which large batches, bfloat16, XLA and so many threads are fast."""

    def run(part, settings, *, bindings):
        tried.append(dict(binding.removeprefix("train.").split(" = ") for binding in bindings))
        batch, now = int(tried[-1]["batch_size"]), tried[-1]
        if batch > 20:
            return Outcome(None, 3, "error: out of memory")
        speed = batch * (2 if "mixed_bfloat16" in now["precision"] else 1) * (3 if "always" in now["xla"] else 1)
        speed *= 1 if now["threads"] == threads else 0.5
        speeds = {name: {"median": float(speed)} for name in ("both together", "step alone", "input alone")}
        facts = {"environment": {"device_kind": kind}, "title": "t", "rates": {"both together": [1.0]}, "faults": []}
        peaks = {"host_peak": 1, "device_peak": None, "trace_seconds": 1.0, "compile_seconds": 1.0}
        return Outcome({"images_per_second": speeds, **facts, **peaks}, 0, "")

    return run


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_batch_precision_xla_and_window_are_swept_one_after_the_other(monkeypatch, small, kind):
    tried = []
    monkeypatch.setattr(sweep.trials, "run", machine(tried, kind))
    result = sweep.run(Settings(gin_file=(small,)), Console())
    best = result.figures["best"]
    assert (best["batch"], best["precision"]) == (16, "mixed_bfloat16") and best["window"] == 2
    assert best["xla"] == ("always" if kind == "GPU" else "never")
    assert best["images_per_second"] == (96.0 if kind == "GPU" else 32.0)
    assert result.figures["largest_batch"] == {"fits": 16, "too_large": 24} and "24 does not" in result.sentences[1]
    # float16 has no units on a CPU, and XLA makes convolutions slower there.
    assert any("float16'" in each["precision"] and "b" not in each["precision"] for each in tried) == (kind == "GPU")
    assert any("always" in each["xla"] for each in tried) == (kind == "GPU")
    assert any(each["threads"] == "1" for each in tried) == (kind == "CPU")
    assert len(tried) == len({str(each) for each in tried}) == len(result.tables[0].rows)
    assert [row[-1] for row in result.tables[0].rows].count("does not fit") == 2


@pytest.mark.parametrize("fast", [1, None])
@pytest.mark.parametrize("ours", [1, None])
def test_one_thread_an_operation_and_all_are_both_tried_on_a_cpu(monkeypatch, small, ours, fast):
    monkeypatch.setattr(sweep.trials, "run", machine([], "CPU", threads=str(fast)))
    result = sweep.run(Settings(gin_file=(small,), gin_param=(f"train.threads = {ours}",)), Console())
    assert result.figures["best"]["threads"] == fast


def test_the_plot_shows_what_was_measured_and_what_does_not_fit():
    rows = [
        {"batch": 8 * 2**index, "precision": "float32", "xla": "never", "window": 20, "threads": None, "fits": True}
        | {"images_per_second": {rates.BOTH: 100.0 + index}}
        for index in range(3)
    ]
    broken = {"batch": 64, "precision": "float32", "xla": "never", "window": 20, "threads": None}
    broken |= {"fits": False, "said": ""}
    pictures = [np.asarray(Image.open(io.BytesIO(sweep.plot("title", some)))) for some in (rows, [*rows, broken])]
    assert pictures[0].shape == pictures[1].shape == (750, 1200, 4) and (pictures[0] != pictures[1]).any()
