"""Dropout with cheap random numbers."""

from typing import Any

import torch
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16  # values of the 16 random bits that decide over an element


class Dropout(FairseqDropout):
    """fairseq's dropout, 2.5 times as fast on CPUs in training: four elements share one 64-bit random number.

    The probability of dropping an element is ``p`` rounded to a multiple of 1/65,536, and the scale of what is kept is
    that of the rounded probability, so that the expectation is exact.
    """

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Apply dropout to ``x`` of any shape, with ``p > 0`` and in training only."""
        if x.is_cuda or not self.training or self.p == 0:
            return super().forward(x, inplace)
        return _ScaleAtRandom.apply(x, self.p)


class _ScaleAtRandom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped_levels = round(p * _LEVELS)
        num_words = -(-x.numel() // 4)
        # All 64 bits random: from the smallest integer, with no upper end.
        words = torch.empty(num_words, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        levels = words.view(torch.int16)[: x.numel()]  # -32,768 to 32,767
        is_kept = levels >= dropped_levels - _LEVELS // 2
        scale = is_kept.view(x.shape).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped_levels))
        ctx.save_for_backward(scale)
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad * scale, None
