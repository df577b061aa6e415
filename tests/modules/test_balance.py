import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mmt.modules.balance import (
    RoutingStatistics,
    balance_loss,
    collect_statistics,
    dropped_fraction,
    load_imbalance,
    router_entropy,
    unused_experts,
    z_loss,
)
from mmt.modules.dispatch import DroplessDispatch
from mmt.modules.router import TokenRouter
from mmt.modules.routing import Routing, TokenContext
from tests.modules.reference import dispatch_within_capacity, make_batch, make_layer, routing_from_logits


def statistics_of(routing: Routing) -> RoutingStatistics:
    return collect_statistics(routing, DroplessDispatch()(routing))


def balanced_logits(num_experts: int, top_k: int, sharpness: float) -> Tensor:
    """Every expert is chosen by equally many tokens, and as probable as any other on average."""
    first_E = torch.zeros(num_experts)
    first_E[:top_k] = sharpness * torch.linspace(1.0, 0.8, top_k)
    return torch.stack([first_E.roll(token) for token in range(num_experts)]).repeat(3, 1)


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 20.0])
@pytest.mark.parametrize(("num_experts", "top_k"), [(2, 1), (8, 1), (8, 2), (32, 3), (128, 1), (4, 4)])
def test_balance_loss_is_1_at_perfect_balance(num_experts: int, top_k: int, sharpness: float) -> None:
    statistics = statistics_of(routing_from_logits(balanced_logits(num_experts, top_k, sharpness), top_k))
    assert float(balance_loss(statistics)) == pytest.approx(1.0, abs=1e-5)
    assert float(load_imbalance(statistics)) == 1.0
    assert int(unused_experts(statistics)) == 0


def test_balance_loss_is_the_number_of_experts_when_one_gets_everything() -> None:
    logits_TE = torch.zeros(10, 8)
    logits_TE[:, 3] = 50.0
    statistics = statistics_of(routing_from_logits(logits_TE, 1))
    assert float(balance_loss(statistics)) == pytest.approx(8.0)
    assert float(load_imbalance(statistics)) == 8.0
    assert int(unused_experts(statistics)) == 7
    assert float(router_entropy(statistics)) == pytest.approx(0.0, abs=1e-5)


def test_balance_loss_is_fairscales_times_the_number_of_experts_squared() -> None:
    # fairscale's test of its Top2Gate expects l_aux 0.0267 (0.026696) of the same numbers, without the factor.
    torch.manual_seed(3)
    x_TD = torch.randn(12, 4)
    statistics = statistics_of(TokenRouter(4, 6, top_k=1)(x_TD, TokenContext()))
    assert float(balance_loss(statistics).detach()) == pytest.approx(36 * 0.026696, abs=1e-4)


@pytest.mark.parametrize("policy", ["random", "probability", "position"])
def test_dropping_changes_no_loss(policy: str) -> None:
    routing = routing_from_logits(torch.randn(40, 4) * 3.0, 2)
    kept, dropped = statistics_of(routing), collect_statistics(routing, dispatch_within_capacity(routing, 5, policy))
    assert torch.equal(balance_loss(kept), balance_loss(dropped))
    assert torch.equal(z_loss(kept), z_loss(dropped))
    assert float(dropped_fraction(kept)) == 0.0
    over_E = (kept.tokens_per_expert_E - 5).clamp(min=0)
    assert float(dropped_fraction(dropped)) == pytest.approx(float(over_E.sum()) / 80) and over_E.sum() > 0


def test_losses_and_metrics_follow_their_definitions() -> None:
    logits_TE = torch.randn(50, 6)
    statistics = statistics_of(routing_from_logits(logits_TE, 1))
    probability_TE = logits_TE.softmax(-1)
    share_E = torch.nn.functional.one_hot(logits_TE.argmax(-1), 6).float().mean(0)
    torch.testing.assert_close(balance_loss(statistics), 6 * (share_E * probability_TE.mean(0)).sum())
    torch.testing.assert_close(z_loss(statistics), logits_TE.logsumexp(-1).square().mean())
    entropy_T = torch.distributions.Categorical(probability_TE).entropy()
    torch.testing.assert_close(router_entropy(statistics), entropy_T.mean())
    torch.testing.assert_close(load_imbalance(statistics), share_E.max() * 6)


def test_the_entropy_of_equal_scores_is_that_of_a_fair_die() -> None:
    assert float(router_entropy(statistics_of(routing_from_logits(torch.zeros(4, 6), 1)))) == pytest.approx(math.log(6))


def test_statistics_of_parts_add_up_to_those_of_the_whole() -> None:
    logits_TE = torch.randn(30, 4)
    whole = statistics_of(routing_from_logits(logits_TE, 2))
    parts = [statistics_of(routing_from_logits(part, 2)) for part in logits_TE.split([7, 0, 23])]
    for field in dataclasses.fields(RoutingStatistics):
        torch.testing.assert_close(sum(getattr(part, field.name) for part in parts), getattr(whole, field.name))


def test_gradient_of_the_balance_loss_pushes_tokens_away_from_the_busiest_expert() -> None:
    logits_TE = torch.randn(60, 4)
    logits_TE[:, 1] += 1.0
    logits_TE.requires_grad_()
    balance_loss(statistics_of(routing_from_logits(logits_TE, 1))).backward()
    assert logits_TE.grad is not None
    assert logits_TE.grad.sum(0).argmax() == 1 and logits_TE.grad[:, 1].gt(0).all()


def test_gradients_reach_the_gate_from_both_losses() -> None:
    layer = make_layer("token")
    x_TD, context = make_batch()
    for loss in (balance_loss, z_loss):
        layer.zero_grad()
        loss(layer(x_TD, context)[1]).backward()
        assert layer.router.gate.weight.grad.abs().sum() > 0


def test_tasks_and_sentences_count_as_often_as_they_have_tokens() -> None:
    layer = make_layer("task", top_k=1)
    x_TD, context = make_batch("task", lengths=(6, 2))  # the third task has no tokens
    statistics = layer(x_TD, context)[1]
    logits_UE = layer.router.score_tasks()
    tokens_U = torch.tensor([6.0, 2.0, 0.0])
    torch.testing.assert_close(statistics.probability_sum_E, tokens_U @ logits_UE.softmax(-1))
    torch.testing.assert_close(statistics.squared_logsumexp_sum, tokens_U @ logits_UE.logsumexp(-1).square())
    assert float(statistics.tokens_per_expert_E.sum()) == float(statistics.num_tokens) == 8.0


def test_losses_of_no_tokens_are_0_and_have_a_gradient() -> None:
    logits_TE = torch.zeros(0, 4, requires_grad=True)
    statistics = statistics_of(routing_from_logits(logits_TE, 1))
    loss = balance_loss(statistics) + z_loss(statistics)
    loss.backward()
    assert logits_TE.grad is not None
    assert float(loss.detach()) == float(router_entropy(statistics)) == 0.0
    assert float(load_imbalance(statistics)) == float(dropped_fraction(statistics)) == 0.0
