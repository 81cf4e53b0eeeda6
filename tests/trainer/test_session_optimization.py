"""Averages, plateaus and parts of batches in a session: resumed to the bit, and touching nothing that is not theirs."""

import json
import shutil

import numpy as np
import pytest

from tests.trainer.test_session import DETERMINISTIC, STEPS, assert_same_run, stop_at
from trainer import checkpoints
from trainer.launch import STOPPED

pytestmark = pytest.mark.usefixtures("no_page")

# Falls after every evaluation that gains nothing: the deciding figure is one of six shares.
PLATEAU = ("train.plateau = @plateau()", "plateau.patience = 1", "plateau.min_delta = 0.5", "plateau.factor = 0.5")
EVERYTHING = (
    DETERMINISTIC, *PLATEAU, "train.ema = 0.8", "train.accumulation = 2", "train.clip_adaptive = 0.05",
    "train.evaluate_every = (2, 'steps')",
)  # fmt: skip


def stored(folder, which="last"):
    """The variables of a checkpoint by group and name."""
    groups = {}
    for name, value in checkpoints.read(checkpoints.find(folder / "checkpoints", which)).items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = value
    return groups


@pytest.fixture(scope="module")
def averaged(open_session, tmp_path_factory):
    """The folder of the small recipe, trained as `finished_once`, but for an average of its weights."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    assert open_session(folder, DETERMINISTIC, "train.ema = 0.8").run() == 0
    return folder


class TestAnAverageOfTheWeights:
    def test_changes_nothing_else_and_is_evaluated_beside_them(self, averaged, finished_once, events):
        ours, theirs = stored(averaged), stored(finished_once)
        for group in ("model", "optimizer", "loss_scale"):
            assert ours[group].keys() == theirs[group].keys()
            for name, value in ours[group].items():
                assert value.tobytes() == theirs[group][name].tobytes(), name
        assert events(averaged, "train") == events(finished_once, "train")
        evaluations = events(averaged, "eval")
        raw = [event for event in evaluations if event.pop("weights") == "raw"]
        assert raw == events(finished_once, "eval")
        assert len(evaluations) == 2 * len(raw)

    def test_is_kept_under_the_names_of_the_model_with_what_is_not_averaged_copied(self, averaged):
        model, average = (stored(averaged)[group] for group in ("model", "ema"))
        assert model.keys() == average.keys()
        equal = {name for name, value in model.items() if value.tobytes() == average[name].tobytes()}
        assert equal == {name for name in model if "moving_" in name or "seed_generator" in name} and equal

    def test_decides_which_checkpoint_is_best_and_what_the_summary_says(self, averaged, events):
        summary = json.loads((averaged / "summary.json").read_text())
        decided = [event for event in events(averaged, "eval") if event["weights"] == "ema"]
        validation = [event for event in decided if event["split"] == "validation"]
        best = max(validation, key=lambda event: event["accuracy"])
        assert summary["weights"] == "ema" and summary["best"]["step"] == best["step"]
        assert summary["final"]["test"]["loss"] == decided[-1]["loss"]
        assert checkpoints.find(averaged / "checkpoints", "best").name == f"ckpt-{best['step']}"

    def test_is_what_the_commands_use_unless_told_otherwise(
        self, averaged, finished_once, events, command, complaint, tmp_path
    ):
        common = (f"--workdir={averaged}", "--checkpoint=last", "--split=test", "--devices=cpu")
        evaluation = command("evaluate", *common, f"--output={tmp_path}/found.json")
        assert evaluation.end() == 0, evaluation.printed
        found = json.loads((tmp_path / "found.json").read_text())["loss"]
        logged = {event["weights"]: event["loss"] for event in events(averaged, "eval") if event["split"] == "test"}
        assert found == pytest.approx(logged["ema"], rel=2**-18) != pytest.approx(logged["raw"], rel=2**-18)
        prefix, plain = (checkpoints.find(each / "checkpoints", "last") for each in (averaged, finished_once))
        assert [checkpoints.weights_group(prefix, kind) for kind in (None, "ema", "raw")] == ["ema", "ema", "model"]
        assert checkpoints.weights_group(plain) == "model"
        with complaint("'ema'", "train.ema"):
            checkpoints.weights_group(plain, "ema")


@pytest.fixture(scope="module")
def straight(open_session, tmp_path_factory):
    """Everything at once, trained straight to its end."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert open_session(folder, *EVERYTHING).run() == 0
    return folder


class TestEverythingAtOnce:
    def test_lowers_the_rate_where_evaluations_gain_nothing_afresh_in_each_stage(self, straight, events):
        rates = [event["learning_rate"] for event in events(straight, "train")]
        # Evaluated after 2 and 3 steps of the head, then at 4, 6, 8 and 9: the first of a stage always gains.
        np.testing.assert_allclose(rates, 1e-3 * np.array([1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.25]), rtol=2**-22)

    def test_goes_on_across_the_end_of_a_stage_to_the_same_bits(
        self, straight, open_session, events, monkeypatch, tmp_path
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, 0)
            assert open_session(tmp_path, *EVERYTHING).run() == STOPPED
        assert open_session(tmp_path, *EVERYTHING).run() == 0
        assert_same_run(tmp_path, straight, events, kinds=("train", "eval", "stage"))

    def test_takes_in_the_evaluations_that_came_after_the_checkpoint(self, straight, open_session, events, tmp_path):
        """As if killed after the evaluation at step 9, and before the checkpoint."""
        folder = shutil.copytree(straight, tmp_path / "run")
        for path in folder.glob("checkpoints/ckpt-9*"):
            path.unlink()
        (folder / "summary.json").unlink()
        assert stored(folder)["plateau"]["seen"] == 8
        assert open_session(folder, *EVERYTHING).run() == 0
        assert_same_run(folder, straight, events, kinds=("train", "eval"))

    def test_does_not_go_on_with_evaluations_at_other_times(self, straight, open_session, content, complaint):
        """The learning rate follows them."""
        before = content(straight)
        with complaint("train.evaluate_every", "(2, 'steps') -> (3, 'steps')", "--allow_change"):
            open_session(straight, *EVERYTHING[:-1], "train.evaluate_every = (3, 'steps')")
        assert content(straight) == before


def test_a_plateau_without_a_validation_split_is_refused(open_session, tmp_path, complaint, content):
    with complaint("train.plateau", "train.split", "validation"):
        open_session(tmp_path, *PLATEAU, "train.split = @split_by_hash", "split_by_hash.validation = 0.0")
    assert not content(tmp_path)


def test_rates_that_suit_another_batch_are_scaled(open_session, tmp_path):
    session = open_session(tmp_path, "train.learning_rate_scaling = 'square_root'", "train.reference_batch = 32")
    np.testing.assert_allclose(session.plan.learning_rates(0, 3), 5e-4, rtol=1e-12)
    assert session.plan.steps == STEPS


def test_parts_that_do_not_come_out_even_are_replaced_by_more_and_that_is_told(open_session, tmp_path, capsys):
    open_session(tmp_path, "train.accumulation = 3")
    assert "8 examples a replica in 4 parts: train.accumulation = 3 does not come out even" in capsys.readouterr().out
