"""What other hosts make arrives in order, each batch once, whatever becomes of them."""

import contextlib
import dataclasses
import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data import inspection, packing, pipeline, skipping, sources
from data.augment import geometry
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from data.service import DataService, Feed

BATCH, HEIGHT, WIDTH = 4, 10, 12
VIEW = pipeline.View(image_size=(8, 8), fit="cover", crop=0.9, decoding=Decoding(9), capacity=HEIGHT * WIDTH)
POLICY = Policy((geometry.rotation(degrees=30), geometry.flip()))
# What must not go wrong takes longer than this only on a machine that stands still.
SECONDS = 60


# The second of two processes with two replicas each.
LANE = pipeline.Lane(2, 2, 4)


def maker(examples: Examples, *, start: int = 0, left_out: skipping.Ranges = ()) -> Callable:
    """A `data.service.Make` of these examples, for one of two processes."""
    order = Order.of(examples, factors=examples.repeats, seed=5)

    def make(place, *, served=False):
        return pipeline.train_batches(
            examples,
            order=order,
            start=start,
            batch=BATCH,
            seed=5,
            policy=POLICY,
            view=VIEW,
            left_out=left_out,
            lane=dataclasses.replace(LANE, start=place),
            served=served,
        )

    return make


def counting(place: int, *, served: bool = False) -> tf.data.Dataset:
    """A `data.service.Make` that is quickly made."""

    def batch(index):
        positions = index * BATCH + tf.range(BATCH, dtype=tf.int64)
        return {"position": positions, "size": positions[:, None] * 2, "replaced": positions < 0}

    return tf.data.Dataset.range(place, 10**6).map(batch)


def feed(make: Callable, service, *, said: list[str], start: int = 0, left_out: skipping.Ranges = ()) -> Feed:
    def positions(place):
        number = place if make is counting else LANE.numbers(place)
        return skipping.shown(start + number * BATCH + tf.range(BATCH, dtype=tf.int64), left_out).numpy()

    return Feed(make, service=service, positions=positions, say=said.append)


def assert_same(left: dict, right: dict):
    assert left.keys() == right.keys()
    for ours, theirs in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def until(holds: Callable[[], object], *, otherwise: Callable[[], str] = lambda: "") -> object:
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)
    return found


class Carrier:
    """In place of the service: hands out what it is given, at every new job what comes next."""

    silence = 0.2

    def __init__(self, *jobs: Callable[[tf.data.Dataset], tf.data.Dataset]):
        self._jobs = iter(jobs)

    def meet(self, batches, say):
        pass

    def compare(self, batches, closed):
        return 1, True

    def parts(self, batches):
        return next(self._jobs, lambda same: same)(batches)


@pytest.fixture(scope="module")
def memory() -> Examples:
    return sources.synthetic(examples=23, classes=2, height=HEIGHT, width=WIDTH)


@pytest.fixture
def files(memory, tmp_path, monkeypatch) -> Examples:
    """The same pixels as files below a relative path, which no other process finds."""
    for name, pixels in zip(memory.names.tolist(), memory.pixels, strict=True):
        path = tmp_path / "photos" / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "PNG")
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(memory, pixels=None, root="photos")


@pytest.fixture
def serve(command) -> Iterator[Callable]:
    """`serve("worker", "--dispatcher=...")` starts scripts/data_server.py and waits until it serves."""
    started = []

    def start(role: str, *arguments: str):
        server = command("data_server", f"--role={role}", *arguments)
        started.append(server)
        until(lambda: "\n" in server.printed)
        server.address = server.printed.split()[-1]
        return server

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[str]:
    """Address of a dispatcher in this process, with two workers."""
    server = tf.data.experimental.service
    dispatch = server.DispatchServer()
    address = dispatch.target.partition("://")[2]
    config = server.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100)
    workers = [server.WorkerServer(config) for _ in range(2)]
    yield address
    for each in (*workers, dispatch):
        each._stop()


