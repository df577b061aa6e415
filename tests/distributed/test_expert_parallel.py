"""Rows that travel to the experts of other processes, and back."""

import json

import pytest
import torch

from mmt.distributed.expert_parallel import order_by_second
from tests.distributed.exchange_worker import CASES, WAYS
from tests.system.commands import REPOSITORY, launcher, run

CPU = torch.device("cpu")


def test_rows_by_process_are_found_by_expert() -> None:
    # From process 0: 2 rows for expert 0 and 3 for expert 1; from process 1: 1 and 4.
    #   p0e0: [0, 1], p0e1: [2, 3, 4], p1e0: [5], p1e1: [6, 7, 8, 9]
    # By expert: e0p0, e0p1, e1p0, e1p1.
    order = order_by_second(torch.tensor([[2, 3], [1, 4]]), CPU)
    assert order.tolist() == [0, 1, 5, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[0, 2], [0, 0]], [[1, 0], [0, 3]]])
def test_experts_and_processes_without_rows_are_no_exception(counts: list[list[int]]) -> None:
    order = order_by_second(torch.tensor(counts), CPU)
    assert sorted(order.tolist()) == list(range(sum(map(sum, counts))))


def test_every_process_and_expert_comes_in_turn() -> None:
    torch.manual_seed(1)
    counts_PL = torch.randint(0, 5, (4, 3))
    names = [(p, e) for p in range(4) for e in range(3) for _ in range(counts_PL[p, e])]
    order = order_by_second(counts_PL, CPU)
    found = [names[row] for row in order.tolist()]
    assert found == sorted(names, key=lambda name: (name[1], name[0]))


def test_by_way_of_nodes_and_in_chunks_rows_and_gradients_are_to_the_last_bit_those_of_the_direct_way() -> None:
    command = [*launcher(4), "-m", "tests.distributed.exchange_worker"]
    result = run(command, cwd=REPOSITORY, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    facts = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [(fact["node_size"], fact["chunks"]) for fact in facts] == WAYS
    for fact in facts:
        assert fact["equal"] == dict.fromkeys(CASES, True), fact
        hops = 2 if 1 < fact["node_size"] < 4 else 1
        all_to_alls = 2 * fact["chunks"] * hops
        assert (fact["forward"], fact["backward"]) == (all_to_alls, all_to_alls), fact
