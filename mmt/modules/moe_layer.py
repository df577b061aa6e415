"""The mixture-of-experts layer."""

from torch import Tensor, nn

from mmt.modules.balance import RoutingStatistics, collect_statistics
from mmt.modules.experts import Experts
from mmt.modules.permute import combine, gather, put_rows, take_rows
from mmt.modules.precision import compute_dtype
from mmt.modules.routing import TokenContext


class MoELayer(nn.Module):
    """``Router -> Dispatch -> Experts -> combine``. Every variant is another router, dispatch or experts module.

    Padded tokens are taken out first and come back as zeros: no part of the layer ever sees one, so they are not
    routed, take no room in an expert and count in no statistic.
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
        real_token_R = context.real_token_R
        if real_token_R is None:
            return self.forward_real(x_TD, context)
        y_RD, statistics = self.forward_real(take_rows(x_TD, real_token_R), context.without_padding)
        return put_rows(y_RD, real_token_R, num_rows=x_TD.size(0)), statistics

    def forward_real(self, x_TD: Tensor, context: TokenContext) -> tuple[Tensor, RoutingStatistics]:
        """Apply the experts to tokens none of which is padding."""
        routing = self.router(x_TD, context)
        dispatch = self.dispatch(routing)
        rows_RD = self.experts(gather(x_TD.to(compute_dtype(x_TD)), dispatch), dispatch.counts_E)
        y_TD = combine(rows_RD, routing.weight_TK, dispatch)
        return y_TD.to(x_TD.dtype), collect_statistics(routing, dispatch)


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """List the layers with experts, from the input on."""
    return [module for module in model.modules() if isinstance(module, MoELayer)]
