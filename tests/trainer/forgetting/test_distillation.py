"""How far a student is from its teacher, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, rel_entr, softmax

from data.examples import TASKS
from trainer.forgetting.distillation import distillation, divergence


def reference(teacher, student, temperature, task):
    teacher, student = teacher.astype(np.float64), student.astype(np.float64)
    if task == "regression":
        return ((teacher - student) ** 2).mean(axis=1)
    teacher, student = teacher / temperature, student / temperature
    if task == "single_label":
        apart = rel_entr(softmax(teacher, axis=1), softmax(student, axis=1)).sum(axis=1)
    else:
        sides = ((expit(sign * teacher), expit(sign * student)) for sign in (1, -1))
        apart = sum(rel_entr(*side) for side in sides).mean(axis=1)
    return temperature**2 * apart


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 7), temperature=st.sampled_from([0.5, 1.0, 2.0, 10.0]))
def test_the_divergence_is_that_of_the_papers(task: str, seed: int, outputs: int, temperature: float):
    random = np.random.default_rng(seed)
    teacher, student = random.normal(0, 3, (2, 5, outputs)).astype(np.float32)
    found = divergence(tf.constant(teacher), tf.constant(student), temperature=temperature, task=task)
    assert found.dtype == tf.float32 and found.shape == (5,)
    # Each term is a probability times a difference of numbers up to 40 / temperature, all rounded to 2**-24 of it.
    tolerance = outputs * 8 * 2.0**-24 * 40 * max(1.0, temperature)
    np.testing.assert_allclose(found, reference(teacher, student, temperature, task), rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("task", TASKS)
def test_a_student_that_agrees_is_at_distance_0_even_where_the_teacher_is_certain(task: str):
    logits = tf.constant([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0], [-300.0, 2.0, 88.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        apart = divergence(tf.identity(tf.stop_gradient(logits)), logits, temperature=2.0, task=task)
    np.testing.assert_array_equal(apart, np.zeros(3))
    np.testing.assert_allclose(tape.gradient(apart, logits), np.zeros((3, 3)), atol=1e-6)


def test_gradients_stay_of_one_size_when_the_temperature_rises():
    teacher, student = tf.constant([[0.3, -0.1, 0.0]]), tf.constant([[0.0, 0.2, -0.2]])
    sizes = []
    for temperature in (50.0, 100.0):
        with tf.GradientTape() as tape:
            tape.watch(student)
            apart = divergence(teacher, student, temperature=temperature, task="single_label")
        sizes.append(float(tf.norm(tape.gradient(apart, student))))
    # In the limit the gradient is that of the squared difference of centred logits, over K.
    centred = (student - tf.reduce_mean(student)) - (teacher - tf.reduce_mean(teacher))
    np.testing.assert_allclose(sizes, float(tf.norm(centred)) / 3, rtol=1e-2)


@pytest.mark.parametrize("name", ["weight", "temperature"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "2", True, None])
def test_numbers_that_are_not_above_0_are_the_users_error(name: str, value, complaint):
    with complaint(repr(value), f"distillation.{name}"):
        distillation(**{name: value})
