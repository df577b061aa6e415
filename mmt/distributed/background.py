"""Saving while the training goes on: what there is to write is copied, and a thread writes it."""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator

import torch

logger = logging.getLogger(__name__)

Step = Callable[[], object]
_under_way: threading.Thread | None = None
_collected: contextvars.ContextVar[list[Step] | None] = contextvars.ContextVar("collected", default=None)


def do_or_put_off(step: Step) -> None:
    """Do a step of a save now or, within ``Background.collecting``, later, after the steps before it.

    What a later step writes must not be changed meanwhile.
    """
    steps = _collected.get()
    if steps is None:
        step()
    else:
        steps.append(step)


class Background:
    """Does the steps of one save at a time in a thread; the first step that fails is the last one."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Put off every step (``do_or_put_off``) of the ``with`` block, and let the thread begin with them at its end.

        ``wait`` for the save before comes first, within the block or ahead of it.
        """
        steps: list[Step] = []
        token = _collected.set(steps)
        try:
            yield
        finally:
            _collected.reset(token)
        assert self._thread is None
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        # Not waited for by Python's own end, which would hide its failure.
        self._thread = threading.Thread(target=self._run, args=(steps, device), name="saving", daemon=True)
        self._thread.start()
        global _under_way
        _under_way = self._thread

    def _run(self, steps: list[Step], device: int | None) -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)  # a thread begins with the first GPU, whose memory it would take
            for step in steps:
                step()
        except Exception as error:  # raised again where it can be dealt with
            logger.error("saving in the background failed: %s", error)
            self._error = error

    def wait(self) -> None:
        """Wait for the end of a save, if one is under way, and raise its error, if it has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


def wait_at_most(seconds: float) -> None:
    """Wait for a save that is under way, if there is one, before this process ends for another reason."""
    if _under_way is not None:
        _under_way.join(seconds)
