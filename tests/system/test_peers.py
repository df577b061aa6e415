"""A process of a training dies or hangs: the others say which one and end, or torchrun starts all of them again."""

import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.system.commands import FOR_EVER, ROUTINGS, free_port, installed, run, train_command
from tests.system.launched import (
    TIMEOUT_SECONDS,
    children,
    launched,
    saved_updates,
    updates,
    wait_for_updates,
    wait_until,
)

OPTIONS = [*ROUTINGS["token_task"], "--disable-validation", "--heartbeat-timeout", "20", *FOR_EVER]
SAVING = ["--save-interval-updates", "10", "--keep-interval-updates", "1"]


@pytest.mark.parametrize(
    ("world_size", "signal_number", "victim", "message"),
    [
        # The first process is also where the others leave their signs of life.
        (2, signal.SIGSTOP, 0, r"process 0 on host \S+ cannot be reached"),
        # On a busy machine another one may be late too.
        (3, signal.SIGKILL, 1, r"process 1 on host \S+( and process 2 on host \S+)? has given no sign of life"),
    ],
)
def test_the_others_end_and_name_a_process_that_is_gone(
    world_size: int, signal_number: signal.Signals, victim: int, message: str, toy_data: Path, tmp_path: Path
) -> None:
    command = train_command(toy_data, tmp_path / "run", *OPTIONS, "--no-save")
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    logs = [tmp_path / f"{rank}.log" for rank in range(world_size)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(launched(command, logs[rank], {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(world_size)
        ]
        wait_for_updates(20, logs[0])
        processes[victim].send_signal(signal_number)
        others = [rank for rank in range(world_size) if rank != victim]
        for rank in others:
            wait_until(lambda rank=rank: processes[rank].poll() is not None, f"the end of process {rank}", logs[rank])
    for rank in others:
        assert processes[rank].returncode == 1
        assert re.search(rf"mmt: error: {message}.*; the training ends on process {rank} on", logs[rank].read_text())


def test_torchrun_starts_them_again_and_fewer_go_on_afterwards(toy_data: Path, tmp_path: Path) -> None:
    save_dir, log = tmp_path / "run", tmp_path / "log"
    command = train_command(toy_data, save_dir, *OPTIONS, *SAVING, "--expert-parallel-size", "2")
    launcher = [installed("torchrun"), "--nproc-per-node", "2", "--master-port", str(free_port())]
    launcher += ["--max-restarts", "1"]
    with launched([*launcher, *command], log) as torchrun:
        wait_until(lambda: (save_dir / "checkpoint_last.pt").exists(), "a checkpoint", log)
        os.kill(children(torchrun.pid)[0], signal.SIGKILL)
        wait_until(lambda: len(updates(log, "Loaded checkpoint")) > 20, "updates of the second start", log)
        torchrun.send_signal(signal.SIGTERM)
        torchrun.wait(timeout=TIMEOUT_SECONDS)
    # The second start went on from a checkpoint of the first, and saved when it was asked to stop.
    numbers = updates(log, "Loaded checkpoint")
    assert numbers[0] % 10 == 1 and numbers[0] > 1
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert saved_updates(save_dir) == numbers[-1]
    settings = torch.load(save_dir / "checkpoint_last.pt")["cfg"]  # as they were given, not as they made it stop
    assert (settings["optimization"]["stop_time_hours"], settings["dataset"]["validate_after_updates"]) == (0, 0)

    result = run(train_command(toy_data, save_dir, *OPTIONS, *SAVING, "--max-update", str(numbers[-1] + 3)))
    assert result.returncode == 0, result.stderr[-3000:]
    assert saved_updates(save_dir) == numbers[-1] + 3
