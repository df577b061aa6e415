"""Signals that ask a training to stop, whenever they come, and whichever process they reach."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from mmt.distributed import stop_request
from mmt.distributed.stop_request import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def _afterwards_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(StopRequest, "process", None)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_came_before_the_training_was_ready_counts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    assert StopRequest().signal == "SIGUSR1"


def test_the_same_request_may_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_request, "SAME_REQUEST_SECONDS", 1e9)
    request = StopRequest()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert request.signal == "SIGTERM"


def test_only_a_second_sigterm_ends_the_process_at_once() -> None:
    code = """
import os, signal, time
from mmt.distributed import stop_request
stop_request.SAME_REQUEST_SECONDS = 0.05
request = stop_request.StopRequest()
for name in ("SIGUSR1", "SIGTERM", "SIGUSR1", "SIGTERM"):
    print(name, flush=True)
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0.2)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == -signal.SIGTERM, finished.stderr
    assert finished.stdout.split() == ["SIGUSR1", "SIGTERM", "SIGUSR1", "SIGTERM"]


def test_a_request_at_the_very_end_does_not_make_a_finished_training_fail() -> None:
    request = StopRequest()
    request._end_undisturbed()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == request._remember


def test_a_process_that_loads_data_ends_for_nobody_but_the_training() -> None:
    StopRequest()
    loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    loader.start()
    for name in ("TERM", "USR1"):
        subprocess.run(["sh", "-c", f"kill -{name} {loader.pid}"], check=True)
    loader.join(timeout=1)
    assert loader.is_alive()
    for _ in range(60):  # a request that meets another one which still waits is lost
        loader.terminate()
        loader.join(timeout=0.5)
        if not loader.is_alive():
            break
    assert loader.exitcode == 0
