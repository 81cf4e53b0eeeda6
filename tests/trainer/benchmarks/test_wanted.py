"""The table of everything that is wanted, and of replicas."""

import pytest

from trainer.benchmarks import replicas, trials, wanted
from trainer.benchmarks.settings import Settings
from trainer.launch import PROJECT
from trainer.reports.console import Console

RATIO = {"ratio": 1.3, "lowest_ratio": 1.2, "highest_ratio": 1.4}
# What each part would find: just what is wanted of all, and 1.3 times that of every ratio that is looked up by name.
DOCUMENTS = {
    "rates": {"images_per_second": {
        "both together": {"median": 96, "p10": 90, "p90": 99}, "step alone": {"median": 100, "p10": 1, "p90": 1},
    }},
    "loop": {"rows": [{"name": "onward", "ratio": 1.0}, {"name": "fit", **RATIO}, {"name": "slow", "ratio": 9.0}]},
    "augment": {"ratios": [
        {"name": f"{name} / {peer}", "ratio": least, "lowest_ratio": least, "highest_ratio": least}
        for name, peer, _, least in wanted.augmentation.WANTED
    ]},
    "input": {"rows": [{"name": "pipeline, from files", **RATIO}]},
    "features": {"rows": [{"name": "head", **RATIO}]},
    "start": {"resumed": RATIO, "start": {"median": 2.0, "lowest": 1.0, "highest": 3.0}},
    "saving": {"rows": [{"name": "saving", "ratio": 0.97, "lowest_ratio": 0.9, "highest_ratio": 1.0}]},
    "growth": {"rows": [{"name": "growth", "bytes_an_example": 100.0, **RATIO}]},
}  # fmt: skip
PHOTOS = ("data_dir = 'photos'",)


@pytest.fixture
def measured(monkeypatch):
    """Parts that are asked for."""
    asked = []

    def run(part, settings, **_):
        asked.append((part, *settings.gin_file))
        found = {"rates": {"a": [1.0]}, "faults": []} | DOCUMENTS[part] | {"environment": {"cores": 2}}
        return trials.Outcome(found | ({"rates": {}} if part == "rates" else {}), 0, "")

    monkeypatch.setattr(trials, "run", run)
    return asked


def test_every_row_is_told_with_what_is_wanted_and_what_is_missed_is_a_fault(measured):
    result = wanted.run(Settings(gin_param=PHOTOS), Console())
    rows = {row["name"]: row for row in result.figures["rows"]}
    assert len(measured) == len(set(measured)) < len(rows) == len(wanted.ROWS)
    missed = {name for name, row in rows.items() if not row["met"]}
    assert {row["seen"] for row in rows.values() if row["part"] == "loop"} == {1.3}
    assert [name.split()[0] for name in missed] and all(
        rows[name]["part"] in ("features", "start", "growth") for name in missed
    )
    assert len(result.faults) == len(missed) == 3
    [end_to_end] = (row for row in rows.values() if row["part"] == "rates")
    assert (end_to_end["seen"], end_to_end["lowest"], end_to_end["highest"]) == (0.96, 0.9, 0.99) and end_to_end["met"]


def test_gpus_get_a_command_and_no_figure(measured):
    result = wanted.run(Settings(gin_param=PHOTOS), Console())
    cells = [row for row in result.tables[0].rows if "GPU" in row[0]]
    assert len(cells) == 3 and {row[2] for row in cells} == {"not measured here"}
    assert sum("python scripts/benchmark.py --part=" in sentence for sentence in result.sentences) == 3


def test_some_rows_alone_need_no_photos(measured):
    result = wanted.run(Settings(only=("saving", "tiny")), Console())
    assert [row["part"] for row in result.figures["rows"]] == ["loop", "saving"] and not result.faults
    assert measured == [("loop", wanted.TINY), ("saving", "configs/saving.gin")]


