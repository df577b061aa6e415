"""Commands that tests start, watch and disturb while they run."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import mmt  # noqa: F401  (lets torch.load read fairseq's checkpoints)

TIMEOUT_SECONDS = 300.0


def wait_until(condition: Callable[[], bool], what: str, log: Path | None = None, interval_s: float = 0.2) -> None:
    """Wait, and fail with the end of ``log`` if it takes too long."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text()[-3000:] if log is not None and log.exists() else ""
            raise AssertionError(f"waited in vain for {what}\n{said}")
        time.sleep(interval_s)


def updates(log: Path, after: str = "") -> list[int]:
    """Return the numbers of the updates that a log shows so far, behind the first place where it says ``after``."""
    text = log.read_text() if log.exists() else ""
    text = text.partition(after)[2] if after else text
    return [int(number) for number in re.findall(r"train_inner \| .*\bnum_updates\W+(\d+)", text)]


def wait_for_updates(count: int, log: Path) -> None:
    """Wait until a log shows ``count`` updates."""
    wait_until(lambda: len(updates(log)) >= count, f"{count} updates", log)


def saved_updates(save_dir: Path) -> int:
    """Return the number of updates in ``checkpoint_last.pt``."""
    return torch.load(save_dir / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]


@contextmanager
def launched(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command whose output goes to ``log``; what is left of it and its children is killed at the end."""
    merged = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=output, env=merged, start_new_session=True
        )
    try:
        yield process
    finally:
        descendants = _descendants(process.pid)
        for pid in (*([process.pid] if process.poll() is None else []), *descendants):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()


def children(process_id: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descendants(process_id: int) -> list[int]:
    return [pid for child in children(process_id) for pid in (child, *_descendants(child))]
