"""Killed at any instant, on a full disk, with a damaged file: all that is lost is what came after a checkpoint."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmt.distributed.checkpoint import shards_of
from mmt.distributed.training_state import read_whole
from tests.system.commands import (
    FOR_EVER,
    ROUTINGS,
    installed,
    launcher,
    records,
    run,
    train,
    train_command,
    train_together,
)
from tests.system.launched import TIMEOUT_SECONDS, children, launched, saved_updates, updates, wait_until

Process = subprocess.Popen[bytes]

SAVE_INTERVAL = 3
PARALLEL = ["--expert-parallel-size", "2", "--zero", "2"]
OPTIONS = [*ROUTINGS["token_task"], *PARALLEL, "--disable-validation", "--dropout", "0.1", "--moe-freq", "1"]
OPTIONS += ["--save-interval-updates", str(SAVE_INTERVAL), "--keep-interval-updates", "2"]
OPTIONS += ["--moe-capacity-factor", "1.0"]


def saved_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the model and what the optimizer keeps of each, by name."""
    folder = shards_of(checkpoint, torch.load(checkpoint))
    assert folder is not None
    return read_whole(folder, {}, kinds=("model", "optimizer"))


def kill(launcher_process: int, everyone: bool) -> None:
    """Kill the launcher with all its workers, or one worker."""
    workers = children(launcher_process)
    for process in [launcher_process, *workers] if everyone else workers[-1:]:
        with contextlib.suppress(ProcessLookupError):  # the test says that it has ended by itself
            os.kill(process, signal.SIGKILL)


def wait_for(moment: Callable[[], bool], training: Process, log: Path) -> None:
    """Wait for a moment of a training, or for its end."""
    wait_until(lambda: moment() or training.poll() is not None, "a moment of the training", log, interval_s=0.001)


def went_on_after(log: str) -> int:
    """Return after which update a training has gone on."""
    found = re.findall(r"Loaded checkpoint .* \(epoch \d+ @ (\d+) updates\)", log)
    return int(found[0]) if found else 0


def saved_after(log: str, in_background: bool) -> int:
    """Return after which update a training has saved its last whole checkpoint."""
    in_words = r"checkpoint of update (\d+) is on the disk" if in_background else r"Saved checkpoint .* @ (\d+) updates"
    found = re.findall(in_words, log)
    return int(found[-1]) if found else went_on_after(log)


