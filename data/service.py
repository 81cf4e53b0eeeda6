"""Batches that other hosts make: asked for by tf.data service, delivered in order, each exactly once.

tf.data service itself hands batches out to whoever is free, delivers them in any order, and loses those of a worker
that dies. Here it is only a carrier: every batch says its positions, and what is missing is asked for again, or made on
this host.
"""

import contextlib
import dataclasses
import itertools
import math
import queue
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import gin
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import cancellation, context, execute

from data.errors import UserError, expect
from data.pipeline import ordered

# Batches that wait for an earlier one: where they are more, with more bytes, the earlier one counts as lost.
WAITING, WAITING_BYTES = 16, 2**31
# How many times the silence the first batch of a job may take, for which every worker has to set up its pipeline.
FIRST = 3
# Batches that arrived, or are in order, and wait for the one who takes them.
ROOM = 2
# Seconds within which the answers of equally fast workers lie, at least.
TOGETHER = 1.0
# What workers of other processors may make of the same numbers, and how many of them.
CLOSE, NEARLY_ALL = 1e-3, 0.99
HOST = "/etc/hostname"
# Seconds between two looks whether all is over, and those within which a thread ends then.
GLANCE, LONGEST = 0.1, 2.0

Element = dict[str, tf.Tensor | tuple[tf.Tensor, ...]]
# Number of the first batch -> the batches from there on, without end; with `served=True` fit for other hosts.
Make = Callable[..., tf.data.Dataset]


def reach(end: tuple[str, int], *, within: float) -> str:
    """Waits until somebody listens at a host and port, and says under which address that sees this host.

    Raises:
        OSError: nobody has, within so many seconds.
    """
    until = time.monotonic() + within
    while True:
        try:
            with socket.create_connection(end, timeout=within) as connection:
                return connection.getsockname()[0]
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


