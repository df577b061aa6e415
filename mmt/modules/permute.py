"""Rows of tokens to rows of routes and back.

Both directions, and the gradients of both, are gathers: torch's gradient of a gather is an ``index_add``, which on a
CPU walks row by row.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmt.modules.dispatch import Dispatch


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, index_R: Tensor) -> Tensor:
        ctx.save_for_backward(index_R)
        ctx.num_rows = x_TD.size(0)
        return x_TD.index_select(0, index_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        (index_R,) = ctx.saved_tensors
        return _spread(grad_RD, index_R, ctx.num_rows), None


class _PutRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, index_R: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(index_R)
        return _spread(x_RD, index_R, num_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, None, None]:
        (index_R,) = ctx.saved_tensors
        return grad_TD.index_select(0, index_R), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.dispatch = dispatch
        return x_TD.index_select(0, dispatch.token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        return _sum_routes(grad_RD, ctx.dispatch, None), None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weight_TK: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(rows_RD, weight_TK)
        ctx.dispatch = dispatch
        return _sum_routes(rows_RD, dispatch, weight_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:
        rows_RD, weight_TK = ctx.saved_tensors
        route_R = ctx.dispatch.route_R
        grad_rows_RD = grad_TD.index_select(0, ctx.dispatch.token_R)
        grad_weight_N = torch.zeros_like(weight_TK).view(-1)
        grad_weight_N[route_R] = (
            rows_RD.to(grad_rows_RD.dtype, copy=True).mul_(grad_rows_RD).sum(dim=-1).to(weight_TK.dtype)
        )
        grad_rows_RD.mul_(weight_TK.reshape(-1)[route_R][:, None])
        return grad_rows_RD.to(rows_RD.dtype), grad_weight_N.view_as(weight_TK), None


def _spread(x_RD: Tensor, index_R: Tensor, num_rows: int) -> Tensor:
    return x_RD.new_zeros(num_rows, x_RD.size(1)).index_copy_(0, index_R, x_RD)


def _sum_routes(rows_RD: Tensor, dispatch: Dispatch, weight_TK: Tensor | None) -> Tensor:
    """Add up the rows of each token's routes, times their weights if there are any, ``(T, D)``.

    The result is in the rows' own type without weights, in the weights' type (or a wider one) with them.
    """
    num_tokens, top_k = dispatch.position_TK.shape
    dtype = rows_RD.dtype if weight_TK is None else torch.promote_types(rows_RD.dtype, weight_TK.dtype)
    if rows_RD.size(0) == 0:
        return rows_RD.new_zeros(num_tokens, rows_RD.size(1), dtype=dtype)
    y_TD = None
    for k in range(top_k):  # route after route, which needs one (T, D) at a time, not K
        position_T = dispatch.position_TK[:, k]
        if dispatch.is_kept_TK is not None:
            position_T = position_T.clamp(max=rows_RD.size(0) - 1)
        # Types are changed first: a product of mixed types is ten times slower on a CPU.
        rows_TD = rows_RD.index_select(0, position_T).to(dtype)
        if weight_TK is not None:
            rows_TD.mul_(weight_TK[:, k, None])
        if dispatch.is_kept_TK is not None:
            # Many times faster on a CPU than masked_fill_ with a mask that is broadcast.
            rows_TD.index_fill_(0, (~dispatch.is_kept_TK[:, k]).nonzero().squeeze(-1), 0.0)
        y_TD = rows_TD if y_TD is None else y_TD.add_(rows_TD)
    assert y_TD is not None
    return y_TD


def take_rows(x_TD: Tensor, index_R: Tensor) -> Tensor:
    """Return rows ``index_R`` ``(R,)``, each at most once, of ``x_TD``."""
    return _TakeRows.apply(x_TD, index_R)


def put_rows(x_RD: Tensor, index_R: Tensor, *, num_rows: int) -> Tensor:
    """Return ``(num_rows, D)`` with ``x_RD`` in rows ``index_R`` ``(R,)``, each at most once, and zeros elsewhere."""
    return _PutRows.apply(x_RD, index_R, num_rows)


def gather(x_TD: Tensor, dispatch: Dispatch) -> Tensor:
    """Return the state of each route's token, ``(R, D)``."""
    return _Gather.apply(x_TD, dispatch)


def combine(rows_RD: Tensor, weight_TK: Tensor, dispatch: Dispatch) -> Tensor:
    """Return each token's sum of its routes' rows times their weights, ``(T, D)`` in float32 (or wider).

    Tokens whose routes were all dropped get zeros.
    """
    return _Combine.apply(rows_RD, weight_TK, dispatch)
