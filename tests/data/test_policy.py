"""A policy draws for each position alone, or for each pair."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data import draws
from data.augment import geometry, mixing, operation
from data.augment.operation import one_of, sometimes
from data.augment.policy import Policy, policy
from data.augment.slots import Geometry, Matrix, Pixels
from data.errors import UserError

ALL = (
    geometry.rotation(degrees=30),
    geometry.shift(width=0.2, height=0.1),
    geometry.zoom(low=0.8, high=1.3),
    geometry.flip(),
)


def matrices(operations: tuple, start: int, stop: int, *, seed: int = 1) -> np.ndarray:
    return Policy(operations).draw(tf.range(start, stop, dtype=tf.int64), seed=seed, size=(32, 32)).geometry.numpy()


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2**62), size=st.integers(1, 40), cut=st.integers(0, 40))
def test_a_position_gets_the_same_bits_in_any_batch(start: int, size: int, cut: int):
    cut = min(cut, size)
    whole = matrices(ALL, start, start + size)
    parts = [matrices(ALL, start, start + cut), matrices(ALL, start + cut, start + size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_position_gets_the_same_bits_traced():
    traced = tf.function(lambda positions: Policy(ALL).draw(positions, seed=1, size=(32, 32)).geometry)
    np.testing.assert_array_equal(traced(tf.range(5, 21, dtype=tf.int64)).numpy(), matrices(ALL, 5, 21))


def test_an_empty_policy_changes_nothing():
    np.testing.assert_array_equal(matrices((), 0, 5), np.broadcast_to(np.eye(3), (5, 3, 3)))


def test_the_product_runs_from_the_input_to_the_output_in_the_order_of_the_list():
    positions = tf.range(16, dtype=tf.int64)
    expected = np.broadcast_to(np.eye(3), (16, 3, 3))
    for each in ALL:
        uniform = draws.uniform(1, positions, f"{each.name}/0", each.count)
        expected = expected @ each.draw(tf.cast(uniform, tf.float64), (32, 32))[0].numpy()
    # Entries below 64 through four products of three terms.
    np.testing.assert_allclose(matrices(ALL, 0, 16), expected, rtol=0, atol=12 * 64 * 2.0**-52)
    assert not np.allclose(matrices(ALL, 0, 16), matrices(ALL[::-1], 0, 16))


def test_one_more_operation_changes_nothing_that_the_others_draw():
    turn, mirror = matrices(ALL[:1], 0, 16), matrices(ALL[3:], 0, 16)
    # Entries below 64 through a product of three terms.
    close = {"rtol": 0, "atol": 6 * 64 * 2.0**-52}
    np.testing.assert_allclose(matrices((ALL[0], ALL[3]), 0, 16), turn @ mirror, **close)
    # In front of it, too: only the name of an operation keys its numbers.
    np.testing.assert_allclose(matrices((ALL[3], ALL[0]), 0, 16), mirror @ turn, **close)


def test_the_same_operation_twice_draws_twice():
    once, twice = matrices(ALL[:1], 0, 16), matrices((ALL[0], ALL[0]), 0, 16)
    assert (np.abs(twice - once @ once).max(axis=(1, 2)) > 1e-6).all()


def test_seeds_and_positions_draw_differently():
    assert (np.abs(matrices(ALL, 0, 50) - matrices(ALL, 0, 50, seed=2)).max(axis=(1, 2)) > 1e-6).all()
    assert len(np.unique(matrices(ALL, 0, 50), axis=0)) == 50


@pytest.mark.parametrize("count", [1, 15, 16, 17])
def test_as_many_matrices_as_positions(count: int):
    assert matrices(ALL, 0, count).shape == (count, 3, 3)


def test_the_configurable_makes_a_policy_of_any_sequence():
    assert policy() == Policy()
    assert policy(operations=list(ALL)).operations == ALL


# -- what is not always drawn ----------------------------------------------------------------------------------------

TINT = operation.linear(
    "tint",
    ranges={"factor": (0.5, 1.5)},
    matrix=lambda size, factor: factor[:, None, None] * tf.eye(3, 4, dtype=tf.float64),
)
POSITIONS = np.arange(400)


def drawn(chosen: Policy, positions=POSITIONS, **arguments):
    return chosen.draw(tf.constant(positions, tf.int64), **({"seed": 1, "size": (24, 32)} | arguments))


def test_the_program_is_what_is_left_when_geometry_is_multiplied():
    chosen = policy([ALL[0], TINT, ALL[3], mixing.mixup()])
    assert chosen.program == (Matrix(), mixing.Mix()) and chosen.mixes
    found = drawn(chosen)
    assert [array.shape for array in found.arrays] == [(400, 3, 4), (400, 5)]
    assert found.arrays[0].dtype == tf.float32 and found.geometry.dtype == tf.float64
    assert found.crop is None and found.share.shape == (400,)
    assert set(found.columns()) == {"geometry", "arrays", "share"} and set(drawn(Policy(ALL)).columns()) == {"geometry"}


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_an_operation_is_applied_as_often_as_asked_and_else_changes_nothing(probability: float):
    found = drawn(policy([(ALL[0], probability), (TINT, probability)]))
    turned = (found.geometry.numpy() != np.eye(3)).any(axis=(1, 2))
    tinted = (found.arrays[0].numpy() != np.eye(3, 4)).any(axis=(1, 2))
    for applied in (turned, tinted):
        # Six standard deviations of a binomial distribution.
        assert abs(applied.mean() - probability) <= 6 * np.sqrt(probability * (1 - probability) / 400)
    if probability == 0.25:
        assert 0 < (turned & tinted).sum() < turned.sum()


def test_probabilities_multiply():
    found = drawn(Policy((sometimes(sometimes(sometimes(TINT, 0.9), 0.5), 0.5),)))
    tinted = (found.arrays[0].numpy() != np.eye(3, 4)).any(axis=(1, 2))
    # Six standard deviations of a binomial distribution.
    assert abs(tinted.mean() - 0.225) <= 6 * np.sqrt(0.225 * 0.775 / 400)


def test_one_of_applies_exactly_one_by_weight():
    choice = one_of(operations=[ALL[0], TINT, ALL[3]], weights=[1, 2, 1])
    assert choice.slots == (Geometry(), Matrix())
    found = drawn(Policy((choice,)))
    index = choice.numbers(Policy((choice,)).uniform(0, tf.constant(POSITIONS), seed=1), (24, 32))[
        "0.one_of.chosen"
    ].numpy()
    np.testing.assert_array_equal((found.arrays[0].numpy() != np.eye(3, 4)).any(axis=(1, 2)), index == 1)
    counts = np.bincount(index.astype(int), minlength=3)
    assert (np.abs(counts - [100, 200, 100]) <= 6 * np.sqrt([75, 100, 75])).all()
    mirrored = found.geometry.numpy()[index == 2]
    assert {tuple(np.abs(np.diag(matrix))) for matrix in mirrored} == {(1, 1, 1)}


def test_choices_of_choices_are_choices():
    inner = one_of(operations=[TINT, ALL[3]])
    outer = one_of(operations=[inner, sometimes(ALL[0], 0.5)])
    found = drawn(Policy((outer,)))
    tinted = (found.arrays[0].numpy() != np.eye(3, 4)).any(axis=(1, 2))
    turned = np.abs(found.geometry.numpy()[:, 0, 1]) > 0
    assert 60 < tinted.sum() < 140 and 60 < turned.sum() < 140 and not (tinted & turned).any()


def test_during_switches_by_share_of_training():
    chosen = policy([TINT, mixing.mixup(alpha=1.0)], during={"mixup": (0.25, 0.75), "tint": (0.5, 1.0)})
    found = drawn(chosen, length=400)
    tinted = (found.arrays[0].numpy() != np.eye(3, 4)).any(axis=(1, 2))
    mixed = found.share.numpy() != 1
    np.testing.assert_array_equal(tinted, np.arange(400) >= 200)
    np.testing.assert_array_equal(mixed, (np.arange(400) >= 100) & (np.arange(400) < 300))
    # The identity of a slot, not merely close to it.
    np.testing.assert_array_equal(found.arrays[1].numpy()[~mixed], np.broadcast_to([1, 0, 0, 0, 0], (200, 5)))


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 2**40), size=st.integers(1, 40), cut=st.integers(0, 40))
def test_arrays_and_shares_are_the_same_bits_in_any_batch(start: int, size: int, cut: int):
    chosen = policy([(TINT, 0.5), one_of(operations=[mixing.mixup(), mixing.cutmix()])], during={"tint": (0.1, 0.9)})
    cut = min(cut, size)
    positions = tf.range(start, start + size, dtype=tf.int64)
    whole = drawn(chosen, positions, length=2**40)
    parts = [drawn(chosen, part, length=2**40) for part in (positions[:cut], positions[cut:])]
    for name, column in whole.columns().items():
        for all_of, *some in zip(
            tf.nest.flatten(column),
            *(tf.nest.flatten(p.columns()[name]) for p in parts if len(p.geometry)),
            strict=True,
        ):
            np.testing.assert_array_equal(np.concatenate([array.numpy() for array in some]), all_of.numpy())


def test_partners_draw_the_same_and_pairs_apart():
    share = drawn(policy([mixing.mixup(alpha=1.0)])).share.numpy().reshape(-1, 2)
    np.testing.assert_array_equal(share[:, 0], share[:, 1])
    assert len(np.unique(share[:, 0])) == 200


def test_a_function_of_pixels_is_an_operation_too():
    def shifted(images, amount):
        return images + amount[:, None, None, None]

    brighter = operation.pixelwise("brighter", ranges={"amount": (1.0, 2.0)}, pixels=shifted)
    found = drawn(policy([(brighter, 0.5)]))
    (slot,) = policy([brighter]).program
    assert isinstance(slot, Pixels)
    images = tf.random.stateless_uniform([400, 2, 3, 3], seed=[1, 2], maxval=255)
    out = slot.apply(images, found.arrays[0]).numpy() - images.numpy()
    applied = found.arrays[0].numpy()[:, -1] > 0
    assert (out[~applied] == 0).all() and (out[applied] > 0.99).all() and 100 < applied.sum() < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"operations": [geometry.flip]}, "mind the ()"),
        ({"operations": [(ALL[0], 1.5)]}, "probability = 1.5"),
        ({"operations": [(ALL[0], "often")]}, "probability = 'often'"),
        ({"operations": 3}, "3 in policy.operations"),
        ({"operations": [mixing.mixup(), mixing.cutmix()]}, "mixup and cutmix all mix examples in pairs"),
        ({"operations": [ALL[0]], "during": {"rotate": (0, 1)}}, "expected: one of rotation"),
        ({"operations": [ALL[0]], "during": {"rotation": (0.9, 0.1)}}, "the lower number first"),
        ({"operations": [ALL[0]], "during": {"rotation": 0.9}}, "two numbers"),
        ({"operations": [ALL[0]], "during": {"rotation": (0, 2)}}, "at most 1"),
        ({"operations": [ALL[0]], "during": [("rotation", 0, 1)]}, "{'mixup': (0.0, 0.9)}"),
    ],
)
def test_wrong_policies_are_refused(arguments, words):
    with pytest.raises(UserError) as refused:
        policy(**arguments)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"operations": []}, "one_of.operations = []"),
        ({"operations": [TINT], "weights": [1, 2]}, "1 numbers, not all 0"),
        ({"operations": [TINT], "weights": [0]}, "not all 0"),
        ({"operations": [TINT], "weights": ["a"]}, "one_of.weights"),
        ({"operations": [TINT, mixing.mixup()]}, "tint, mixup in one choice"),
    ],
)
def test_wrong_choices_are_refused(arguments, words):
    with pytest.raises(UserError) as refused:
        one_of(**arguments)
    assert words in str(refused.value)


def test_a_matrix_of_the_wrong_shape_is_refused_with_the_name_of_its_operation():
    square = operation.linear(
        "square",
        ranges={"factor": (0.5, 1.5)},
        matrix=lambda size, factor: tf.eye(3, batch_shape=[16], dtype=tf.float64),
    )
    short = operation.tone("short", ranges={"x": (0.0, 1.0)}, curve=lambda size, x: tf.ones([16, 255], tf.float64) * 9)
    for wrong in (square, short):
        with pytest.raises(UserError, match=wrong.name):
            drawn(policy([wrong]), np.arange(16))
