"""What makes every step restartable: an output is finished when its stats file says so.

``<output>.stats.json`` records the step, its options, what its inputs were and the size of every file it wrote.
A step whose recorded identity and sizes still hold is skipped; everything else is done again from the start. Files that
somebody put beside those of a step are never removed: the step refuses to make its folder again until they are gone.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import move_into_place, partial_path, read_json, remove, write_json

logger = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def stats_path(output: Path) -> Path:
    """Where a step writes the statistics of ``output``."""
    output = Path(os.path.abspath(output))  # "." has no name
    return output.with_name(f"{output.name}.stats.json")


def _sizes(path: Path) -> dict[str, int]:
    if path.is_dir():
        return {str(f.relative_to(path)): f.stat().st_size for f in sorted(path.rglob("*")) if f.is_file()}
    return {"": path.stat().st_size} if path.exists() else {}


def _recorded(output: Path) -> dict[str, int]:
    """The files of ``output`` that its step wrote, with their sizes."""
    stats = read_json(stats_path(output))
    return stats.get("files", {}) if isinstance(stats, dict) else {}


def _added(output: Path) -> list[str]:
    """The files of ``output`` that no step wrote."""
    recorded = _recorded(output)
    return [name for name in _sizes(output) if name not in recorded]


def _changed(output: Path) -> list[str]:
    """The files of ``output`` that are not as its step left them: added, of another size, or gone."""
    recorded, sizes = _recorded(output), _sizes(output)
    return [name for name in sorted(recorded | sizes) if recorded.get(name) != sizes.get(name)]


def _refuse_added(step: str, output: Path) -> None:
    if output.is_dir() and (added := _added(output)):
        raise DataError(
            f"{output / added[0]}: not a file of the step {step}, which would remove it with the rest of {output}; "
            "move it to another folder and run the same command"
        )


def withdraw(step: str, output: Path) -> None:
    """Remove an output of ``step`` that no later step may read any more, and its statistics."""
    _refuse_added(step, output)
    remove(output)  # first: without statistics its files would be somebody's
    remove(stats_path(output))


def fingerprint(path: Path) -> str:
    """Identity of an input: its own step's identity if a step made it, and sizes and times of what no step left so."""
    stats = read_json(stats_path(path))
    identity = str(stats["identity"]) if isinstance(stats, dict) and "identity" in stats else ""
    if identity:
        files = [path / name if name else path for name in _changed(path)]
        if not files:
            return identity
    else:
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    states = [(f.name, *((f.stat().st_size, f.stat().st_mtime_ns) if f.is_file() else ())) for f in files]
    return identity + hashlib.sha256(repr(states).encode()).hexdigest()


@dataclass
class Unit:
    """One output (a file or a folder) of one step.

    Args:
        step: name of the program.
        version: raised whenever the program's rules change, so that older outputs are made again.
        output: what is written.
        options: everything besides the inputs that the output depends on.
        inputs: files and folders that are read.
    """

    step: str
    version: int
    output: Path
    options: dict[str, Any] = field(default_factory=dict)
    inputs: Sequence[Path] = ()

    def identity(self) -> str:
        """Hash of the step, its options and the identities of its inputs."""
        parts = [self.step, self.version, self.options, [[p.name, fingerprint(p)] for p in self.inputs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def finished_stats(self) -> dict[str, Any] | None:
        """The statistics of a finished output; None if it has to be made."""
        stats = read_json(stats_path(self.output))
        if not isinstance(stats, dict) or stats.get("identity") != self.identity():
            return None
        return stats if _recorded(self.output).items() <= _sizes(self.output).items() else None

    def make(self, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Return the statistics, calling ``work(temporary path)`` first unless the output is finished."""
        finished = self.finished_stats()
        if finished is not None:
            logger.info("%s: %s is finished", self.step, self.output)
            return finished
        _refuse_added(self.step, self.output)
        start, identity = time.monotonic(), self.identity()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = partial_path(self.output)
        remove(temporary)
        try:
            counts = work(temporary)
            # Says whose the files are, should the process be killed before the statistics are written.
            owned = _recorded(self.output) | _sizes(temporary)
            write_json(stats_path(self.output), {"step": self.step, "files": owned})
            move_into_place(temporary, self.output)
        except BaseException:
            remove(temporary)
            raise
        return self.record(counts, identity, time.monotonic() - start)

    def record(self, counts: dict[str, Any], identity: str, seconds: float) -> dict[str, Any]:
        """Write the statistics of an output that now stands under its final name."""
        stats = {
            "step": self.step,
            "identity": identity,
            "options": self.options,
            "inputs": [os.path.relpath(p, self.output.parent) for p in self.inputs],
            "seconds": round(seconds, 2),
            **counts,
            "files": _sizes(self.output),
        }
        write_json(stats_path(self.output), stats)
        return stats


def add_counts(total: dict[str, int], more: dict[str, int]) -> None:
    """Add the numbers of ``more`` to ``total``, key by key."""
    for key, value in more.items():
        total[key] = total.get(key, 0) + value


def _end_with(parent: int) -> None:
    """Have this process killed when ``parent`` ends, however that ends: it would wait for work for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def in_processes(work: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> list[Any]:
    """``[work(item) for item in items]`` on ``jobs`` processes; in this one if ``jobs`` is 1."""
    if jobs <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(jobs, len(items)), fork, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        # Not pool.map: it cancels what a killed process leaves, while the pool says of the same that it is broken.
        results = [pool.submit(work, item) for item in items]
        try:
            return [result.result() for result in results]
        except BrokenProcessPool:
            reason = "a process was killed, most likely for lack of memory; try --jobs 1"
            raise DataError(f"{reason}, what is finished is kept") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # waits for what is under way
            raise


def default_jobs() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
