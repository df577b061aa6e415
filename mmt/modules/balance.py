"""How evenly the experts are used: losses that push towards balance, and numbers to watch.

Everything is computed from sums over tokens, so that micro-batches and ranks can be added up first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmt.modules.dispatch import Dispatch
from mmt.modules.routing import Routing, count_each


@dataclass(frozen=True)
class RoutingStatistics:
    """Sums over the real tokens of a batch, in float32. All may be added over batches and ranks.

    Attributes:
        tokens_per_expert_E: routes chosen for each expert, before any are dropped, ``(E,)``.
        probability_sum_E: softmax probability of each expert, with gradient, ``(E,)``.
        squared_logsumexp_sum: squared log-sum-exp of the logits, with gradient, ``()``.
        entropy_sum: entropy of the softmax in nats, ``()``.
        dropped_routes: routes beyond an expert's capacity, ``()``.
        num_tokens: real tokens, ``()``.
    """

    tokens_per_expert_E: Tensor
    probability_sum_E: Tensor
    squared_logsumexp_sum: Tensor
    entropy_sum: Tensor
    dropped_routes: Tensor
    num_tokens: Tensor


def collect_statistics(routing: Routing, dispatch: Dispatch) -> RoutingStatistics:
    """Add up the statistics of one layer and batch.

    A unit that decides for many tokens (a sentence, a task) counts that many times, so a task without tokens in the
    batch has no part in the losses.
    """
    logits_UE, probability_UE = routing.logits_UE, routing.probability_UE
    num_tokens = logits_UE.new_full((), routing.expert_TK.size(0))
    if routing.unit_T is None:
        tokens_U = logits_UE.new_ones(logits_UE.size(0))
    else:
        tokens_U = count_each(routing.unit_T, logits_UE.size(0)).to(logits_UE.dtype)
    # Autocast would turn the products below into bfloat16, which cannot count beyond 256.
    with torch.autocast(logits_UE.device.type, enabled=False):
        logsumexp_U = logits_UE.logsumexp(dim=-1)
        with torch.no_grad():
            # -sum_e p_e log p_e, where log p_e = logit_e - logsumexp.
            entropy_U = logsumexp_U - (probability_UE * logits_UE).sum(dim=-1)
        return RoutingStatistics(
            tokens_per_expert_E=dispatch.chosen_E.to(logits_UE.dtype),
            probability_sum_E=tokens_U @ probability_UE,
            squared_logsumexp_sum=tokens_U @ logsumexp_U.square(),
            entropy_sum=tokens_U @ entropy_U,
            dropped_routes=(dispatch.chosen_E.sum() - dispatch.counts_E.sum()).to(logits_UE.dtype),
            num_tokens=num_tokens,
        )


def balance_loss(statistics: RoutingStatistics) -> Tensor:
    """Return the load-balancing loss of GShard and Switch: ``E * sum_e (share of routes)_e * (mean probability)_e``.

    It is 1.0 at perfect balance whatever E and K, and E when one expert gets everything with certainty; 0 for a batch
    without tokens. Source: Fedus et al. 2021, equations 4 to 6; with K > 1 all choices count, divided by K.
    """
    routes_E = statistics.tokens_per_expert_E.detach()
    share_E = routes_E / routes_E.sum().clamp(min=1.0)
    return routes_E.numel() * (share_E * statistics.probability_sum_E).sum() / statistics.num_tokens.clamp(min=1.0)


def z_loss(statistics: RoutingStatistics) -> Tensor:
    """Return the router z-loss, the mean squared log-sum-exp of the logits (Zoph et al. 2022, equation 5)."""
    return statistics.squared_logsumexp_sum / statistics.num_tokens.clamp(min=1.0)


def load_imbalance(statistics: RoutingStatistics) -> Tensor:
    """Return the routes of the busiest expert divided by the mean over experts; 1 is perfect."""
    routes_E = statistics.tokens_per_expert_E
    return routes_E.max() * routes_E.numel() / routes_E.sum().clamp(min=1.0)


def router_entropy(statistics: RoutingStatistics) -> Tensor:
    """Return the mean entropy of the routing probabilities in nats; ``log(E)`` is uniform."""
    return statistics.entropy_sum / statistics.num_tokens.clamp(min=1.0)


def unused_experts(statistics: RoutingStatistics) -> Tensor:
    """Return the number of experts without a single route."""
    return statistics.tokens_per_expert_E.eq(0).sum()


def dropped_fraction(statistics: RoutingStatistics) -> Tensor:
    """Return the part of the chosen routes that were dropped."""
    return statistics.dropped_routes / statistics.tokens_per_expert_E.sum().clamp(min=1.0)
