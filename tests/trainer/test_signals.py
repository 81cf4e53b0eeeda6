"""One signal asks politely, the second one does not."""

import os
import signal
import sys

import pytest

from trainer import signals
from trainer.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_noted_by_its_name_and_nothing_else_happens(number):
    stop = StopRequest()
    assert stop.requested is None
    os.kill(os.getpid(), number)
    assert stop.requested == signal.Signals(number).name


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(signals.os, "_exit", sys.exit)
    stop = StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), signal.SIGINT)
    assert end.value.code == 128 + signal.SIGINT
    assert stop.requested == "SIGTERM"
