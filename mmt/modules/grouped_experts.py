"""Experts on a GPU: a kernel for all experts together, which does not have to know how many rows each one has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def feed_forward_grouped(
    x_RD: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    counts_E: Tensor,
    activation: Callable[[Tensor], Tensor],
    dropout: float,
) -> Tensor:
    """Apply the experts with torch's grouped matrix product, without waiting for ``counts_E``.

    The way for GPUs, where it wins, and for other activations than ReLU.

    Args:
        x_RD: rows sorted by expert, ``(R, D)``.
        weight_1: ``(E, F, D)``; may be of another type than the rows (autocast).
        bias_1: ``(E, F)``.
        weight_2: ``(E, D, F)``.
        bias_2: ``(E, D)``.
        counts_E: rows of each expert, ``(E,)``.
        activation: applied to the hidden states ``(R, F)``.
        dropout: dropout of the hidden states; 0 in evaluation.

    Returns:
        The experts' outputs, ``(R, D)``.
    """
    expert_R = torch.arange(counts_E.numel(), device=x_RD.device)
    expert_R = torch.repeat_interleave(expert_R, counts_E, output_size=x_RD.size(0))
    is_of_RE = x_RD.new_zeros(x_RD.size(0), counts_E.numel()).scatter_(1, expert_R[:, None], 1.0)

    def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # Not bias[expert_R], whose gradient would be added up row by row in bfloat16, which ends at 256.
        return _GroupedProduct.apply(rows, weight, counts_E) + is_of_RE @ bias.to(rows.dtype)

    with torch.autocast(x_RD.device.type, enabled=False):
        hidden_RF = activation(linear(x_RD, weight_1, bias_1))
        return linear(F.dropout(hidden_RF, dropout, training=dropout > 0), weight_2, bias_2)


class _GroupedProduct(torch.autograd.Function):
    """Each expert's rows ``(R, I)`` times its matrix of ``(E, O, I)``, transposed: ``(R, O)``.

    torch's own gradient of the weights is laid out as ``(E, I, O)``, and has to be turned around twice.
    """

    @staticmethod
    def forward(ctx: Any, rows_RI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
        cast_EOI = weight_EOI.to(rows_RI.dtype)
        ends_E = counts_E.cumsum(0).to(torch.int32)
        ctx.save_for_backward(rows_RI, cast_EOI, counts_E, ends_E)
        ctx.weight_dtype = weight_EOI.dtype
        return F.grouped_mm(rows_RI, cast_EOI.transpose(1, 2), offs=ends_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_RI, cast_EOI, counts_E, ends_E = ctx.saved_tensors
        grad_RO = grad_RO.contiguous()
        grad_RI = grad_EOI = None
        if ctx.needs_input_grad[0]:
            grad_RI = F.grouped_mm(grad_RO, cast_EOI, offs=ends_E)
        if ctx.needs_input_grad[1]:
            grad_EOI = F.grouped_mm(grad_RO.t(), rows_RI, offs=ends_E)
            # Some GPU kernels leave the gradient of experts without rows unset (pytorch issue 172439).
            grad_EOI = grad_EOI.masked_fill_(counts_E.eq(0)[:, None, None], 0.0).to(ctx.weight_dtype)
        return grad_RI, grad_EOI, None
