"""What the criterion measures of the experts reaches the loggers of fairseq, in training and in validation."""

import math
import re
import struct
from pathlib import Path

import pytest

from tests.system.commands import ROUTINGS, records, train

NAMES = ["moe_imbalance", "encoder.0_entropy", "decoder.0_unused", "moe_dropped"]
OPTIONS = [*ROUTINGS["token_task"], "--max-update", "2", "--valid-sentences-per-direction", "5"]


def scalars(folder: Path, name: str) -> list[float]:
    """Return the values of a scalar in TensorBoard's event files.

    They are protocol buffers in which the name (field 1, after its length) stands before the value (field 2, float32).
    """
    written = b"".join(file.read_bytes() for file in sorted(folder.glob("events.out.tfevents.*")))
    field = b"\x0a" + bytes([len(name)]) + name.encode() + b"\x15"
    return [struct.unpack("<f", value)[0] for value in re.findall(re.escape(field) + b"(.{4})", written, re.DOTALL)]


def test_json_and_tensorboard_have_the_metrics_of_the_experts(toy_data: Path, tmp_path: Path) -> None:
    best = ["--best-checkpoint-metric", "encoder.0_entropy"]  # whatever is logged may be it
    result = train(toy_data, tmp_path / "run", *OPTIONS, *best, "--tensorboard-logdir", tmp_path / "tensorboard")
    for tag, prefix, count in (("train_inner", "", 2), ("valid", "valid_", 1)):
        logged = {name: [float(record[prefix + name]) for record in records(result, tag)] for name in NAMES}
        assert [len(values) for values in logged.values()] == [count] * len(NAMES)
        assert all(1 <= value <= 4 for value in logged["moe_imbalance"])  # 4 experts
        assert all(0 < value <= math.log(4) + 1e-3 for value in logged["encoder.0_entropy"])
        for name, values in logged.items():
            assert scalars(tmp_path / "tensorboard" / tag, name) == pytest.approx(values, abs=1e-3), (tag, name)


def test_the_lines_for_people_have_the_metrics_of_the_experts(toy_data: Path, tmp_path: Path) -> None:
    result = train(toy_data, tmp_path, *OPTIONS, "--log-format", "simple")
    lines = (result.stdout + result.stderr).splitlines()
    for tag, before, after, count in (("train_inner", ", ", "=", 2), ("valid", " | ", " ", 1)):
        logged = [line for line in lines if f"| {tag} |" in line]
        assert len(logged) == count
        assert all(f"{before}{name}{after}" in line for line in logged for name in NAMES), logged
