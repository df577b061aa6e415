"""Output projection and label-smoothed cross-entropy in one, without ever holding the log-probabilities of a whole
batch.

fairseq projects every position, padding too, takes a float32 log-softmax of all of it, and walks through it again for
the backward pass. Here only real tokens are projected, chunk by chunk, and each chunk's gradient is formed while its
logits are at hand.

Shape letters used in this file: N real tokens, C tokens of a chunk, D model dim, V words of this process (all of them,
unless the vocabulary is split between processes).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmt.modules.precision import compute_dtype
from mmt.modules.vocabulary_parallel import VocabularySplit

# Few enough tokens that their logits stay in the processor's cache.
TOKENS_PER_SOFTMAX = 256
# Many enough that adding up the projection's gradient, as large as the embeddings, costs little.
TOKENS_PER_GRADIENT = 2048


class _ProjectAndScore(torch.autograd.Function):
    """``(features_ND, weight_VD) -> (loss, nll)``, both summed over the tokens, in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        features_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        label_smoothing: float,
        split: VocabularySplit | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(features_ND)
        features, weight = features_ND.to(dtype), weight_VD.to(dtype)
        loss, nll = torch.zeros(2, device=features.device).unbind()
        grad_features_ND = torch.empty_like(features_ND)
        grad_weight_VD: Tensor | None = None
        grad_logits_NV = features.new_empty(min(TOKENS_PER_GRADIENT, features.size(0)), weight.size(0))
        for start in range(0, features.size(0), TOKENS_PER_GRADIENT):
            rows = slice(start, start + TOKENS_PER_GRADIENT)
            grad_logits = grad_logits_NV[: features[rows].size(0)]
            chunk_loss, chunk_nll = _score(
                features[rows], weight, target_N[rows], label_smoothing, grad_logits, split
            )
            loss += chunk_loss
            nll += chunk_nll
            grad_features_ND[rows] = grad_logits @ weight
            chunk_grad_weight = (grad_logits.t() @ features[rows]).to(weight_VD.dtype)
            grad_weight_VD = chunk_grad_weight if grad_weight_VD is None else grad_weight_VD.add_(chunk_grad_weight)
        if split is not None:
            dist.all_reduce(grad_features_ND, group=split.group)  # each process has what its words contribute
        ctx.save_for_backward(
            grad_features_ND, torch.zeros_like(weight_VD) if grad_weight_VD is None else grad_weight_VD
        )
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_features_ND, grad_weight_VD = ctx.saved_tensors
        return (
            grad_features_ND * grad_loss.to(grad_features_ND.dtype),
            grad_weight_VD * grad_loss.to(grad_weight_VD.dtype),
            None,
            None,
            None,
        )


def _score(
    features_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    label_smoothing: float,
    grad_logits_NV: Tensor | None,
    split: VocabularySplit | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss and the negative log-likelihood, and write the gradient of the logits to ``grad_logits_NV``."""
    # loss = (1 - smoothing - share) * nll + share * sum over the vocabulary of -log p: fairseq's definition.
    share = label_smoothing / ((weight_VD.size(0) if split is None else split.num_words) - 1)
    loss, nll = torch.zeros(2, device=features_ND.device).unbind()
    # The same memory for all chunks: on CPUs fresh memory costs more than what is computed in it.
    shape = min(TOKENS_PER_SOFTMAX, features_ND.size(0)), weight_VD.size(0)
    logits_CV, float_logits_CV = features_ND.new_empty(shape), features_ND.new_empty(shape, dtype=torch.float32)
    log_probs_CV = torch.empty_like(float_logits_CV)
    for start in range(0, features_ND.size(0), TOKENS_PER_SOFTMAX):
        rows = slice(start, start + TOKENS_PER_SOFTMAX)
        target = target_N[rows].unsqueeze(1)
        here = slice(target.size(0))
        float_logits = float_logits_CV[here].copy_(torch.mm(features_ND[rows], weight_VD.t(), out=logits_CV[here]))
        if split is None:
            log_probs = torch.log_softmax(float_logits, dim=-1, out=log_probs_CV[here])
            is_here_C1 = None
        else:
            log_probs = torch.sub(float_logits, split.logsumexp(float_logits)[:, None], out=log_probs_CV[here])
            target, is_here_C1 = split.local(target)
        target_log_probs = log_probs.gather(1, target)
        chunk_nll = -(target_log_probs if is_here_C1 is None else target_log_probs * is_here_C1).sum()
        nll += chunk_nll
        loss += (1.0 - label_smoothing - share) * chunk_nll
        if label_smoothing > 0:
            loss -= share * log_probs.sum()
        if grad_logits_NV is not None:
            # d loss / d logit = p - share - (1 - smoothing - share) * [target]
            grad_logits = log_probs.exp_().sub_(share) if label_smoothing > 0 else log_probs.exp_()
            at_target = grad_logits.new_full((), label_smoothing + share - 1.0).expand_as(target)
            grad_logits.scatter_add_(1, target, at_target if is_here_C1 is None else at_target * is_here_C1)
            grad_logits_NV[rows] = grad_logits
    if split is None:
        return loss, nll
    sums = torch.stack([loss, nll])
    dist.all_reduce(sums, group=split.group)
    return sums[0], sums[1]


def project_and_score(
    features_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    label_smoothing: float,
    split: VocabularySplit | None = None,
) -> tuple[Tensor, Tensor]:
    """Score the targets under ``softmax(features_ND @ weight_VD.T)``.

    Args:
        features_ND: decoder features of the real tokens, ``(N, D)``.
        weight_VD: weight of the output projection, ``(V, D)``.
        target_N: target of each token, ``(N,)``.
        label_smoothing: probability mass spread over all other words.
        split: which words this process has, if several processes share the vocabulary; they call this together.

    Returns:
        The label-smoothed loss and the negative log-likelihood in nats, each summed over the tokens, as fairseq's
        ``label_smoothed_nll_loss`` computes them.
    """
    if torch.is_grad_enabled() and (features_ND.requires_grad or weight_VD.requires_grad):
        return _ProjectAndScore.apply(features_ND, weight_VD, target_N, label_smoothing, split)
    dtype = compute_dtype(features_ND)
    return _score(features_ND.to(dtype), weight_VD.to(dtype), target_N, label_smoothing, None, split)
