"""Rows that are added so that kernels fit more than one step change nothing."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mmt.modules import relu_by_expert
from mmt.modules.experts import Experts
from mmt.modules.relu_by_expert import product_rows
from mmt.modules.side_by_side import run_side_by_side

COUNTS = [33, 0, 67, 1, 129]  # computed with 34, 0, 68, 1 and 136 rows


@pytest.fixture
def uninitialised_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # fills it
    yield
    torch.use_deterministic_algorithms(False)


def run(experts: Experts, x_RD: Tensor) -> list[Tensor]:
    """Output and all gradients for a fixed gradient of the output."""
    x_RD = x_RD.clone().requires_grad_()
    y_RD = experts(x_RD, torch.tensor(COUNTS))
    grad = torch.randn(y_RD.shape, generator=torch.Generator().manual_seed(2)).to(y_RD.dtype)
    return [y_RD, *torch.autograd.grad(y_RD, [x_RD, *experts.parameters()], grad)]


def test_numbers_of_rows_are_few_and_hardly_larger() -> None:
    rounded = [product_rows(count, torch.bfloat16) for count in range(4097)]

    assert rounded[:33] == list(range(33))
    for count, rows in enumerate(rounded):
        assert count <= rows < count + max(1, count / 16), count
    assert len({rows for rows in rounded if 1024 < rows <= 2048}) == 16
    assert [product_rows(count, torch.float32) for count in range(4097)] == list(range(4097))


@pytest.mark.usefixtures("uninitialised_memory_is_nan", "two_threads")
@pytest.mark.parametrize(("large_matrix", "times"), [(0, 2), (2**60, 0)], ids=["side by side", "in turn"])
def test_added_rows_change_neither_outputs_nor_gradients(
    large_matrix: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_by_side = []
    monkeypatch.setattr(relu_by_expert, "LARGE_MATRIX", large_matrix)
    monkeypatch.setattr(
        relu_by_expert, "run_side_by_side", lambda *args: (side_by_side.append(1), run_side_by_side(*args))[1]
    )
    experts = Experts(len(COUNTS), 16, 48)
    x_RD = torch.randn(sum(COUNTS), 16).bfloat16()

    filled_up = run(experts, x_RD)
    assert len(side_by_side) == times  # forward and backward
    monkeypatch.setattr(relu_by_expert, "product_rows", lambda count, dtype: count)
    exact = run(experts, x_RD)

    for mine, its in zip(filled_up, exact, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, its)


@pytest.mark.usefixtures("uninitialised_memory_is_nan")
def test_gradients_with_added_rows_go_through_the_hidden_states_that_dropout_kept() -> None:
    torch.manual_seed(1)
    experts = Experts(len(COUNTS), 16, 48, dropout=0.5)
    rows, expected, start = torch.randn(sum(COUNTS), 16).bfloat16().requires_grad_(), [], 0

    torch.manual_seed(2)
    y_RD, *grads = run(experts, rows.detach())
    torch.manual_seed(2)
    for expert, count in enumerate(COUNTS):
        weight_1, bias_1, weight_2, bias_2 = (parameter[expert].bfloat16() for parameter in experts.parameters())
        hidden = torch.relu(rows[start : start + count] @ weight_1.t() + bias_1)
        if count:
            mask = torch.nn.functional.dropout(torch.ones(product_rows(count, torch.bfloat16), 48).bfloat16(), 0.5)
            hidden = hidden * mask[:count]
        expected.append(hidden @ weight_2.t() + bias_2)
        start += count
    slow_RD = torch.cat(expected)
    grad = torch.randn(y_RD.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    slow = torch.autograd.grad(slow_RD, [rows, *experts.parameters()], grad)

    torch.testing.assert_close(y_RD, slow_RD, atol=0.02, rtol=0.02)
    for mine, its in zip(grads, slow, strict=True):
        torch.testing.assert_close(mine.float(), its.float(), atol=0.1, rtol=0.02)


def test_what_is_not_a_number_in_one_experts_rows_stays_with_that_expert() -> None:
    experts = Experts(len(COUNTS), 16, 48)
    x_RD = torch.randn(sum(COUNTS), 16).bfloat16()
    spoilt_RD = x_RD.clone()
    spoilt_RD[33:100] = torch.nan  # all rows of the third expert

    y_RD, grad_x_RD, *of_weights = run(experts, x_RD)
    spoilt_y_RD, spoilt_grad_x_RD, *of_spoilt = run(experts, spoilt_RD)

    for mine, its in ((y_RD, spoilt_y_RD), (grad_x_RD, spoilt_grad_x_RD)):
        assert torch.equal(mine[:33], its[:33]) and torch.equal(mine[100:], its[100:])
    for mine, its in zip(of_weights, of_spoilt, strict=True):
        others = [0, 1, 3, 4]
        assert torch.equal(mine[others], its[others])
    assert of_spoilt[0][2].isnan().any()


@pytest.mark.usefixtures("uninitialised_memory_is_nan")
def test_an_expert_without_rows_gets_zeros_and_not_the_gradient_of_the_step_before() -> None:
    experts = Experts(2, 4, 8)
    for counts in ([3, 2], [5, 0]):
        experts.zero_grad()
        experts(torch.randn(5, 4), torch.tensor(counts)).sum().backward()

    assert experts.weight_1.grad is not None and experts.weight_2.grad is not None
    assert experts.weight_1.grad[1].eq(0).all() and experts.weight_2.grad[1].eq(0).all()
