"""Dispatch: in which order the routes are computed, and which are dropped.

Routes are sorted by expert, so that every expert's tokens lie side by side; nothing of size T x E x capacity is ever
made. A dispatch module turns a ``Routing`` of real tokens into a ``Dispatch``.
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
        route_R: number ``token * K + k`` of each route that is computed, ``(R,)``.
        position_TK: row of each of a token's routes among the R, ``(T, K)``; arbitrary where ``is_kept_TK`` is False.
        is_kept_TK: False for dropped routes, ``(T, K)``; None if none are dropped.
        counts_E: routes of each expert that are computed, ``(E,)``; they sum to R.
        chosen_E: routes of each expert before dropping, ``(E,)``.
    """

    route_R: Tensor
    position_TK: Tensor
    is_kept_TK: Tensor | None
    counts_E: Tensor
    chosen_E: Tensor

    @property
    def token_R(self) -> Tensor:
        """Token of each route that is computed, ``(R,)``."""
        top_k = self.position_TK.size(1)
        return self.route_R if top_k == 1 else self.route_R // top_k


class DroplessDispatch(nn.Module):
    """Compute every route."""

    def forward(self, routing: Routing) -> Dispatch:
        """Sort the routes by expert."""
        return sort_by_expert(routing.expert_TK, routing.num_experts)


class CapacityDispatch(nn.Module):
    """In training an expert takes at most ``ceil(capacity_factor * K * T / E)`` routes; in evaluation none is dropped.

    Args:
        capacity_factor: above 0; 1.0 is room for perfect balance only.
        drop_policy: whom an overfull expert keeps. "random": a uniformly random subset (Random Token Selection, Kim
            et al. 2021); "probability": the most probable routes (batch-prioritised routing, Riquelme et al. 2021);
            "position": the first ones.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, capacity_factor: float, drop_policy: str = "random") -> None:
        super().__init__()
        if not capacity_factor > 0:
            raise ValueError(f"--moe-capacity-factor must be above 0, but is {capacity_factor}.")
        if drop_policy not in DROP_POLICIES:
            raise ValueError(f"--moe-drop-policy must be one of {', '.join(DROP_POLICIES)}, but is {drop_policy!r}.")
        self.capacity_factor = capacity_factor
        self.drop_policy = drop_policy

    def capacity(self, num_routes: int, num_experts: int) -> int:
        """Return how many of ``num_routes`` = T * K routes one expert takes."""
        # Rounded before ceil, so that 1.1 * 100 / 10 is 11 and not 12.
        return max(1, math.ceil(round(self.capacity_factor * num_routes / num_experts, 6)))

    def forward(self, routing: Routing) -> Dispatch:
        """Sort the routes by expert, and in training drop those beyond the capacity."""
        if not self.training:
            return sort_by_expert(routing.expert_TK, routing.num_experts)
        capacity = self.capacity(routing.expert_TK.numel(), routing.num_experts)
        return dispatch_within_capacity(routing, capacity, self.drop_policy)


def dispatch_within_capacity(routing: Routing, capacity: int, drop_policy: str) -> Dispatch:
    """Sort the routes by expert, with at most ``capacity`` for each; ``drop_policy`` as in ``CapacityDispatch``."""
    preference_N = _preference(routing, drop_policy)
    expert_N = routing.expert_TK.reshape(-1)
    chosen_E = torch.bincount(expert_N, minlength=routing.num_experts)
    # Sorted by expert, and by preference within an expert: the rank is the distance from the expert's first route.
    order_N = preference_N[expert_N[preference_N].argsort(stable=True)]
    rank_N = torch.arange(order_N.numel(), device=order_N.device) - _starts(chosen_E)[expert_N[order_N]]
    is_kept_N = torch.empty_like(expert_N, dtype=torch.bool)
    is_kept_N[order_N] = rank_N < capacity
    return sort_by_expert(routing.expert_TK, routing.num_experts, is_kept_N.view_as(routing.expert_TK))


def _preference(routing: Routing, drop_policy: str) -> Tensor:
    """Return the routes in the order in which they are let in, ``(T * K,)``."""
    num_routes, device = routing.expert_TK.numel(), routing.expert_TK.device
    if drop_policy == "random":
        return torch.randperm(num_routes, device=device)
    if drop_policy == "probability":
        return routing.probability_TK.reshape(-1).argsort(descending=True, stable=True)
    return torch.arange(num_routes, device=device)


def sort_by_expert(expert_TK: Tensor, num_experts: int, is_kept_TK: Tensor | None = None) -> Dispatch:
    """Sort the routes by expert, dropped ones last; a stable sort keeps each expert's tokens in their order.

    Args:
        expert_TK: expert of each route, ``(T, K)``.
        num_experts: E.
        is_kept_TK: False for routes to drop, ``(T, K)``; None drops none.
    """
    chosen_N = expert_TK.reshape(-1)
    # Dropped routes go to an expert beyond the last one.
    expert_N = chosen_N if is_kept_TK is None else chosen_N.where(is_kept_TK.reshape(-1), num_experts)
    route_N = expert_N.argsort(stable=True)
    position_N = torch.empty_like(route_N)
    position_N[route_N] = torch.arange(route_N.numel(), device=route_N.device)
    position_TK = position_N.view_as(expert_TK)
    chosen_E = torch.bincount(chosen_N, minlength=num_experts)
    if is_kept_TK is None:
        return Dispatch(route_N, position_TK, None, chosen_E, chosen_E)
    counts_E = torch.bincount(expert_N, minlength=num_experts + 1)[:num_experts]
    num_kept = int(counts_E.sum())
    if num_kept == route_N.numel():
        is_kept_TK = None
    return Dispatch(route_N[:num_kept], position_TK, is_kept_TK, counts_E, chosen_E)


def _starts(counts_E: Tensor) -> Tensor:
    """Return the position of each expert's first route, ``(E,)``."""
    return counts_E.cumsum(0) - counts_E
