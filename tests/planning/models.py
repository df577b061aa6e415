"""Models for the tests of the planner."""

from typing import Any

from mmt.models.config import MoETransformerConfig
from mmt.models.moe_transformer import MoETransformerModel

SMALL = {
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 256,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "share_all_embeddings": True,
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "dropout": 0.1,
    "moe_experts": 4,
    "moe_freq": 2,
    "moe_top_k": 1,
}


def config(options: dict[str, Any]) -> MoETransformerConfig:
    """Return ``SMALL`` with other ``options``."""
    return MoETransformerConfig(**{**SMALL, **options})


def build(options: dict[str, Any], task: Any) -> MoETransformerModel:
    """Build ``SMALL`` with other ``options``."""
    return MoETransformerModel.build_model(config(options), task)
