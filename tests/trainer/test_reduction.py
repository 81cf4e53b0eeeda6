"""Gradients added up over the replicas: in whatever way and packs, the sum is the same."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer import tiny
from trainer import devices, reduction
from trainer.optimization import optimizers


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.integers(1, 300))
def test_packs_hold_each_tensor_once_from_the_last_on_and_no_more_than_allowed(sizes, most):
    found = reduction.packs(sizes, most)
    assert list(itertools.chain(*found)) == list(reversed(range(len(sizes))))
    assert all(sum(sizes[place] for place in pack) <= most or len(pack) == 1 for pack in found)
    # No more packs than have to be: what begins one would not have fitted into the one before.
    for before, after in itertools.pairwise(found):
        assert sum(sizes[place] for place in before) + sizes[after[0]] > most


@pytest.mark.parametrize(("replicas", "way"), [(1, "nccl"), (4, "auto"), (2, "hierarchical"), (4, "hierarchical")])
def test_sums_are_those_of_all_replicas_in_every_way_and_pack(replicas, way):
    strategy = devices.set_up(f"cpu:{replicas}", reduce_by=way)

    def of_replica(most):
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        own = {"a": tf.fill([2, 3], number + 1), "b": [tf.fill([5], 10 * (number + 1)), tf.identity(number)]}
        return reduction.add_up(own, most=most)

    total = replicas * (replicas + 1) / 2
    for most in (None, 1, 24, 10**9):
        sums = tf.function(lambda most=most: strategy.run(of_replica, args=(most,)))()
        for each in range(replicas):
            a, b, number = (strategy.experimental_local_results(value)[each] for value in tf.nest.flatten(sums))
            np.testing.assert_array_equal(a, np.full([2, 3], total, np.float32))
            np.testing.assert_array_equal(b, np.full([5], 10 * total, np.float32))
            assert number == total - replicas


@pytest.mark.parametrize(
    ("spec", "way", "expected"),
    [
        ("cpu:2", "nccl", "one of auto, one_device, hierarchical"), ("cpu:2", "ring", "one of auto"),
        ("cpu:3", "hierarchical", "an even number"),
    ],
)  # fmt: skip
def test_what_cannot_work_on_the_devices_is_refused(complaint, spec, way, expected):
    with complaint(f"train.reduction = '{way}'", expected):
        devices.set_up(spec, reduce_by=way)


@pytest.mark.parametrize(
    ("kind", "works", "refused"),
    [
        ("cpu", {"auto": "AUTO", "ring": "RING"}, ("nccl", "hierarchical", "one_device")),
        ("gpu", {"auto": "AUTO", "ring": "RING", "nccl": "NCCL"}, ("hierarchical", "one_device")),
    ],
)
def test_workers_talk_in_ways_of_their_own(complaint, kind, works, refused):
    assert {way: reduction.communication(way, kind=kind).name for way in works} == works
    for way in refused:
        with complaint(way, "of several workers"):
            reduction.communication(way, kind=kind)


def test_gpus_have_every_way_of_one_process(complaint):
    kinds = {way: type(reduction.across(way, kind="gpu", replicas=4)) for way in reduction.REDUCTIONS if way != "ring"}
    assert kinds == {
        "auto": type(None), "nccl": tf.distribute.NcclAllReduce, "one_device": tf.distribute.ReductionToOneDevice,
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
    }  # fmt: skip
    with complaint("ring", "nccl"):
        reduction.across("ring", kind="gpu", replicas=2)


def test_what_is_in_effect_is_told(complaint):
    told = {way: reduction.in_effect(devices.set_up("cpu:2", reduce_by=way)) for way in ("auto", "hierarchical")}
    assert told == {"auto": "ReductionToOneDevice", "hierarchical": "HierarchicalCopyAllReduce"}
    assert reduction.in_effect(devices.set_up("cpu", reduce_by="hierarchical")) == "none, one replica"


def test_packs_do_not_change_a_bit_of_the_weights():
    batches, rates = tiny.material(3, 8), np.full(3, 0.05, np.float32)
    runs = [tiny.Run(optimizers.sgd(), replicas=2, length=3, **packed) for packed in ({}, {"pack": 256})]
    for run in runs:
        run.train(batches, rates)
    whole, packed = (run.weights() for run in runs)
    for name, value in whole.items():
        np.testing.assert_array_equal(packed[name], value)


def test_a_step_that_xla_compiles_is_the_same_to_rounding_on_two_replicas():
    batches, rates = tiny.material(3, 8), np.full(3, 0.05, np.float32)
    compiled, plain = (tiny.Run(optimizers.sgd(), replicas=2, length=3, xla=xla) for xla in (True, False))
    records = [run.train(batches, rates) for run in (compiled, plain)]
    # Three steps of sums of at most 200 products of numbers below 4, at a rate of .05.
    for name, value in plain.weights().items():
        np.testing.assert_allclose(compiled.weights()[name], value, atol=3 * 0.05 * 200 * 4 * 2**-23)
    np.testing.assert_allclose(records[0]["loss"], records[1]["loss"], rtol=1e-4)
