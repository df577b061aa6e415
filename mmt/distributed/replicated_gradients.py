"""Gradients of parameters that several processes hold alike: averaged while the backward pass goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mmt.modules.collectives import own_part

BUCKET_BYTES = 25 * 2**20


@dataclass
class _Bucket:
    """Gradients that travel together."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    num_missing: int = 0
    flat: Tensor | None = None
    work: dist.Work | None = None


class ReplicatedGradients:
    """Sums gradients over the processes that hold the same parameters, in float32, and divides them.

    Buckets of gradients start to travel as soon as the backward pass has made them, in an order that is the same on all
    processes. A parameter without gradient (no token came by) counts as zero.

    Args:
        parameters: in the order of the forward pass.
        group: the processes that hold them; None if no other does, and only the division is left.
        divisor: what the sums are divided by: the number of processes that work on different batches. It is larger than
            the group for experts, whose rows come from processes outside of it, too.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: ProcessGroup | None, divisor: int) -> None:
        self.group = group
        self.divisor = divisor
        self.is_active = True
        self._buckets = _in_buckets(parameters)
        self._next = 0  # the first bucket that has not started
        self._bucket_of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)
        self._begin()

    def _begin(self) -> None:
        self._next = 0
        for bucket in self._buckets:
            bucket.num_missing, bucket.flat, bucket.work = len(bucket.parameters), None, None

    def _on_gradient(self, parameter: Tensor) -> None:
        if not self.is_active or self.group is None:
            return
        self._bucket_of[parameter].num_missing -= 1  # type: ignore[index]
        # Strictly in order: which bucket is complete first may differ between processes.
        while self._next < len(self._buckets) and self._buckets[self._next].num_missing == 0:
            self._start_next()

    def _start_next(self) -> None:
        bucket = self._buckets[self._next]
        self._next += 1
        bucket.flat = torch.cat([local_gradient(parameter).reshape(-1).float() for parameter in bucket.parameters])
        bucket.work = dist.all_reduce(bucket.flat, group=self.group, async_op=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait until every gradient is the average; called once after the last backward pass of an update."""
        if self.group is not None:
            while self._next < len(self._buckets):
                self._start_next()
        for bucket in self._buckets:
            gradients = [local_gradient(parameter) for parameter in bucket.parameters]
            if bucket.work is not None and bucket.flat is not None:
                bucket.work.wait()
                pieces = bucket.flat.split([gradient.numel() for gradient in gradients])
                torch._foreach_copy_(gradients, [piece.view_as(g) for piece, g in zip(pieces, gradients)])
            if self.divisor > 1:
                torch._foreach_div_(gradients, self.divisor)
        self._begin()


def local_gradient(parameter: nn.Parameter) -> Tensor:
    """Return this process' part of a parameter's gradient; zeros, kept as the gradient, if there is none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return own_part(parameter.grad)


def _in_buckets(parameters: Sequence[nn.Parameter]) -> list[_Bucket]:
    """Distribute the parameters, last ones first, as their gradients come first."""
    buckets: list[_Bucket] = []
    num_bytes = BUCKET_BYTES
    for parameter in reversed(parameters):
        if num_bytes >= BUCKET_BYTES:
            buckets.append(_Bucket())
            num_bytes = 0
        buckets[-1].parameters.append(parameter)
        num_bytes += 4 * parameter.numel()
    return buckets
