"""One signal asks politely, the second one does not."""

import os
import signal
import threading
import time
import types
from contextlib import closing

import pytest

from trainer.launch import STOPPED
from trainer.signals import SIGNALS, StopRequest


def wait_for(condition, seconds=20):
    """Returns as soon as the condition holds; the listener is another thread."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def in_child(action) -> int:
    """Exit status of a fork that runs an action; 1 if the action comes to its end."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_noted_by_its_name_and_nothing_else_happens(number):
    with closing(StopRequest()) as stop:
        stop.listen()
        assert stop.requested is None and not stop.flag.numpy()
        os.kill(os.getpid(), number)
        wait_for(stop.flag.numpy)
        assert stop.requested == signal.Signals(number).name


def test_a_loop_that_ends_by_the_flag_knows_why():
    with closing(StopRequest()) as stop:
        stop.listen()
        known = []
        stop.flag = types.SimpleNamespace(assign=lambda value: known.append(stop.requested))
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: known)
        assert known == ["SIGTERM"]


def test_a_signal_is_noted_while_the_main_thread_is_busy():
    with closing(StopRequest()) as stop:
        stop.listen()
        noted = threading.Event()
        threading.Thread(target=lambda: (wait_for(lambda: stop.requested), noted.set()), daemon=True).start()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        assert noted.wait(20)


def test_a_second_signal_ends_the_process_at_once():
    def action():
        stop = StopRequest()
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stop.requested)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

    assert in_child(action) == 128 + signal.SIGINT


def test_before_the_loop_listens_a_signal_interrupts_the_work():
    with closing(StopRequest()) as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(20)
        wait_for(lambda: stop.requested == "SIGUSR1")


def test_a_time_limit_is_a_request_like_any_other():
    with closing(StopRequest(seconds=0.2)) as stop:
        stop.listen()
        wait_for(stop.flag.numpy)
        assert stop.requested == "time limit"


def test_a_time_limit_too_interrupts_work_that_nobody_listens_in():
    def action():
        try:
            StopRequest(seconds=0.0)
            time.sleep(20)
        except KeyboardInterrupt:
            time.sleep(0.05)  # for a second signal to be seen, if there were one
            os._exit(7)

    assert in_child(action) == 7


def test_a_loop_that_does_not_come_to_an_end_is_ended():
    def action():
        stop = StopRequest(within=0.05)
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    assert in_child(action) == STOPPED


def test_a_loop_that_has_come_to_an_end_may_save_as_long_as_it_takes():
    def action():
        stop = StopRequest(within=0.2)
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stop.requested)
        stop.reached()
        time.sleep(0.4)
        os._exit(7)

    assert in_child(action) == 7


def test_signals_are_given_back():
    before, threads = [signal.getsignal(number) for number in SIGNALS], threading.active_count()
    stop = StopRequest()
    assert threading.active_count() > threads
    stop.close()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert threading.active_count() == threads
