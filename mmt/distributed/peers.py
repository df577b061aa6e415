"""The other processes of a training: whoever dies, fails or hangs is named, and nobody waits for it forever.

Every process sends a sign of life each second, with how far it has got. The first process looks at all of them, and
says who is missing; the others listen, and notice if the first one is gone.
"""

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
EXIT_CODE = 1
_VERDICT = "verdict"


class Peers:
    """Watches the other processes from a thread of its own, and ends this one when there is no going on.

    Args:
        timeout_seconds: how long a process may give no sign of life, or all of them together not get on.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._progress = 0
        self._is_over = threading.Event()
        hosts: list[str] = [""] * self.world_size
        dist.all_gather_object(hosts, socket.gethostname())
        self.hosts = hosts
        self._store = _own_connection(timeout_seconds)
        self._store.set(self._key(self.rank), "0 0")
        dist.barrier()
        atexit.register(self.end)
        self._show_error = sys.excepthook
        sys.excepthook = self._on_error
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

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

    def _on_error(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self.say_failed(str(error).strip().partition("\n")[0] or kind.__name__)
        self._show_error(kind, error, traceback)

    def end(self) -> None:
        """Stop watching; called by all processes when the training is over."""
        self._is_over.set()
        # A thread that Python's end meets inside of the store's code would abort the process.
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10 * INTERVAL_SECONDS)

    def _name(self, rank: int) -> str:
        return f"process {rank} on host {self.hosts[rank]}"

    def _watch(self) -> None:
        signs, lives = 0, _Lives(self.world_size)
        while not self._is_over.wait(INTERVAL_SECONDS):
            signs += 1
            try:
                self._store.set(self._key(self.rank), f"{signs} {self._progress}")
                if self.rank == 0:
                    found = self._store.multi_get([self._key(rank) for rank in range(self.world_size)])
                    fault = lives.fault([bytes(sign).decode() for sign in found], self.timeout_seconds)
                    if fault is not None:
                        ranks, what = fault
                        self._store.compare_set(_VERDICT, "", f"{' and '.join(map(self._name, ranks))} {what}")
                if self._store.check([_VERDICT]):
                    self._give_up(self._store.get(_VERDICT).decode())
            except (dist.DistStoreError, dist.DistNetworkError, RuntimeError) as error:
                if not self._is_over.is_set():
                    self._give_up(f"{self._name(0)} cannot be reached ({str(error).splitlines()[0]})")

    def _give_up(self, verdict: str) -> None:
        """End this process, whose main thread may be waiting for a message that never comes."""
        if self._is_over.is_set():
            return
        sys.stdout.flush()
        print(f"mmt: error: {verdict}; the training ends on {self._name(self.rank)}", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)


class _Lives:
    """When each process was last heard of, and last got on, by the clock of the process that looks."""

    def __init__(self, world_size: int) -> None:
        now = time.monotonic()
        self._signs = [""] * world_size
        self._progress = [-1] * world_size
        self._heard = [now] * world_size
        self._got_on = [now] * world_size

    def fault(self, signs: list[str], timeout_seconds: float) -> tuple[list[int], str] | None:
        """Return which processes are silent, or hold up all others; None if all is well."""
        now = time.monotonic()
        for rank, sign in enumerate(signs):
            if sign != self._signs[rank]:
                self._signs[rank], self._heard[rank] = sign, now
            progress = int(sign.split()[1])
            if progress != self._progress[rank]:
                self._progress[rank], self._got_on[rank] = progress, now
        silent = [rank for rank, heard in enumerate(self._heard) if now - heard > timeout_seconds]
        if silent:
            return silent, f"has given no sign of life for {timeout_seconds:.0f} seconds"
        if now - max(self._got_on) > timeout_seconds:
            last = [rank for rank, progress in enumerate(self._progress) if progress == min(self._progress)]
            return last, f"has not got on for {timeout_seconds:.0f} seconds"
        return None


def _own_connection(timeout_seconds: float) -> dist.Store:
    """Connect to the store of the process group, apart from the connection on which the main thread may be waiting."""
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):  # a file, say
        return dist.PrefixStore("mmt", store)
    timeout = timedelta(seconds=timeout_seconds)
    own = dist.TCPStore(store.host, store.port, is_master=False, wait_for_workers=False, timeout=timeout)
    return dist.PrefixStore("mmt", own)
