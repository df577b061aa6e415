"""Run commands from a Python that has torch and fairseq imported already: their import costs five seconds each time.

A clean interpreter imports them, and nothing of ours, and waits. For each command it forks; the copy takes over the
command's files, folder, environment and arguments, and runs its script to the end as Python would, exit code and all.
What differs: all copies hash strings alike, and imports that a script forgets may be there. Tests of just that, and of
kills and signals, start a Python of their own (``commands.run_anew``, ``launched``).

    python preloaded.py SOCKET SCRIPT [ARGUMENT ...]
    python preloaded.py SOCKET -m MODULE [ARGUMENT ...]

asks the one that waits at SOCKET to run a script, or a module, in this process' place: what torchrun starts.
"""

import atexit
import contextlib
import functools
import gc
import io
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

MAX_REQUEST_BYTES = 200_000


class Request(NamedTuple):
    """A script to run."""

    command: list[str]
    folder: str
    environment: dict[str, str]


class Running:
    """A script that runs for us."""

    def __init__(self, address: str, request: Request, files: Sequence[int]) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        self._process = self._answer()

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code; minus the number of the signal that ended it, if one has.

        When this ends otherwise, by a timeout or an interrupt, the script is killed.
        """
        self._connection.settimeout(timeout)
        with self._connection:
            return self._answer()

    def pass_on(self, number: int, _frame: Any) -> None:
        """Send a signal that this process got to the script."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self._process, number)

    def _answer(self) -> int:
        message = self._connection.recv(100)
        if not message:
            raise RuntimeError("the preloaded Python has ended")
        return int(message)


class PreloadedPython:
    """The waiting interpreter. It ends with the process that started it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()  # removed when this process ends
        self.address = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self.address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,  # it ends when this is closed
                pass_fds=[listener.fileno()],
                env={**one_thread(), "LISTENER": str(listener.fileno())},
            )

    def run(
        self, command: Sequence[str], *, cwd: Path | None = None, input: str = "", timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Do as ``subprocess.run`` does with a Python script, ``capture_output`` and ``text``."""
        request = Request(list(command), str(cwd or Path.cwd()), one_thread())
        with contextlib.ExitStack() as stack:
            stdin, stdout, stderr = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            stdin.write(input.encode())
            stdin.seek(0)
            running = Running(self.address, request, [file.fileno() for file in (stdin, stdout, stderr)])
            try:
                code = running.wait(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(list(command), timeout or 0.0, _text_of(stdout), _text_of(stderr))
            return subprocess.CompletedProcess(list(command), code, _text_of(stdout), _text_of(stderr))


@functools.cache
def preloaded_python() -> PreloadedPython:
    """Return the waiting interpreter of this process."""
    return PreloadedPython()


def one_thread() -> dict[str, str]:
    """Return this process' environment for commands that compute with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _text_of(file: IO[bytes]) -> Any:
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8").read()


def wait_for_requests(listener: socket.socket) -> Request:
    """Serve until stdin is closed; return in each copy that is to become a command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies of what is forked here
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            raise SystemExit(0)
        connection, _ = listener.accept()
        with connection:
            message, files, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
            if os.fork() == 0:
                listener.close()
                _wait_for_a_child(connection)
                for standard, file in enumerate(files):
                    os.dup2(file, standard)
                    os.close(file)
                return Request(*json.loads(message))
        for file in files:
            os.close(file)


def _wait_for_a_child(connection: socket.socket) -> None:
    """Fork; return in the child, and tell the other side its exit code, which only a parent learns.

    If the other side is gone before, the child is killed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        with contextlib.suppress(BrokenPipeError):
            connection.send(str(child).encode())
        ended, _, _ = select.select([os.pidfd_open(child), connection], [], [])
        if connection in ended:  # it never says anything
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)


def become(request: Request) -> NoReturn:
    """Run a script, and end, as Python does.

    But for taking every module apart, which in a copy of a process takes two seconds, since it copies their memory;
    files that the script left open are not flushed.
    """
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    script = request.command[0]
    code: Any = 0
    try:
        if script == "-m":
            sys.argv, sys.path[0] = list(request.command[1:]), request.folder
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(request.command), str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
    except SystemExit as request_to_exit:
        code = request_to_exit.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for other threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(listener: socket.socket) -> None:
    """Import what takes long, and wait."""
    import fairseq.trainer  # noqa: F401  # and with it torch, and fairseq's tasks, models and criterions
    import torch._dynamo  # noqa: F401  # what every optimizer imports
    import torch.distributed.fsdp  # noqa: F401
    import torch.distributed.run  # noqa: F401

    # One of fairseq's tasks sets up logging. In a new process the command has done so before.
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    gc.freeze()  # looking for garbage among all this would copy it
    become(wait_for_requests(listener))


def stand_for(address: str, command: list[str]) -> int:
    """Have a script run for this process: with its files and environment, and with the signals that it gets."""
    running = Running(address, Request(command, str(Path.cwd()), dict(os.environ)), [0, 1, 2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, running.pass_on)
    return running.wait()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve(socket.socket(fileno=int(os.environ.pop("LISTENER"))))
    else:
        code = stand_for(sys.argv[1], sys.argv[2:])
        if code < 0:
            with contextlib.suppress(OSError):  # SIGKILL cannot be set, and need not be
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)
