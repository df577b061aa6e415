"""Communication inside the model, with gradients: rows that travel to other ranks, and sums over ranks.

Shape letters used in this file: R rows, D model dim.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, send: list[int], receive: list[int], group: ProcessGroup) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        return _all_to_all(x_RD, send, receive, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grad_RD, ctx.receive, ctx.send, ctx.group), None, None, None


def _all_to_all(x_RD: Tensor, send: list[int], receive: list[int], group: ProcessGroup) -> Tensor:
    received_RD = x_RD.new_empty(sum(receive), x_RD.size(1))
    dist.all_to_all_single(received_RD, x_RD.contiguous(), receive, send, group=group)
    return received_RD


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def own_part(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter, with gradient."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def exchange(x_RD: Tensor, send: list[int], receive: list[int], group: ProcessGroup) -> Tensor:
    """Send the first ``send[0]`` rows to rank 0 of the group, the next ``send[1]`` to rank 1, and so on.

    The gradients travel back the same way. Every rank of the group has to call this, one without rows too.

    Returns:
        The rows from rank 0 (``receive[0]`` of them), then those from rank 1, ..., ``(sum(receive), D)``.
    """
    return _Exchange.apply(x_RD, send, receive, group)


def sum_over_ranks(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return the sum of the ranks' parts; each rank's gradient is that of the sum.

    For ranks that compute parts of one result, which they all go on with (Shoeybi et al. 2019, section 3, "g").
    """
    return _SumForward.apply(x, group)


def sum_gradient_over_ranks(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return ``x``; its gradient is the sum of the ranks' gradients.

    For ranks that have the same ``x`` and each go on with a part of the computation (Shoeybi et al. 2019, "f").
    """
    return _SumBackward.apply(x, group)


def gather_over_ranks(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return ``x`` of every rank, all of one shape, without gradient, ``(ranks, *x.shape)``."""
    parts = [torch.empty_like(x) for _ in range(group.size())]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.stack(parts)
