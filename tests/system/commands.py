"""Run fairseq's real commands on the toy corpus."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.system import preloaded
from tests.system.preloaded import one_thread, preloaded_python

_given_ports: set[int] = set()
REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = ["--user-dir", str(REPOSITORY / "mmt")]
LANGUAGE_TOKENS = ["--encoder-langtok", "tgt", "--decoder-langtok"]
SHAPE = [
    *["--share-all-embeddings", "--dropout", "0", "--encoder-embed-dim", "64", "--encoder-ffn-embed-dim", "128"],
    *["--encoder-layers", "1", "--decoder-layers", "1"],
    *["--encoder-attention-heads", "2", "--decoder-attention-heads", "2"],
]
FOR_EVER = ["--max-update", "1000000"]
TINY = ["--arch", "moe_transformer", *SHAPE, "--moe-freq", "1"]
ROUTINGS = {
    "dense": ["--moe-experts", "0"],
    "token": ["--moe-experts", "4", "--moe-top-k", "2"],
    "sentence": [
        "--moe-experts",
        "4",
        "--moe-top-k",
        "2",
        "--encoder-routing",
        "sentence",
        "--decoder-routing",
        "sentence",
    ],
    "task": ["--moe-experts", "4", "--moe-top-k", "2", "--encoder-routing", "task", "--decoder-routing", "task"],
    "token_task": ["--moe-experts", "4", "--moe-top-k", "1", "--encoder-routing", "token", "--decoder-routing", "task"],
}


def installed(program: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(Path(sys.executable).parent / program)


def run(command: Sequence[str | Path], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that is installed beside this Python, with one thread.

    Ours, fairseq's, and scripts that torchrun starts, begin with fairseq imported, unless ``env`` is given.
    """
    program, *arguments = (str(part) for part in command)
    if "env" in kwargs or not Path(program).name.startswith(("mmt", "fairseq-", "torchrun")):
        return run_anew(command, **kwargs)
    python = preloaded_python()
    if program == "torchrun":
        script = next(place for place, argument in enumerate(arguments) if argument == "-m" or Path(argument).is_file())
        arguments[script:script] = ["--no-python", sys.executable, preloaded.__file__, python.address]
    return python.run([installed(program), *arguments], **kwargs)


def run_anew(command: Sequence[str | Path], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that is installed beside this Python, with one thread, from the first import on."""
    program, *arguments = (str(part) for part in command)
    environment = {**one_thread(), **kwargs.pop("env", {})}
    return subprocess.run(
        [installed(program), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        **kwargs,
    )


def train_command(data: Path, save_dir: Path, *arguments: str | Path) -> list[str]:
    """Return a ``fairseq-train`` command for a tiny model; later arguments win."""
    return [
        installed("fairseq-train"),
        *[str(data), *PLUGIN, "--task", "multilingual_moe_translation", *LANGUAGE_TOKENS, *TINY],
        *[
            "--criterion",
            "moe_label_smoothed_cross_entropy",
            "--optimizer",
            "fused_adam",
            "--adam-betas",
            "(0.9, 0.98)",
        ],
        *[
            "--lr",
            "0.004",
            "--lr-scheduler",
            "inverse_sqrt",
            "--warmup-updates",
            "100",
            "--max-tokens",
            "1000",
            "--cpu",
        ],
        *[
            "--log-format",
            "json",
            "--log-interval",
            "1",
            "--no-epoch-checkpoints",
            "--num-workers",
            "0",
            "--save-dir",
            str(save_dir),
        ],
        *[str(argument) for argument in arguments],
    ]


def train(data: Path, save_dir: Path, *arguments: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Train, and fail with the command's own words if it fails."""
    result = run(train_command(data, save_dir, *arguments), **kwargs)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    return result


def worker_number() -> int:
    """Return which of pytest's processes this is."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """Return a port that no one listens on, and that nobody is given before it is used: neither by the system, nor here
    or in another process of pytest.
    """
    while True:
        # Below those of SLURM's jobs, and those that the system gives to connections.
        port = 10_000 + 16 * random.SystemRandom().randrange(625) + worker_number() % 16
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            if port not in _given_ports:
                _given_ports.add(port)
                return port


def launcher(processes: int, *options: str) -> list[str]:
    """Return the start of a command that runs a program in several processes of this machine."""
    return ["torchrun", "--nproc-per-node", str(processes), "--master-port", str(free_port()), *options]


def train_together(
    processes: int,
    data: Path,
    save_dir: Path,
    *arguments: str | Path,
    start: Callable[..., subprocess.CompletedProcess[str]] = run,
    **kwargs: Any,
) -> subprocess.CompletedProcess[str]:
    """Train with several processes, and fail with the command's own words if it fails."""
    command = [*launcher(processes), *train_command(data, save_dir, *arguments)]
    result = start(command, timeout=300, **kwargs)
    assert result.returncode == 0, result.stderr[-4000:] + result.stdout[-2000:]
    return result


def records(result: subprocess.CompletedProcess[str], tag: str) -> list[dict[str, Any]]:
    """Return fairseq's JSON log records with ``tag``: "train_inner", "train" or "valid"."""
    lines = (result.stdout + result.stderr).splitlines()
    return [json.loads(line[line.index("{") :]) for line in lines if f"| {tag} | {{" in line]
