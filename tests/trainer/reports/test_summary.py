"""summary.json is computed from the log alone, and environment.json says what must agree."""

import json

import pytest

from trainer import devices, launch
from trainer.optimization.schedules import constant_rate
from trainer.optimization.stages import Stage, plan
from trainer.reports import environment, summary
from trainer.reports.log import MetricsLog


@pytest.fixture
def log(tmp_path):
    return MetricsLog(tmp_path / "metrics.jsonl")


@pytest.fixture
def run():
    whole = Stage(name="all", length=(4, "steps"), trains=("all",), schedule=constant_rate(peak=1.0), batchnorm=None)
    return plan([whole], examples=20, batch=10)


def evaluation(step, split, accuracy):
    figures = {"loss": 1.0, "accuracy": accuracy, "top5_accuracy": 1.0, "examples": 5}
    return {"event": "eval", "step": step, "split": split, **figures, "seconds": 0.5}


def test_a_summary_is_of_the_last_step_and_tells_of_the_best(log, run):
    log.append(
        {"event": "train", "step": n + 1, "images_per_second": v} for n, v in enumerate((10.0, 40.0, 50.0, 100.0))
    )
    log.append(
        [
            evaluation(2, "validation", 0.8), evaluation(3, "validation", 0.8), evaluation(4, "validation", 0.7),
            evaluation(4, "test", 0.9),
        ]
    )  # fmt: skip
    made = summary.make(log, run, step=4, deciding="validation", best=2, metric="accuracy")
    assert (made["steps"], made["epochs"]) == (4, 2.0)
    assert {split: figures["accuracy"] for split, figures in made["final"].items()} == {"validation": 0.7, "test": 0.9}
    assert made["final"]["test"].keys() == {"loss", "accuracy", "top5_accuracy", "examples"}
    assert made["best"] == {"split": "validation", "metric": "accuracy", "value": 0.8, "step": 2}
    assert made["images_per_second"] == 45
    # 10 images a step: 1 + .25 + .2 + .1 seconds of training, 4 evaluations of half a second.
    assert made["seconds"] == pytest.approx(1.55 + 2.0)


def test_the_best_is_told_by_the_figure_that_decides(log, run):
    log.append([evaluation(step, "validation", 0.1 * step) for step in (2, 4)])
    made = summary.make(log, run, step=4, deciding="validation", best=4, metric="loss")
    assert made["best"] == {"split": "validation", "metric": "loss", "value": 1.0, "step": 4}


def test_a_run_that_ended_early_is_told_at_the_step_where_it_did(log, run):
    log.append([evaluation(2, "validation", 0.5), evaluation(2, "test", 0.6)])
    made = summary.make(log, run, step=2, deciding="validation", best=2, metric="accuracy")
    assert (made["steps"], made["epochs"]) == (2, 1.0) and made["final"].keys() == {"validation", "test"}


def test_what_was_known_before_the_first_step_is_told_and_is_never_the_best(log, run):
    before = evaluation(0, "validation", 0.9) | {"old_accuracy": 1.0, "new_accuracy": 0.8}
    after = evaluation(4, "validation", 0.7) | {"old_accuracy": 0.5}
    log.append([before, evaluation(2, "validation", 0.6), after])
    made = summary.make(log, run, step=4, deciding="validation", best=4, metric="accuracy")
    assert made["best"]["step"] == 4
    assert made["forgetting"] == {"split": "validation", "old": {"before": 1.0, "after": 0.5}}
    assert made["final"]["validation"]["old_accuracy"] == 0.5


def test_without_an_evaluation_there_is_no_best(log, run):
    log.append([{"event": "train", "step": 1, "images_per_second": 10.0}])
    made = summary.make(log, run, step=4, deciding=None, best=None, metric="accuracy")
    assert made["best"] == {} and made["final"] == {}


def test_without_a_log_there_still_is_a_summary(log, run):
    made = summary.make(log, run, step=4, deciding="test", best=None, metric="accuracy")
    assert made["images_per_second"] == 0 and json.dumps(made, allow_nan=False)


class TestTheEnvironment:
    @pytest.fixture
    def facts(self):
        return environment.describe(devices.set_up("cpu:2"), project=launch.PROJECT, precision="float32", seed=3)

    def test_tells_versions_machine_and_devices_in_json(self, facts):
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert facts["replicas"] == 2 and facts["device_kind"] == "CPU" and len(facts["devices"]) == 2
        assert facts["versions"].keys() >= {"python", "tensorflow", "keras", "numpy"}
        assert (facts["precision"], facts["seed"]) == ("float32", 3)
        assert facts["processor"] and facts["cores"] >= 1

    def test_of_a_folder_without_git_has_no_revision(self, tmp_path):
        assert environment.describe(devices.set_up("cpu"), project=tmp_path)["git_revision"] is None

    @pytest.mark.parametrize("name", environment.DECISIVE)
    def test_that_is_another_is_told_name_by_name(self, facts, name):
        assert environment.mismatches(facts, facts) == []
        assert environment.mismatches(facts | {"seed": 4, "git_revision": "x"}, facts) == []
        told = environment.mismatches(facts | {name: "other"}, facts)
        assert told == [f"{name}: other -> {facts[name]}"]
        assert len(environment.mismatches({}, facts)) == len(environment.DECISIVE)

    def test_that_is_another_is_told_by_what_differs_in_it(self, facts):
        other = facts | {"versions": facts["versions"] | {"keras": "2"}, "settings": {"TF_ENABLE_X": "1"}}
        now = facts["versions"]["keras"]
        told = [f"versions: keras 2 -> {now}", "settings: TF_ENABLE_X 1 -> None"]
        assert environment.mismatches(other, facts | {"settings": {}}) == told

    def test_knows_the_threads_and_variables_that_choose_kernels(self, monkeypatch):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        monkeypatch.setenv("TF_CLI_CONFIG_FILE", "of another program")
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5})
        facts = environment.describe(devices.set_up("cpu"), project=launch.PROJECT)
        assert facts["settings"].get("TF_ENABLE_ONEDNN_OPTS") == "0" and "TF_CLI_CONFIG_FILE" not in facts["settings"]
        assert facts["threads"] == 1
