"""The mixture-of-experts layer."""

import torch
from torch import Tensor, nn

from mmt.modules.balance import RoutingStatistics, collect_statistics
from mmt.modules.experts import Experts
from mmt.modules.permute import combine, gather
from mmt.modules.routing import TokenContext


class MoELayer(nn.Module):
    """``Router -> Dispatch -> Experts -> combine``. Every variant is another router, dispatch or experts module, never an ``if`` here.

    Padded tokens are not routed, take no room in any expert, count in no statistic, and come out as zeros.
    """

    def __init__(self, router: nn.Module, dispatch: nn.Module, experts: Experts) -> None:
        super().__init__()
        self.router = router
        self.dispatch = dispatch
        self.experts = experts

    def forward(self, x_TD: Tensor, context: TokenContext) -> tuple[Tensor, RoutingStatistics]:
        """Apply the experts.

        Args:
            x_TD: token states, ``(T, D)``.
            context: which tokens are padding, and what else the router looks at.

        Returns:
            The outputs ``(T, D)`` in the type of ``x_TD``, and the layer's statistics.
        """
        routing = self.router(x_TD, context)
        dispatch = self.dispatch(routing, context.is_padding_T)
        rows_RD = gather(_to_compute_dtype(x_TD), dispatch)
        rows_RD = self.experts(rows_RD, dispatch.counts_E)
        y_TD = combine(rows_RD, routing.weight_TK, dispatch)
        return y_TD.to(x_TD.dtype), collect_statistics(routing, dispatch, context.is_padding_T)


def _to_compute_dtype(x: Tensor) -> Tensor:
    """Cast to autocast's type, where autocast is on: modules that call custom functions have to do it themselves."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
