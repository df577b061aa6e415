"""Dispatch: in which order the routes are computed, and which are dropped.

Routes are sorted by expert, so that every expert's tokens lie side by side; nothing of size T x E x capacity is ever
made. A dispatch module turns a ``Routing`` of real tokens into a ``Dispatch``.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mmt.modules.collectives import gather_over_ranks
from mmt.modules.routing import Routing, count_each

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

    With a ``group``, T counts the tokens of all its processes, and their routes compete with each other, so that what
    is dropped does not depend on how many processes share a batch.

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
        self.group: ProcessGroup | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "CapacityDispatch":
        copied = type(self)(self.capacity_factor, self.drop_policy)
        copied.group = self.group  # there is no copying it
        return copied.train(self.training)

    def capacity(self, num_routes: int, num_experts: int) -> int:
        """Return how many of ``num_routes`` = T * K routes one expert takes."""
        # Rounded before ceil, so that 1.1 * 100 / 10 is 11 and not 12.
        return max(1, math.ceil(round(self.capacity_factor * num_routes / num_experts, 6)))

    def forward(self, routing: Routing) -> Dispatch:
        """Sort the routes by expert, and in training drop those beyond the capacity."""
        expert_TK, num_experts = routing.expert_TK, routing.num_experts
        if not self.training:
            return sort_by_expert(expert_TK, num_experts)
        routes = _own_routes(routing) if self.group is None else _gather_routes(routing, self.group)
        is_kept_TK = kept_routes(
            routes.expert_TK,
            routes.probability_TK,
            num_experts,
            self.capacity(routes.expert_TK.numel(), num_experts),
            self.drop_policy,
            routes.generator,
        )
        return sort_by_expert(expert_TK, num_experts, is_kept_TK[routes.own])


@dataclass(frozen=True)
class _CompetingRoutes:
    """The routes that compete with each other, and where this process' are among them."""

    expert_TK: Tensor
    probability_TK: Tensor
    own: slice
    generator: torch.Generator | None  # the same on all processes that share the competition


def _own_routes(routing: Routing) -> _CompetingRoutes:
    return _CompetingRoutes(routing.expert_TK, routing.probability_TK, own=slice(None), generator=None)


def _gather_routes(routing: Routing, group: ProcessGroup) -> _CompetingRoutes:
    expert_TK, probability_TK = routing.expert_TK, routing.probability_TK
    num_tokens, top_k = expert_TK.shape
    seed = int(torch.randint(2**62, ()))
    facts_P2 = gather_over_ranks(torch.tensor([num_tokens, seed], device=expert_TK.device), group).tolist()
    counts = [count for count, _ in facts_P2]
    # Padded to the same length; float64 holds the number of an expert exactly.
    padded = probability_TK.new_zeros(max(counts), 2 * top_k, dtype=torch.float64)
    padded[:num_tokens] = torch.cat([expert_TK.double(), probability_TK.double()], dim=1)
    gathered = gather_over_ranks(padded, group)
    routes = torch.cat([part[:count] for part, count in zip(gathered, counts)])
    start = sum(counts[: group.rank()])
    generator = torch.Generator(expert_TK.device).manual_seed(facts_P2[0][1])
    return _CompetingRoutes(
        expert_TK=routes[:, :top_k].to(expert_TK.dtype),
        probability_TK=routes[:, top_k:].to(probability_TK.dtype),
        own=slice(start, start + num_tokens),
        generator=generator,
    )


def kept_routes(
    expert_TK: Tensor,
    probability_TK: Tensor,
    num_experts: int,
    capacity: int,
    drop_policy: str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return which routes are kept if each expert takes at most ``capacity``, ``(T, K)``.

    Args:
        expert_TK: expert of each route, ``(T, K)``.
        probability_TK: its probability, ``(T, K)``.
        num_experts: E.
        capacity: most routes of an expert.
        drop_policy: as in ``CapacityDispatch``.
        generator: random numbers for "random"; default: torch's.
    """
    expert_N = expert_TK.reshape(-1)
    if drop_policy == "random":
        preference_N = torch.randperm(expert_N.numel(), device=expert_N.device, generator=generator)
    elif drop_policy == "probability":
        preference_N = probability_TK.reshape(-1).argsort(descending=True, stable=True)
    else:
        preference_N = torch.arange(expert_N.numel(), device=expert_N.device)
    chosen_E = count_each(expert_N, num_experts)
    # Sorted by expert, and by preference within an expert: the rank is the distance from the expert's first route.
    order_N = preference_N[expert_N[preference_N].argsort(stable=True)]
    rank_N = torch.arange(order_N.numel(), device=order_N.device) - _starts(chosen_E)[expert_N[order_N]]
    is_kept_N = torch.empty_like(expert_N, dtype=torch.bool)
    is_kept_N[order_N] = rank_N < capacity
    return is_kept_N.view_as(expert_TK)


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
    chosen_E = count_each(chosen_N, num_experts)
    if is_kept_TK is None:
        return Dispatch(route_N, position_TK, None, chosen_E, chosen_E)
    counts_E = count_each(expert_N, num_experts + 1)[:num_experts]
    num_kept = int(counts_E.sum())
    if num_kept == route_N.numel():
        is_kept_TK = None
    return Dispatch(route_N[:num_kept], position_TK, is_kept_TK, counts_E, chosen_E)


def _starts(counts_E: Tensor) -> Tensor:
    """Return the position of each expert's first route, ``(E,)``."""
    return counts_E.cumsum(0) - counts_E
