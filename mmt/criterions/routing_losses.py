"""Balance loss, z-loss and expert metrics of all MoE layers, over the real tokens of all ranks together."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
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

_NAMES = [field.name for field in dataclasses.fields(RoutingStatistics)]
_PREFIX = "_moe|"
_ALL_SUMS = "_moe_sums"
IS_TRAINING = "_is_training"  # in a logging output: whether it is of a training, or of a validation
# Explained where they are named: the metrics of each MoE layer, and of all of them on average.
METRICS = {
    "imbalance": load_imbalance,  # tokens of the busiest expert / tokens per expert on average; 1 is perfect
    "entropy": router_entropy,  # entropy of the routing probabilities in nats, mean over the tokens; log(E) is uniform
    "unused": unused_experts,  # experts without a token in the batch; in a validation, without one in all its batches
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
    flat = weight * _flat(statistics)
    others = add_over_ranks(flat.detach(), group) - flat.detach()
    return _as_in(statistics, flat + others)


def _flat(statistics: Mapping[str, RoutingStatistics]) -> Tensor:
    """Return all sums of all layers behind each other, ``(sums,)`` in float32."""
    return torch.cat([getattr(sums, name).reshape(-1).float() for sums in statistics.values() for name in _NAMES])


def _as_in(statistics: Mapping[str, RoutingStatistics], flat: Tensor) -> dict[str, RoutingStatistics]:
    """Part what ``_flat`` has put together, by the layers and shapes of ``statistics``."""
    pieces = iter(flat.split([getattr(sums, name).numel() for sums in statistics.values() for name in _NAMES]))
    return {
        layer: RoutingStatistics(**{name: next(pieces).view_as(getattr(sums, name)) for name in _NAMES})
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
        for name, value in ((name, getattr(sums, name)) for name in _NAMES)
    }


def routing_metrics(layers: Sequence[str]) -> list[str]:
    """Name what ``log_routing_metrics`` logs of MoE layers with these names."""
    return [f"{layer}_{metric}" for layer in ([*layers, "moe"] if layers else []) for metric in METRICS]


def log_routing_metrics(logging_outputs: list[dict[str, Any]]) -> None:
    """Log each layer's metrics ("encoder.1_imbalance") and their means over the layers ("moe_imbalance").

    Those of a training are means over its updates, those of a validation are of all its batches together, so that they
    do not depend on how it is split into batches.
    """
    sums: dict[str, dict[str, Tensor]] = {}
    for key in {key for log in logging_outputs for key in log if key.startswith(_PREFIX)}:
        _, layer, name = key.split("|")
        parts = [torch.as_tensor(log[key]) for log in logging_outputs if key in log]
        sums.setdefault(layer, {})[name] = torch.stack(parts).sum(dim=0)
    layers = {layer: RoutingStatistics(**sums[layer]) for layer in sorted(sums)}
    if not layers:
        return
    if any(float(log.get(IS_TRAINING, 0)) for log in logging_outputs):
        for name, value in _metrics_of(layers).items():
            metrics.log_scalar(name, value, priority=_priority(name), round=3)
    else:
        _log_metrics_of_all_batches(layers)


def _log_metrics_of_all_batches(layers: dict[str, RoutingStatistics]) -> None:
    metrics.log_scalar(_ALL_SUMS, _flat(layers).double())
    last: tuple[Tensor, dict[str, float]] | None = None

    def value_of(name: str, meters: Any) -> float:
        nonlocal last  # fairseq asks for each of them one by one
        total = meters[_ALL_SUMS].sum
        if last is None or not torch.equal(last[0], total):
            last = total.clone(), _metrics_of(_as_in(layers, total))
        return round(last[1][name], 3)

    for name in _metrics_of(layers):
        metrics.log_derived(name, functools.partial(value_of, name), priority=_priority(name))


def _metrics_of(layers: Mapping[str, RoutingStatistics]) -> dict[str, float]:
    # One transfer for all values, since each makes the processor wait for a GPU.
    table = torch.stack([compute(sums).float() for compute in METRICS.values() for sums in layers.values()])
    found = {}
    for metric, row in zip(METRICS, table.view(len(METRICS), len(layers)).tolist()):
        scale = 100.0 if metric == "dropped" else 1.0
        found.update({f"{layer}_{metric}": scale * value for layer, value in zip(layers, row)})
        found[f"moe_{metric}"] = scale * sum(row) / len(row)
    return found


def _priority(name: str) -> int:
    return 500 if name.startswith("moe_") else 2000