class TestStream:
    def test_two_workers_give_what_this_host_would_make_from_any_step_on(self, memory, dispatcher):
        shape = {"start": 28, "left_out": ((48, 56),)}
        make, said = maker(memory, **shape), []
        fed = feed(make, DataService(address=dispatcher), said=said, **shape)
        assert fed.dataset.element_spec == make(0).element_spec
        for place, (ours, theirs) in enumerate(zip(make(0).take(60), fed.dataset, strict=False)):
            assert_same(ours, theirs)
            if place == 5:
                assert_same(ours, next(iter(make(5))))
        fed.close()
        assert said == [f"data service {dispatcher}: 2 data workers answer"]

    @pytest.mark.parametrize(
        "job, told",
        [
            pytest.param(lambda batches: batches.shuffle(8, seed=3), "", id="in any order"),
            pytest.param(lambda batches: batches.take(11), "position 44 (", id="and no more from some place on"),
            pytest.param(
                lambda batches: batches.take(9).concatenate(batches.skip(10)), "position 36 (nothing for", id="but one"
            ),
            pytest.param(lambda batches: batches.take(9).concatenate(batches.skip(7)), "", id="some twice"),
            pytest.param(
                lambda batches: batches.map(lambda found: found | {"position": found["position"] * [1, 1, 1, 2]}),
                "has other positions",
                id="with other positions",
            ),
            pytest.param(
                lambda batches: batches.map(
                    lambda found: found | {"size": -found["size"], "replaced": ~found["replaced"]}
                ),
                "",
                id="with images that could not be read there",
            ),
            pytest.param(
                lambda batches: batches.map(lambda found: found | {"size": found["size"] // 0}),
                "division by zero",
                id="with errors",
            ),
        ],
    )
    def test_whatever_arrives_each_batch_is_delivered_once_and_in_order(self, job, told):
        said: list[str] = []
        fed = feed(counting, Carrier(job, job), said=said)
        for ours, theirs in zip(counting(0).take(40), fed.dataset, strict=False):
            assert_same(ours, theirs)
        fed.close()
        assert told in "".join(said)

    def test_too_many_that_wait_for_one_count_as_a_loss(self, monkeypatch):
        monkeypatch.setattr("data.service.WAITING_BYTES", 0)
        said: list[str] = []
        carrier = Carrier(lambda batches: batches.skip(1))
        carrier.silence = SECONDS
        fed = feed(counting, carrier, said=said)
        assert_same(next(iter(counting(0))), next(iter(fed.dataset)))
        fed.close()
        assert "lost the batch of position 0 (17 later batches are there)" in said[0]

    def test_closed_it_leaves_no_thread_behind(self):
        before = set(threading.enumerate())
        fed = feed(counting, Carrier(), said=[])
        next(iter(fed.dataset))
        fed.close()
        until(lambda: set(threading.enumerate()) <= before)


class TestProcesses:
    def test_killed_workers_cost_time_but_no_batch(self, memory, serve):
        dispatcher = serve("dispatcher").address
        workers = [serve("worker", f"--dispatcher={dispatcher}") for _ in range(2)]
        make, said, service = maker(memory), [], DataService(address=dispatcher)
        fed = feed(make, service, said=said)
        service.silence = 0.5
        assert said == [f"data service {dispatcher}: 2 data workers answer"]
        ours, theirs = iter(make(0)), iter(fed.dataset)

        def compare(count):
            for _ in range(count):
                assert_same(next(ours), next(theirs))

        compare(30)
        workers[0].end(signal.SIGKILL)
        compare(30)
        workers[1].end(signal.SIGKILL)
        while not any("goes on making its own batches" in sentence for sentence in said):
            compare(1)
        serve("worker", f"--dispatcher={dispatcher}")
        until_back = itertools.takewhile(lambda _: not said[-1].startswith("data workers that answer"), range(10**5))
        for _ in until_back:
            compare(1)
        compare(30)
        fed.close()

    def test_files_that_a_worker_does_not_have_are_told_at_the_start(self, files, serve, complaint):
        dispatcher = serve("dispatcher").address
        serve("worker", f"--dispatcher={dispatcher}")
        with complaint("4 of 4 images cannot be read there", Path("/etc/hostname").read_text().strip()):
            feed(maker(files), DataService(address=dispatcher), said=[])
        seen = inspection.inspect(files, decoding=VIEW.decoding)
        store = packing.pack(files, Path("store"), decoding=VIEW.decoding, start_over=False)
        stored = dataclasses.replace(store, folder=Path("store")).attach(files)
        assert not seen.bad
        with complaint("the data worker 127.0.0.1:", "store/canvases-00000.bin; No such file"):
            feed(maker(stored), DataService(address=dispatcher), said=[])


class TestStart:
    def test_other_images_under_the_same_names_are_told(self, memory, dispatcher, monkeypatch, complaint):
        service = DataService(address=dispatcher)
        job = service._job

        def other(batch, host):
            return batch | {"canvas": 255 - batch["canvas"]}, host

        monkeypatch.setattr(service, "_job", lambda dataset, mode: job(dataset.map(other), mode))
        with complaint("makes another batch than this host: other images (canvas)"):
            feed(maker(memory), service, said=[])

    def test_an_address_where_nobody_listens_is_told(self, memory, complaint):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        with complaint(f"nobody answers at {address}", "data_service.address"):
            feed(maker(memory), DataService(address=address, silence=0.1), said=[])

    def test_a_dispatcher_without_workers_is_told(self, memory, complaint):
        dispatch = tf.data.experimental.service.DispatchServer()
        with complaint("no data worker answered within 0.6 s"):
            feed(maker(memory), DataService(address=dispatch.target.partition("://")[2], silence=0.2), said=[])
        dispatch._stop()

    @pytest.mark.parametrize("address", ["host", "host:", ":5000", "host:0", "host:70000", 5000, None])
    def test_an_address_is_a_host_and_a_port(self, address, complaint):
        with complaint("data_service.address", repr(address)):
            DataService(address=address)

    @pytest.mark.parametrize("silence", [0, -1.0, float("nan"), float("inf"), True, "20"])
    def test_a_silence_is_a_number_of_seconds(self, silence, complaint):
        with complaint("data_service.silence"):
            DataService(address="host:5000", silence=silence)
