"""fairseq's transformer encoder with experts in some of its layers."""

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerEncoderBase
from torch import Tensor, nn

from mmt.data.task_ids import TaskIds
from mmt.models.build_moe import build_moe_layer, is_moe_layer
from mmt.models.moe_sublayer import MoETransformerEncoderLayer, RoutingState


class MoETransformerEncoder(TransformerEncoderBase):
    """Encoder whose ``forward`` also takes the languages of each sentence, and passes on what decoder routers need.

    Its output dictionary has two more entries than fairseq's, each a list with at most one tensor, so that beam search
    reorders them with the rest: ``task_id`` ``(B,)`` and ``sentence_state`` ``(B, D)``, the mean of the output states
    over the real tokens.
    """

    def __init__(self, cfg: Any, dictionary: Dictionary, embed_tokens: nn.Embedding, task_ids: TaskIds) -> None:
        self.routing_state = RoutingState()
        self._layers_built = 0
        self._num_tasks = len(task_ids)
        super().__init__(cfg, dictionary, embed_tokens)
        self.needs_task_id = cfg.moe_experts > 0 and "task" in (cfg.encoder_routing, cfg.decoder_routing)
        self.needs_sentence_state = cfg.moe_experts > 0 and cfg.decoder_routing == "sentence"
        # Nothing is saved if no router asks for tasks: the dense model's checkpoints stay those of fairseq.
        self.task_ids = task_ids if self.needs_task_id else None

    def build_encoder_layer(self, cfg: Any) -> nn.Module:
        index, self._layers_built = self._layers_built, self._layers_built + 1
        if not is_moe_layer(cfg, "encoder", index):
            return super().build_encoder_layer(cfg)
        moe = build_moe_layer(cfg, "encoder", self._num_tasks)
        return MoETransformerEncoderLayer(cfg, f"encoder.{index}", moe, self.routing_state)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
        src_lang_id: Tensor | None = None,
        tgt_lang_id: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Encode ``src_tokens`` ``(B, S)``; see fairseq's TransformerEncoderBase.

        Args:
            src_lang_id: index of each sentence's source language, ``(B,)`` or ``(B, 1)``. Needed for task routing.
            tgt_lang_id: index of each sentence's target language, likewise.

        Raises:
            ValueError: if the model routes by task and the language indices are missing.
        """
        is_padding_BS = src_tokens.eq(self.padding_idx)
        task_id_B = None
        if self.task_ids is not None:
            if src_lang_id is None or tgt_lang_id is None:
                raise ValueError(
                    "a task-routed model needs src_lang_id and tgt_lang_id in net_input: use --task "
                    "multilingual_moe_translation"
                )
            task_id_B = self.task_ids(src_lang_id.reshape(-1), tgt_lang_id.reshape(-1))
        self.routing_state.begin(is_padding_BS, task_id_B, sentence_state_BD=None)
        encoder_out = super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        encoder_out["task_id"] = [] if task_id_B is None else [task_id_B]
        encoder_out["sentence_state"] = []
        if self.needs_sentence_state:
            encoder_out["sentence_state"] = [mean_of_real_tokens(encoder_out["encoder_out"][0], is_padding_BS)]
        return encoder_out

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor) -> dict[str, list[Tensor]]:
        reordered = super().reorder_encoder_out(encoder_out, new_order)
        for key in ("task_id", "sentence_state"):
            reordered[key] = [state.index_select(0, new_order) for state in encoder_out[key]]
        return reordered


def mean_of_real_tokens(x_SBD: Tensor, is_padding_BS: Tensor) -> Tensor:
    """Return the mean state of each sentence without its padding, ``(B, D)`` in float32; zeros for a sentence of
    padding alone.
    """
    is_real_SB1 = is_padding_BS.t().logical_not().unsqueeze(-1)
    sums_BD = torch.where(is_real_SB1, x_SBD, 0).sum(dim=0, dtype=torch.float32)
    return sums_BD / is_real_SB1.sum(dim=0).clamp(min=1)
