"""What goes wrong on one process ends the step the same way on all."""

import os
import re
from pathlib import Path

import pytest

from tests.system.commands import ROUTINGS, launcher, records, run_anew, train_command
from tests.system.launched import TIMEOUT_SECONDS

PLUGIN = Path(__file__).parent / "plugins" / "planted_fault"
OPTIONS = [*ROUTINGS["token"], "--disable-validation", "--max-update", "6", "--save-interval-updates", "2"]


def train_with_fault(data: Path, save_dir: Path, fault: str, *options: str) -> tuple[int, str, list[int]]:
    """Train with two processes, of which the second one has a fault after 3 updates.

    Returns:
        The exit code, what was written to stderr, and the updates that were made.
    """
    command = train_command(data, save_dir, *OPTIONS, *options, "--user-dir", str(PLUGIN))
    environment = {"PLANTED_FAULT": fault, "PLANTED_RANK": "1", "PLANTED_UPDATE": "3"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PLUGIN.parents[3]), os.environ.get("PYTHONPATH", "")])
    result = run_anew([*launcher(2), *command], timeout=TIMEOUT_SECONDS, env=environment)
    return result.returncode, result.stderr, [int(record["num_updates"]) for record in records(result, "train_inner")]


@pytest.mark.parametrize(
    "options",
    [[], ["--expert-parallel-size", "2"], ["--expert-parallel-size", "2", "--zero", "2"], ["--zero", "3"]],
    ids=["D", "E", "E+ZeRO", "ZeRO-3"],
)
def test_inf_in_an_expert_of_one_process_is_seen_by_all(options: list[str], toy_data: Path, tmp_path: Path) -> None:
    code, errors, updates = train_with_fault(toy_data, tmp_path, "inf", *options)
    assert code != 0
    assert updates == [1, 2, 3]
    assert errors.count("update 4: the gradient") >= 2  # of both, which may also repeat what the other has said
    assert "encoder.layers.0.moe.experts.weight_1" in errors
    assert (tmp_path / "checkpoint_1_2.pt").exists()


@pytest.mark.parametrize("option", ["--expert-parallel-size", "--tensor-parallel-size"])
def test_a_process_without_memory_ends_all_and_is_named(option: str, toy_data: Path, tmp_path: Path) -> None:
    code, errors, updates = train_with_fault(toy_data, tmp_path, "out of memory", option, "2")
    assert code != 0
    assert updates == [1, 2, 3]
    verdict = r"mmt: error: process 1 on host \S+ failed: out of memory \(planted\); the training ends on process 0 on"
    assert re.search(verdict, errors), errors[-3000:]
    assert (tmp_path / "checkpoint_1_2.pt").exists()
