"""A recipe that is measured: its three rates, and the stages of its input."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from trainer import devices, launch
from trainer.benchmarks import cuts, growth, rates, recipe, subject
from trainer.benchmarks.inputs import Cost
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.subject import Subject
from trainer.models.cut import Features
from trainer.recipe import Recipe


def silent(told):
    pass


@pytest.fixture(scope="module")
def prepared(small, tmp_path_factory):
    """The smallest recipe, ready to be measured."""
    settings = Settings(gin_file=(small,), gin_param=("train.window = 4",), devices="cpu", images=24, stage="all")
    return rates.prepared(settings, tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def figures(prepared):
    return rates.measured(prepared, repeats=1, report=silent)


def test_three_rates_with_their_spread_globally_and_per_device(figures):
    json.dumps(figures, allow_nan=False)
    assert set(figures["rates"]) == {rates.INPUT, rates.STEP, rates.BOTH}
    for name, all_ in figures["rates"].items():
        speed = figures["images_per_second"][name]
        assert 0 < speed["p10"] <= speed["median"] == np.median(all_) <= speed["p90"]
        assert figures["images_per_second_per_device"][name] == speed
    assert figures["windows"] == {"steps": 4, "images": 32} and 0 <= figures["data_wait"] <= 1
    assert figures["host_peak"] > 2**27 and figures["device_peak"] is None
    assert figures["trace_seconds"] > 0 and figures["compile_seconds"] >= 0 and figures["reduction_share"] == 0


def test_one_trace_is_right_and_more_are_a_fault(figures):
    assert figures["traces"] == {rates.BOTH: 1, rates.STEP: 1} and rates.faults(figures) == []
    [fault] = rates.faults(figures | {"traces": {rates.BOTH: 3, rates.STEP: 1}})
    assert "both together: traced 3 times" in fault


def test_the_step_alone_trains_on_one_batch_and_both_on_the_stream(prepared):
    state, before = prepared.state, int(prepared.state.step.numpy())
    contestant, traced = prepared.step()
    contestant.run()
    assert int(state.step.numpy()) == before + 8 and contestant.images == 32 and traced.traces() == 1
    waits = []
    _, traced = prepared.both(waits)
    traced.run()
    assert int(state.step.numpy()) == before + 16 and len(waits) == 2
    # Another table is fed to the same trace.
    frozen = growth.repeated(prepared.frozen, 1000)
    assert len(frozen.examples) == 1000 and (frozen.examples.labels[:24] == frozen.examples.labels[24:48]).all()
    other = prepared.fed_by(frozen)
    traced.fed(other.stream())()
    assert traced.traces() == 1 and other.order.epoch_length == 1000 and prepared.order.epoch_length == 24


def test_the_longest_stage_stands_for_a_recipe_unless_another_is_named(small, complaint):
    launch.parse_gin([small], [])
    found = launch.call(Recipe)
    assert subject.chosen_stage(found, None, examples=80).name == "all"
    assert subject.chosen_stage(found, "head", examples=80).name == "head"
    with complaint("--stage=hat", "head, all"):
        subject.chosen_stage(found, "hat", examples=80)


def test_a_batch_that_does_not_divide_over_the_replicas_is_refused(prepared, complaint):
    with complaint("a global batch of 8 does not divide over 3 replicas"):
        Subject(prepared.recipe, prepared.frozen, strategy=devices.set_up("cpu:3"), stage=prepared.stage)


def test_the_pipeline_is_cut_behind_each_stage_that_it_has(prepared, photos):
    assert list(cuts.pipelines(prepared)) == [cuts.READ, cuts.DRAW]
    on_host = prepared.with_recipe(placement="host")
    found = cuts.pipelines(on_host)
    assert list(found) == [cuts.READ, cuts.DRAW, cuts.RENDER]
    assert "geometry" in next(found[cuts.DRAW]) and "image" in next(found[cuts.RENDER])


def test_files_are_read_decoded_drawn_for_and_come_out_of_a_store_where_a_recipe_has_one(photos, tmp_path):
    root = photos({f"{name}/{index}.png": (20, 24) for name in ("cat", "dog") for index in range(8)})
    settings = Settings(
        gin_file=("tests/photos.gin",), gin_param=(f"data_dir = '{root}'", "train.store = None"), devices="cpu"
    )
    in_files = rates.prepared(settings, tmp_path)
    found = cuts.pipelines(in_files)
    assert list(found) == [cuts.READ, cuts.DECODE, cuts.DRAW]
    # Whole files, in the order of the stream.
    rows = in_files.order.rows(np.arange(8))[1].numpy()
    names = [in_files.examples.names[row].decode() for row in rows]
    assert next(found[cuts.READ]).numpy().tolist() == [(root / name).read_bytes() for name in names]
    assert "16 images from files" in rates.title(in_files)
    stored = subject.packed(in_files.frozen, tmp_path / "store")
    assert list(cuts.pipelines(in_files.fed_by(stored))) == [cuts.READ, cuts.DRAW]
    images, labels = in_files.rendered(6)
    assert images.shape == (6, 16, 16, 3) and labels.shape == (6,)


def test_a_stage_costs_what_it_adds():
    measured = {
        "read": [Cost(1e-3, 1e-3), Cost(2e-3, 1e-3)],
        "decode": [Cost(4e-3, 3e-3), Cost(5e-3, 4e-3)],
        # Cheaper than the one before can only be noise.
        "draw": [Cost(3e-3, 3e-3), Cost(4e-3, 4e-3)],
    }
    rows = {row["name"]: row for row in cuts.stages(measured)}
    assert rows["read"]["wall_ms"] == pytest.approx(1.5) and rows["decode"]["wall_ms"] == pytest.approx(3.0)
    assert rows["decode"]["cpu_ms"] == pytest.approx(2.5) and rows["draw"]["wall_ms"] == 0.0
    assert rows["decode"]["share"] == pytest.approx(2 / 3) and sum(row["share"] for row in rows.values()) == 1.0


def test_every_change_is_looked_into_and_one_that_does_not_fit_is_told(prepared, figures, monkeypatch, tmp_path):
    costs = {"read": [Cost(1e-3, 1e-3)], "draw": [Cost(3e-3, 3e-3)]}
    monkeypatch.setattr(recipe.cuts, "measured", lambda *arguments, **keywords: costs)
    steps = {"batch_size": "does not fit the memory"}
    monkeypatch.setattr(recipe, "_step", lambda subject, **changes: steps.get(next(iter(changes), None), 1e6))
    found = recipe.judged(prepared, figures, folder=tmp_path, repeats=1, report=silent)
    changes = {row["name"]: row for row in found["changes"]}
    # Images in memory need no store.
    assert set(changes) == {"placement", "threads", "batch", "precision"}
    assert changes["batch"]["gain"] is None and changes["batch"]["do"] == "batch_size = 16 (does not fit the memory)"
    assert changes["placement"]["do"] == "train.placement = 'host'" and changes["placement"]["gain"] > 0
    assert changes["precision"]["do"] == "precision = 'mixed_bfloat16'"
    assert (found["slowest_stage"], found["slowest_share"]) == ("draw", pytest.approx(2 / 3))
    assert len(recipe.changes_table(found).rows) == 4 and len(recipe.stages_table(found).rows) == 2


def test_a_step_whose_memory_gives_out_is_no_failure_of_the_benchmark(prepared):
    class Full:
        def step(self, **changes):
            error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            raise subject.out_of_memory(error, prepared.recipe)

    assert recipe._step(Full(), batch_size=64) == "does not fit the memory"


def test_stored_features_have_a_part_of_their_own(prepared, complaint):
    stored = dataclasses.replace(prepared.recipe, features=Features(layer=None, views=1, dtype="float32", folder=None))
    with complaint("train.features", "--part=features"):
        Subject(stored, prepared.frozen, strategy=prepared.strategy, stage=prepared.stage)
