"""The experts: E feed-forward networks with stacked weights, each applied to its own rows."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from mmt.modules.collectives import own_part, sum_gradient_over_ranks, sum_over_ranks
from mmt.modules.reused_memory import ReusedMemory
from mmt.modules.side_by_side import Segment, run_in_turn, run_side_by_side

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
# Up to so many rows a weight's gradient is faster as a sum of outer products: a matrix product repacks its operands.
FEW_ROWS = 6
# From so many numbers in an expert's matrix on, experts side by side are faster than one after the other.
LARGE_MATRIX = 2**19


class Experts(nn.Module):
    """E feed-forward networks ``activation(x W1 + b1) W2 + b2``.

    Weights are stacked as ``(E, F, D)`` and ``(E, D, F)``, so that they can be sharded, packed and sliced by expert;
    slice ``e`` is fairseq's ``fc1`` and ``fc2``, with the same initialisation.

    Args:
        num_experts: E.
        model_dim: D.
        ffn_dim: F.
        activation: "relu" or "gelu". ReLU has a faster path on CPUs.
        dropout: dropout of the hidden states in training.

    Raises:
        ValueError: if ``activation`` is unknown or ``dropout`` out of range.
    """

    def __init__(
        self, num_experts: int, model_dim: int, ffn_dim: int, *, activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            names = ", ".join(ACTIVATIONS)
            raise ValueError(f"--activation-fn must be one of {names} with --moe-experts, but is {activation!r}.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"--activation-dropout must be at least 0 and below 1, but is {dropout}.")
        self.activation = activation
        self.dropout = dropout
        self.weight_1 = nn.Parameter(torch.empty(num_experts, ffn_dim, model_dim))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.weight_2 = nn.Parameter(torch.empty(num_experts, model_dim, ffn_dim))
        self.bias_2 = nn.Parameter(torch.empty(num_experts, model_dim))
        # Processes that hold a part of the hidden units each, and work on the same rows.
        self.split_group: ProcessGroup | None = None
        # Where processes hold some experts each: sends rows to where they are computed, and brings the outputs back.
        self.exchange: Callable[[Experts, Tensor, Tensor], Tensor] | None = None
        self._gradient_memory = ReusedMemory(), ReusedMemory()
        self.reset_parameters()

    @property
    def num_experts(self) -> int:
        """E."""
        return self.weight_1.size(0)

    def reset_parameters(self) -> None:
        """Initialise every expert as torch initialises a linear layer."""
        for weight, bias in ((self.weight_1, self.bias_1), (self.weight_2, self.bias_2)):
            bound = 1.0 / math.sqrt(weight.size(2))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def train(self, mode: bool = True) -> "Experts":
        """Switch to training or evaluation, which needs no memory for gradients."""
        if not mode:
            for memory in self._gradient_memory:
                memory.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return what ``print`` shows in the brackets."""
        num_experts, ffn_dim, model_dim = self.weight_1.shape
        return f"{num_experts}, {model_dim}, {ffn_dim}, activation={self.activation!r}, dropout={self.dropout}"

    def forward(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Apply the experts.

        Args:
            x_RD: rows sorted by expert, ``(R, D)``.
            counts_E: rows of each expert, ``(E,)``.

        Returns:
            The experts' outputs, ``(R, D)`` in the type of ``x_RD``.
        """
        if self.exchange is not None:
            return self.exchange(self, x_RD, counts_E)
        (compute,) = self.in_parts(1)
        return compute(x_RD, counts_E)

    def in_parts(self, number: int) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Return a function for each of ``number`` equal parts of this process' experts, which does as ``forward``."""
        weights = [own_part(weight) for weight in (self.weight_1, self.bias_1, self.weight_2, self.bias_2)]
        if number == 1:
            return [functools.partial(self._compute, *weights)]
        return [functools.partial(self._compute, *part) for part in zip(*(weight.chunk(number) for weight in weights))]

    def _compute(
        self, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, x_RD: Tensor, counts_E: Tensor
    ) -> Tensor:
        if self.split_group is None:
            return self._feed_forward(x_RD, weight_1, bias_1, weight_2, bias_2, counts_E)
        if self.split_group.rank() > 0:
            bias_2 = bias_2 - bias_2.detach()  # it is added once: zero in value, but each process has its gradient
        x_RD = sum_gradient_over_ranks(x_RD, self.split_group)
        return sum_over_ranks(self._feed_forward(x_RD, weight_1, bias_1, weight_2, bias_2, counts_E), self.split_group)

    def _feed_forward(
        self, x_RD: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, counts_E: Tensor
    ) -> Tensor:
        weights = weight_1, bias_1, weight_2, bias_2
        dropout = self.dropout if self.training else 0.0
        if x_RD.size(0) > 0 and (x_RD.is_cuda or self.activation != "relu"):
            return feed_forward_grouped(x_RD, *weights, counts_E, self.activation, dropout)
        return _ReluFeedForwardByExpert.apply(x_RD, *weights, counts_E.tolist(), dropout, self._gradient_memory)


class _ReluFeedForwardByExpert(torch.autograd.Function):
    """One expert after the other, while its rows and hidden states are in the processor's cache.

    Written by hand, because autograd would make a zero tensor as large as all experts' weights for each expert's
    slice. Gradients are written straight into their place; experts without rows get zeros. Only ``x_RD`` and the
    hidden states are kept for the backward pass. Weights may be of another type than the rows (autocast): each
    expert's are cast while they are at hand.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_RD: Tensor,
        weight_1: Tensor,
        bias_1: Tensor,
        weight_2: Tensor,
        bias_2: Tensor,
        counts: list[int],
        dropout: float,
        gradient_memory: tuple[ReusedMemory, ReusedMemory],
    ) -> Tensor:
        hidden_RF = x_RD.new_empty(x_RD.size(0), weight_1.size(1))
        out_RD = torch.empty_like(x_RD)
        bias_1, bias_2 = bias_1.to(x_RD.dtype), bias_2.to(x_RD.dtype)

        def casts() -> tuple[_CastSlices, _CastSlices]:
            return _CastSlices(weight_1, x_RD), _CastSlices(weight_2, x_RD)

        def compute(segment: Segment, cast: tuple[_CastSlices, _CastSlices]) -> None:
            expert, rows = segment
            hidden = hidden_RF[rows]
            # Not addmm, which copies the bias to all rows before it begins.
            torch.mm(x_RD[rows], cast[0][expert].t(), out=hidden).add_(bias_1[expert]).relu_()
            if dropout > 0:
                F.dropout(hidden, dropout, training=True, inplace=True)
            torch.mm(hidden, cast[1][expert].t(), out=out_RD[rows]).add_(bias_2[expert])

        # Dropout takes its random numbers in the order of the experts.
        run = _way_to_run(x_RD, weight_1) if dropout == 0 else run_in_turn
        run(_segments(counts), casts, compute)
        ctx.save_for_backward(x_RD, hidden_RF, weight_1, weight_2)
        ctx.counts, ctx.dropout, ctx.gradient_memory = counts, dropout, gradient_memory
        return out_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Any, ...]:
        x_RD, hidden_RF, weight_1, weight_2 = ctx.saved_tensors
        grad_RD = grad_RD.contiguous()
        grad_x_RD = torch.empty_like(x_RD)
        memory_1, memory_2 = ctx.gradient_memory
        grad_weight_1, grad_weight_2 = memory_1.empty_like(weight_1), memory_2.empty_like(weight_2)
        grad_bias_1, grad_bias_2 = weight_1.new_zeros(weight_1.shape[:2]), weight_2.new_zeros(weight_2.shape[:2])

        def buffers() -> tuple[_CastSlices, _CastSlices, Tensor]:
            # One for all experts: freshly allocated memory costs as much as the product that fills it.
            grad_hidden_RF = hidden_RF.new_empty(max(ctx.counts), hidden_RF.size(1))
            return _CastSlices(weight_1, x_RD), _CastSlices(weight_2, x_RD), grad_hidden_RF

        def compute(segment: Segment, scratch: tuple[_CastSlices, _CastSlices, Tensor]) -> None:
            expert, rows = segment
            cast_1, cast_2, grad_hidden_RF = scratch
            x, hidden, grad = x_RD[rows], hidden_RF[rows], grad_RD[rows]
            grad_hidden = torch.mm(grad, cast_2[expert], out=grad_hidden_RF[: x.size(0)])
            # The hidden state is positive where ReLU and dropout let something through.
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0.0, grad_input=grad_hidden)
            if ctx.dropout > 0:
                grad_hidden.mul_(1.0 / (1.0 - ctx.dropout))
            torch.mm(grad_hidden, cast_1[expert], out=grad_x_RD[rows])
            torch.sum(grad, dim=0, dtype=weight_2.dtype, out=grad_bias_2[expert])
            torch.sum(grad_hidden, dim=0, dtype=weight_1.dtype, out=grad_bias_1[expert])
            cast_2.store_gradient(grad, hidden, out=grad_weight_2[expert])
            cast_1.store_gradient(grad_hidden, x, out=grad_weight_1[expert])

        _way_to_run(x_RD, weight_1)(_segments(ctx.counts), buffers, compute)
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                grad_weight_1[expert].zero_()
                grad_weight_2[expert].zero_()
        return grad_x_RD, grad_weight_1, grad_bias_1, grad_weight_2, grad_bias_2, None, None, None


class _CastSlices:
    """The slices of ``weight`` in the type of ``like``, one at a time, in one buffer that stays in the cache."""

    def __init__(self, weight: Tensor, like: Tensor) -> None:
        self._weight = weight
        same_type = weight.dtype == like.dtype
        self._buffer = None if same_type else torch.empty(weight.shape[1:], dtype=like.dtype, device=like.device)

    def __getitem__(self, expert: int) -> Tensor:
        weight = self._weight[expert]
        return weight if self._buffer is None else self._buffer.copy_(weight)

    def store_gradient(self, grad: Tensor, x: Tensor, out: Tensor) -> None:
        """Store ``grad.t() @ x`` in ``out``, which is shaped and typed like a slice of ``weight``.

        Overwrites the buffer.
        """
        if self._buffer is not None:
            out.copy_(torch.mm(grad.t(), x, out=self._buffer))
        elif x.size(0) <= FEW_ROWS:
            torch.mul(grad[0, :, None], x[0], out=out)
            for row in range(1, x.size(0)):
                out.addr_(grad[row], x[row])
        else:
            torch.mm(grad.t(), x, out=out)


def _way_to_run(x_RD: Tensor, weight_1: Tensor) -> Callable[..., None]:
    """Choose between all threads for one expert after the other, and experts side by side."""
    # Measured: in float32 there is nothing in it, and smaller matrices are over before a thread has begun.
    if x_RD.dtype == torch.bfloat16 and weight_1[0].numel() >= LARGE_MATRIX and torch.get_num_threads() > 1:
        return run_side_by_side
    return run_in_turn


def _segments(counts: list[int]) -> list[Segment]:
    """List the experts that have rows, with their rows."""
    segments, start = [], 0
    for expert, count in enumerate(counts):
        if count > 0:
            segments.append((expert, slice(start, start + count)))
        start += count
    return segments


def feed_forward_grouped(
    x_RD: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    counts_E: Tensor,
    activation: str,
    dropout: float,
) -> Tensor:
    """Apply the experts with torch's grouped matrix product: one kernel for all experts and no wait for ``counts_E``.

    The way for GPUs, where it wins, and for other activations than ReLU.
    """
    ends_E = counts_E.cumsum(0).to(torch.int32)
    expert_R = torch.arange(counts_E.numel(), device=x_RD.device)
    expert_R = torch.repeat_interleave(expert_R, counts_E, output_size=x_RD.size(0))

    def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(rows.dtype).transpose(1, 2)
        if weight.requires_grad:
            # Some GPU kernels leave the gradient of experts without rows unset (pytorch issue 172439).
            is_empty_E = counts_E.eq(0)
            weight.register_hook(lambda grad: grad.masked_fill(is_empty_E[:, None, None], 0.0))
        return F.grouped_mm(rows, weight, offs=ends_E) + bias.to(rows.dtype)[expert_R]

    with torch.autocast(x_RD.device.type, enabled=False):
        hidden_RF = ACTIVATIONS[activation](linear(x_RD, weight_1, bias_1))
        return linear(F.dropout(hidden_RF, dropout, training=dropout > 0), weight_2, bias_2)
