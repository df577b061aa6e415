"""Run the ``mmt`` command: for real, or in a copy of this process, which need not import everything again."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmt.cli.main import main
from tests.system.commands import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 300


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    def error_line(self) -> str:
        """Return the one line of a user error, after a check that it is one and that the exit code is 2."""
        assert self.returncode == 2, (self.returncode, self.stderr)
        lines = self.stderr.splitlines()
        assert len(lines) == 1 and self.stdout == "", (self.stdout, self.stderr)
        return lines[0]


def mmt(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> Finished:
    """Run ``mmt`` in a forked process with file descriptors of its own."""
    with tempfile.TemporaryFile() as input_file, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        input_file.write(stdin)
        input_file.seek(0)
        child = os.fork()
        if child == 0:
            _become_mmt(
                [str(argument) for argument in arguments], (input_file.fileno(), output.fileno(), errors.fileno()), cwd
            )
        code = _exit_code(child)
        output.seek(0)
        errors.seek(0)
        return Finished(code, output.read().decode(), errors.read().decode())


def _exit_code(child: int) -> int:
    """Wait for a process, but not for ever."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"mmt has not ended after {DEADLINE_S} s")
        time.sleep(0.002)


def _become_mmt(arguments: list[str], files: tuple[int, int, int], cwd: Path | None) -> None:
    code = 70
    try:
        for standard, file in enumerate(files):
            os.dup2(file, standard)
        sys.stdin = open(0)
        sys.stdout, sys.stderr = open(1, "w", encoding="utf-8"), open(2, "w", encoding="utf-8")
        if cwd is not None:
            os.chdir(cwd)
        code = main(arguments)
    except SystemExit as exit_request:
        code = exit_request.code if isinstance(exit_request.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start_mmt(
    *arguments: str | Path, environment: dict[str, str] | None = None, **kwargs: Any
) -> subprocess.Popen[bytes]:
    """Start the real command with pipes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    return subprocess.Popen([sys.executable, "-m", "mmt.cli.main", *map(str, arguments)], env=environment, **pipes)


def start_together(processes: int, *arguments: str | Path) -> list[subprocess.Popen[bytes]]:
    """Start the real command in several processes, as torchrun and the job scripts do, but let each die alone."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [start_mmt(*arguments, environment={**shared, "RANK": str(rank)}) for rank in range(processes)]
