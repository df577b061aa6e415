"""The gradient norm of a model that is spread over processes, and how often the processes exchange tokens."""

import json
import math
from typing import Any

import pytest

from tests.distributed.gradients_worker import MAX_NORM, MESHES
from tests.system.commands import REPOSITORY, launcher, run

MOE_LAYERS = 4


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int], dict[str, Any]]:
    """What the worker prints for all meshes, by mesh and --zero."""
    lines: list[str] = []
    for processes in (2, 4):
        command = [*launcher(processes), "-m", "tests.distributed.gradients_worker"]
        result = run(command, cwd=REPOSITORY, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
        lines += [line for line in result.stdout.splitlines() if line.startswith("{")]
    facts = [json.loads(line) for line in lines]
    assert len(facts) == len(MESHES)
    return {(fact["mesh"], fact["zero"]): fact for fact in facts}


def test_the_clipping_norm_is_that_of_the_whole_gradient_on_all_processes(found: dict) -> None:
    for key, fact in found.items():
        for norm, clipped, _ in fact["seen"]:
            assert norm == pytest.approx(fact["expected"], rel=1e-6), key
            assert clipped == pytest.approx(MAX_NORM, rel=1e-5), key


def test_an_infinite_gradient_on_one_process_is_in_the_norm_of_all(found: dict) -> None:
    for key, fact in found.items():
        assert all(math.isinf(with_inf) for _, _, with_inf in fact["seen"]), key


def test_tokens_travel_twice_per_layer_and_direction_and_not_at_all_without_expert_parallelism(found: dict) -> None:
    assert {fact["experts"] for fact in found.values()} == {1, 2}
    for key, fact in found.items():
        expected = 2 * MOE_LAYERS if fact["experts"] == 2 else 0
        assert (fact["forward"], fact["backward"]) == (expected, expected), key


def test_with_offload_every_parameter_is_kept_on_the_host(found: dict) -> None:
    assert sum(fact["offload"] for fact in found.values()) == 4
    assert all(fact["offloaded"] == fact["offload"] for fact in found.values())
