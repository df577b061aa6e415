"""Multi-head attention (Vaswani et al. 2017, section 3.2.2), fast where fairseq's is not: on whole sequences.

Shape letters used in this file: T queries, S keys, B batch, H heads, D model dim, C = D / H.
"""

from typing import Any

import torch
from fairseq import modules
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmt.modules.precision import compute_dtype

# Without cuDNN's, which torch prefers on Hopper: it compiles a graph for every new shape, and every batch of sentences
# has one. Training took seven times as long with it (docs/benchmarks.md).
KERNELS_FOR_ANY_SHAPE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class MultiheadAttention(modules.MultiheadAttention):
    """fairseq's attention with the same weights; training and teacher forcing take a faster way.

    fairseq hands whole sequences to torch, which copies masks for every head, and on CPUs runs a kernel made for long
    sequences: three times slower than plain matrix products at the lengths of sentences. Steps of beam search, and
    fairseq's rare variants, stay with fairseq.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` ``(T, B, D)`` to ``key`` and ``value`` ``(S, B, D)``; see fairseq's class.

        Returns:
            The output ``(T, B, D)``, and the weights if they are wanted: ``(B, T, S)``, the mean over the heads, or
            ``(H, B, T, S)`` with ``need_head_weights``.
        """
        is_rare = before_softmax or self.bias_k is not None or self.add_zero_attn or self.use_xformers
        if incremental_state is not None or is_rare or key is None or value is None or query.size(1) != key.size(1):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                incremental_state,
                need_weights,
                static_kv,
                attn_mask,
                before_softmax,
                need_head_weights,
            )
        # Cast once: autocast would cast the input of each projection anew.
        dtype = compute_dtype(query)
        query_cast = query.to(dtype)
        key_cast = query_cast if key is query else key.to(dtype)
        value_cast = key_cast if value is key else value.to(dtype)
        q, k, v = self.q_proj(query_cast), self.k_proj(key_cast), self.v_proj(value_cast)
        mask = additive_mask(attn_mask, key_padding_mask, dtype)
        wants_weights = need_weights or need_head_weights
        if query.is_cuda and not wants_weights:
            return self._attend_fused(q, k, v, mask), None
        out, weights_BHTS = self._attend(q, k, v, mask)
        if not wants_weights:
            return out, None
        return out, weights_BHTS.transpose(0, 1) if need_head_weights else weights_BHTS.mean(dim=1)

    def _attend(self, q_TBD: Tensor, k_SBD: Tensor, v_SBD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output ``(T, B, D)`` and the weights before dropout ``(B, H, T, S)``."""
        length, num_sentences, _ = q_TBD.shape
        q, k, v = map(self._by_head, (q_TBD, k_SBD, v_SBD))
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=self.scaling)
        scores = scores.view(num_sentences, self.num_heads, length, -1)
        if mask is not None:
            scores = scores.add_(mask)
        weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        heads = torch.bmm(self.dropout_module(weights).flatten(0, 1), v)
        return self.out_proj(heads.transpose(0, 1).reshape(length, num_sentences, -1)), weights

    def _attend_fused(self, q_TBD: Tensor, k_SBD: Tensor, v_SBD: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output ``(T, B, D)`` by torch's fused kernel, which keeps no weights. The way for GPUs."""
        drops = self.training or self.dropout_module.apply_during_inference
        q, k, v = self._by_sentence(q_TBD), self._by_sentence(k_SBD), self._by_sentence(v_SBD)
        with sdpa_kernel(KERNELS_FOR_ANY_SHAPE):
            heads = F.scaled_dot_product_attention(q, k, v, mask, self.dropout_module.p if drops else 0.0)
        return self.out_proj(heads.permute(2, 0, 1, 3).flatten(2))

    def _by_head(self, x_TBD: Tensor) -> Tensor:
        """Return a view ``(B * H, T, C)``."""
        return x_TBD.reshape(x_TBD.size(0), -1, self.head_dim).transpose(0, 1)

    def _by_sentence(self, x_TBD: Tensor) -> Tensor:
        """Return a view ``(B, H, T, C)``."""
        return self._by_head(x_TBD).unflatten(0, (x_TBD.size(1), self.num_heads))


def additive_mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what to add to the scores ``(B, H, T, S)``, in a shape that broadcasts to theirs, or None.

    Args:
        attn_mask: fairseq's: added to the scores of each head, ``(T, S)``, or a boolean one with True where a query
            must not look.
        key_padding_mask: True at padding, ``(B, S)``.
        dtype: type of the scores.
    """
    mask = None
    if attn_mask is not None:
        mask = _minus_infinity_where(attn_mask, dtype) if attn_mask.dtype == torch.bool else attn_mask.to(dtype)
    if key_padding_mask is not None and key_padding_mask.dim() > 0:
        padding = _minus_infinity_where(key_padding_mask.bool(), dtype)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _minus_infinity_where(is_hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(is_hidden.shape, dtype=dtype, device=is_hidden.device).masked_fill_(is_hidden, float("-inf"))
