import pytest
import torch
from torch import Tensor

from mmt.modules.dispatch import Dispatch, DroplessDispatch
from mmt.modules.permute import combine, gather, put_rows, take_rows
from mmt.modules.routing import Routing
from tests.modules.reference import dispatch_within_capacity, routing_from_logits

NUM_TOKENS, MODEL_DIM, NUM_EXPERTS = 7, 3, 4


def make_dispatch(top_k: int, capacity: int | None) -> tuple[Routing, Dispatch]:
    logits = torch.randn(NUM_TOKENS, NUM_EXPERTS, generator=torch.Generator().manual_seed(top_k))
    routing = routing_from_logits(logits, top_k)
    if capacity is None:
        return routing, DroplessDispatch()(routing)
    return routing, dispatch_within_capacity(routing, capacity, "probability")


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("capacity", [None, 2])
def test_gather_and_combine_with_weight_1_give_every_token_back_once_per_kept_route(
    top_k: int, capacity: int | None
) -> None:
    _, dispatch = make_dispatch(top_k, capacity)
    x_TD = torch.randn(NUM_TOKENS, MODEL_DIM)

    y_TD = combine(gather(x_TD, dispatch), torch.ones(NUM_TOKENS, top_k), dispatch)

    kept_T = torch.full((NUM_TOKENS,), float(top_k))
    if dispatch.is_kept_TK is not None:
        kept_T = dispatch.is_kept_TK.sum(dim=1).float()
        assert kept_T.sum() < NUM_TOKENS * top_k
    torch.testing.assert_close(y_TD, x_TD * kept_T[:, None])


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("capacity", [None, 2])
def test_gradients_of_gather_and_combine_are_right(top_k: int, capacity: int | None) -> None:
    _, dispatch = make_dispatch(top_k, capacity)
    x_TD = torch.randn(NUM_TOKENS, MODEL_DIM, dtype=torch.float64, requires_grad=True)
    rows_RD = torch.randn(dispatch.route_R.numel(), MODEL_DIM, dtype=torch.float64, requires_grad=True)
    weight_TK = torch.rand(NUM_TOKENS, top_k, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: gather(x, dispatch), x_TD)
    assert torch.autograd.gradcheck(lambda rows, weight: combine(rows, weight, dispatch), (rows_RD, weight_TK))


def test_taking_rows_out_and_putting_them_back_leaves_zeros_elsewhere() -> None:
    x_TD = torch.randn(5, MODEL_DIM, dtype=torch.float64, requires_grad=True)
    index_R = torch.tensor([3, 0, 4])

    def there_and_back(x: Tensor) -> Tensor:
        return put_rows(take_rows(x, index_R), index_R, num_rows=5)

    expected = x_TD.detach().clone()
    expected[[1, 2]] = 0.0
    torch.testing.assert_close(there_and_back(x_TD).detach(), expected)
    assert torch.autograd.gradcheck(there_and_back, x_TD)
