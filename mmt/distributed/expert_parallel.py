"""Expert parallelism: rows travel to the processes that hold their experts, and their results back.

Shape letters used in this file: R rows, D model dim, E experts of the layer, P processes of the expert-parallel group,
N nodes, G processes of the group on each node (P = N x G), C chunks, L experts of a process in a chunk (E = P x C x L).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from mmt.distributed.mesh import NodeGroups
from mmt.modules.collectives import gather_over_ranks, start_exchange
from mmt.modules.experts import Experts
from mmt.modules.permute import put_rows, take_rows

Wait = Callable[[], Tensor]


@dataclass(frozen=True)
class _Hop:
    """One all-to-all of a group: the order in which the rows leave, and how many go to and come from each process."""

    group: ProcessGroup
    send: list[int]
    receive: list[int]
    order_R: Tensor | None = None  # None: as they lie

    def start(self, x_RD: Tensor) -> Wait:
        rows_RD = x_RD if self.order_R is None else take_rows(x_RD, self.order_R)
        return start_exchange(rows_RD, self.send, self.receive, self.group)

    def start_back(self, x_RD: Tensor) -> Wait:
        wait, order_R = start_exchange(x_RD, self.receive, self.send, self.group), self.order_R
        return wait if order_R is None else lambda: put_rows(wait(), order_R, num_rows=order_R.numel())


class ExpertExchange:
    """Lets an ``Experts`` module that holds a part of a layer's experts work for all processes of the group.

    The module hands in rows for all experts; each process computes those for its own. Two all-to-alls for the forward
    pass, two for the backward pass; the numbers of rows travel once.

    * With ``nodes`` each all-to-all is two: within the node, to the process that has the receiver's place there, then
      between nodes. A process sends N + G messages in place of P, and those between nodes are G times as large (the
      two-dimensional hierarchical all-to-all of Hwang et al. 2022, "Tutel").
    * With several ``chunks`` some of each process' experts are computed while the rows of the next ones, and the
      results of those before, travel. Chunks are of experts, not of tokens: every expert still has all of its rows in
      one product, so not a bit of the result differs.

    Args:
        group: the processes that hold the layer's experts between them, in the order of the experts.
        nodes: how the group is spread over nodes; None sends directly.
        chunks: C, a divisor of the experts of each process.
    """

    def __init__(self, group: ProcessGroup, nodes: NodeGroups | None = None, chunks: int = 1) -> None:
        self.group = group
        self.nodes = nodes
        self.chunks = chunks

    def __call__(self, experts: Experts, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Return what ``Experts.forward`` promises for all E experts, ``(R, D)``."""
        own = self.group.rank()
        # Rows by sender, receiver, chunk and expert.
        counts_PPCL = gather_over_ranks(counts_E, self.group).unflatten(1, (self.group.size(), self.chunks, -1)).cpu()
        counts_CPP = counts_PPCL.sum(-1).permute(2, 0, 1)
        journeys = [self._hops(counts_PP, x_RD.device) for counts_PP in counts_CPP]
        by_chunk_R, chunks_RD = None, [x_RD]
        if self.chunks > 1:
            by_chunk_R = order_by_second(counts_CPP[:, own].t(), x_RD.device)
            chunks_RD = list(take_rows(x_RD, by_chunk_R).split(counts_CPP[:, own].sum(1).tolist()))

        # All chunks set out before the first is computed. Autograd goes through these steps from the last to the first,
        # so gradients travel while others are computed, too.
        arriving = [hops[0].start(rows_RD) for hops, rows_RD in zip(journeys, chunks_RD)]
        for hop in range(1, len(journeys[0])):
            arriving = [hops[hop].start(wait()) for hops, wait in zip(journeys, arriving)]
        leaving = []
        for chunk, (hops, wait, compute) in enumerate(zip(journeys, arriving, experts.in_parts(self.chunks))):
            counts_PL = counts_PPCL[:, own, chunk]
            by_expert_R = order_by_second(counts_PL, x_RD.device)
            out_RD = compute(take_rows(wait(), by_expert_R), counts_PL.sum(0).to(x_RD.device))
            leaving.append(hops[-1].start_back(put_rows(out_RD, by_expert_R, num_rows=out_RD.size(0))))
        for hop in reversed(range(len(journeys[0]) - 1)):
            leaving = [hops[hop].start_back(wait()) for hops, wait in zip(journeys, leaving)]
        if by_chunk_R is None:
            return leaving[0]()
        return put_rows(torch.cat([wait() for wait in leaving]), by_chunk_R, num_rows=x_RD.size(0))

    def _hops(self, counts_PP: Tensor, device: torch.device) -> list[_Hop]:
        """Return the way of the rows of a chunk, which lie by receiver, to where they lie by sender."""
        own = self.group.rank()
        if self.nodes is None:
            return [_Hop(self.group, counts_PP[own].tolist(), counts_PP[:, own].tolist())]
        within, between = self.nodes.within, self.nodes.between
        counts_NGNG = counts_PP.unflatten(1, (-1, within.size())).unflatten(0, (-1, within.size()))
        node, place = divmod(own, within.size())
        leaving_NG = counts_NGNG[node, place]  # by receiver
        meeting_GN = counts_NGNG[node, :, :, place]  # from this node, for processes with this place in their nodes
        arriving_NG = counts_NGNG[:, :, node, place]  # by sender
        return [
            _Hop(within, _sums(leaving_NG, 0), _sums(meeting_GN, 1), order_by_second(leaving_NG, device)),
            _Hop(between, _sums(meeting_GN, 0), _sums(arriving_NG, 1), order_by_second(meeting_GN, device)),
        ]


def _sums(counts_AB: Tensor, dimension: int) -> list[int]:
    return counts_AB.sum(dimension).tolist()


def order_by_second(counts_AB: Tensor, device: torch.device) -> Tensor:
    """Return where rows that lie by A, and by B within an A, are found by B, and by A within a B, ``(R,)``.

    Args:
        counts_AB: rows of each A (a process, say) and B (an expert), on the CPU.
        device: of the result.
    """
    counts_N = counts_AB.flatten()
    starts_AB = (counts_N.cumsum(0) - counts_N).view_as(counts_AB)
    counts_BA = counts_AB.t().flatten()
    num_rows = int(counts_BA.sum())
    shifts_BA = starts_AB.t().flatten() - (counts_BA.cumsum(0) - counts_BA)
    shift_R = torch.repeat_interleave(shifts_BA.to(device), counts_BA.to(device), output_size=num_rows)
    return torch.arange(num_rows, device=device) + shift_R
