"""What the planner predicts is what real models hold, on one, two and four processes."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from mmt.distributed.mesh import MeshShape
from mmt.models.config import nested_config
from mmt.planning.activations import Activations, Batch
from mmt.planning.memory import parameter_shapes, state_bytes
from tests.models.tiny import tiny_task
from tests.planning.measure_memory import WORDS
from tests.planning.models import build, config
from tests.system.commands import REPOSITORY, launcher, run

BATCH = {"sentences": 10, "source_length": 12, "target_length": 14}
POST_NORM = {"encoder_normalize_before": False, "decoder_normalize_before": False}
ALL_DROPOUTS = {"attention_dropout": 0.1, "activation_dropout": 0.1}
BY_LANGUAGE = {"encoder_routing": "task", "decoder_routing": "sentence", "activation_fn": "gelu"}

Case = dict[str, Any]


def case(mesh: Sequence[int], zero: int = 0, *, bf16: bool = False, **options: Any) -> Case:
    """Describe a mesh (replicas, shards, experts, tensors) and a model."""
    return {"mesh": list(mesh), "zero": zero, "bf16": bf16, "model": options, **BATCH}


ALONE = [
    case([1, 1, 1, 1], bf16=bf16, **options)
    for bf16 in (False, True)
    for options in (
        {},
        {"moe_experts": 0},
        {"moe_top_k": 2},
        POST_NORM,
        ALL_DROPOUTS,
        BY_LANGUAGE,
        {"checkpoint_activations": True},
    )
]
TWO = [
    case([2, 1, 1, 1]),
    case([1, 1, 2, 1]),
    case([1, 1, 1, 2], bf16=True),
    case([1, 1, 2, 1], zero=2, bf16=True),
    case([1, 2, 1, 1], zero=1, moe_experts=0),
    case([1, 2, 1, 1], zero=3, bf16=True, encoder_ffn_embed_dim=128),
    case([1, 2, 1, 1], zero=3, checkpoint_activations=True),
]
FOUR = [
    case([1, 2, 2, 1], zero=3, bf16=True, moe_top_k=2),
    case([2, 1, 2, 1], zero=1),
    case([1, 1, 2, 2], zero=2, bf16=True, encoder_layers=4),
    case([2, 2, 1, 1], zero=2, encoder_embed_dim=128),
]
BY_PROCESSES = {1: ALONE, 2: TWO, 4: FOUR}
ALL = [(processes, index) for processes, cases in BY_PROCESSES.items() for index in range(len(cases))]


@pytest.fixture(scope="module")
def measured() -> dict[tuple[int, int], dict[str, list[int]]]:
    """Measure all cases, with one start of the processes for each number of them."""
    found = {}
    for processes, cases in BY_PROCESSES.items():
        start = launcher(processes) if processes > 1 else [sys.executable]
        result = run([*start, "-m", "tests.planning.measure_memory", *map(json.dumps, cases)], cwd=REPOSITORY)
        assert result.returncode == 0, result.stderr[-3000:]
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        found.update({(processes, index): json.loads(line) for index, line in enumerate(lines)})
    return found


@pytest.mark.parametrize(("processes", "index"), ALL)
def test_parameters_gradients_and_optimizer_are_predicted_exactly(
    processes: int, index: int, measured: dict[tuple[int, int], dict[str, list[int]]]
) -> None:
    case = BY_PROCESSES[processes][index]
    expected = state_bytes(
        parameter_shapes(build(case["model"], tiny_task(WORDS))), MeshShape(*case["mesh"]), case["zero"]
    )
    found = measured[processes, index]

    assert found["parameters"] == [expected.parameters] * processes
    assert found["gradients"] == [expected.gradients] * processes
    assert found["optimizer"] == [expected.optimizer] * processes


@pytest.mark.parametrize(("processes", "index"), ALL)
def test_activations_are_predicted_within_a_twentieth(
    processes: int, index: int, measured: dict[tuple[int, int], dict[str, list[int]]]
) -> None:
    """The mean of the processes: which experts have more rows, a planner cannot know."""
    case = BY_PROCESSES[processes][index]
    cfg = nested_config(config(case["model"]))
    counted = Activations(cfg, WORDS + 4, Batch(**BATCH), MeshShape(*case["mesh"]), bf16=case["bf16"], on_gpu=False)

    found = measured[processes, index]["activations"]

    assert counted.count().kept == pytest.approx(sum(found) / processes, rel=0.05)
