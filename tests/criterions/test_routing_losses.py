"""Routing losses over several ranks equal those of one rank with the whole batch, gradients included."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fairseq.logging import metrics

from mmt.criterions.routing_losses import METRICS, log_routing_metrics, routing_losses, routing_sums
from mmt.modules.balance import balance_loss
from tests.modules.reference import DIM, make_context, make_layer

LENGTHS = [5, 3, 7]


def losses_and_gradient(
    x: torch.Tensor, lengths: list[int], weight: float = 1.0, group: dist.ProcessGroup | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layers = {"encoder.1": make_layer(num_experts=4), "decoder.1": make_layer(num_experts=3)}
    statistics = {name: layer(x, make_context(lengths))[1] for name, layer in layers.items()}
    balance, z = routing_losses(statistics, list(layers), weight, group)
    (balance + 0.1 * z).backward()
    gradient = torch.cat([layer.router.gate.weight.grad.flatten() for layer in layers.values()])
    return balance.detach(), z.detach(), gradient


def one_rank(rank: int, folder: str, dummy_rank: int | None) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(5)
    x = torch.randn(sum(LENGTHS), DIM)
    mine, lengths = (x[:5], LENGTHS[:1]) if rank == 0 else (x[5:], LENGTHS[1:])
    weight = 0.0 if rank == dummy_rank else 1.0
    balance, z, gradient = losses_and_gradient(mine, lengths, weight, dist.group.WORLD)
    dist.all_reduce(gradient)
    torch.save((balance, z, gradient), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # a thread of gloo may still be at work, and abort a Python that ends


def test_two_ranks_with_unequal_batches_equal_one_rank_with_all(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = losses_and_gradient(torch.randn(sum(LENGTHS), DIM), LENGTHS)
    mp.spawn(one_rank, args=(str(tmp_path), None), nprocs=2)
    for rank in range(2):
        for ours, theirs in zip(torch.load(tmp_path / f"rank{rank}.pt"), expected):
            torch.testing.assert_close(ours, theirs)


def test_a_dummy_batch_on_one_rank_leaves_the_losses_of_the_other(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = losses_and_gradient(torch.randn(sum(LENGTHS), DIM)[:5], LENGTHS[:1])
    mp.spawn(one_rank, args=(str(tmp_path), 1), nprocs=2)
    for rank in range(2):
        for ours, theirs in zip(torch.load(tmp_path / f"rank{rank}.pt"), expected):
            torch.testing.assert_close(ours, theirs)


def test_layers_that_are_not_balanced_have_no_part_in_the_balance_loss() -> None:
    statistics = {name: make_layer()(torch.randn(6, DIM), make_context([6]))[1] for name in ("encoder.1", "decoder.1")}
    balance, _ = routing_losses(statistics, ["encoder.1"])
    torch.testing.assert_close(balance, balance_loss(statistics["encoder.1"]))
    assert routing_losses(statistics, [])[0] == 0


def test_metrics_of_each_layer_and_their_means_reach_fairseqs_loggers() -> None:
    torch.manual_seed(1)
    layers = {"encoder.1": make_layer(), "decoder.1": make_layer()}
    x = torch.randn(9, DIM)
    whole = {name: layer(x, make_context([9]))[1] for name, layer in layers.items()}
    # Two unequal micro-batches: what is logged is computed from their sums, as if they were one batch.
    logs = [
        routing_sums({name: layer(part, make_context([len(part)]))[1] for name, layer in layers.items()})
        for part in (x[:2], x[2:])
    ]
    with metrics.aggregate(new_root=True) as aggregator:
        log_routing_metrics(logs)
        values = aggregator.get_smoothed_values()
    for metric, compute in METRICS.items():
        expected = {layer: float(compute(statistics)) for layer, statistics in whole.items()}
        for layer, value in expected.items():
            assert values[f"{layer}_{metric}"] == pytest.approx(value, abs=2e-3)
        assert values[f"moe_{metric}"] == pytest.approx(sum(expected.values()) / 2, abs=2e-3)
    assert not any(key.startswith("_") for key in values)


def test_a_dense_model_logs_nothing_about_experts() -> None:
    with metrics.aggregate(new_root=True) as aggregator:
        log_routing_metrics([{"loss": 1.0}])
        assert not aggregator.get_smoothed_values()
