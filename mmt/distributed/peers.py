"""The other processes of a training: whoever dies, fails or hangs is named, and nobody waits for it forever.

Every process sends a sign of life each second, with how far it has got, to the store through which the processes found
each other. The first process looks at all of them and says who is missing; the others look at the first one.
"""

import atexit
import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from mmt.errors import UserError, first_line

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
# Once a connection is lost, the process at its other end is gone if it is silent for so long. So long the first process
# waits too before it ends, for the others to hear why.
LOST_SECONDS = 5.0
# Signs come each second, and a busy machine is late with them.
LEAST_TIMEOUT_SECONDS = 5.0
# Until the first batch: the data has to be loaded.
START_SECONDS = 600.0
EXIT_CODE = 1
_VERDICT = "verdict"
_LOST = "lost"


class Peers:
    """Watches the other processes from threads of its own, and ends this one when there is no going on.

    Args:
        timeout_seconds: how long a process may give no sign of life, or all of them together not get on.

    Raises:
        UserError: if that is too short.
    """

    def __init__(self, timeout_seconds: float) -> None:
        if timeout_seconds < LEAST_TIMEOUT_SECONDS:
            raise UserError(
                f"--heartbeat-timeout must be {LEAST_TIMEOUT_SECONDS:.0f} seconds or more, but is {timeout_seconds}"
            )
        self.timeout_seconds = timeout_seconds
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._progress = self._signs = 0
        self._is_over = threading.Event()
        self._has_lost_connection = False
        found: list[tuple[str, str]] = [("", "")] * self.world_size
        dist.all_gather_object(found, (socket.gethostname(), secrets.token_hex(8)))
        self.hosts = [host for host, _ in found]
        # torchrun keeps its store when it starts the processes again: what the last ones have written is not for these.
        self._store = dist.PrefixStore(f"mmt/{found[0][1]}", _own_connection(timeout_seconds))
        self._store.set(self._key(self.rank), "0 0")
        dist.barrier()
        self._heard_at = time.monotonic()
        atexit.register(self.end)
        self._show_error = sys.excepthook
        sys.excepthook = self._on_error
        self._exchanging = threading.Thread(target=self._exchange, name="peers", daemon=True)
        self._exchanging.start()
        threading.Thread(target=self._guard, name="peers-guard", daemon=True).start()

    @staticmethod
    def _key(rank: int) -> str:
        return f"life/{rank}"

    def get_on(self) -> None:
        """Note that this process got on: to be called for every batch."""
        self._progress += 1

    def say_failed(self, reason: str) -> None:
        """Tell the others that this process is about to end, and why; the first reason that is told counts."""
        self._is_over.set()
        with contextlib.suppress(RuntimeError):  # the store is gone, as the others will notice
            self._store.compare_set(_VERDICT, "", f"{self._name(self.rank)} failed: {reason}")
            if self.rank == 0:  # which may take the store with it
                time.sleep(LOST_SECONDS)

    def _on_error(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if _is_lost_connection(error) and not self._is_over.is_set():
            # Not this process' fault, and only the signs of life can tell whose: they will end this process.
            self._has_lost_connection = True
            logger.warning("lost the connection to another process: %s", first_line(error))
            self._is_over.wait(self.timeout_seconds + 2 * LOST_SECONDS)
        self.say_failed(first_line(error) or kind.__name__)
        self._show_error(kind, error, traceback)

    def end(self) -> None:
        """Stop watching; called by all processes when the training is over."""
        self._is_over.set()
        # A thread that Python's end meets inside of the store's code would abort the process.
        if threading.current_thread() is not self._exchanging:
            self._exchanging.join(timeout=10 * INTERVAL_SECONDS)

    def _name(self, rank: int) -> str:
        return f"process {rank} on host {self.hosts[rank]}"

    def _exchange(self) -> None:
        """Give signs of life, and look at those of others."""
        lives = _Lives(self.world_size if self.rank == 0 else 1)
        while not self._is_over.wait(INTERVAL_SECONDS):
            try:
                verdict = self._exchange_once(lives)
            except RuntimeError as error:
                # The first process may have ended well a moment before this one.
                if not self._is_over.wait(LOST_SECONDS):
                    self._give_up(f"{self._name(0)} cannot be reached ({first_line(error)})")
                return
            self._heard_at = time.monotonic()
            if verdict:
                self._give_up(verdict)

    def _exchange_once(self, lives: "_Lives") -> str | None:
        """Return why the training cannot go on, if it cannot."""
        self._signs += 1
        self._store.set(self._key(self.rank), f"{self._signs} {self._progress}")
        if self._has_lost_connection:
            self._store.set(_LOST, "")
        found = self._store.multi_get([self._key(rank) for rank in range(len(lives))])
        lives.note([bytes(sign).decode() for sign in found])
        fault = self._fault(lives)
        if fault is not None:
            self._store.compare_set(_VERDICT, "", fault)
        return self._store.get(_VERDICT).decode() if self._store.check([_VERDICT]) else None

    def _fault(self, lives: "_Lives") -> str | None:
        patience = self.timeout_seconds
        if self._store.check([_LOST]):
            patience = min(patience, LOST_SECONDS)
        if silent := lives.silent(patience):
            return f"{' and '.join(map(self._name, silent))} has given no sign of life for {patience:.0f} seconds"
        # Who has gone silent is soon named above: the others wait for it, and are not to be named for that.
        is_heard = not lives.silent(min(patience, LOST_SECONDS))
        if self.rank == 0 and is_heard and (slow := lives.holding_up(self.timeout_seconds)):
            names = " and ".join(map(self._name, slow))
            patience = lives.patience(self.timeout_seconds)
            return f"{names} has not got on for {patience:.0f} seconds (--heartbeat-timeout)"
        return None

    def _guard(self) -> None:
        """Notice when the store gives no answer at all: asking it may take forever where a network is cut."""
        while not self._is_over.wait(INTERVAL_SECONDS):
            if time.monotonic() - self._heard_at > self.timeout_seconds + 2 * INTERVAL_SECONDS:
                self._give_up(f"{self._name(0)} cannot be reached (no answer for {self.timeout_seconds:.0f} seconds)")

    def _give_up(self, verdict: str) -> None:
        """End this process, whose main thread may be waiting for a message that never comes."""
        if self._is_over.is_set():
            return
        sys.stdout.flush()
        # In one piece: the others write there too.
        sys.stderr.write(f"mmt: error: {verdict}; the training ends on {self._name(self.rank)}\n")
        sys.stderr.flush()
        if self.rank == 0:  # which may take the store, and with it the verdict, away from the others
            time.sleep(LOST_SECONDS)
        os._exit(EXIT_CODE)


class _Lives:
    """When each process was last heard of, and last got on, by the clock of the process that looks."""

    def __init__(self, world_size: int) -> None:
        now = time.monotonic()
        self._signs = [""] * world_size
        self._progress = [0] * world_size
        self._heard_at = [now] * world_size
        self._got_on_at = [now] * world_size

    def __len__(self) -> int:
        return len(self._signs)

    def note(self, signs: list[str]) -> None:
        """Take in the latest sign of each process: "signs given, batches done"."""
        now = time.monotonic()
        for rank, sign in enumerate(signs):
            if sign != self._signs[rank]:
                self._signs[rank], self._heard_at[rank] = sign, now
            progress = int(sign.split()[1])
            if progress != self._progress[rank]:
                self._progress[rank], self._got_on_at[rank] = progress, now

    def silent(self, seconds: float) -> list[int]:
        """Return the processes that have not been heard of for so long."""
        now = time.monotonic()
        return [rank for rank, heard_at in enumerate(self._heard_at) if now - heard_at > seconds]

    def patience(self, seconds: float) -> float:
        """Return for how long nobody may get on: longer before the first batch, whose data has to be loaded."""
        return seconds if max(self._progress) > 0 else max(seconds, START_SECONDS)

    def holding_up(self, seconds: float) -> list[int]:
        """Return the processes that the others wait for, if none has got on for so long."""
        if time.monotonic() - max(self._got_on_at) <= self.patience(seconds):
            return []
        return [rank for rank, progress in enumerate(self._progress) if progress == min(self._progress)]


def _is_lost_connection(error: BaseException) -> bool:
    """Tell whether an error is that of a message to or from another process."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _own_connection(timeout_seconds: float) -> dist.Store:
    """Connect to the store of the process group, apart from the connection on which the main thread may be waiting."""
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):  # a file, say
        return store
    timeout = timedelta(seconds=timeout_seconds)
    return dist.TCPStore(store.host, store.port, is_master=False, wait_for_workers=False, timeout=timeout)
