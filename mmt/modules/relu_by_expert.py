"""ReLU experts on a CPU: one after the other, or side by side, with forward and backward written by hand."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmt.modules.reused_memory import ReusedMemory
from mmt.modules.side_by_side import Segment, run_in_turn, run_side_by_side

# Up to so many rows a weight's gradient is faster as a sum of outer products: a matrix product repacks its operands.
FEW_ROWS = 6
# From so many numbers in an expert's matrix on, experts side by side are faster than one after the other.
LARGE_MATRIX = 2**19


class ReluFeedForwardByExpert(torch.autograd.Function):
    """One expert after the other, while its rows and hidden states are in the processor's cache.

    Written by hand, because autograd would make a zero tensor as large as all experts' weights for each expert's
    slice. Gradients are written straight into their place; experts without rows get zeros. Only ``x_RD`` and the
    hidden states are kept for the backward pass. Weights may be of another type than the rows (autocast): each
    expert's are cast while they are at hand.

    P in a shape counts rows with those that ``product_rows`` adds to each expert's. What is computed for the added rows
    is left out again, and their gradients are zeros, so that they change no weight's.
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
        places = _ranges([product_rows(count, x_RD.dtype) for count in counts])
        hidden_PF = x_RD.new_empty(places[-1].stop, weight_1.size(1))
        out_RD = torch.empty_like(x_RD)
        bias_1, bias_2 = bias_1.to(x_RD.dtype), bias_2.to(x_RD.dtype)

        def make_scratch() -> tuple[Any, ...]:
            return (_CastSlices(weight_1, x_RD), _CastSlices(weight_2, x_RD), *_buffers(places, x_RD, x_RD))

        def compute(segment: Segment, scratch: tuple[Any, ...]) -> None:
            expert, rows = segment
            cast_1, cast_2, x_buffer, out_buffer = scratch
            hidden = hidden_PF[places[expert]]
            x, out = _filled_up(x_RD[rows], x_buffer, hidden.size(0)), out_buffer[: hidden.size(0)]
            # Not addmm, which copies the bias to all rows before it begins.
            torch.mm(x, cast_1[expert].t(), out=hidden).add_(bias_1[expert]).relu_()
            if dropout > 0:
                F.dropout(hidden, dropout, training=True, inplace=True)
            torch.mm(hidden, cast_2[expert].t(), out=out)
            torch.add(_first(out, rows), bias_2[expert], out=out_RD[rows])

        # Dropout takes its random numbers in the order of the experts.
        run = _way_to_run(x_RD, weight_1) if dropout == 0 else run_in_turn
        run(_segments(counts), make_scratch, compute)
        ctx.save_for_backward(x_RD, hidden_PF, weight_1, weight_2)
        ctx.counts, ctx.places, ctx.dropout, ctx.gradient_memory = counts, places, dropout, gradient_memory
        return out_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Any, ...]:
        x_RD, hidden_PF, weight_1, weight_2 = ctx.saved_tensors
        places = ctx.places
        grad_RD = grad_RD.contiguous()
        grad_x_RD = torch.empty_like(x_RD)
        memory_1, memory_2 = ctx.gradient_memory
        grad_weight_1, grad_weight_2 = memory_1.empty_like(weight_1), memory_2.empty_like(weight_2)
        grad_bias_1, grad_bias_2 = weight_1.new_zeros(weight_1.shape[:2]), weight_2.new_zeros(weight_2.shape[:2])

        def make_scratch() -> tuple[Any, ...]:
            casts = _CastSlices(weight_1, x_RD), _CastSlices(weight_2, x_RD)
            return (*casts, *_buffers(places, x_RD, grad_RD, hidden_PF, x_RD))

        def compute(segment: Segment, scratch: tuple[Any, ...]) -> None:
            expert, rows = segment
            cast_1, cast_2, x_buffer, grad_buffer, grad_hidden_buffer, grad_x_buffer = scratch
            hidden = hidden_PF[places[expert]]
            number = hidden.size(0)
            x, grad = _filled_up(x_RD[rows], x_buffer, number), _filled_up(grad_RD[rows], grad_buffer, number)
            grad_hidden = torch.mm(grad, cast_2[expert], out=grad_hidden_buffer[:number])
            # The hidden state is positive where ReLU and dropout let something through.
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0.0, grad_input=grad_hidden)
            if ctx.dropout > 0:
                grad_hidden.mul_(1.0 / (1.0 - ctx.dropout))
            grad_x_RD[rows] = _first(torch.mm(grad_hidden, cast_1[expert], out=grad_x_buffer[:number]), rows)
            torch.sum(grad, dim=0, dtype=weight_2.dtype, out=grad_bias_2[expert])
            torch.sum(grad_hidden, dim=0, dtype=weight_1.dtype, out=grad_bias_1[expert])
            cast_2.store_gradient(grad, hidden, out=grad_weight_2[expert])
            cast_1.store_gradient(grad_hidden, x, out=grad_weight_1[expert])

        _way_to_run(x_RD, weight_1)(_segments(ctx.counts), make_scratch, compute)
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                grad_weight_1[expert].zero_()
                grad_weight_2[expert].zero_()
        return grad_x_RD, grad_weight_1, grad_bias_1, grad_weight_2, grad_bias_2, None, None, None


def product_rows(count: int, dtype: torch.dtype) -> int:
    """Return with how many rows the matrix products of an expert with ``count`` rows are computed.

    For bfloat16 torch compiles a kernel for every new number of rows, which takes 2 to 3 ms and 0.5 MB, and keeps the
    last 1,024; an expert gets another number in every step. So numbers from 32 on are rounded up to one of 16 steps per
    doubling, by 6 % at most and 2 % on average.
    """
    if dtype != torch.bfloat16:
        return count
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def _ranges(lengths: list[int]) -> list[slice]:
    """Return the place of each of some ranges that lie one after the other."""
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths))]


def _buffers(places: list[slice], *like: Tensor) -> list[Tensor]:
    """Make memory for the rows of one expert, with the width and type of each of ``like``.

    One for all experts: freshly allocated memory costs as much as the product that fills it.
    """
    most = max(place.stop - place.start for place in places)
    return [tensor.new_empty(most, tensor.size(1)) for tensor in like]


def _filled_up(x: Tensor, buffer: Tensor, number: int) -> Tensor:
    """Return ``x`` with rows of zeros appended, ``number`` rows in all; in ``buffer``, if any have to be."""
    if x.size(0) == number:
        return x
    buffer[: x.size(0)] = x
    buffer[x.size(0) : number].zero_()
    return buffer[:number]


def _first(x: Tensor, rows: slice) -> Tensor:
    """Return as many rows of ``x`` as ``rows`` are."""
    return x[: rows.stop - rows.start]


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
    return [(expert, rows) for expert, rows in enumerate(_ranges(counts)) if rows.stop > rows.start]
