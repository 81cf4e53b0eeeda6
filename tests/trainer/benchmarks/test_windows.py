"""Windows that are timed in turn."""

import pytest

from trainer.benchmarks import windows
from trainer.benchmarks.windows import Contestant


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a contestant runs; `clock(2.0)` is one that takes so many seconds."""
    now = [0.0]
    monkeypatch.setattr(windows.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(windows, "wait_until_idle", lambda: None)

    def taking(*seconds):
        left = list(seconds)

        def run():
            now[0] += left.pop(0) if len(left) > 1 else left[0]

        return run

    return taking


def test_what_an_input_pipeline_has_made_ready_is_not_counted(clock):
    contestants = {
        # The first windows are fed from buffers: few large batches, or hundreds of small ones.
        "large": Contestant(run=clock(*[0.6] * windows.LEAD, 1.0), images=100, batches=1),
        "small": Contestant(run=clock(*[0.01] * 100, 1.0), images=100, batches=20),
        "alone": Contestant(run=clock(1.0), images=100),
    }
    rates = windows.in_turn(contestants, repeats=3, report=lambda told: None)
    for all_ in rates.values():
        assert len(all_) >= 3 and all_ == pytest.approx([100.0] * len(all_))


def test_short_windows_are_measured_more_often(clock):
    for seconds, expected in ((10.0, 1), (1.0, 2), (0.01, windows.MOST_IN_TURN)):
        contestants = {"alone": Contestant(run=clock(seconds), images=1)}
        assert len(windows.in_turn(contestants, repeats=1, report=lambda told: None)["alone"]) == expected


def test_the_hopeless_are_measured_once(clock):
    rounds = {"onward": clock(9.0, 1.0), "fit": clock(9.0, 2.0), "slow": clock(9.0, 5.0)}
    timing = {"images": 10, "repeats": 4, "report": lambda told: None}
    measured = windows.rounds_of(rounds, hopeless=4.0, **timing)
    assert {name: len(all_) for name, all_ in measured.items()} == {"onward": 4, "fit": 4, "slow": 1}
    rows = {row["name"]: row["ratio"] for row in windows.compare(measured, against="onward")}
    assert rows == {"onward": 1.0, "fit": 2.0, "slow": 5.0}
    assert {len(all_) for all_ in windows.rounds_of(rounds, **timing).values()} == {4}


def test_ratios_are_of_the_same_round():
    found = windows.ratio([10.0, 20.0, 30.0], [10.0, 10.0, 60.0])
    assert found == {"ratio": 1.0, "lowest_ratio": 0.5, "highest_ratio": 2.0}
    assert windows.range_of(found) == "0.50 to 2.00"
    assert windows.spread(range(101)) == {"median": 50.0, "p10": 10.0, "p90": 90.0}
