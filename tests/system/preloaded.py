"""Run commands from a Python that has torch and fairseq imported already: their import costs five seconds each time.

A clean interpreter imports them, and nothing of ours, and waits. For each command it forks; the copy takes over the
command's files, folder, environment and arguments, and runs its script to the end as Python would, exit code and all.
"""

import contextlib
import functools
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

MAX_REQUEST_BYTES = 200_000


class Request(NamedTuple):
    """A command to run."""

    command: list[str]
    folder: str
    environment: dict[str, str]


class PreloadedPython:
    """The waiting interpreter. It ends with the process that started it."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours
        with its:
            program = [sys.executable, __file__, str(its.fileno())]
            self._process = subprocess.Popen(program, pass_fds=[its.fileno()], env=_environment())

    def run(
        self, command: Sequence[str], *, cwd: Path | None = None, input: str = "", timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Do as ``subprocess.run`` does with a Python script, ``capture_output`` and ``text``."""
        request = Request(list(command), str(cwd or Path.cwd()), _environment())
        with contextlib.ExitStack() as stack:
            stdin, stdout, stderr = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            stdin.write(input.encode())
            stdin.seek(0)
            result, its = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            files = [file.fileno() for file in (stdin, stdout, stderr, its)]
            socket.send_fds(self._requests, [json.dumps(request).encode()], files)
            its.close()
            process = int(result.recv(100))
            result.settimeout(timeout)
            try:
                code = int(result.recv(100))
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(command), timeout or 0.0, _text_of(stdout), _text_of(stderr))
            return subprocess.CompletedProcess(list(command), code, _text_of(stdout), _text_of(stderr))


@functools.cache
def preloaded_python() -> PreloadedPython:
    """Return the waiting interpreter of this process."""
    return PreloadedPython()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _text_of(file: IO[bytes]) -> Any:
    file.seek(0)
    return file.read().decode()


def _wait_for_commands(requests: socket.socket) -> Request:
    """Serve until the other side is gone; return in each copy that is to become a command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies of what is forked here
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
        if not message:
            raise SystemExit(0)
        request = Request(*json.loads(message))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            *files, result = descriptors
            process = os.fork()
            if process > 0:  # waits for the command, since a command's parent is who learns its exit code
                os.write(result, str(process).encode())
                _, status = os.waitpid(process, 0)
                os.write(result, str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            for standard, file in enumerate(files):
                os.dup2(file, standard)
            for descriptor in descriptors:
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: Request) -> None:
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = list(request.command)
    sys.path[0] = str(Path(request.command[0]).parent)
    runpy.run_path(request.command[0], run_name="__main__")


if __name__ == "__main__":
    import fairseq.trainer  # noqa: F401  # and with it torch, and fairseq's tasks, models and criterions
    import torch._dynamo  # noqa: F401  # what every optimizer imports
    import torch.distributed.fsdp  # noqa: F401

    # One of fairseq's tasks sets up logging. In a new process the command has done so before.
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    _become(_wait_for_commands(socket.socket(fileno=int(sys.argv[1]))))
