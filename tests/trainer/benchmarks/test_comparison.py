"""Whether two measurements differ by more than the noise."""

import json

import numpy as np
import pytest

from trainer.benchmarks import comparison
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console


def windows(mean: float, *, seed: int, spread: float = 0.05, count: int = 20) -> list[float]:
    return (mean * np.random.default_rng(seed).normal(1, spread, count)).tolist()


def test_a_tenth_more_is_beyond_noise_of_a_twentieth():
    row = comparison.compared(windows(100, seed=0), windows(110, seed=1))
    assert row["beyond_noise"] and row["low"] > 1 and row["p"] < 0.01 and row["ratio"] == pytest.approx(1.1, abs=0.04)
    assert "B.json is faster, beyond the noise: 1." in comparison.sentence(row, ("A.json", "B.json"))
    back = comparison.compared(windows(110, seed=1), windows(100, seed=0))
    assert "is slower, beyond the noise: 0." in comparison.sentence(back, ("A.json", "B.json"))


def test_the_same_speed_is_never_a_difference_however_it_is_drawn():
    rows = [comparison.compared(windows(100, seed=seed), windows(100, seed=seed + 100)) for seed in range(20)]
    assert not any(row["beyond_noise"] for row in rows)
    assert "no difference beyond the noise" in comparison.sentence(rows[0], ("A", "B"))


def test_a_tenth_more_is_within_the_noise_of_a_half():
    assert not comparison.compared(windows(100, seed=2, spread=0.5), windows(110, seed=3, spread=0.5))["beyond_noise"]


def test_two_windows_each_are_too_few_to_tell():
    row = comparison.compared([100.0, 101.0], [110.0, 111.0])
    assert row["low"] > 1 and row["p"] > 0.01 and not row["beyond_noise"]


@pytest.fixture
def written(tmp_path):
    """`written("a.json", 100)`: a result with windows of about that rate."""

    def write(name, mean, **facts):
        document = {"rates": {"both together": windows(mean, seed=int(mean))}, "environment": {"cores": 2}}
        path = tmp_path / name
        path.write_text(json.dumps(document | {"config_hash": "0"} | facts))
        return str(path)

    return write


def compare(wanted: str):
    return comparison.run(wanted, Settings(), Console())


def test_two_files_are_compared_by_what_was_measured_in_both(written):
    first = written("a.json", 100)
    second = written("b.json", 130, environment={"cores": 4})
    result = compare(f"{first},{second}")
    [row] = result.figures["rows"]
    assert row["name"] == "both together" and row["beyond_noise"] and row["windows"] == [20, 20]
    assert "b.json is faster" in result.sentences[0] and "cores: 2 and 4" in result.sentences[1]


def test_what_cannot_be_compared_is_refused(written, tmp_path, complaint):
    good = written("a.json", 100)
    other = written("other.json", 100, rates={"something else": [1.0, 2.0]})
    endless = written("endless.json", 100, rates={"both together": [0.0, 2.0]})
    (tmp_path / "torn.json").write_text('{"rates": ')
    for second in (tmp_path / "none.json", tmp_path / "torn.json", endless):
        with complaint(str(second), "--output"):
            compare(f"{good},{second}")
    with complaint("both together", "something else"):
        compare(f"{good},{other}")
    for wanted in (good, f"{good},{good},{good}", "train.window=1", "train.window=1,2,3", "=1,2"):
        with complaint(f"--compare={wanted}"):
            compare(wanted)


def test_two_values_are_measured_in_turn_in_processes_of_their_own(monkeypatch):
    asked = []

    class Done:
        def __init__(self, rates):
            self._rates = rates

        def expected(self):
            rates = {"step alone": self._rates}
            return {"rates": rates, "environment": {}, "config_hash": "", "faults": ["traced 2 times"]}

    def run(part, settings, **change):
        asked.append((part, change))
        return Done(windows(100 if "1" in str(change) else 200, seed=len(asked)))

    monkeypatch.setattr(comparison.trials, "run", run)
    found = compare("train.window=1,20")
    [row] = found.figures["rows"]
    names = [f"train.window = {value}, process {turn}" for value in (1, 20) for turn in (1, 2)]
    assert found.faults == [f"{name}: traced 2 times" for name in names]
    bindings = [change["bindings"] for _, change in asked]
    assert bindings == [["train.window = 1"], ["train.window = 20"]] * 2 and {part for part, _ in asked} == {"rates"}
    assert row["windows"] == [40, 40] and row["beyond_noise"]
    asked.clear()
    compare("devices=cpu:1;gpu:0,2")
    assert [change for _, change in asked][:2] == [{"devices": "cpu:1"}, {"devices": "gpu:0,2"}]


def test_the_command_compares_and_writes_what_it_found(written, tmp_path, command):
    first, second = written("a.json", 100), written("b.json", 130)
    outputs = [tmp_path / f"found{kind}" for kind in (".json", ".md", ".csv")]
    ran = command("benchmark", f"--compare={first},{second}", *(f"--output={path}" for path in outputs))
    assert ran.end() == 0 and "is faster, beyond the noise" in ran.printed, ran.printed
    assert json.loads(outputs[0].read_text())["rows"][0]["beyond_noise"] is True
    assert "| both together |" in outputs[1].read_text() and "rows.both together.ratio" in outputs[2].read_text()
    refused = command("benchmark", f"--compare={first},{second}", "--output=found.txt")
    assert refused.end() == 2 and "--output=found.txt" in refused.printed
