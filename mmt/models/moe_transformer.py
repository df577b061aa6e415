"""``--arch moe_transformer``: fairseq's transformer with a mixture of experts in some of its feed-forward
sub-layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import register_model
from fairseq.models.transformer import TransformerModelBase
from torch import Tensor, nn

from mmt.data.task_ids import TaskIds
from mmt.errors import UserError
from mmt.models.config import MoETransformerConfig, nested_config, validate
from mmt.models.decoder import MoETransformerDecoder
from mmt.models.encoder import MoETransformerEncoder
from mmt.models.faster_modules import use_faster_modules


@register_model("moe_transformer", dataclass=MoETransformerConfig)
class MoETransformerModel(TransformerModelBase):
    """A multilingual encoder-decoder with experts.

    With ``--moe-experts 0`` it is fairseq's dense transformer: the same parameters under the same names, so checkpoints
    can be exchanged.

    Attributes:
        autocast_dtype: in which it is used for translating; None computes in the parameters' own type.
    """

    autocast_dtype: torch.dtype | None = None

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add the options of ``MoETransformerConfig``, without defaults, so that architectures can set them."""
        from_dataclass = super(TransformerModelBase, cls).add_args
        from_dataclass(parser)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MoETransformerModel":
        """Build the model.

        Args:
            cfg: a MoETransformerConfig, as dataclass or DictConfig.
            task: has ``source_dictionary``, ``target_dictionary``, ``langs`` and the trained ``trained_lang_pairs``.

        Raises:
            UserError: if an MoE option breaks a rule.
        """
        validate(cfg)
        config = nested_config(cfg)
        if config.moe_experts > 0 and not hasattr(task, "trained_lang_pairs"):
            raise UserError(
                "--arch moe_transformer with --moe-experts needs --task multilingual_moe_translation, which tells the "
                f"routers the languages, but the task is {type(task).__name__}"
            )
        config.task_ids = (
            TaskIds(config.moe_task_id, task.langs, task.trained_lang_pairs) if config.moe_experts > 0 else ()
        )
        model = super().build_model(config, task)
        use_faster_modules(model)
        return model

    @classmethod
    def build_encoder(cls, cfg: Any, src_dict: Dictionary, embed_tokens: nn.Embedding) -> MoETransformerEncoder:
        return MoETransformerEncoder(cfg, src_dict, embed_tokens, cfg.task_ids)

    @classmethod
    def build_decoder(cls, cfg: Any, tgt_dict: Dictionary, embed_tokens: nn.Embedding) -> MoETransformerDecoder:
        return MoETransformerDecoder(
            cfg, tgt_dict, embed_tokens, num_tasks=len(cfg.task_ids), no_encoder_attn=cfg.no_cross_attention
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        return_all_hiddens: bool = False,
        features_only: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
        src_lang_id: Tensor | None = None,
        tgt_lang_id: Tensor | None = None,
        is_dummy: bool = False,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return logits ``(B, S, V)`` (features ``(B, S, D)`` with ``features_only``) and a dictionary.

        fairseq's ``forward`` with the languages of each sentence passed on to the encoder. The dictionary's
        ``routing_statistics`` maps the name of each MoE layer ("encoder.1") to its RoutingStatistics, and
        ``balanced_layers`` names those that get a balance loss unless told otherwise: all but the task-routed ones,
        whose few rows would be forced apart however related the tasks are. No token of a batch that ``is_dummy`` is
        routed.
        """
        self.encoder.routing_state.is_dummy = self.decoder.routing_state.is_dummy = is_dummy
        encoder_out = self.encoder(
            src_tokens,
            src_lengths=src_lengths,
            return_all_hiddens=return_all_hiddens,
            src_lang_id=src_lang_id,
            tgt_lang_id=tgt_lang_id,
        )
        output, extra = self.decoder(
            prev_output_tokens,
            encoder_out=encoder_out,
            features_only=features_only,
            alignment_layer=alignment_layer,
            alignment_heads=alignment_heads,
            src_lengths=src_lengths,
            return_all_hiddens=return_all_hiddens,
        )
        extra["routing_statistics"] = {
            **self.encoder.routing_state.take_statistics(),
            **self.decoder.routing_state.take_statistics(),
        }
        extra["balanced_layers"] = [
            layer
            for layer in extra["routing_statistics"]
            if getattr(self.cfg, f"{layer.split('.')[0]}_routing") != "task"
        ]
        return output, extra

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Prepare for translating, with ``--bf16`` in bfloat16: fairseq-generate has the option, but ignores it."""
        super().prepare_for_inference_(cfg)
        self.autocast_dtype = torch.bfloat16 if cfg.common.bf16 else None

    def run(self, work: Callable[[], Any]) -> Any:
        """Return ``work()``, which calls encoder and decoder one by one.

        To what looks after the parameters of a model that is spread over processes, it is a call of the model.
        """
        return work()

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Upgrade old checkpoints as fairseq does, after a check that the dictionary is the one of the checkpoint.

        Raises:
            UserError: if the number of embeddings differs.
        """
        for side in ("encoder", "decoder"):
            # fairseq takes a state without a version (its moving average makes such) for one from before there was a
            # norm after the last layer, and removes that of the model.
            if f"{side}.layer_norm.weight" in state_dict:
                state_dict.setdefault(f"{side}.version", getattr(self, side).version)
        if self.encoder.task_ids is None:
            state_dict.pop("encoder.task_ids.task_of_pair", None)  # once saved whatever the routing
        super().upgrade_state_dict_named(state_dict, name)
        for side in ("encoder", "decoder"):
            saved = state_dict.get(f"{side}.embed_tokens.weight")
            expected = getattr(self, side).embed_tokens.num_embeddings
            if saved is not None and saved.size(0) != expected:
                raise UserError(
                    f"the dictionary does not fit the checkpoint: it has {expected} entries with the language "
                    f"tokens, but the checkpoint's {side} has "
                    f"{saved.size(0)} embeddings; use the data folder (dict.txt, lang_list.txt) that the model "
                    f"was trained with"
                )
