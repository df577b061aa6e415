"""Balance loss, z-loss and the numbers to watch, on hand-made routings."""

import pytest
import torch

from mmt.modules.balance import balance_loss, collect_statistics, dropped_fraction, load_imbalance, router_entropy, unused_experts, z_loss
from mmt.modules.dispatch import CapacityDispatch, DroplessDispatch
from mmt.modules.routing import choose_top_k
from tests.modules.reference import DIM, make_context, make_layer


def statistics_of(logits: torch.Tensor, top_k: int, dispatch=None):
    routing = choose_top_k(logits, top_k)
    return collect_statistics(routing, (dispatch or DroplessDispatch())(routing, None), None)


@pytest.mark.parametrize("num_experts", [2, 4, 8])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_balance_loss_is_one_at_perfect_balance(num_experts: int, top_k: int) -> None:
    # Each token's best expert is the next one, and the second best the one after.
    logits = torch.stack([torch.linspace(1.0, 0.0, num_experts).roll(shift) for shift in range(num_experts)])
    assert balance_loss(statistics_of(logits, top_k)).item() == pytest.approx(1.0, abs=1e-5)


def test_the_balance_loss_is_the_number_of_experts_when_one_gets_everything() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).expand(10, 4)
    statistics = statistics_of(logits, 1)
    assert balance_loss(statistics).item() == pytest.approx(4.0)
    assert load_imbalance(statistics).item() == 4.0
    assert unused_experts(statistics).item() == 3


def test_the_balance_loss_agrees_with_fairscales_top2_gate() -> None:
    # fairscale's own test (seed 3, 12 tokens x 4, 6 experts) prints 0.0267, which lacks the factor E * E.
    torch.manual_seed(3)
    x = torch.rand(12, 4)
    gate = torch.nn.Linear(4, 6, bias=False)
    routing = choose_top_k(gate(x), 1)
    statistics = collect_statistics(routing, DroplessDispatch()(routing, None), None)
    probabilities = routing.logits_UE.softmax(-1)
    share = torch.nn.functional.one_hot(probabilities.argmax(-1), 6).float().mean(0)
    assert balance_loss(statistics).item() == pytest.approx(36 * (probabilities.mean(0) * share).mean().item(), rel=1e-5)


def test_the_balance_loss_pushes_probability_away_from_the_busiest_expert() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]]).repeat(6, 1).requires_grad_()
    balance_loss(statistics_of(logits, 1)).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()


def test_dropping_changes_no_loss() -> None:
    logits = torch.randn(40, 4)
    free, dropped = statistics_of(logits, 2), statistics_of(logits, 2, CapacityDispatch(0.25, "random").train())
    assert balance_loss(free) == balance_loss(dropped) and z_loss(free) == z_loss(dropped)
    assert dropped_fraction(free) == 0
    assert dropped_fraction(dropped).item() == pytest.approx(1 - 4 * 5 / 80, abs=1e-6)


def test_z_loss_and_entropy_are_what_their_names_say() -> None:
    logits = torch.randn(7, 5)
    statistics = statistics_of(logits, 1)
    assert z_loss(statistics).item() == pytest.approx(logits.logsumexp(-1).square().mean().item(), rel=1e-5)
    assert router_entropy(statistics).item() == pytest.approx(torch.distributions.Categorical(logits=logits).entropy().mean().item(), rel=1e-5)
    assert router_entropy(statistics_of(torch.zeros(3, 5), 1)).item() == pytest.approx(torch.log(torch.tensor(5.0)).item())


def test_a_task_counts_as_often_as_it_has_real_tokens() -> None:
    layer = make_layer("task", top_k=1)
    context = make_context([2, 6], padded_length=6, task_ids=[0, 1])
    _, statistics = layer(torch.randn(12, DIM), context)
    probabilities = layer.router.score_tasks().softmax(-1)
    torch.testing.assert_close(statistics.probability_sum_E, 2 * probabilities[0] + 6 * probabilities[1])
    assert statistics.num_tokens == 8


def test_a_batch_without_tokens_has_no_loss() -> None:
    statistics = statistics_of(torch.zeros(0, 4), 1)
    assert balance_loss(statistics) == z_loss(statistics) == 0