@gin.configurable("data_service")
@dataclasses.dataclass(kw_only=True)
class DataService:
    """Other hosts that make the training batches of this one.

    Attributes:
        address: host:port of the dispatcher, see `scripts/data_server.py`.
        silence: seconds without the batch that is due, after which it counts as lost; three times as many before the
            first one.
    """

    address: str
    silence: float = 20.0

    def __post_init__(self):
        host, _, port = self.address.rpartition(":") if isinstance(self.address, str) else ("", "", "")
        self._expect("address", host and port.isdecimal() and 0 < int(port) < 2**16, "'host:port' of a dispatcher")
        number = isinstance(self.silence, int | float) and not isinstance(self.silence, bool)
        self._expect("silence", number and 0 < self.silence < math.inf, "seconds, more than 0")
        self._end = host.strip("[]"), int(port)
        self._met = False

    def _expect(self, name: str, holds: object, expected: str) -> None:
        expect(f"data_service.{name}", getattr(self, name), holds, expected)

    def meet(self, batches: tf.data.Dataset, say: Callable[[str], object]) -> None:
        """Has every data worker make the first batch and compares it with this host's own; once in a process.

        Raises:
            UserError: nobody answers, or a worker makes other batches: other files, another store, or none.
        """
        if self._met:
            return
        workers, exact = self.compare(batches, threading.Event())
        say(f"data service {self.address}: {workers} data worker{'s' * (workers > 1)} answer{'s' * (workers == 1)}")
        if not exact:
            say("data workers round otherwise than this host: not bit for bit what it would train by itself")
        self._met = True

    def compare(self, batches: tf.data.Dataset, closed: threading.Event) -> tuple[int, bool]:
        """Has every data worker make the first batch and compares it with this host's own.

        Args:
            batches: as other hosts are sent them.
            closed: ends the waiting.

        Returns:
            how many data workers answered, and whether all their numbers were exactly ours.

        Raises:
            UserError: as `meet` does.
        """
        self._knock()
        batch = batches.take(1)
        own = next(iter(batch))
        name = tf.data.Dataset.from_tensors(HOST).map(tf.io.read_file).ignore_errors()
        named = name.concatenate(tf.data.Dataset.from_tensors("")).take(1)
        # Each worker makes all of it.
        everywhere = partial(self._job, tf.data.Dataset.zip(batch, named), "parallel_epochs")
        arriving, answers, exact = Arriving(everywhere, closed), 0, True
        began = time.monotonic()
        patience = FIRST * self.silence
        try:
            while (found := arriving.next(patience)) is not None:
                element, host = found
                exact &= self._agree(own, element, host.numpy().decode(errors="replace").strip())
                answers += 1
                patience = max(TOGETHER, time.monotonic() - began)
        finally:
            arriving.stop()
        if arriving.error is not None:
            raise self._failed(arriving.error)
        if not answers:
            raise UserError(
                f"no data worker answered within {FIRST * self.silence:g} s",
                where=f"data_service.address = {self.address!r}",
                expected="a dispatcher with data workers",
                do="start some: scripts/data_server.py --role=worker; or raise data_service.silence",
            )
        return answers, exact

    def _knock(self) -> None:
        """Waits until somebody listens: TensorFlow itself would wait for ever."""
        try:
            reach(self._end, within=self.silence)
        except OSError as error:
            raise UserError(
                f"nobody answers at {self.address}: {error}",
                where="gin binding data_service.address",
                expected="the dispatcher of a data service",
                do="scripts/data_server.py --role=dispatcher --port=... on that host, or correct the address",
            ) from error

    def _job(self, dataset: tf.data.Dataset, mode: str) -> tf.data.Dataset:
        service = tf.data.experimental.service.distribute(
            mode,
            f"grpc://{self.address}",
            # Nobody else shares it.
            job_name=uuid.uuid4().hex,
            # Pixels hardly get smaller.
            compression=None,
        )
        return dataset.apply(service)

    def parts(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, cut over the data workers: in any order, and perhaps not all."""
        return self._job(batches, "distributed_epoch")

    def _failed(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())
        worker = re.search(r"from worker ([^\s]+?):? ", text)
        reason = re.search(r"([^:]*; No such file or directory)", text)
        return UserError(
            f"the data worker {worker[1] if worker else 'of ' + self.address} cannot make a batch: "
            f"{(reason[1] if reason else text[-400:]).strip()}",
            where=f"data_service.address = {self.address!r}",
            expected="the same files, or the same store, at the same path on every data worker",
            do="put them there (a shared file system will do), or train without train.data_service",
        )

    def _agree(self, own: Element, other: Element, host: str) -> bool:
        """Whether a worker's batch is exactly ours.

        Raises:
            UserError: it shows other images.
        """
        same = {name: _same(column, other[name]) for name, column in own.items()}
        close = {name: _same(column, other[name], nearly=True) for name, column in own.items()}
        if not all(close.values()):
            lost = int((other["replaced"] & ~own["replaced"]).numpy().sum())
            what = f"{lost} of {len(own['replaced'])} images cannot be read there" if lost else "other images"
            raise UserError(
                f"the data worker on {host or 'another host'} makes another batch than this host: {what} "
                f"({', '.join(name for name, holds in close.items() if not holds)})",
                where=f"data_service.address = {self.address!r}",
                expected="the same files, or the same store, at the same path on every data worker",
                do="put them there (a shared file system will do), or train without train.data_service",
            )
        return all(same.values())


def _same(left, right, *, nearly: bool = False) -> bool:
    for ours, theirs in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True):
        one, two = ours.numpy(), theirs.numpy()
        if nearly and one.dtype.kind == "f":
            if one.shape != two.shape or np.isclose(one, two, rtol=CLOSE, atol=CLOSE).mean() < NEARLY_ALL:
                return False
        elif not np.array_equal(one, two):
            return False
    return True


class Arriving:
    """What a dataset gives, taken by a thread of its own: who waits for it may stop waiting.

    Args:
        dataset: makes it; in that thread, since asking a dispatcher may take for ever.
        closed: ends whoever waits.
    """

    def __init__(self, dataset: Callable[[], tf.data.Dataset], closed: threading.Event):
        self.error: Exception | None = None
        self._dataset, self._closed = dataset, closed
        self._arrived: queue.Queue = queue.Queue(maxsize=ROOM)
        self._stopped, self._cancel = False, cancellation.CancellationManager()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            elements = iter(self._dataset())
            spec = elements.element_spec
            kinds = [execute.make_type(each.dtype, "output_types") for each in tf.nest.flatten(spec)]
            shapes = [execute.make_shape(each.shape, "output_shapes") for each in tf.nest.flatten(spec)]
            while not self._stopped:
                # As next(elements), which nothing could end. TensorFlow's own context for that holds for all threads.
                columns = execute.execute_with_cancellation(
                    "IteratorGetNext",
                    num_outputs=len(kinds),
                    inputs=[elements._iterator_resource],
                    attrs=("output_types", kinds, "output_shapes", shapes),
                    ctx=context.context(),
                    cancellation_manager=self._cancel,
                )
                self._arrived.put(tf.nest.pack_sequence_as(spec, columns))
        except tf.errors.OutOfRangeError:
            self._arrived.put(None)
        # Whatever it is: there will be nothing more.
        except Exception as error:
            self.error = None if self._stopped else error
            self._arrived.put(None)

    def next(self, seconds: float):
        """The next element; None where it does not come within so many seconds, or never."""
        until = time.monotonic() + seconds
        # Too late is too late, also for what is there.
        while (left := until - time.monotonic()) > 0 and not self._closed.is_set():
            with contextlib.suppress(queue.Empty):
                return self._arrived.get(timeout=min(left, GLANCE))
        return None

    def stop(self) -> None:
        """Ends the thread; some calls of TensorFlow, to hosts that are gone, are left to themselves."""
        self._stopped = True
        self._cancel.start_cancel()
        with contextlib.suppress(queue.Empty):
            while True:
                self._arrived.get_nowait()
        self._thread.join(LONGEST)


class Feed:
    """A dataset that other hosts fill, batch after batch, as this host would.

    Args:
        make: number of a batch -> the batches from there on.
        positions: number of a batch -> its positions, [batch] int64.
        say: gets a sentence where something is lost.

    Raises:
        UserError: as `DataService.meet` does.
    """

    def __init__(
        self,
        make: Make,
        *,
        service: DataService,
        positions: Callable[[int], np.ndarray],
        say: Callable[[str], object],
    ):
        self._make, self._service, self._positions, self._say = make, service, positions, say
        self._first = make(0, served=True)
        service.meet(self._first, say)
        self._closed = threading.Event()
        # Whether the newest job of the service gave anything.
        self._useful = False
        spec = self._first.element_spec
        columns = tf.nest.flatten(spec)
        with tf.device("CPU:0"):
            self._ready = tf.queue.FIFOQueue(ROOM, [each.dtype for each in columns], [each.shape for each in columns])

        def take(_):
            taken = self._ready.dequeue()
            return tf.nest.pack_sequence_as(spec, taken if isinstance(taken, list | tuple) else [taken])

        batches = tf.data.Dataset.counter().map(tf.autograph.experimental.do_not_convert(take))
        self.dataset = batches.with_options(ordered())
        self._threads = [threading.Thread(target=self._fill, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends the threads; nothing more arrives. Python must not end before them: they are inside TensorFlow."""
        self._closed.set()
        self._ready.close(cancel_pending_enqueues=True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(LONGEST)

    def _fill(self) -> None:
        try:
            for element in self._elements():
                self._ready.enqueue(tf.nest.flatten(element))
        except tf.errors.CancelledError:
            pass
        finally:
            self.close()

    def _elements(self) -> Iterator[Element]:
        """All batches in order, whoever makes them."""
        place = 0
        for makers in itertools.cycle((self._served, self._own)):
            for element in makers(place):
                yield element
                place += 1
            if self._closed.is_set():
                return

    def _served(self, place: int) -> Iterator[Element]:
        """From the data workers, in order, up to the first that is lost."""
        batches = self._make(place, served=True) if place else self._first
        arriving = Arriving(lambda: self._service.parts(batches), self._closed)
        silence, early, self._useful = FIRST * self._service.silence, {}, False
        try:
            while not self._closed.is_set():
                wanted = self._positions(place)
                due, first = time.monotonic() + silence, int(wanted[0])
                while first not in early:
                    element = arriving.next(due - time.monotonic())
                    if element is None:
                        return self._lost(first, arriving.error or f"nothing for {silence:g} s")
                    arrived = int(element["position"][0])
                    if arrived >= first:
                        early[arrived] = element
                    if _overflows(early, first):
                        return self._lost(first, f"{len(early)} later batches are there")
                    silence = self._service.silence
                element = early.pop(first)
                if not np.array_equal(element["position"], wanted):
                    return self._lost(first, "what arrived in its place has other positions")
                if tf.reduce_any(element["replaced"]):
                    # Only what this host cannot read either is to be replaced.
                    element = next(iter(self._make(place, served=True)))
                self._useful = True
                yield element
                place += 1
        finally:
            arriving.stop()

    def _lost(self, position: int, why: object) -> None:
        if not self._closed.is_set():
            self._say(
                f"the data service lost the batch of position {position} ({' '.join(str(why).split())[:300]}): from "
                "there this host makes its own until data workers answer"
            )

    def _own(self, place: int) -> Iterator[Element]:
        """From this host, one at least, until data workers answer again."""
        back, wait = threading.Event(), 0.0 if self._useful else self._service.silence

        def ask():
            nonlocal wait
            told, batches = None, self._make(place, served=True)
            while not self._closed.wait(wait):
                try:
                    workers, _ = self._service.compare(batches, self._closed)
                except UserError as error:
                    if error.found != told and not self._closed.is_set():
                        told = error.found
                        self._say(f"this host goes on making its own batches: {error.found}")
                else:
                    self._say(f"data workers that answer: {workers}")
                    return back.set()
                wait = self._service.silence

        asking = threading.Thread(target=ask, daemon=True)
        self._threads[1:] = [asking]
        asking.start()
        for element in self._make(place):
            yield element
            if back.is_set() or self._closed.is_set():
                return


def _overflows(early: dict[int, Element], first: int) -> bool:
    """Whether too much waits for the first."""
    if first in early or len(early) <= WAITING:
        return False
    size = sum(column.dtype.size * math.prod(column.shape) for column in tf.nest.flatten(next(iter(early.values()))))
    return len(early) * size > WAITING_BYTES
