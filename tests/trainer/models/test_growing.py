"""Outputs of a source become ours by the names of their classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.models.growing import Outputs, growth

NAMES = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=8, unique=True).map(tuple)
INDEPENDENT = st.sampled_from(("multi_label", "regression"))


def kernel(outputs, seed=0):
    return np.random.default_rng(seed).normal(size=(5, outputs)).astype(np.float32)


def grown(theirs, ours, *, task="single_label", our_task=None, stored=None, source="FILE"):
    """The growth, the source's kernel, our fresh one, and what becomes of it."""
    theirs, ours = Outputs(task, theirs), Outputs(our_task or task, ours)
    stored = kernel(1 if task == "binary" else len(theirs.names)) if stored is None else stored
    fresh = kernel(1 if ours.task == "binary" else len(ours.names), seed=1)
    found = growth(theirs, ours, outputs=stored.shape[-1], source=source)
    return found, stored, fresh, found.apply(stored, fresh)


def probabilities(logits):
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@given(NAMES, NAMES, st.one_of(st.just("single_label"), INDEPENDENT))
def test_every_class_keeps_its_own_row_and_every_new_one_stays_fresh(theirs, ours, task):
    found, stored, fresh, result = grown(theirs, ours, task=task)
    for column, name in enumerate(ours):
        expected = stored[:, theirs.index(name)] if name in theirs else fresh[:, column]
        np.testing.assert_array_equal(result[:, column], expected)
    change = found.change
    assert change.kept == tuple(name for name in ours if name in theirs)
    assert sorted((*change.kept, *change.new)) == sorted(ours)
    assert sorted((*change.kept, *change.dropped)) == sorted(theirs)


@given(NAMES, st.permutations(range(8)), st.integers(0, 7))
def test_growing_and_going_back_gives_the_same_rows(names, order, extra):
    more = tuple(f"new{index}" for index in range(extra))
    both = [*names, *more]
    shuffled = tuple(both[index] for index in np.argsort([order[i % 8] + i / 16 for i in range(len(both))]))
    _, stored, _, larger = grown(names, shuffled)
    *_, again = grown(shuffled, names, stored=larger)
    np.testing.assert_array_equal(again, stored)


class TestABinaryOutput:
    def test_becomes_the_two_classes_it_decided_between_with_the_same_probabilities(self):
        _, stored, _, result = grown(("no", "yes"), ("yes", "no"), task="binary", our_task="single_label")
        features = kernel(5, seed=2)
        two, one = probabilities(features @ result), sigmoid(features @ stored)[:, 0]
        # Both in float64 of float32 logits: what remains is the rounding of the products.
        np.testing.assert_allclose(two[:, 0], one, rtol=1e-5)

    def test_comes_out_of_two_of_several_classes_as_their_odds(self):
        _, stored, _, result = grown(("a", "no", "yes"), ("no", "yes"), our_task="binary")
        features = kernel(5, seed=2)
        several, one = probabilities(features @ stored), sigmoid(features @ result)[:, 0]
        np.testing.assert_allclose(one, several[:, 2] / several[:, 1:].sum(axis=1), rtol=1e-5)

    def test_turns_round_with_its_classes(self):
        _, stored, _, result = grown(("no", "yes"), ("yes", "no"), task="binary")
        np.testing.assert_array_equal(result, -stored)

    def test_stays_as_it_is_for_the_same_classes(self):
        found, stored, _, result = grown(("no", "yes"), ("no", "yes"), task="binary")
        np.testing.assert_array_equal(result, stored)
        assert found.columns == [0] and found.change.kept == ("no", "yes")

    def test_starts_fresh_when_one_of_its_classes_is_not_known(self):
        found, _, fresh, result = grown(("no", "perhaps"), ("no", "yes"), our_task="binary")
        np.testing.assert_array_equal(result, fresh)
        assert found.columns == [] and "both of its classes" in found.change.note

    def test_is_one_of_many_classes(self):
        found, stored, fresh, result = grown(("no", "yes"), ("yes", "x", "no"), task="binary", our_task="single_label")
        np.testing.assert_array_equal(result, np.stack([stored[:, 0], fresh[:, 1], 0 * stored[:, 0]], axis=1))
        assert found.change.new == ("x",)


class TestASourceThatDoesNotNameItsClasses:
    @pytest.mark.parametrize("task", ["single_label", "multi_label", "binary"])
    def test_gives_as_many_in_their_order_and_says_so(self, task):
        ours = Outputs(task, ("b", "a"))
        stored = kernel(1 if task == "binary" else 2)
        found = growth(Outputs(None, None), ours, outputs=stored.shape[1], source="FILE")
        np.testing.assert_array_equal(found.apply(stored, np.zeros_like(stored)), stored)
        assert found.change.kept == ("b", "a") and "taken in order" in found.change.note

    @pytest.mark.parametrize(("task", "outputs"), [("single_label", 3), ("binary", 2), ("single_label", 1)])
    def test_gives_nothing_when_the_number_is_another(self, task, outputs):
        found = growth(Outputs(None, None), Outputs(task, ("b", "a")), outputs=outputs, source="FILE")
        assert found.columns == [] and f"{outputs} outputs" in found.change.note

    def test_may_name_them_without_the_task(self):
        found = growth(Outputs(None, ("no", "yes")), Outputs("single_label", ("yes",)), outputs=1, source="FILE")
        assert found.from_binary and found.change.kept == ("yes",)


@pytest.mark.parametrize(("theirs", "ours"), [("regression", "single_label"), ("single_label", "multi_label")])
def test_outputs_of_another_kind_start_fresh(theirs, ours):
    found, *_ = grown(("a", "b"), ("a", "b"), task=theirs, our_task=ours)
    assert found.columns == [] and theirs in found.change.note and ours in found.change.note


def test_names_that_are_there_twice_are_told(complaint):
    with complaint("there twice: b", "FILE"):
        grown(("a", "b", "b"), ("a",))
    with complaint("there twice: a", "this run"):
        grown(("a", "b"), ("a", "a"))


def test_names_that_are_not_as_many_as_the_outputs_are_told(complaint):
    with complaint("3 outputs", "the names of 2 classes", "FILE"):
        grown(("a", "b"), ("a", "b"), stored=kernel(3))
