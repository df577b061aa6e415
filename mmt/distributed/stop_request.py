"""Being asked to stop: SLURM sends a signal before a job's time is over, and the training saves and ends."""

import os
import signal
import time
from types import FrameType

# sysexits.h: the work is not done, but can be taken up again. Job scripts requeue on it.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# SLURM, torchrun and submitit may each pass on one and the same request.
SAME_REQUEST_SECONDS = 5.0
# More than fairseq's loading of data needs to end by itself when the training does.
LOADER_SECONDS = 60


class StopRequest:
    """Remembers that a signal came, so that the training can end after the current update.

    A second SIGTERM, some seconds later, ends the process at once, as it would without this. A signal that was blocked
    when the process started is waiting, and comes now.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._first_time = 0.0
        self._process = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _outlive_the_last_update(number)
        elif self.signal is None:
            self.signal, self._first_time = signal.Signals(number), time.monotonic()
        elif number == signal.SIGTERM and time.monotonic() > self._first_time + SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _outlive_the_last_update(number: int) -> None:
    """Go on for a while in a process that loads data, which SLURM signals as well, and whose work is still needed."""
    if number == signal.SIGTERM:
        signal.alarm(LOADER_SECONDS)
