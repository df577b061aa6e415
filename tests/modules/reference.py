"""Slow, plain ways to compute what ``mmt.modules`` computes fast, and small inputs for it."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmt.modules.dispatch import Dispatch, DroplessDispatch, kept_routes, sort_by_expert
from mmt.modules.experts import Experts
from mmt.modules.moe_layer import MoELayer
from mmt.modules.router import SentenceRouter, TaskRouter, TokenRouter
from mmt.modules.routing import Routing, TokenContext, choose_top_k

DIM, FFN_DIM, NUM_EXPERTS, NUM_TASKS = 8, 16, 6, 3
ROUTERS = ("token", "sentence", "decoder sentence", "task")


def feed_forward(experts: Experts, expert: int, x: Tensor) -> Tensor:
    """One expert, as fairseq computes a feed-forward block."""
    hidden = F.linear(x, experts.weight_1[expert], experts.bias_1[expert]).relu()
    return F.linear(hidden, experts.weight_2[expert], experts.bias_2[expert])


def apply_experts(experts: Experts, x_TD: Tensor, routing: Routing) -> Tensor:
    """Token after token, expert after expert; nothing is dropped."""
    rows = []
    for token in range(x_TD.size(0)):
        y = torch.zeros_like(x_TD[token])
        for expert, weight in zip(routing.expert_TK[token].tolist(), routing.weight_TK[token]):
            y = y + weight * feed_forward(experts, expert, x_TD[token])
        rows.append(y)
    return torch.stack(rows) if rows else x_TD * 0.0


def dispatch_within_capacity(routing: Routing, capacity: int, drop_policy: str) -> Dispatch:
    """Sort the routes by expert, with at most ``capacity`` for each, whatever the capacity factor."""
    is_kept_TK = kept_routes(routing.expert_TK, routing.probability_TK, routing.num_experts, capacity, drop_policy)
    return sort_by_expert(routing.expert_TK, routing.num_experts, is_kept_TK)


def make_layer(
    router: str = "token", top_k: int = 1, dispatch: nn.Module | None = None, *, num_experts: int = NUM_EXPERTS
) -> MoELayer:
    """A small layer; the same weights for the same arguments, whatever the dispatch."""
    with torch.random.fork_rng():
        torch.manual_seed(top_k)
        if router == "task":
            chosen: nn.Module = TaskRouter(DIM, num_experts, top_k, num_tasks=NUM_TASKS)
        else:
            router_class = TokenRouter if router == "token" else SentenceRouter
            chosen = router_class(DIM, num_experts, top_k)
            nn.init.normal_(chosen.gate.weight)  # clear choices, without ties
        return MoELayer(chosen, dispatch or DroplessDispatch(), Experts(num_experts, DIM, FFN_DIM))


def make_context(lengths: list[int]) -> TokenContext:
    """Sentences of ``lengths`` tokens one after the other, without padding, of the tasks in turn."""
    sentence_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return TokenContext(None, sentence_T, len(lengths), torch.arange(len(lengths)) % NUM_TASKS)


def make_batch(router: str = "token", lengths: tuple[int, ...] = (5, 3, 4, 1)) -> tuple[Tensor, TokenContext]:
    """Sentences of some lengths with random states, without padding, and what ``router`` looks at."""
    generator = torch.Generator().manual_seed(1)
    context = make_context(list(lengths))
    x_TD = torch.randn(sum(lengths), DIM, generator=generator)
    if router == "decoder sentence":
        state_BD = torch.randn(len(lengths), DIM, generator=generator)
        context = dataclasses.replace(context, sentence_state_BD=state_BD)
    return x_TD, context


def reorder(x_TD: Tensor, context: TokenContext, order_T: Tensor) -> tuple[Tensor, TokenContext]:
    """The same tokens in another order."""
    assert context.sentence_T is not None
    return x_TD[order_T], dataclasses.replace(context, sentence_T=context.sentence_T[order_T])


def pad(x_TD: Tensor, context: TokenContext, place_T: Tensor, length: int) -> tuple[Tensor, TokenContext]:
    """The same tokens at ``place_T`` among ``length``, with padding full of NaN in between."""
    assert context.sentence_T is not None
    padded_TD = torch.full((length, x_TD.size(1)), torch.nan, dtype=x_TD.dtype)
    padded_TD[place_T] = x_TD.detach()
    is_padding_T = torch.ones(length, dtype=torch.bool)
    is_padding_T[place_T] = False
    sentence_T = torch.zeros(length, dtype=torch.long)
    sentence_T[place_T] = context.sentence_T
    return padded_TD, dataclasses.replace(context, is_padding_T=is_padding_T, sentence_T=sentence_T)


def routing_from_logits(logits: list[list[float]] | Tensor, top_k: int) -> Routing:
    """Route tokens with these logits."""
    return choose_top_k(torch.as_tensor(logits), top_k)
