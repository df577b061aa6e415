"""Being asked to stop: SLURM sends a signal before a job's time is over, and the training saves and ends."""

import atexit
import os
import signal
import threading
import time
from types import FrameType

# sysexits.h: the work is not done, but can be taken up again. Job scripts requeue on it.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# SLURM, torchrun and submitit may each pass on one and the same request.
SAME_REQUEST_SECONDS = 5.0


class StopRequest:
    """Remembers that a signal came, so that the training can end after the current update.

    A second SIGTERM, some seconds later, ends the process at once, as it would without this. A signal that was blocked
    when the process started is waiting, and comes now.
    """

    process: int | None = None  # which remembers signals

    def __init__(self) -> None:
        self.signal: str | None = None
        self._first_sigterm: float | None = None
        StopRequest.process = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        atexit.register(self._end_undisturbed)

    def _end_undisturbed(self) -> None:
        """Ignore requests to do what is done. Python no longer handles them while it ends: they would kill it, and a
        finished training would seem to have failed.
        """
        for number in SIGNALS if self.signal is not None else [signal.SIGUSR1]:
            signal.signal(number, signal.SIG_IGN)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number).name
        if number != signal.SIGTERM:
            return
        if self._first_sigterm is None:  # SLURM's first one may come long after its SIGUSR1, and leaves time to save
            self._first_sigterm = time.monotonic()
        elif time.monotonic() > self._first_sigterm + SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _shield_child() -> None:
    """Keep SLURM's signals, which go to all processes of a job, from the ones that load data for the last update."""
    parent = os.getppid()
    if parent == StopRequest.process:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_for, args=(parent,), daemon=True).start()


def _end_for(parent: int) -> None:
    """End this process when ``parent`` asks for it, and nobody else."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


os.register_at_fork(after_in_child=_shield_child)
