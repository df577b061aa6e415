"""Dispatch: in which order the routes are computed, and which are dropped.

Routes are sorted by expert, so that every expert's tokens lie side by side; nothing of size T x E x capacity is ever made.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmt.modules.routing import Routing

DROP_POLICIES = ("random", "probability", "position")


@dataclass(frozen=True)
class Dispatch:
    """The routes to compute, sorted by expert, and by token within an expert.

    Attributes:
        token_R: token of each route, ``(R,)``.
        position_TK: row of each of a token's routes among the R, ``(T, K)``; arbitrary where ``is_kept_TK`` is False.
        is_kept_TK: False for padding and dropped routes, ``(T, K)``; None if all routes are computed.
        counts_E: routes of each expert that are computed, ``(E,)``; they sum to R.
        chosen_E: routes of each expert before dropping, without padding, ``(E,)``.
    """

    token_R: Tensor
    position_TK: Tensor
    is_kept_TK: Tensor | None
    counts_E: Tensor
    chosen_E: Tensor


class DroplessDispatch(nn.Module):
    """Compute every route of every real token."""

    def forward(self, routing: Routing, is_padding_T: Tensor | None) -> Dispatch:
        """Sort the routes by expert."""
        is_real_TK = None if is_padding_T is None else (~is_padding_T)[:, None].expand_as(routing.expert_TK)
        return sort_by_expert(routing, is_real_TK, chosen_E=None)


class CapacityDispatch(nn.Module):
    """In training an expert takes at most ``ceil(capacity_factor * K * T / E)`` routes of the T real tokens; in evaluation nothing is dropped.

    Args:
        capacity_factor: above 0; 1.0 is room for perfect balance only.
        drop_policy: whom an overfull expert keeps. "random": a uniformly random subset (Random Token Selection, Kim et al. 2021); "probability": the most probable routes
            (batch-prioritised routing, Riquelme et al. 2021); "position": the first ones.
        min_capacity: lower bound, for tiny batches.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, capacity_factor: float, drop_policy: str = "random", *, min_capacity: int = 1) -> None:
        super().__init__()
        if capacity_factor <= 0:
            raise ValueError(f"--moe-capacity-factor must be above 0, but is {capacity_factor}")
        if drop_policy not in DROP_POLICIES:
            raise ValueError(f"--moe-drop-policy must be one of {', '.join(DROP_POLICIES)}, but is {drop_policy!r}")
        self.capacity_factor = capacity_factor
        self.drop_policy = drop_policy
        self.min_capacity = min_capacity

    def forward(self, routing: Routing, is_padding_T: Tensor | None) -> Dispatch:
        """Sort the routes by expert, and in training drop those beyond the capacity."""
        num_experts = routing.logits_UE.size(-1)
        is_real_TK = None if is_padding_T is None else (~is_padding_T)[:, None].expand_as(routing.expert_TK)
        if not self.training:
            return sort_by_expert(routing, is_real_TK, chosen_E=None)
        is_chosen_TK = torch.ones_like(routing.expert_TK, dtype=torch.bool) if is_real_TK is None else is_real_TK
        num_real, top_k = int(is_chosen_TK[:, 0].sum()), routing.expert_TK.size(1)
        capacity = max(self.min_capacity, math.ceil(self.capacity_factor * top_k * num_real / num_experts))
        is_kept_TK = keep_within_capacity(
            routing.expert_TK, routing.probability_TK, is_chosen_TK, num_experts, capacity, self.drop_policy
        )
        chosen_E = torch.bincount(routing.expert_TK[is_chosen_TK], minlength=num_experts)
        return sort_by_expert(routing, is_kept_TK, chosen_E)


def keep_within_capacity(
    expert_TK: Tensor, probability_TK: Tensor, is_real_TK: Tensor, num_experts: int, capacity: int, drop_policy: str
) -> Tensor:
    """Tell which routes fit when every expert takes at most ``capacity``, ``(T, K)``.

    Args:
        expert_TK: expert of each route.
        probability_TK: its probability; looked at by policy "probability" only.
        is_real_TK: False for routes of padding, which never take room.
        num_experts: E.
        capacity: routes that an expert takes.
        drop_policy: see ``CapacityDispatch``.
    """
    # Padding goes to an expert beyond the last one.
    expert_N = torch.where(is_real_TK, expert_TK, num_experts).reshape(-1)
    if drop_policy == "random":
        preference_N = torch.rand(expert_N.numel(), device=expert_N.device).argsort()
    elif drop_policy == "probability":
        preference_N = probability_TK.reshape(-1).argsort(descending=True, stable=True)
    else:
        preference_N = torch.arange(expert_N.numel(), device=expert_N.device)
    order_N = preference_N[expert_N[preference_N].argsort(stable=True)]
    first_E = torch.searchsorted(expert_N[order_N].contiguous(), torch.arange(num_experts + 1, device=expert_N.device))
    rank_N = torch.arange(order_N.numel(), device=expert_N.device) - first_E[expert_N[order_N]]
    is_kept_N = torch.empty_like(expert_N, dtype=torch.bool)
    is_kept_N[order_N] = rank_N < capacity
    return is_kept_N.view_as(expert_TK) & is_real_TK


def sort_by_expert(routing: Routing, is_kept_TK: Tensor | None, chosen_E: Tensor | None) -> Dispatch:
    """Sort the kept routes by expert; a stable sort keeps each expert's tokens in their order."""
    num_experts, top_k = routing.logits_UE.size(-1), routing.expert_TK.size(1)
    expert_N = routing.expert_TK if is_kept_TK is None else torch.where(is_kept_TK, routing.expert_TK, num_experts)
    expert_N = expert_N.reshape(-1)
    order_N = expert_N.argsort(stable=True)
    counts_E = torch.bincount(expert_N, minlength=num_experts + 1)[:num_experts]
    position_N = torch.empty_like(order_N)
    position_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
    num_routes = order_N.numel() if is_kept_TK is None else int(counts_E.sum())
    return Dispatch(
        token_R=order_N[:num_routes] // top_k,
        position_TK=position_N.view_as(routing.expert_TK),
        is_kept_TK=is_kept_TK if num_routes < order_N.numel() else None,
        counts_E=counts_E,
        chosen_E=counts_E if chosen_E is None else chosen_E,
    )
