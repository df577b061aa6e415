"""Named architectures: the shapes of the published systems, each as a difference to ``moe_transformer``.

P1: Kim et al. 2021 (DeepSpeed-MoE, Z-code M3); P2: Kudugunta et al. 2021 (Task-level MoE); P3: Kim et al. 2022 ("Who
    Says Elephants Can't Run");
NLLB: NLLB Team 2022.
"""

from typing import Any

from fairseq.models import register_model_architecture
from hydra.core.config_store import ConfigStore

# The model is registered by its module, and fairseq wants that before the architectures.
from mmt.models import moe_transformer  # noqa: F401
from mmt.models.config import MoETransformerConfig

_SHARED = {"share_all_embeddings": True}
# P2 counts 33M for the vocabulary and 65M for the softmax, which is three separate tables of 64k x 512: nothing is
# shared here, so that the total is the paper's 533M (142M dense).
_BASE = {
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_layers": 6,
    "decoder_layers": 6,
}
# P1 and P3: 24 encoder and 12 decoder layers, every other one with experts, top-1 (P3, section 3.1).
_ZCODE = {
    **_SHARED,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_layers": 24,
    "decoder_layers": 12,
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "moe_freq": 2,
    "moe_top_k": 1,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "moe_transformer_base_32e": {**_BASE, "moe_experts": 32, "moe_freq": 2, "moe_top_k": 2},
    "moe_transformer_base_dense": {**_BASE, "moe_experts": 0},
    "moe_transformer_zcode_64e": {**_ZCODE, "moe_experts": 64},
    "moe_transformer_zcode_32e": {**_ZCODE, "moe_experts": 32},
    "moe_transformer_zcode_dense": {**_ZCODE, "moe_experts": 0},
    "moe_transformer_nllb_54b": {
        **_SHARED,
        "encoder_embed_dim": 2048,
        "encoder_ffn_embed_dim": 8192,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_layers": 24,
        "decoder_layers": 24,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "moe_experts": 128,
        "moe_freq": 4,
        "moe_top_k": 2,
        "dropout": 0.3,
    },
}


def _register(name: str, values: dict[str, Any]) -> None:
    """Make ``values`` available as ``--arch name`` and, for Hydra, as ``model=name``."""

    @register_model_architecture("moe_transformer", name)
    def set_missing(args: Any) -> None:
        for key, value in values.items():
            if getattr(args, key, None) is None:
                setattr(args, key, value)

    node = MoETransformerConfig(**values)
    node._name = name
    ConfigStore.instance().store(name=name, group="model", node=node, provider="fairseq")


for _name, _values in ARCHITECTURES.items():
    _register(_name, _values)
