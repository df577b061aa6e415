"""Communication inside the model, with gradients: rows that travel to other ranks, and sums over ranks.

Shape letters used in this file: R rows, D model dim.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class _Transfer:
    """An all-to-all that is under way: rows in the forward pass, their gradients the other way in the backward pass."""

    def __init__(self, send: list[int], receive: list[int], group: ProcessGroup) -> None:
        self.send, self.receive, self.group = send, receive, group
        self._under_way: _UnderWay | None = None

    def start(self, x_RD: Tensor) -> None:
        self._under_way = _start_all_to_all(x_RD, self.send, self.receive, self.group)

    def start_back(self, grad_RD: Tensor) -> None:
        self._under_way = _start_all_to_all(grad_RD, self.receive, self.send, self.group)

    def wait(self) -> Tensor:
        assert self._under_way is not None
        work, received_RD, _ = self._under_way
        self._under_way = None
        work.wait()
        return received_RD


# The work, the rows that are received, and those that are sent, whose memory is needed until the end.
_UnderWay = tuple[dist.Work, Tensor, Tensor]


def _start_all_to_all(x_RD: Tensor, send: list[int], receive: list[int], group: ProcessGroup) -> _UnderWay:
    sent_RD = x_RD.contiguous()
    received_RD = x_RD.new_empty(sum(receive), x_RD.size(1))
    work = dist.all_to_all_single(received_RD, sent_RD, receive, send, group=group, async_op=True)
    assert work is not None
    return work, received_RD, sent_RD


class _StartExchange(torch.autograd.Function):
    """Returns an empty tensor, which ties the start to the waiting: rows that are still to come are not autograd's."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, transfer: _Transfer) -> Tensor:
        ctx.transfer = transfer
        transfer.start(x_RD)
        return x_RD.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tie: Tensor) -> tuple[Tensor, None]:
        return ctx.transfer.wait(), None


class _WaitForExchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tie: Tensor, transfer: _Transfer) -> Tensor:
        ctx.transfer = transfer
        return transfer.wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        ctx.transfer.start_back(grad_RD)
        return grad_RD.new_empty(0), None


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


def is_shared_out(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether this process holds a part of a tensor only, or knows which others hold it too."""
    # Not isinstance: importing DTensor takes torch half a second, and until somebody does, no tensor is one.
    return hasattr(tensor, "placements")


def own_part(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter, with gradient."""
    return parameter.to_local() if is_shared_out(parameter) else parameter


def start_exchange(x_RD: Tensor, send: list[int], receive: list[int], group: ProcessGroup) -> Callable[[], Tensor]:
    """Begin to send the first ``send[0]`` rows to rank 0 of the group, the next ``send[1]`` to rank 1, and so on.

    The gradients travel back the same way: they set out in the backward pass of the waiting, and are waited for in that
    of the start. Every rank of the group has to call this, one without rows too.

    Returns:
        A function that waits for the rows from rank 0 (``receive[0]`` of them), those from rank 1, ..., and returns
        them, ``(sum(receive), D)``.
    """
    transfer = _Transfer(send, receive, group)
    tie = _StartExchange.apply(x_RD, transfer)
    return lambda: _WaitForExchange.apply(tie, transfer)


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
