"""fairseq's transformer decoder with experts in some of its layers."""

from typing import Any

from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn

from mmt.models.build_moe import build_moe_layer, is_moe_layer
from mmt.models.moe_sublayer import MoETransformerDecoderLayer, RoutingState


class MoETransformerDecoder(TransformerDecoderBase):
    """Decoder whose routers see the token itself, the task id, or the mean state of the encoder, and never a later
    token.
    """

    def __init__(
        self,
        cfg: Any,
        dictionary: Dictionary,
        embed_tokens: nn.Embedding,
        num_tasks: int,
        no_encoder_attn: bool = False,
    ) -> None:
        self.routing_state = RoutingState()
        self._layers_built = 0
        self._num_tasks = num_tasks
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=no_encoder_attn)
        self.needs_sentence_state = cfg.moe_experts > 0 and cfg.decoder_routing == "sentence"

    def build_decoder_layer(self, cfg: Any, no_encoder_attn: bool = False) -> nn.Module:
        index, self._layers_built = self._layers_built, self._layers_built + 1
        if not is_moe_layer(cfg, "decoder", index):
            return super().build_decoder_layer(cfg, no_encoder_attn)
        moe = build_moe_layer(cfg, "decoder", self._num_tasks)
        return MoETransformerDecoderLayer(cfg, f"decoder.{index}", moe, self.routing_state, no_encoder_attn)

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Tensor]] | None,
        incremental_state: dict[str, Any] | None = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return features ``(B, S, D)``; see fairseq's TransformerDecoderBase.

        Raises:
            ValueError: if the decoder routes by sentence, and ``encoder_out`` is not from this model's encoder.
        """
        sentence_state_BD = _first(encoder_out, "sentence_state")
        if self.needs_sentence_state and sentence_state_BD is None:
            raise ValueError("a decoder that routes by sentence needs encoder_out['sentence_state'], (B, D)")
        # With incremental_state only the newest token of each hypothesis passes through the layers.
        tokens = prev_output_tokens if incremental_state is None else prev_output_tokens[:, -1:]
        self.routing_state.begin(
            tokens.eq(self.padding_idx),
            task_id_B=_first(encoder_out, "task_id"),
            sentence_state_BD=sentence_state_BD,
        )
        return super().extract_features(
            prev_output_tokens, encoder_out, incremental_state, full_context_alignment, alignment_layer, alignment_heads
        )


def _first(encoder_out: dict[str, list[Tensor]] | None, key: str) -> Tensor | None:
    states = encoder_out.get(key, []) if encoder_out is not None else []
    return states[0] if states else None
