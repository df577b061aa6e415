"""Expert parallelism: rows travel to the processes that hold their experts, and their results back.

Shape letters used in this file: R rows, D model dim, E experts of the layer, L experts of this process, P processes of
the expert-parallel group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from mmt.modules.collectives import exchange, gather_over_ranks
from mmt.modules.experts import Experts
from mmt.modules.permute import put_rows, take_rows


@dataclass(frozen=True)
class _Journey:
    """How many rows go to and come from each process, and the order of those that came, by expert."""

    send: list[int]
    receive: list[int]
    order_R: Tensor


class ExpertExchange:
    """Lets an ``Experts`` module that holds L of a layer's E experts work for all processes of the group.

    The module itself does not know: it is handed the rows for its own experts, from all processes, and what it returns
    is handed back to where the rows came from. Two all-to-alls for the forward pass, two for the backward pass; the
    numbers of rows travel once.

    Args:
        group: the processes that hold the layer's experts between them, in the order of the experts.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self._journey: _Journey | None = None

    def install(self, experts: Experts) -> None:
        """Hook into the module's ``forward``."""
        experts.register_forward_pre_hook(self._send)
        experts.register_forward_hook(self._bring_back)

    def _send(self, experts: Experts, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x_RD, counts_E = args
        counts_PPL = gather_over_ranks(counts_E, self.group).unflatten(1, (self.group.size(), -1))
        counts_PL = counts_PPL[:, self.group.rank()]
        sent_P, received_P = counts_PPL[self.group.rank()].sum(-1), counts_PL.sum(-1)
        send, receive = torch.stack([sent_P, received_P]).tolist()  # one wait for the device, not two
        journey = _Journey(send, receive, order_by_expert(counts_PL))
        self._journey = journey
        rows_RD = exchange(x_RD, journey.send, journey.receive, self.group)
        return take_rows(rows_RD, journey.order_R), counts_PL.sum(0)

    def _bring_back(self, experts: Experts, args: tuple[Tensor, Tensor], out_RD: Tensor) -> Tensor:
        journey, self._journey = self._journey, None
        assert journey is not None
        rows_RD = put_rows(out_RD, journey.order_R, num_rows=out_RD.size(0))
        return exchange(rows_RD, journey.receive, journey.send, self.group)


def order_by_expert(counts_PL: Tensor) -> Tensor:
    """Return where rows that lie by process, and by expert within a process, are found by expert, ``(R,)``.

    Args:
        counts_PL: rows from each process for each expert, ``(P, L)``.
    """
    counts_N = counts_PL.flatten()
    starts_PL = (counts_N.cumsum(0) - counts_N).view_as(counts_PL)
    counts_LP = counts_PL.t().flatten()
    new_starts_LP = counts_LP.cumsum(0) - counts_LP
    num_rows = int(counts_LP.sum())
    shift_R = torch.repeat_interleave(starts_PL.t().flatten() - new_starts_LP, counts_LP, output_size=num_rows)
    return torch.arange(num_rows, device=counts_PL.device) + shift_R
