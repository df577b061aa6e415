"""Rows of tokens to rows of routes and back.

Both directions, and the gradients of both, are gathers: torch's gradient of a gather is an ``index_add``, which on a CPU walks row by row.
"""

from typing import Any

import torch
from torch import Tensor

from mmt.modules.dispatch import Dispatch


def _sum_routes(rows_RD: Tensor, dispatch: Dispatch, weight_TK: Tensor | None) -> Tensor:
    """Add up the rows of each token's routes, times their weights, ``(T, D)`` in ``rows_RD``'s type or float32 with weights."""
    num_tokens, top_k = dispatch.position_TK.shape
    if rows_RD.size(0) == 0:
        return rows_RD.new_zeros(num_tokens, rows_RD.size(1), dtype=rows_RD.dtype if weight_TK is None else weight_TK.dtype)
    position_N = dispatch.position_TK.reshape(-1)
    if dispatch.is_kept_TK is not None:
        is_kept_N1 = dispatch.is_kept_TK.reshape(-1, 1)
        rows_ND = rows_RD.index_select(0, position_N.clamp(max=rows_RD.size(0) - 1)).masked_fill_(~is_kept_N1, 0.0)
    else:
        rows_ND = rows_RD.index_select(0, position_N)
    if weight_TK is not None:
        rows_ND = rows_ND * weight_TK.reshape(-1, 1)
    return rows_ND if top_k == 1 else rows_ND.view(num_tokens, top_k, -1).sum(dim=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, dispatch: Dispatch) -> Tensor:  # type: ignore[override]
        ctx.dispatch = dispatch
        return x_TD.index_select(0, dispatch.token_R)

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _sum_routes(grad_RD, ctx.dispatch, None), None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weight_TK: Tensor, dispatch: Dispatch) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows_RD, weight_TK)
        ctx.dispatch = dispatch
        return _sum_routes(rows_RD, dispatch, weight_TK)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        rows_RD, weight_TK = ctx.saved_tensors
        dispatch: Dispatch = ctx.dispatch
        route_R = torch.empty_like(dispatch.token_R)
        routes_N = torch.arange(dispatch.position_TK.numel(), device=route_R.device)
        position_N = dispatch.position_TK.reshape(-1)
        if dispatch.is_kept_TK is not None:
            is_kept_N = dispatch.is_kept_TK.reshape(-1)
            routes_N, position_N = routes_N[is_kept_N], position_N[is_kept_N]
        route_R[position_N] = routes_N
        grad_rows_RD = grad_TD.index_select(0, dispatch.token_R)
        grad_weight_N = torch.zeros_like(weight_TK).reshape(-1)
        grad_weight_N[route_R] = (grad_rows_RD * rows_RD).sum(dim=-1, dtype=weight_TK.dtype)
        grad_rows_RD = (grad_rows_RD * weight_TK.reshape(-1)[route_R][:, None]).to(rows_RD.dtype)
        return grad_rows_RD, grad_weight_N.view_as(weight_TK), None


def gather(x_TD: Tensor, dispatch: Dispatch) -> Tensor:
    """Return the state of each route's token, ``(R, D)``."""
    return _Gather.apply(x_TD, dispatch)


def combine(rows_RD: Tensor, weight_TK: Tensor, dispatch: Dispatch) -> Tensor:
    """Return each token's sum of its routes' rows times their weights, ``(T, D)`` in float32; zeros for padding and tokens whose routes were all dropped."""
    return _Combine.apply(rows_RD, weight_TK, dispatch)
