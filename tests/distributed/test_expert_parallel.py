"""The order of rows that came from several processes."""

import pytest
import torch

from mmt.distributed.expert_parallel import order_by_expert


def test_rows_by_process_are_found_by_expert() -> None:
    # From process 0: 2 rows for expert 0 and 3 for expert 1; from process 1: 1 and 4.
    #   p0e0: [0, 1], p0e1: [2, 3, 4], p1e0: [5], p1e1: [6, 7, 8, 9]
    # By expert: e0p0, e0p1, e1p0, e1p1.
    order = order_by_expert(torch.tensor([[2, 3], [1, 4]]))
    assert order.tolist() == [0, 1, 5, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[0, 2], [0, 0]], [[1, 0], [0, 3]]])
def test_experts_and_processes_without_rows_are_no_exception(counts: list[list[int]]) -> None:
    order = order_by_expert(torch.tensor(counts))
    assert sorted(order.tolist()) == list(range(sum(map(sum, counts))))


def test_every_process_and_expert_comes_in_turn() -> None:
    torch.manual_seed(1)
    counts_PL = torch.randint(0, 5, (4, 3))
    names = [(p, e) for p in range(4) for e in range(3) for _ in range(counts_PL[p, e])]
    order = order_by_expert(counts_PL)
    found = [names[row] for row in order.tolist()]
    assert found == sorted(names, key=lambda name: (name[1], name[0]))
