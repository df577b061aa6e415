"""Output projection and label-smoothed cross-entropy in one, without ever holding the log-probabilities of a whole
batch.

fairseq projects every position, padding too, takes a float32 log-softmax of all of it, and walks through it again for
the backward pass. Here only real tokens are projected, chunk by chunk, and each chunk's gradient is formed while its
logits are at hand.

Shape letters used in this file: N real tokens, D model dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

TOKENS_PER_CHUNK = 2048


class _ProjectAndScore(torch.autograd.Function):
    """``(features_ND, weight_VD) -> (loss, nll)``, both summed over the tokens, in float32."""

    @staticmethod
    def forward(
        ctx: Any, features_ND: Tensor, weight_VD: Tensor, target_N: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = any(ctx.needs_input_grad[:2])
        compute_dtype = _compute_dtype(features_ND)
        weight = weight_VD.to(compute_dtype)
        vocabulary = weight.size(0)
        # loss = (1 - smoothing - share) * nll + share * sum over the vocabulary of -log p: fairseq's definition.
        share = label_smoothing / (vocabulary - 1)
        loss = features_ND.new_zeros((), dtype=torch.float32)
        nll = features_ND.new_zeros((), dtype=torch.float32)
        grad_features_ND = torch.empty_like(features_ND) if wants_gradient else None
        grad_weight_VD: Tensor | None = None
        for start in range(0, features_ND.size(0), TOKENS_PER_CHUNK):
            rows = slice(start, start + TOKENS_PER_CHUNK)
            features, target = features_ND[rows].to(compute_dtype), target_N[rows].unsqueeze(1)
            log_probs = torch.log_softmax(features @ weight.t(), dim=-1, dtype=torch.float32)
            chunk_nll = -log_probs.gather(1, target).sum()
            nll += chunk_nll
            loss += (1.0 - label_smoothing - share) * chunk_nll
            if label_smoothing > 0:
                loss -= share * log_probs.sum()
            if grad_features_ND is None:
                continue
            # d loss / d logit = p - share - (1 - smoothing - share) * [target]
            grad_logits = log_probs.exp_().sub_(share) if label_smoothing > 0 else log_probs.exp_()
            grad_logits.scatter_add_(
                1, target, grad_logits.new_full((), label_smoothing + share - 1.0).expand_as(target)
            )
            grad_logits = grad_logits.to(compute_dtype)
            grad_features_ND[rows] = grad_logits @ weight
            chunk_grad_weight = (grad_logits.t() @ features).to(weight_VD.dtype)
            grad_weight_VD = chunk_grad_weight if grad_weight_VD is None else grad_weight_VD.add_(chunk_grad_weight)
        if wants_gradient:
            ctx.save_for_backward(
                grad_features_ND, torch.zeros_like(weight_VD) if grad_weight_VD is None else grad_weight_VD
            )
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_features_ND, grad_weight_VD = ctx.saved_tensors
        return (
            grad_features_ND * grad_loss.to(grad_features_ND.dtype),
            grad_weight_VD * grad_loss.to(grad_weight_VD.dtype),
            None,
            None,
        )


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def project_and_score(
    features_ND: Tensor, weight_VD: Tensor, target_N: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Score the targets under ``softmax(features_ND @ weight_VD.T)``.

    Args:
        features_ND: decoder features of the real tokens, ``(N, D)``.
        weight_VD: weight of the output projection, ``(V, D)``.
        target_N: target of each token, ``(N,)``.
        label_smoothing: probability mass spread over the other ``V - 1`` words.

    Returns:
        The label-smoothed loss and the negative log-likelihood in nats, each summed over the tokens, as fairseq's
        ``label_smoothed_nll_loss`` computes them.
    """
    return _ProjectAndScore.apply(features_ND, weight_VD, target_N, label_smoothing)
