"""Weights that are drawn to where they were."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.forgetting.anchor import Anchored, anchor


def test_the_penalty_is_half_the_squared_distance_of_what_trains_and_is_held():
    random = np.random.default_rng(0)
    start = {name: random.normal(size=shape).astype(np.float32) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    now = {name: array + random.normal(size=array.shape).astype(np.float32) for name, array in start.items()}
    variables = {name: keras.Variable(array) for name, array in now.items()}
    anchored = Anchored(anchor(weight=0.3), variables)
    anchored.hold(start | {"c": np.zeros(2)})
    for names in (["a", "b"], ["b"], ["b", "not held"], ["not held"]):
        held = [name for name in names if name in start]
        values = [variables[name].value for name in held]
        with tf.GradientTape() as tape:
            penalty = anchored.term(names)()
        gradients = tape.gradient(penalty, values)
        apart = {name: now[name].astype(np.float64) - start[name] for name in held}
        assert penalty.dtype == tf.float32
        # Sums of at most 17 squares.
        np.testing.assert_allclose(penalty, 0.15 * sum((each**2).sum() for each in apart.values()), rtol=20 * 2**-24)
        for name, gradient in zip(held, gradients, strict=True):
            np.testing.assert_allclose(gradient, 0.3 * apart[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "2", True, None])
def test_a_weight_that_is_not_above_0_is_the_users_error(weight, complaint):
    with complaint(repr(weight), "anchor.weight"):
        anchor(weight=weight)


@pytest.mark.parametrize("patterns", [(), 3, [3], None])
def test_patterns_that_are_none_are_the_users_error(patterns, complaint):
    with complaint(repr(patterns), "anchor.patterns"):
        anchor(weight=0.1, patterns=patterns)
