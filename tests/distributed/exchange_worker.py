"""Run by torchrun, with 4 processes: every way of sending rows to their experts, beside the direct one.

Prints, on process 0, a JSON object for each way of ``WAYS``: whether the outputs and gradients of all processes are, to
the last bit, those of the direct way, and how many all-to-alls there were.
"""

import json
import os

import torch
import torch.distributed as dist

from mmt.distributed.expert_parallel import ExpertExchange
from mmt.distributed.mesh import Mesh, MeshShape
from mmt.modules.experts import Experts
from tests.distributed.gradients_worker import AllToAlls

# Processes on a node, and chunks.
WAYS = [(2, 1), (1, 3), (2, 3), (4, 2)]
PROCESSES, OWN_EXPERTS, DIM = 4, 6, 8


def routes(rank: int, case: str) -> torch.Tensor:
    """Return how many rows a process has for each expert."""
    counts = torch.randint(0, 4, (PROCESSES * OWN_EXPERTS,), generator=torch.Generator().manual_seed(rank))
    if case == "one process has no rows" and rank == 1:
        counts.zero_()
    if case == "one process has all experts that are chosen":
        counts[: 2 * OWN_EXPERTS] = 0
        counts[3 * OWN_EXPERTS :] = 0
    return counts if case != "nobody has rows" else counts.zero_()


CASES = ["", "one process has no rows", "one process has all experts that are chosen", "nobody has rows"]


def outcome(exchange: ExpertExchange, case: str) -> tuple[list[torch.Tensor], int, int]:
    """Return outputs and all gradients, and the numbers of all-to-alls of the forward and the backward pass."""
    rank = dist.get_rank()
    torch.manual_seed(rank)
    experts = Experts(OWN_EXPERTS, DIM, 2 * DIM)
    experts.exchange = exchange
    counts_E = routes(rank, case)
    x_RD = torch.randn(int(counts_E.sum()), DIM, requires_grad=True)
    with AllToAlls() as forward:
        out_RD = experts(x_RD, counts_E)
    with AllToAlls() as backward:
        (out_RD * torch.arange(out_RD.numel()).view_as(out_RD).cos()).sum().backward()
    gradients = [tensor.grad for tensor in (x_RD, *experts.parameters()) if tensor.grad is not None]
    assert len(gradients) == 5
    return [out_RD.detach(), *gradients], forward.count, backward.count


def main() -> None:
    """Compare all ways."""
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    assert group is not None
    direct = {case: outcome(ExpertExchange(group), case)[0] for case in CASES}
    for node_size, chunks in WAYS:
        mesh = Mesh(MeshShape(1, 1, PROCESSES, 1), "cpu", node_size)
        exchange = ExpertExchange(mesh.expert_group, mesh.node_groups, chunks)
        equal = {}
        for case in CASES:
            tensors, forward, backward = outcome(exchange, case)
            everywhere: list[bool | None] = [None] * PROCESSES
            dist.all_gather_object(everywhere, all(map(torch.equal, tensors, direct[case])))
            equal[case] = all(everywhere)
        if dist.get_rank() == 0:
            facts = {"node_size": node_size, "chunks": chunks, "equal": equal}
            print(json.dumps({**facts, "forward": forward, "backward": backward}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    # Nothing is left to do, and gloo's threads sometimes abort a process that takes its time.
    main()
    os._exit(0)