@pytest.mark.long
@pytest.mark.parametrize("kills, in_background", [(20, False), (6, True)])
def test_a_training_that_is_killed_many_times_ends_with_the_same_bits(
    kills: int, in_background: bool, toy_data: Path, tmp_path: Path
) -> None:
    saving = ["--save-async"] if in_background else []
    save_dir = tmp_path / "killed"
    rng = random.Random(1)
    saved = 0
    for number in range(kills):
        log = tmp_path / f"{number}.log"
        program, *options = [*launcher(2), *train_command(toy_data, save_dir, *OPTIONS, *saving, *FOR_EVER)]
        with launched([installed(program), *options], log) as training:
            aim = saved + rng.randint(SAVE_INTERVAL, SAVE_INTERVAL + 2)
            wait_for(lambda log=log, aim=aim: max(updates(log), default=0) >= aim, training, log)
            if number % 2:  # within a save, whose folder does not have its name yet
                wait_for(lambda: any(save_dir.glob("shards_*.partial")), training, log)
            time.sleep(rng.uniform(0, 0.05))
            kill(training.pid, everyone=number % 4 < 2)
            training.wait(timeout=TIMEOUT_SECONDS)
        assert training.returncode != 0
        assert went_on_after(log.read_text()) >= saved, "a checkpoint was lost"
        saved = saved_after(log.read_text(), in_background)
    end = ["--max-update", str(saved_updates(save_dir) + 4 * SAVE_INTERVAL)]
    train_together(2, toy_data, save_dir, *OPTIONS, *saving, *end)
    train_together(2, toy_data, tmp_path / "whole", *OPTIONS, *end)

    expected, tensors = (saved_tensors(tmp_path / run / "checkpoint_last.pt") for run in ("whole", "killed"))
    assert tensors.keys() == expected.keys()
    assert any(name.startswith("optimizer.") for name in tensors)
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
    # What the killed saves left is gone.
    assert not list(save_dir.glob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_one_process_that_cannot_save_its_last_checkpoint_in_the_background_does_not_end_well(
    toy_data: Path, small_disk: Path
) -> None:
    options = [*ROUTINGS["token"], "--disable-validation", "--save-in-background"]
    train(toy_data, small_disk / "run", *options, "--max-update", "2")
    fill(small_disk)
    full = run(train_command(toy_data, small_disk / "run", *options, "--max-update", "4"), timeout=TIMEOUT_SECONDS)
    assert full.returncode == 1
    assert "saving in the background failed" in full.stdout + full.stderr
    assert saved_updates(small_disk / "run") == 2


@pytest.mark.parametrize(
    "arguments",
    [["--max-update", "9"], ["--max-update", "9", "--save-async"], ["--max-update", "4", "--save-async"]],
    ids=["waiting", "in the background", "in the background at the end"],
)
def test_a_full_disk_leaves_the_previous_checkpoint_and_is_said(
    arguments: list[str], toy_data: Path, small_disk: Path
) -> None:
    train_together(2, toy_data, small_disk / "run", *OPTIONS, "--max-update", "3")
    before = sorted(path.name for path in (small_disk / "run").iterdir())
    fill(small_disk)
    command = [*launcher(2), *train_command(toy_data, small_disk / "run", *OPTIONS, *arguments)]
    full = run(command, timeout=TIMEOUT_SECONDS)
    assert full.returncode != 0
    assert "a checkpoint could not be written" in full.stderr
    assert "No space left on device" in full.stderr
    assert sorted(path.name for path in (small_disk / "run").iterdir()) == before

    (small_disk / "filler").unlink()
    resumed = train_together(2, toy_data, small_disk / "run", *OPTIONS, "--max-update", "6")
    assert [int(record["num_updates"]) for record in records(resumed, "train_inner")] == [4, 5, 6]


def test_a_full_disk_ends_a_training_of_one_process_in_one_line(toy_data: Path, small_disk: Path) -> None:
    options = [*ROUTINGS["token"], "--disable-validation"]
    train(toy_data, small_disk / "run", *options, "--max-update", "2")
    fill(small_disk)
    full = run(train_command(toy_data, small_disk / "run", *options, "--max-update", "4"), timeout=TIMEOUT_SECONDS)
    last = small_disk / "run" / "checkpoint_last.pt"
    assert full.returncode == 1
    message = rf"mmt: error: checkpoint {last.parent}/checkpoint\S*\.pt could not be written: No space left on device"
    assert re.fullmatch(message, full.stderr.splitlines()[-1])
    assert saved_updates(small_disk / "run") == 2
    assert not list(last.parent.glob("*.tmp"))

    for name in ("model.pt", "model.safetensors"):
        full = run(["mmt", "consolidate", last, "--output", small_disk / name], timeout=TIMEOUT_SECONDS)
        assert full.returncode == 1
        assert full.stderr.startswith(f"mmt: error: --output {small_disk / name} could not be written: ")
        assert "No space left on device" in full.stderr and len(full.stderr.splitlines()) == 1
        assert not (small_disk / name).exists()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_goes_on(toy_data: Path, tmp_path: Path) -> None:
    train_together(2, toy_data, tmp_path, *OPTIONS, "--max-update", "6")
    folder = shards_of(tmp_path / "checkpoint_last.pt", torch.load(tmp_path / "checkpoint_last.pt"))
    assert folder is not None
    flip_a_byte(folder / "__1_0.distcp")
    result = train_together(2, toy_data, tmp_path, *OPTIONS, "--max-update", "7")
    log = result.stdout + result.stderr
    assert f"{folder / '__1_0.distcp'} is not what was written" in log
    assert f"going on from {tmp_path / 'checkpoint_1_3.pt'} instead" in log
    assert [int(record["num_updates"]) for record in records(result, "train_inner")] == [4, 5, 6, 7]


def test_with_no_other_checkpoint_a_damaged_one_is_an_error(toy_data: Path, tmp_path: Path) -> None:
    train_together(2, toy_data, tmp_path, *OPTIONS, "--max-update", "3")
    (tmp_path / "checkpoint_1_3.pt").unlink()
    (folder,) = tmp_path.glob("shards_*")
    (folder / "__0_0.distcp").unlink()
    command = [*launcher(2), *train_command(toy_data, tmp_path, *OPTIONS, "--max-update", "7")]
    result = run(command, timeout=TIMEOUT_SECONDS)
    assert result.returncode != 0
    assert f"{folder / '__0_0.distcp'} is missing" in result.stderr
    assert "train_inner" not in result.stdout
