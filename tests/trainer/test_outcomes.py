"""What an evaluation gathers of each example, and the file that reports read."""

import dataclasses
import json

import numpy as np
import pytest

from data.examples import TASKS, Examples
from trainer import metrics, outcomes
from trainer.outcomes import Details, Outcomes

COUNT, CLASSES = 23, ("cat", "dog", "emu")


def table(task, *, weights=None, labels=None):
    random = np.random.default_rng(1)
    drawn = {
        "single_label": lambda: random.integers(0, 3, COUNT),
        "binary": lambda: random.integers(0, 2, COUNT),
        "multi_label": lambda: random.integers(0, 2, (COUNT, 3)),
        "regression": lambda: random.normal(size=(COUNT, 3)),
    }[task]()
    return Examples.of(
        names=[b"%03d" % row for row in range(COUNT)], labels=drawn if labels is None else labels, task=task,
        class_names=CLASSES[:2] if task == "binary" else CLASSES, weights=weights,
        pixels=random.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8),
    )  # fmt: skip


def filled(examples, *, most=outcomes.MOST_SCORES, replaced=(), logits=None):
    """Outcomes of random logits, taken in two parts that are out of order, with padding in the second."""
    if logits is None:
        logits = np.random.default_rng(2).normal(size=(COUNT, examples.outputs)).astype(np.float32)
    found, rows = Outcomes(examples, most=most), np.random.default_rng(3).permutation(COUNT)
    for part in (rows[:10], np.concatenate([rows[10:], [COUNT, COUNT + 4]])):
        inside = np.minimum(part, COUNT - 1)
        found.take({
            "position": part, "replaced": np.isin(inside, replaced).astype(np.int32), "logits": logits[inside],
            "losses": np.float32(inside) / 10,
        })  # fmt: skip
    return found, logits


def details_of(found, task, *, weights=None):
    totals = metrics.zeros(found.examples.outputs, task=task)
    about = {"split": "test", "step": 7, "weights": weights, "figures": {"loss": 0.5, "examples": COUNT}}
    return Details.of(found, totals, **about)


@pytest.mark.parametrize("task", TASKS)
def test_a_file_gives_back_what_was_written(task, tmp_path):
    found, logits = filled(table(task), replaced=[4])
    written = details_of(found, task, weights="ema")
    path = tmp_path / "new" / "test.npz"
    written.write(path)
    read = outcomes.read(path)
    for field in dataclasses.fields(Details):
        ours, theirs = getattr(written, field.name), getattr(read, field.name)
        if field.name == "each":
            assert ours.keys() == theirs.keys() and len(ours)
            ours, theirs = (list(each.values()) for each in (ours, theirs))
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
    assert not read.seen[4] and np.isnan(read.losses[4]) and read.seen.sum() == COUNT - 1
    good = read.seen
    np.testing.assert_array_equal(read.losses[good], np.float32(np.arange(COUNT))[good] / 10)
    if task == "single_label":
        np.testing.assert_array_equal(read.predicted[good], logits.argmax(axis=1)[good])
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(read.predicted_probability[good], shares.max(axis=1)[good], rtol=1e-5)
        np.testing.assert_allclose(read.label_probability[good], shares[np.arange(COUNT), read.labels][good], rtol=1e-5)
    elif task == "binary":
        one = 1 / (1 + np.exp(-logits[:, 0]))
        np.testing.assert_array_equal(read.predicted[good], (logits[:, 0] > 0)[good])
        np.testing.assert_allclose(read.label_probability[good], np.where(read.labels, one, 1 - one)[good], rtol=1e-5)
    else:
        expected = logits if task == "regression" else 1 / (1 + np.exp(-logits))
        shown = read.predictions if task == "regression" else read.probabilities
        np.testing.assert_allclose(shown[good], expected[good], rtol=1e-5)