def test_what_varies_most_has_more_turns_and_a_function_traced_twice_is_a_fault(measured, monkeypatch):
    run, turns = trials.run, []

    def traced_twice(part, settings, **more):
        turns.append(settings.repeats)
        outcome = run(part, settings, **more)
        return trials.Outcome(outcome.document | {"faults": ["traced 2 times"]}, 0, "")

    monkeypatch.setattr(trials, "run", traced_twice)
    # A fault of saving is its figure, which is judged here.
    result = wanted.run(Settings(only=("saving", "tiny")), Console())
    assert list(result.faults) == ["loop configs/benchmark_tiny.gin: traced 2 times"]
    wanted.run(Settings(only=("tiny",), repeats=20), Console())
    assert turns == [9, 5, 20]


def test_the_efficiency_of_replicas_is_asked_of_one_program():
    [scaling] = (wanted.gpu_command(*how) for _, *how in wanted.GPU if "scaling" in how[0])
    assert "auto" not in scaling and "mixed_float16" in scaling


def test_what_cannot_be_measured_is_told_before_anything_is(measured, complaint):
    with complaint("without photos", "data_dir"):
        wanted.run(Settings(), Console())
    with complaint("--only=nothing"):
        wanted.run(Settings(only=("nothing",)), Console())
    with complaint("no --gin_file"):
        wanted.run(Settings(gin_file=("configs/extend.gin",), gin_param=PHOTOS), Console())
    assert measured == []


def test_every_recipe_is_there():
    assert all((PROJECT / row.config).is_file() for row in wanted.ROWS)


def document(rate: float, replicas_: int, *, reduction: float = 0.0) -> dict:
    speed = {"both together": {"median": rate}}
    return {"images_per_second": speed, "replicas": replicas_, "batch_size": 8, "reduction_share": reduction}


def test_efficiency_is_the_share_of_what_as_many_replicas_could_do():
    row = replicas.row("strong", 4, document(300, 4, reduction=0.1), alone=document(100, 1))
    assert row["speedup"] == 3.0 and row["efficiency"] == 0.75 and row["images_per_second_per_device"] == 75
    assert row["reduction_share"] == 0.1 and "10.0 %" in replicas.table("", [row]).rows[0]
    # From 2 on, where there is no measurement of 1.
    assert replicas.row("weak", 4, document(300, 4), alone=document(200, 2))["efficiency"] == 0.75


def test_each_number_of_replicas_is_a_process_with_its_batch(monkeypatch, small):
    asked = []

    def run(part, settings, *, bindings, devices):
        asked.append((*bindings, devices))
        count = int(devices.split(":")[1])
        facts = {"title": "t", "rates": {"both together": [1.0]}, "environment": {"device_kind": "CPU", "cores": 2}}
        return trials.Outcome(document(100.0, count) | facts | {"faults": ["traced 2 times"] * (count == 2)}, 0, "")

    monkeypatch.setattr(trials, "run", run)
    result = replicas.run(Settings(gin_file=(small,), devices="cpu", replicas=("2", "1")), Console())
    assert asked == [
        ("train.batch_size = 8", "cpu:1"), ("train.batch_size = 8", "cpu:2"), ("train.batch_size = 16", "cpu:2"),
    ]  # fmt: skip
    assert [row["efficiency"] for row in result.figures["rows"]] == [1.0, 0.5, 1.0, 0.5]
    assert "share the 2 cores" in result.sentences[0]
    assert list(result.faults) == [f"{way}, 2 replicas: traced 2 times" for way in ("strong", "weak")]


def test_devices_are_named_by_number_and_numbers_have_to_be_some(small, complaint):
    assert replicas.devices_of("gpu", 3) == "gpu:0,1,2" and replicas.devices_of("auto", 2) == "cpu:2"
    with complaint("--replicas=1,two"):
        replicas.run(Settings(gin_file=(small,), replicas=("1", "two")), Console())
