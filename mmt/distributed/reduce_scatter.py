"""Sums of which every process keeps a part, on CPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


class ReduceScatterOnCPU(ReduceScatter):
    """Sends every process its part, and adds up what comes, in the order of the processes.

    gloo itself makes the whole sum on every process and throws the rest away: twice as much travels.
    """

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for the buffers."""
        return torch.empty(size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Sum ``input_tensor`` over the group; ``output_tensor`` gets this process' part of it.

        Raises:
            ValueError: for any other reduction.
        """
        if op != dist.ReduceOp.SUM:
            raise ValueError(f"sums only, but the reduction is {op}")
        own, parts = group.rank(), input_tensor.chunk(group.size())
        received = [part if rank == own else torch.empty_like(part) for rank, part in enumerate(parts)]
        works = []
        for rank in range(group.size()):
            if rank != own:
                works.append(dist.irecv(received[rank], group=group, group_src=rank))
                works.append(dist.isend(parts[rank], group=group, group_dst=rank))
        for work in works:
            if work is not None:
                work.wait()
        output_tensor.copy_(received[0])
        for part in received[1:]:
            output_tensor.add_(part)
