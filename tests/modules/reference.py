"""Slow, obvious versions of what the modules compute fast."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmt.modules.dispatch import CapacityDispatch, DroplessDispatch
from mmt.modules.experts import Experts
from mmt.modules.moe_layer import MoELayer
from mmt.modules.router import SentenceRouter, TaskRouter, TokenRouter
from mmt.modules.routing import TokenContext

DIM, HIDDEN, TASKS = 8, 12, 3
ROUTERS = ["token", "sentence", "task"]


def make_layer(router: str = "token", num_experts: int = 4, top_k: int = 2, dispatch: nn.Module | None = None, **options: Any) -> MoELayer:
    """A small layer with the named router."""
    torch.manual_seed(1)
    routers = {"token": TokenRouter, "sentence": SentenceRouter, "task": TaskRouter}
    if router == "task":
        options["num_tasks"] = TASKS
    chosen = routers[router](DIM, num_experts, top_k, **options)
    return MoELayer(chosen, dispatch or DroplessDispatch(), Experts(num_experts, DIM, HIDDEN))


def make_context(lengths: list[int], padded_length: int | None = None, task_ids: list[int] | None = None) -> TokenContext:
    """Sentences of ``lengths`` tokens one after the other, each padded on the right to ``padded_length``."""
    width = [padded_length or length for length in lengths]
    is_padding = torch.cat([torch.arange(w) >= length for w, length in zip(width, lengths)])
    sentence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(width))
    tasks = torch.tensor(task_ids if task_ids is not None else [i % TASKS for i in range(len(lengths))])
    return TokenContext(is_padding if is_padding.any() else None, sentence, len(lengths), task_id_B=tasks)


def slow_moe(layer: MoELayer, x_TD: Tensor, context: TokenContext) -> Tensor:
    """Compute a dropless layer token by token, expert by expert."""
    routing = layer.router(x_TD, context)
    experts = layer.experts
    rows = []
    for token in range(x_TD.size(0)):
        y = torch.zeros_like(x_TD[token])
        if context.is_padding_T is None or not context.is_padding_T[token]:
            for expert, weight in zip(routing.expert_TK[token].tolist(), routing.weight_TK[token]):
                hidden = F.relu(F.linear(x_TD[token], experts.weight_1[expert], experts.bias_1[expert]))
                y = y + weight * F.linear(hidden, experts.weight_2[expert], experts.bias_2[expert])
        rows.append(y)
    return torch.stack(rows)


def roomy(policy: str = "random") -> CapacityDispatch:
    """A capacity that nothing exceeds."""
    return CapacityDispatch(capacity_factor=100.0, drop_policy=policy)