def test_examples_that_do_not_count_are_not_in_the_areas():
    weights = np.ones(COUNT, np.float32)
    weights[:5] = 0
    whole, logits = filled(table("binary", weights=weights), replaced=[20])
    rows = [row for row in range(5, COUNT) if row != 20]
    few = whole.examples.take(np.array(rows))
    alone = Outcomes(few)
    position = np.arange(len(rows))
    losses = replaced = np.zeros(len(rows), np.float32)
    alone.take({"position": position, "replaced": replaced, "logits": logits[rows], "losses": losses})
    assert whole.figures() == alone.figures() and 0 < whole.figures()["roc_auc"] < 1


class TestWhatIsUndefined:
    def test_is_left_out_and_named_and_the_rest_is_ready_for_json(self):
        labels = np.zeros((COUNT, 3), np.float32)
        labels[:, 0], labels[::2, 1] = 1, 1
        found, _ = filled(table("multi_label", labels=labels))
        assert found.undefined() == {"roc_auc": ["cat", "emu"], "average_precision": ["emu"]}
        figures = found.figures()
        assert figures["roc_auc"] == found.per_output["roc_auc"][1]
        assert figures["average_precision"] == (1 + found.per_output["average_precision"][1]) / 2
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures

    def test_is_a_class_none_of_whose_examples_counts(self):
        labels, weights = np.arange(COUNT) % 3, np.ones(COUNT, np.float32)
        weights[labels == 2] = 0
        found, _ = filled(table("single_label", labels=labels, weights=weights))
        assert found.undefined() == {"roc_auc": ["emu"], "average_precision": ["emu"]}

    @pytest.mark.parametrize("label", [0, 1])
    def test_may_be_all(self, label):
        found, _ = filled(table("binary", labels=np.full(COUNT, label)))
        assert found.figures().keys() == ({"average_precision"} if label else set())
        assert "roc_auc" in found.undefined()

    def test_is_what_numbers_that_are_not_finite_say(self):
        logits = np.zeros((COUNT, 3), np.float32)
        logits[3, 1] = np.nan
        found, _ = filled(table("single_label"), logits=logits)
        assert found.figures() == {} == found.per_output


@pytest.mark.parametrize("task", TASKS)
def test_of_too_many_scores_each_example_still_has_its_loss(task, tmp_path):
    found, _ = filled(table(task), most=COUNT - 1)
    assert found.logits is None and found.figures() == {} == found.undefined()
    details_of(found, task).write(tmp_path / "test.npz")
    read = outcomes.read(tmp_path / "test.npz")
    np.testing.assert_array_equal(read.losses, np.float32(np.arange(COUNT)) / 10)
    assert read.probabilities is None and read.predictions is None
    assert (read.predicted is not None) == (task in ("single_label", "binary"))


def test_a_figure_that_is_not_computed_cannot_decide(complaint, monkeypatch):
    outcomes.check_decides("roc_auc", table("binary"))
    monkeypatch.setattr(outcomes, "MOST_SCORES", COUNT - 1)
    outcomes.check_decides("accuracy", table("binary"))
    with complaint("roc_auc", f"{COUNT} examples"):
        outcomes.check_decides("roc_auc", table("binary"))


class TestAFileThatWasHarmed:
    @pytest.fixture
    def path(self, tmp_path):
        details_of(filled(table("single_label"))[0], "single_label").write(tmp_path / "test.npz")
        return tmp_path / "test.npz"

    @pytest.mark.parametrize(
        "harm", [lambda data: b"", lambda data: data[:-100], lambda data: data[:900] + b"?" + data[901:]]
    )
    def test_is_told_with_the_command_that_makes_it_anew(self, path, harm, complaint):
        path.write_bytes(harm(path.read_bytes()))
        with complaint(str(path), "--split=test --details"):
            outcomes.read(path)

    def test_or_that_is_gone(self, tmp_path, complaint):
        with complaint("nothing.npz"):
            outcomes.read(tmp_path / "nothing.npz")

    @pytest.mark.parametrize("column", ["losses", "predicted", "confusion", "task", "figures", "each_recall"])
    def test_or_whose_columns_do_not_fit_each_other(self, path, column, complaint):
        with np.load(path) as stored:
            columns = dict(stored)
        columns[column] = columns[column][:2] if columns[column].ndim else np.asarray("[1]")
        np.savez(path, **columns)
        with complaint(str(path)):
            outcomes.read(path)
