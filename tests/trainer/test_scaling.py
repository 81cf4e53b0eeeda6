"""Predictions of many GPUs: what holds for any machine, and figures that are worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import scaling
from trainer.scaling import STRONG, WEAK, Hosts, Link, Load, Scaling, StepTime

LINKS = st.builds(Link, st.floats(1e6, 1e12), st.floats(0, 1e-3))
HOSTS = st.builds(
    Hosts, gpus=st.integers(1, 16), within=LINKS, between=LINKS,
    input_rate=st.one_of(st.just(math.inf), st.floats(1, 1e6)), store_rate=st.one_of(st.none(), st.floats(1, 1e6)),
)  # fmt: skip
LOADS = st.builds(
    Load, step=st.builds(StepTime, st.floats(1e-5, 1), st.floats(1e-6, 1)),
    gradient_bytes=st.integers(1, 10**10), overlap=st.floats(0, 1),
)  # fmt: skip
KINDS, GPUS, BATCHES = st.sampled_from([WEAK, STRONG]), st.sampled_from(scaling.COUNTS), st.integers(1, 2**12)
ROUNDING = 1e-9
# One GPU: 2 ms and 1 ms an example. Two hosts of four, 1 GB/s within and .1 GB/s between them.
LOAD = Load(step=StepTime(0.002, 0.001), gradient_bytes=10**8)
CLUSTER = Hosts(gpus=4, within=Link(1e9), between=Link(1e8))


def last(load, hosts, *, kind, batch, gpus):
    return scaling.table(load, hosts, kind=kind, batch=batch * (1 if kind == WEAK else gpus), counts=[gpus])[0]


@given(LOADS, HOSTS, KINDS, GPUS, BATCHES)
def test_one_gpu_is_as_efficient_as_can_be_and_no_number_of_them_more(load, hosts, kind, gpus, batch):
    alone, many = (last(load, hosts, kind=kind, batch=batch, gpus=count) for count in (1, gpus))
    assert scaling.efficiency(alone, load, hosts, kind=kind) == 1
    assert alone.reduction == 0 and alone.hosts == 1
    assert 0 < scaling.efficiency(many, load, hosts, kind=kind) <= 1 + ROUNDING


@given(LOADS, HOSTS, KINDS, GPUS, BATCHES, st.sampled_from(["within", "between"]), st.floats(1, 1e3))
def test_a_faster_link_makes_nothing_slower(load, hosts, kind, gpus, batch, name, factor):
    link = getattr(hosts, name)
    faster = dataclasses.replace(hosts, **{name: Link(link.bandwidth * factor, link.latency / factor)})
    before, after = (last(load, each, kind=kind, batch=batch, gpus=gpus) for each in (hosts, faster))
    assert after.images_per_second >= before.images_per_second * (1 - ROUNDING)


@given(LOADS, HOSTS, KINDS, GPUS, BATCHES, st.floats(1, 1e3))
def test_neither_faster_input_nor_more_overlap_makes_anything_slower(load, hosts, kind, gpus, batch, factor):
    before = last(load, hosts, kind=kind, batch=batch, gpus=gpus)
    fed = dataclasses.replace(hosts, input_rate=hosts.input_rate * factor)
    hidden = dataclasses.replace(load, overlap=1 - (1 - load.overlap) / factor)
    for after in (
        last(load, fed, kind=kind, batch=batch, gpus=gpus), last(hidden, hosts, kind=kind, batch=batch, gpus=gpus)
    ):  # fmt: skip
        assert after.images_per_second >= before.images_per_second * (1 - ROUNDING)


@given(LOADS, HOSTS, GPUS, BATCHES)
def test_links_without_bounds_leave_weak_scaling_perfect_until_the_input_ends_it(load, hosts, gpus, batch):
    endless = dataclasses.replace(hosts, within=Link(math.inf), between=Link(math.inf), input_rate=math.inf)
    many = last(load, endless, kind=WEAK, batch=batch, gpus=gpus)
    assert scaling.efficiency(many, load, endless, kind=WEAK) == pytest.approx(1)
    assert many.bottleneck == "compute"
    starved = dataclasses.replace(endless, input_rate=hosts.input_rate)
    assert last(load, starved, kind=WEAK, batch=batch, gpus=gpus).images_per_second <= (
        starved.input_rate * many.hosts * (1 + ROUNDING)
    )


@given(LOADS, HOSTS, KINDS, GPUS, BATCHES)
def test_every_change_that_is_told_brings_what_is_worth_while(load, hosts, kind, gpus, batch):
    prediction = last(load, hosts, kind=kind, batch=batch, gpus=gpus)
    for change in scaling.changes(prediction, load, hosts):
        assert change.images_per_second >= scaling.WORTH_WHILE * prediction.images_per_second
        assert ("batch" in change.what) == (prediction.bottleneck != "input")


@given(st.integers(2, 512), LINKS, st.floats(1, 1e10))
def test_a_ring_sends_twice_the_size_at_most_and_less_than_a_star(members, link, size):
    quick = Link(link.bandwidth)
    seconds = scaling.ring_seconds(size, members=members, link=quick)
    assert size / quick.bandwidth * (1 - ROUNDING) <= seconds <= 2 * size / quick.bandwidth
    star = scaling.star_seconds(size, members=members, link=link)
    assert scaling.ring_seconds(size, members=members, link=link) <= star * (1 + ROUNDING)
    assert scaling.ring_seconds(size, members=1, link=link) == 0


@given(st.floats(0, 1), st.floats(1e-6, 1), st.lists(st.integers(1, 4096), min_size=2, max_size=5, unique=True))
def test_a_step_that_is_a_line_is_found_again(fixed, per_example, batches):
    found = StepTime.of({batch: fixed + per_example * batch for batch in batches})
    for batch in batches:
        assert found.seconds(batch) == pytest.approx(fixed + per_example * batch, rel=1e-6)


def test_a_step_never_costs_less_than_nothing():
    assert StepTime.of({32: 0.064}) == StepTime(0.0, 0.002)
    steep, falling = StepTime.of({10: 0.1, 20: 0.3}), StepTime.of({10: 0.3, 20: 0.1})
    assert steep.fixed == 0 and 0.01 < steep.per_example < 0.015
    assert falling.per_example == 0 and 0.1 < falling.fixed < 0.3


def test_a_hierarchical_reduction_worked_out_by_hand():
    # Within: 2 * 3 / 4 of .1 s. Between: 2 * 1 / 2 of 1 s, over the one link of each host.
    assert scaling.reduction_seconds(1e8, gpus=8, hosts=CLUSTER) == pytest.approx(0.15 + 1.0)
    assert scaling.reduction_seconds(1e8, gpus=4, hosts=CLUSTER) == pytest.approx(0.15)
    slow = dataclasses.replace(CLUSTER, within=Link(1e9, 0.01), between=Link(1e8, 0.1))
    assert scaling.reduction_seconds(0, gpus=8, hosts=slow) == pytest.approx(2 * 3 * 0.01 + 2 * 0.1)
    assert scaling.spread(9, per_host=4) == (3, 3)


def test_the_tables_of_weak_and_strong_scaling_worked_out_by_hand():
    weak = scaling.table(LOAD, CLUSTER, kind=WEAK, batch=48, counts=(1, 4, 8))
    assert [each.batch for each in weak] == [48, 192, 384]
    np.testing.assert_allclose([each.step for each in weak], [0.05, 0.2, 1.2], rtol=1e-6)
    assert [each.bottleneck for each in weak] == ["compute", "reduction", "reduction"]
    assert scaling.efficiency(weak[1], LOAD, CLUSTER, kind=WEAK) == pytest.approx(0.25)
    strong = scaling.table(LOAD, CLUSTER, kind=STRONG, batch=48)
    assert [each.gpus for each in strong] == [1, 2, 4, 8, 16]
    assert all(each.batch == 48 for each in strong)
    np.testing.assert_allclose(strong[1].step, 0.002 + 0.024 + 0.1, rtol=1e-6)
    assert scaling.efficiency(strong[1], LOAD, CLUSTER, kind=STRONG) == pytest.approx(0.05 / 0.126 / 2)


def test_every_host_makes_its_own_share_ready_and_overlap_hides_its_share_of_gradients_alone():
    fed = dataclasses.replace(CLUSTER, input_rate=100.0)
    # Five GPUs are three on one host and two on the other.
    assert scaling.predict(LOAD, fed, gpus=5, batch=50).input == pytest.approx(0.3)
    late = dataclasses.replace(CLUSTER, within=Link(1e9, 0.001))
    half = dataclasses.replace(LOAD, overlap=0.5, packs=2)
    # .15 s and 6 ms for each of two packs, half of it hidden; 6 ms for the weight.
    assert scaling.predict(half, late, gpus=4, batch=4).reduction == pytest.approx(0.5 * 0.162 + 0.006)


def test_what_starves_is_fed_from_a_store_or_by_as_many_workers_as_it_takes():
    hosts = dataclasses.replace(CLUSTER, within=Link(math.inf), input_rate=1000.0, store_rate=3000.0)
    fed = scaling.predict(LOAD, hosts, gpus=4, batch=192)
    # .192 s of input, .05 s of computing.
    assert fed.bottleneck == "input" and fed.images_per_second == pytest.approx(1000)
    store, service = scaling.changes(fed, LOAD, hosts)
    assert "store" in store.what and store.images_per_second == pytest.approx(3000)
    assert "4 data workers" in service.what and service.images_per_second == pytest.approx(192 / 0.05)


def test_what_waits_for_a_reduction_gets_the_batch_behind_which_it_no_longer_counts():
    waits = scaling.predict(LOAD, CLUSTER, gpus=4, batch=192)
    (change,) = scaling.changes(waits, LOAD, CLUSTER)
    # 48, 768 and 1,536 examples a GPU: .05, .77 and 1.538 s, and .15 s of reduction.
    assert change.what == "batch x 16" and change.images_per_second == pytest.approx(16 * 192 / (0.77 + 0.15))
    assert not scaling.changes(scaling.predict(LOAD, CLUSTER, gpus=1, batch=48 * 64), LOAD, CLUSTER)


def test_replicas_that_share_cores_are_no_faster_than_one_and_no_faster_than_the_cores():
    assert scaling.shared_seconds(1.0, 1.2, replicas=1, cores=2) == 1.0
    assert scaling.shared_seconds(1.0, 1.2, replicas=4, cores=2) == pytest.approx(2.4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpus_per_host", 0), ("within_bandwidth", "fast"), ("between_bandwidth", 0), ("between_latency", -1),
        ("step_seconds", 0.1), ("step_seconds", {}), ("step_seconds", {32: 0}), ("decode_rate", "files"),
        ("store_rate", -1), ("cores_per_host", 1.5), ("overlap", 2),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(complaint, name, value):
    settings = {
        "gpus_per_host": 8, "within_bandwidth": 1e10, "within_latency": 0, "between_bandwidth": 1e9,
        "between_latency": 0.0,
    }  # fmt: skip
    Scaling(**settings)
    with complaint(f"scaling.{name}"):
        Scaling(**settings | {name: value})
