"""Balance loss, z-loss and expert metrics of all MoE layers, over the real tokens of all ranks together."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.distributed as dist
from fairseq.logging import metrics
from torch import Tensor
from torch.distributed import ProcessGroup

from mmt.modules.balance import (
    RoutingStatistics,
    balance_loss,
    dropped_fraction,
    load_imbalance,
    router_entropy,
    unused_experts,
    z_loss,
)

_PREFIX = "_moe|"
# Explained where they are named: the metrics of each MoE layer, and of all of them on average.
METRICS = {
    "imbalance": load_imbalance,  # tokens of the busiest expert / tokens per expert on average; 1 is perfect
    "entropy": router_entropy,  # entropy of the routing probabilities in nats, mean over the tokens; log(E) is uniform
    "unused": unused_experts,  # experts without a token in the batch
    "dropped": dropped_fraction,  # part of the routes that found their expert full; logged in percent
    "balance_loss": balance_loss,  # of each layer, whether it is trained to be balanced or not
    "z_loss": z_loss,
}


def add_over_ranks(local: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the sum of ``local`` over the ranks of ``group``; ``local`` itself without a group."""
    if group is None:
        return local
    total = local.clone()
    dist.all_reduce(total, group=group)
    return total


def _sums_over_ranks(
    statistics: Mapping[str, RoutingStatistics], weight: float, group: ProcessGroup | None
) -> dict[str, RoutingStatistics]:
    """Add up each layer's sums, times ``weight``, over the ranks with one all-reduce; gradients reach the local part.

    The gradient of every rank's part is added up later, with all other gradients, so a loss made of global sums gets
    the gradient it would have on one rank.
    """
    names = [field.name for field in dataclasses.fields(RoutingStatistics)]
    parts = [getattr(layer, name) for layer in statistics.values() for name in names]
    flat = weight * torch.cat([part.reshape(-1).float() for part in parts])
    others = add_over_ranks(flat.detach(), group) - flat.detach()
    pieces = iter((flat + others).split([part.numel() for part in parts]))
    return {
        layer: RoutingStatistics(**{name: next(pieces).view_as(getattr(sums, name)) for name in names})
        for layer, sums in statistics.items()
    }


def routing_losses(
    statistics: Mapping[str, RoutingStatistics],
    balanced_layers: Collection[str],
    weight: float = 1.0,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the balance loss, a mean over ``balanced_layers``, and the z-loss, a mean over all layers.

    Args:
        statistics: the local sums of each MoE layer.
        balanced_layers: names of the layers whose balance counts; 0 is returned if there are none.
        weight: 0 for a dummy batch, which takes part in the all-reduce only.
        group: the ranks that work on different batches.
    """
    totals = _sums_over_ranks(statistics, weight, group)
    z = torch.stack([z_loss(sums) for sums in totals.values()]).mean()
    if not balanced_layers:
        return z.new_zeros(()), z
    return torch.stack([balance_loss(totals[layer]) for layer in balanced_layers]).mean(), z


def routing_sums(statistics: Mapping[str, RoutingStatistics]) -> dict[str, Tensor]:
    """Flatten the statistics into entries of a logging output, which fairseq adds up over micro-batches and ranks."""
    return {
        f"{_PREFIX}{layer}|{name}": value.detach()
        for layer, sums in statistics.items()
        for name, value in ((field.name, getattr(sums, field.name)) for field in dataclasses.fields(sums))
    }


def log_routing_metrics(logging_outputs: list[dict[str, Any]]) -> None:
    """Log each layer's metrics ("encoder.1_imbalance") and their means over the layers ("moe_imbalance")."""
    sums: dict[str, dict[str, Tensor]] = {}
    for key in {key for log in logging_outputs for key in log if key.startswith(_PREFIX)}:
        _, layer, name = key.split("|")
        parts = [torch.as_tensor(log[key]) for log in logging_outputs if key in log]
        sums.setdefault(layer, {})[name] = torch.stack(parts).sum(dim=0)
    layers = {layer: RoutingStatistics(**sums[layer]) for layer in sorted(sums)}
    if not layers:
        return
    # One transfer for all values, since each makes the processor wait for a GPU.
    table = torch.stack([compute(sums).float() for compute in METRICS.values() for sums in layers.values()])
    rows = table.view(len(METRICS), len(layers)).tolist()
    for metric, row in zip(METRICS, rows):
        scale = 100.0 if metric == "dropped" else 1.0
        for layer, value in zip(layers, row):
            metrics.log_scalar(f"{layer}_{metric}", scale * value, priority=2000, round=3)
        metrics.log_scalar(f"moe_{metric}", scale * sum(row) / len(row), priority=500, round=3)
