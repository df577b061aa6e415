"""Locks on files: who gets them, and for how long."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mmt.errors import UserError
from mmt.files import knows_locks, lock_until_exit, locked, try_lock, write_text
from mmt.sharing import Claims
from tests.system.launched import wait_until


def _lock_and_leave_a_child(path: Path, connection: Connection) -> None:
    """Lock ``path``, start a process that lives on, tell its number, and end when told to."""
    is_ours = lock_until_exit(path)
    child = os.fork()
    if child == 0:
        time.sleep(300)
        os._exit(0)
    connection.send((is_ours, child))
    connection.recv()


def test_a_lock_until_exit_is_gone_with_the_process_though_its_children_live_on(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_lock_and_leave_a_child, args=(tmp_path / "lock", theirs))
    process.start()
    is_theirs, child = ours.recv()
    try:
        assert is_theirs
        assert not lock_until_exit(tmp_path / "lock")
        ours.send("end")
        wait_until(lambda: not process.is_alive(), "the end of the process")  # join waits for its children too
        assert process.exitcode == 0
        os.kill(child, 0)  # it lives
        assert lock_until_exit(tmp_path / "lock")
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_two_that_ask_one_gets_a_lock_until_it_is_given_back(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(first)
    second = try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_a_file_is_locked_while_it_is_changed_and_no_longer(tmp_path: Path) -> None:
    with (tmp_path / ".results.json.lock").open("w") as other:
        with locked(tmp_path / "results.json"), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_where_a_file_system_knows_no_locks_everyone_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def are_unknown(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", are_unknown)
    monkeypatch.setattr(fcntl, "flock", are_unknown)
    assert lock_until_exit(tmp_path / "lock")
    for _ in range(2):
        descriptor = try_lock(tmp_path / "lock")
        assert descriptor is not None
        os.close(descriptor)
    with locked(tmp_path / "results.json"):
        write_text(tmp_path / "results.json", "{}")
    assert (tmp_path / "results.json").read_text() == "{}"
    assert not knows_locks(tmp_path)


def test_several_processes_share_no_work_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def are_unknown(*args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", are_unknown)
    with Claims(tmp_path).claim("en-de") as is_mine:
        assert is_mine
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="the disk offers no locks on files"):
        Claims(tmp_path)


def test_other_failures_of_a_lock_are_not_taken_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="Input/output error"):
        try_lock(tmp_path / "lock")
