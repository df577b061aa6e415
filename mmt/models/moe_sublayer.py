"""The feed-forward sub-layer with experts inside fairseq's transformer layers.

Shape letters used in this file: S length, B batch, T = S * B tokens, D model dim.
"""

from collections.abc import Mapping
from typing import Any

import torch
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmt.modules.balance import RoutingStatistics
from mmt.modules.moe_layer import MoELayer
from mmt.modules.routing import TokenContext


class RoutingState:
    """What the MoE layers of one encoder or decoder share during a forward pass.

    fairseq's layers hand neither the padding mask nor the task down to their feed-forward part, so the encoder and the
    decoder put them here before they run their layers, and collect the layers' statistics here afterwards.
    """

    def __init__(self) -> None:
        self.context: TokenContext | None = None
        # A dummy batch, which keeps a process in step that has run out of data: no token of it is routed.
        self.is_dummy = False
        self._statistics: dict[str, RoutingStatistics] = {}
        self._is_forward = False

    def begin(self, is_padding_BS: Tensor, task_id_B: Tensor | None, sentence_state_BD: Tensor | None) -> None:
        """Describe the tokens of the coming forward pass, which flattens ``(S, B)`` to ``(T,)``."""
        if self.is_dummy:
            is_padding_BS = torch.ones_like(is_padding_BS)
        num_sentences, length = is_padding_BS.shape
        sentences = torch.arange(num_sentences, device=is_padding_BS.device)
        is_padding_T = is_padding_BS.t().reshape(-1)
        self.context = TokenContext(
            is_padding_T=is_padding_T if bool(is_padding_T.any()) else None,
            sentence_T=sentences.repeat(length),
            num_sentences=num_sentences,
            task_id_B=task_id_B,
            sentence_state_BD=sentence_state_BD,
        )
        self._statistics, self._is_forward = {}, True

    def record(self, layer: str, statistics: RoutingStatistics) -> None:
        """Keep the statistics of ``layer``, if it is computed for the first time.

        What is computed again in the backward pass (``--checkpoint-activations``) has been counted, and would hold on
        to the activations of its layer until the next forward pass.
        """
        if self._is_forward:
            self._statistics[layer] = statistics

    def take_statistics(self) -> Mapping[str, RoutingStatistics]:
        """Return the statistics of the last forward pass by layer name, and forget them."""
        statistics, self._statistics, self._is_forward = self._statistics, {}, False
        return statistics


class _MoESublayer:
    """What the encoder and the decoder layer with experts have in common.

    fairseq's layers compute ``fc2(dropout(activation_fn(fc1(x))))``. With ``fc1`` and ``fc2`` empty, ``activation_fn``
    is the whole feed-forward sub-layer, so experts need no copy of fairseq's ``forward``.
    """

    name: str
    moe: MoELayer
    activation_fn: Any

    def _install(self, name: str, moe: MoELayer, state: RoutingState, checkpoint_activations: bool) -> None:
        self.name = name
        self.moe = moe
        self.routing_state = state
        self.checkpoint_activations = checkpoint_activations
        self.activation_fn = self._feed_forward
        self.activation_dropout_module = nn.Identity()

    def build_fc1(self, *unused: Any) -> nn.Module:
        return nn.Identity()

    def build_fc2(self, *unused: Any) -> nn.Module:
        return nn.Identity()

    def _feed_forward(self, x_SBD: Tensor) -> Tensor:
        context = self.routing_state.context
        assert context is not None, "the encoder or decoder calls RoutingState.begin() first"
        y_TD, statistics = self.moe(x_SBD.reshape(-1, x_SBD.size(-1)), context)
        self.routing_state.record(self.name, statistics)
        return y_TD.view_as(x_SBD)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # torch's checkpoint, not fairseq's: the balance loss leaves the layer by the side, and only the non-reentrant
        # kind keeps its gradient.
        run = super().forward  # type: ignore[misc]
        if self.checkpoint_activations and self.training:  # type: ignore[attr-defined]
            return checkpoint(run, *args, use_reentrant=False, **kwargs)
        return run(*args, **kwargs)


class MoETransformerEncoderLayer(_MoESublayer, TransformerEncoderLayerBase):
    """fairseq's encoder layer with experts as its feed-forward part."""

    def __init__(self, cfg: Any, name: str, moe: MoELayer, state: RoutingState) -> None:
        super().__init__(cfg)
        self._install(name, moe, state, cfg.checkpoint_activations)


class MoETransformerDecoderLayer(_MoESublayer, TransformerDecoderLayerBase):
    """fairseq's decoder layer with experts as its feed-forward part."""

    def __init__(self, cfg: Any, name: str, moe: MoELayer, state: RoutingState, no_encoder_attn: bool = False) -> None:
        super().__init__(cfg, no_encoder_attn)
        self._install(name, moe, state, cfg.checkpoint_activations)


def names_of_moe_layers(model: nn.Module) -> list[str]:
    """List the names ("encoder.1", ...) under which the layers with experts record their statistics."""
    return [module.name for module in model.modules() if isinstance(module, _MoESublayer)]
