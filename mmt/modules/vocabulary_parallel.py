"""Embedding and output projection of which each process of a group holds the rows of some words.

Shape letters used in this file: V words, W words of this process, D model dim.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from mmt.modules.collectives import own_part, sum_gradient_over_ranks, sum_over_ranks


@dataclass(frozen=True)
class VocabularySplit:
    """Which of ``num_words`` words each process of ``group`` holds: all but the last ones the same number."""

    num_words: int
    group: ProcessGroup

    @property
    def widths(self) -> list[int]:
        """How many words each process holds."""
        per_process = -(-self.num_words // self.group.size())
        ends = [min((rank + 1) * per_process, self.num_words) for rank in range(self.group.size())]
        return [end - start for start, end in zip([0, *ends], ends)]

    def local(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of words among those of this process, and whether they are; 0 for those that are not."""
        first = sum(self.widths[: self.group.rank()])
        local = words - first
        is_here = (local >= 0) & (local < self.widths[self.group.rank()])
        return local.where(is_here, 0), is_here

    def logsumexp(self, logits_NW: Tensor) -> Tensor:
        """Return the log-sum-exp over all words, ``(N,)``, from each process' part of the logits."""
        if logits_NW.size(1) > 0:
            largest_N = logits_NW.amax(dim=-1)
        else:
            largest_N = logits_NW.new_full((logits_NW.size(0),), -torch.inf)
        dist.all_reduce(largest_N, dist.ReduceOp.MAX, group=self.group)
        sum_N = (logits_NW - largest_N[:, None]).exp().sum(dim=-1)
        dist.all_reduce(sum_N, group=self.group)
        return largest_N + sum_N.log()


class SplitEmbedding(nn.Embedding):
    """Looks words up where they are, and adds up what the processes found."""

    group: ProcessGroup

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of ``tokens`` ``(...)``, ``(..., D)``, on every process."""
        weight_WD = own_part(self.weight)
        local, is_here = VocabularySplit(self.weight.size(0), self.group).local(tokens)
        if self.padding_idx is not None:
            is_here &= tokens != self.padding_idx  # its state is zero, and has no gradient
        if weight_WD.size(0) == 0:
            found = weight_WD.sum(dim=0).expand(*tokens.shape, weight_WD.size(1))
        else:
            found = F.embedding(local, weight_WD)
        return sum_over_ranks(found * is_here[..., None], self.group)


class _GatherLast(torch.autograd.Function):
    """``(..., W)`` of each process to ``(..., V)``; the gradient is this process' part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, widths: list[int], group: ProcessGroup) -> Tensor:
        ctx.widths, ctx.rank = widths, group.rank()
        padded = x.new_zeros(*x.shape[:-1], max(widths))
        padded[..., : x.size(-1)] = x
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., :width] for part, width in zip(parts, widths)], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.split(ctx.widths, dim=-1)[ctx.rank].contiguous(), None, None


class SplitProjection(nn.Linear):
    """Computes each process' logits, and puts them together."""

    group: ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of ``x`` ``(..., D)``, on every process."""
        logits = F.linear(sum_gradient_over_ranks(x, self.group), own_part(self.weight))
        return _GatherLast.apply(logits, self.split.widths, self.group)

    @property
    def split(self) -> VocabularySplit:
        """Which words this process holds."""
        return VocabularySplit(self.weight.size(0), self.group)
