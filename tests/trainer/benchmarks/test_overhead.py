"""What a step costs beside its network: both contestants train, and the figures that are wanted are judged."""

import pytest

from trainer import devices
from trainer.benchmarks import overhead, rates
from trainer.benchmarks.settings import Settings
from trainer.models.network import Architecture


def test_rows_tell_how_many_times_as_long_a_step_takes_as_without_a_strategy():
    rows = overhead.compare({overhead.ONWARD: [98.0, 50.0, 97.0], overhead.UNDISTRIBUTED: [100.0, 49.0, 100.0]})
    ours, plain = rows
    assert ours["ratio"] == pytest.approx(100 / 98) and ours["images_per_second"] == 97
    assert ours["lowest_ratio"] == pytest.approx(0.98) and plain["ratio"] == 1


@pytest.mark.parametrize(("step", "calls", "missed"), [(1.03, 1.5, 0), (1.031, 1.5, 1), (1.0, 1.49, 1), (2, 1, 2)])
def test_what_is_not_reached_is_a_fault(step, calls, missed):
    rows = [{"name": overhead.ONWARD, "ratio": step, "lowest_ratio": step, "highest_ratio": step}]
    windows = {"ratio": calls, "lowest_ratio": calls, "highest_ratio": calls}
    sentences, faults = overhead.judged(rows, windows)
    assert len(faults) == missed and len(sentences) == 2 - missed


def test_the_trivial_network_takes_as_many_steps_in_long_windows_as_in_short_ones(monkeypatch):
    monkeypatch.setattr(overhead, "STEPS", 40)
    said = []
    found = overhead.steps_per_second(devices.set_up("cpu"), repeats=2, report=said.append)
    assert set(found) == {1, overhead.LENGTH} and all(len(all_) == 2 and min(all_) > 0 for all_ in found.values())
    assert len(said) == 2


def test_the_hand_written_loop_trains_the_same_variables(small, tmp_path, monkeypatch):
    settings = Settings(gin_file=[small], devices="cpu", images=16, stage="all")
    subject = rates.prepared(settings, tmp_path)
    built, build = [], Architecture.build
    monkeypatch.setattr(Architecture, "build", lambda *own, **how: built.append(build(*own, **how)) or built[-1])
    run = overhead.plain(subject)
    before = built[0].arrays()
    run()
    after = built[0].arrays()
    moved = {name for name, values in before.items() if (after[name] != values).any()}
    trained = set(subject.state.trainable["all"].names)
    assert trained <= moved
    assert all("moving" in name or "seed" in name for name in moved - trained)
