"""Being asked to stop: SLURM sends a signal before a job's time is over, and the training saves and ends."""

import os
import signal
from types import FrameType

# sysexits.h: the work is not done, but can be taken up again. Job scripts requeue on it.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a signal came, so that the training can end after the current update.

    A second signal of the same kind ends the process at once, as it would without this.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != self._process:  # a process that loads data, which has inherited the handler
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)
