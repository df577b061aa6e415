"""Tiny models on a made-up dictionary, without data on disk."""

from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary

from mmt.models.config import MoETransformerConfig
from mmt.models.moe_transformer import MoETransformerModel

PAD, EOS = 1, 2
TINY = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "share_all_embeddings": True,
    "dropout": 0.0,
}


def tiny_task(words: int = 20) -> SimpleNamespace:
    """What a model needs of a task: dictionaries, languages and directions."""
    dictionary = Dictionary()
    for word in range(words):
        dictionary.add_symbol(f"w{word}")
    pairs = ["en-de", "de-en", "en-fr", "fr-en"]
    return SimpleNamespace(
        source_dictionary=dictionary, target_dictionary=dictionary, langs=["en", "de", "fr"], trained_lang_pairs=pairs
    )


def tiny_model(**options: Any) -> MoETransformerModel:
    """Build a tiny model with ``options`` on top of ``TINY``."""
    torch.manual_seed(1)
    return MoETransformerModel.build_model(MoETransformerConfig(**{**TINY, **options}), tiny_task())


def batch(
    sources: list[list[int]], targets: list[list[int]], source_language: int = 0, target_language: int = 1
) -> dict[str, torch.Tensor]:
    """Collate token lists as fairseq does: sources padded on the left, targets on the right and shifted behind
    end-of-sentence.
    """
    source_length, target_length = max(map(len, sources)) + 1, max(map(len, targets)) + 1
    return {
        "src_tokens": torch.tensor([[PAD] * (source_length - len(s) - 1) + s + [EOS] for s in sources]),
        "src_lengths": torch.tensor([len(s) + 1 for s in sources]),
        "prev_output_tokens": torch.tensor([[EOS] + t + [PAD] * (target_length - len(t) - 1) for t in targets]),
        "src_lang_id": torch.full((len(sources), 1), source_language),
        "tgt_lang_id": torch.full((len(sources), 1), target_language),
    }
