"""A polite request to stop: the loop finishes its window and saves."""

import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Listens from its making on. A second signal ends the process at once.

    Make it after the strategy: TensorFlow's own notifier swallows SIGTERM otherwise.
    """

    def __init__(self):
        self.requested: str | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = signal.Signals(number).name
