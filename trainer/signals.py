"""A polite request to stop: the loop finishes its step and saves."""

import contextlib
import os
import select
import signal
import sys
import threading
import time

import tensorflow as tf

from trainer.launch import STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# What stands in the pipe for a time limit; no signal has this number.
TIME_LIMIT, CLOSE = 0, 255


class StopRequest:
    """Listens from its making on, in a thread of its own, so that a step of any length keeps no signal waiting.

    A second signal ends the process at once. So does the first one where the loop does not come to its end within
    `within` seconds, compiling for example: the newest checkpoint is where the same command goes on.

    Make it after the strategy, since TensorFlow's own notifier swallows SIGTERM otherwise, and in the main thread.
    Until `listen` is called a signal raises KeyboardInterrupt in the main thread, for work that looks at no request.

    Args:
        within: seconds that the loop has to come to an end.
        seconds: from now on, after which a stop is requested as by a signal; None: no limit.

    Attributes:
        requested: name of the signal, or `time limit`; None before.
        flag: scalar bool variable on the host, true from the request on; compiled loops read it.
    """

    def __init__(self, *, within: float = 60.0, seconds: float | None = None):
        self.requested: str | None = None
        with tf.device("CPU:0"):
            self.flag = tf.Variable(False, trainable=False)
        self._within, self._polite = within, False
        self._deadline: float | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="stop request", daemon=True)
        self._thread.start()
        self._timer = None
        if seconds is not None:
            self._timer = threading.Timer(max(seconds, 0), os.write, (self._writer, bytes([TIME_LIMIT])))
            self._timer.daemon = True
            self._timer.start()

    def agreed(self) -> str | None:
        """What has been requested; see `trainer.cluster.SharedStop`."""
        return self.requested

    def listen(self) -> None:
        """From here on a signal interrupts nothing: the loop asks for `requested`."""
        self._polite = True

    def reached(self) -> None:
        """Says that the loop has come to an end: what is left to be saved takes its time."""
        self._deadline = None

    def close(self) -> None:
        """Gives the signals back."""
        if self._timer is not None:
            self._timer.cancel()
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.write(self._writer, bytes([CLOSE]))
        self._thread.join()
        os.close(self._writer)
        os.close(self._reader)

    def _note(self, number: int, frame) -> None:
        if not self._polite:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        # Interrupting the main thread looks like a signal here.
        echo = None
        while True:
            deadline = self._deadline
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                if self._deadline is None:
                    continue
                _end(f"{self.requested}: not at the end of a step after {self._within:g} s", status=STOPPED)
            for number in os.read(self._reader, 64):
                if number == CLOSE:
                    return
                if number == echo or (number != TIME_LIMIT and number not in SIGNALS):
                    echo = None
                    continue
                if self.requested is not None:
                    if number != TIME_LIMIT:
                        _end("a second signal", status=128 + number)
                    continue
                self._deadline = time.monotonic() + self._within
                # Before the flag: a loop that ends by that looks here why.
                self.requested = "time limit" if number == TIME_LIMIT else signal.Signals(number).name
                self.flag.assign(True)
                if number == TIME_LIMIT and not self._polite:
                    echo = signal.SIGTERM
                    # A real one: it also wakes whoever waits for a lock or sleeps.
                    signal.pthread_kill(threading.main_thread().ident, echo)


def _end(why: str, *, status: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(
            f"\n{why}: ended at once; the same command goes on from the newest checkpoint", file=sys.stderr, flush=True
        )
    os._exit(status)
