"""The experts: E feed-forward networks with stacked weights, each applied to its own rows."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _FeedForwardByExpert(torch.autograd.Function):
    """``relu(x W1 + b1) W2 + b2`` with the weights of each row's expert, one expert after the other.

    Written by hand, because autograd would make a zero tensor as large as all experts' weights for each expert's slice. Gradients are written straight into their place; experts without rows get zeros.
    Weights may be of higher precision than the rows (autocast): each expert's are cast while its rows are at hand.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_RD: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, counts: list[int], dropout: float
    ) -> Tensor:
        hidden_RF = x_RD.new_empty(x_RD.size(0), weight_1.size(1))
        out_RD = torch.empty_like(x_RD)
        dtype = x_RD.dtype
        for expert, rows in _segments(counts):
            hidden = hidden_RF[rows]
            torch.addmm(bias_1[expert].to(dtype), x_RD[rows], weight_1[expert].to(dtype).t(), out=hidden)
            hidden.relu_()
            if dropout > 0:
                F.dropout(hidden, dropout, training=True, inplace=True)
            torch.addmm(bias_2[expert].to(dtype), hidden, weight_2[expert].to(dtype).t(), out=out_RD[rows])
        ctx.save_for_backward(x_RD, hidden_RF, weight_1, weight_2)
        ctx.counts, ctx.dropout = counts, dropout
        return out_RD

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x_RD, hidden_RF, weight_1, weight_2 = ctx.saved_tensors
        grad_RD = grad_RD.contiguous()
        grad_x_RD = torch.empty_like(x_RD)
        grad_weight_1, grad_weight_2 = torch.empty_like(weight_1), torch.empty_like(weight_2)
        grad_bias_1, grad_bias_2 = weight_1.new_zeros(weight_1.shape[:2]), weight_2.new_zeros(weight_2.shape[:2])
        same_dtype = x_RD.dtype == weight_1.dtype
        for expert, rows in _segments(ctx.counts):
            x, hidden, grad = x_RD[rows], hidden_RF[rows], grad_RD[rows]
            grad_hidden = grad @ weight_2[expert].to(x.dtype)
            # The sign of the hidden state tells what ReLU and dropout let through.
            grad_hidden.masked_fill_(hidden <= 0, 0.0)
            if ctx.dropout > 0:
                grad_hidden.mul_(1.0 / (1.0 - ctx.dropout))
            torch.sum(grad, dim=0, dtype=weight_2.dtype, out=grad_bias_2[expert])
            torch.sum(grad_hidden, dim=0, dtype=weight_1.dtype, out=grad_bias_1[expert])
            torch.mm(grad_hidden, weight_1[expert].to(x.dtype), out=grad_x_RD[rows])
            if same_dtype:
                torch.mm(grad.t(), hidden, out=grad_weight_2[expert])
                torch.mm(grad_hidden.t(), x, out=grad_weight_1[expert])
            else:
                grad_weight_2[expert] = grad.t() @ hidden
                grad_weight_1[expert] = grad_hidden.t() @ x
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                grad_weight_1[expert] = 0.0
                grad_weight_2[expert] = 0.0
        return grad_x_RD, grad_weight_1, grad_bias_1, grad_weight_2, grad_bias_2, None, None


def _segments(counts: list[int]) -> list[tuple[int, slice]]:
    """List the experts that have rows, with their rows."""
    segments, start = [], 0
    for expert, count in enumerate(counts):
        if count > 0:
            segments.append((expert, slice(start, start + count)))
        start += count
    return segments


class Experts(nn.Module):
    """E feed-forward networks ``relu(x W1 + b1) W2 + b2``.

    Weights are stacked as ``(E, F, D)`` and ``(E, D, F)``, so that they can be sharded, packed and sliced by expert; slice ``e`` is fairseq's ``fc1``, ``fc2``, with the same initialisation.

    Args:
        num_experts: E.
        model_dim: D.
        ffn_dim: F.
        dropout: dropout of the hidden states in training.
    """

    def __init__(self, num_experts: int, model_dim: int, ffn_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight_1 = nn.Parameter(torch.empty(num_experts, ffn_dim, model_dim))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.weight_2 = nn.Parameter(torch.empty(num_experts, model_dim, ffn_dim))
        self.bias_2 = nn.Parameter(torch.empty(num_experts, model_dim))
        self.reset_parameters()

    @property
    def num_experts(self) -> int:
        return self.weight_1.size(0)

    def reset_parameters(self) -> None:
        """Initialise every expert as torch initialises a linear layer."""
        for weight, bias in ((self.weight_1, self.bias_1), (self.weight_2, self.bias_2)):
            bound = 1.0 / math.sqrt(weight.size(2))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Apply the experts.

        Args:
            x_RD: rows sorted by expert, ``(R, D)``.
            counts_E: rows of each expert, ``(E,)``.

        Returns:
            The experts' outputs, ``(R, D)`` in the type of ``x_RD``.
        """
        dropout = self.dropout if self.training else 0.0
        weights = self.weight_1, self.bias_1, self.weight_2, self.bias_2
        if x_RD.is_cuda:
            return feed_forward_grouped(x_RD, *weights, counts_E, dropout)
        return _FeedForwardByExpert.apply(x_RD, *weights, counts_E.tolist(), dropout)


def feed_forward_grouped(
    x_RD: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, counts_E: Tensor, dropout: float
) -> Tensor:
    """Compute the same with torch's grouped matrix product: one kernel for all experts and no wait for ``counts_E``. It wins on GPUs."""
    ends_E = counts_E.cumsum(0).to(torch.int32)
    expert_R = torch.repeat_interleave(counts_E, output_size=x_RD.size(0))
    with torch.autocast(x_RD.device.type, enabled=False):
        weight_1, bias_1, weight_2, bias_2 = (weight.to(x_RD.dtype) for weight in (weight_1, bias_1, weight_2, bias_2))
        hidden_RF = F.relu(F.grouped_mm(x_RD, weight_1.transpose(1, 2), offs=ends_E) + bias_1[expert_R])
        hidden_RF = F.dropout(hidden_RF, dropout, training=dropout > 0)
        return F.grouped_mm(hidden_RF, weight_2.transpose(1, 2), offs=ends_E) + bias_2[expert_R]
