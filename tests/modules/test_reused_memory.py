import copy
import pickle

import torch

from mmt.modules.experts import Experts
from mmt.modules.reused_memory import ReusedMemory
from tests.modules.reference import DIM, FFN_DIM

COUNTS_E = torch.tensor([2, 0, 3])


def backward(experts: Experts, x_RD: torch.Tensor) -> None:
    experts(x_RD, COUNTS_E).square().sum().backward()


def test_memory_that_nobody_uses_is_handed_out_again() -> None:
    memory, like = ReusedMemory(), torch.zeros(3, 4)
    address = memory.empty_like(like).data_ptr()
    again = memory.empty_like(like)
    assert again.data_ptr() == address
    assert (again.shape, again.dtype, again.is_contiguous()) == (like.shape, like.dtype, True)


def test_memory_in_use_is_never_handed_out_a_second_time() -> None:
    memory, like = ReusedMemory(), torch.zeros(3, 4)
    one = memory.empty_like(like)
    view, address = one[1:], one.data_ptr()
    del one  # a view is a user, too
    assert memory.empty_like(like).data_ptr() != address
    del view
    assert memory.empty_like(like).data_ptr() == address


def test_memory_of_another_size_or_type_is_made_anew() -> None:
    memory = ReusedMemory()
    memory.empty_like(torch.zeros(3, 4))
    for like in (torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)):
        fresh = memory.empty_like(like)
        assert (fresh.shape, fresh.dtype) == (like.shape, like.dtype)


def test_copies_and_pickles_share_no_memory() -> None:
    memory, like = ReusedMemory(), torch.zeros(3, 4)
    address = memory.empty_like(like).data_ptr()
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert other.empty_like(like).data_ptr() != address


def test_gradients_of_the_next_step_lie_where_those_of_the_last_one_lay() -> None:
    experts, x_RD = Experts(3, DIM, FFN_DIM), torch.randn(5, DIM)
    backward(experts, x_RD)
    addresses = [weight.grad.data_ptr() for weight in (experts.weight_1, experts.weight_2)]

    experts.zero_grad()
    backward(experts, x_RD)

    assert [weight.grad.data_ptr() for weight in (experts.weight_1, experts.weight_2)] == addresses


def test_gradients_accumulate_over_micro_batches() -> None:
    experts, one, other = Experts(3, DIM, FFN_DIM), torch.randn(5, DIM), torch.randn(5, DIM)
    sums = []
    for x_RD in (one, other):
        experts.zero_grad()
        backward(experts, x_RD)
        sums.append([parameter.grad.clone() for parameter in experts.parameters()])

    experts.zero_grad()
    for x_RD in (one, other):
        backward(experts, x_RD)

    for parameter, first, second in zip(experts.parameters(), *sums):
        torch.testing.assert_close(parameter.grad, first + second)


def test_a_gradient_that_is_kept_stays_what_it_was() -> None:
    experts = Experts(3, DIM, FFN_DIM)
    backward(experts, torch.randn(5, DIM))
    kept = [parameter.grad for parameter in experts.parameters()]
    copies = [gradient.clone() for gradient in kept]

    experts.zero_grad()
    backward(experts, torch.randn(5, DIM))

    assert all(torch.equal(gradient, as_it_was) for gradient, as_it_was in zip(kept, copies))


def test_evaluation_gives_the_memory_back() -> None:
    experts = Experts(3, DIM, FFN_DIM)
    backward(experts, torch.randn(5, DIM))
    assert all(memory._storage is not None for memory in experts._gradient_memory)
    experts.eval()
    assert all(memory._storage is None for memory in experts._gradient_memory)
