"""Output projection and label-smoothed cross-entropy in one, without ever holding the log-probabilities of a whole
batch.

fairseq projects every position, padding too, takes a float32 log-softmax of all of it, and walks through it again for
the backward pass. Here only real tokens are projected, chunk by chunk, and each chunk's gradient takes the place of its
logits while they are at hand.

Shape letters used in this file: N real tokens, C tokens of a chunk, R rows of a chunk that are scored together, D model
dim, V words of this process (all of them, unless the vocabulary is split between processes).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmt.modules.precision import compute_dtype
from mmt.modules.reused_memory import ReusedMemory
from mmt.modules.vocabulary_parallel import VocabularySplit

# Logits of a chunk: enough that a batch of usual size is one chunk. With a large vocabulary still so many tokens that
# adding up the projection's gradient, as large as the embeddings, costs little.
LOGITS_PER_CHUNK = 2**26
FEWEST_TOKENS_PER_CHUNK = 2048
# Logits that are scored together: on CPUs what stays in the cache, on GPUs enough to keep them busy.
LOGITS_PER_SOFTMAX_CPU = 2**20
LOGITS_PER_SOFTMAX_GPU = 2**25
# With a split vocabulary processes wait for each other twice for every softmax.
FEWEST_TOKENS_PER_SPLIT_SOFTMAX = 256


def tokens_per_chunk(num_words: int) -> int:
    """Return how many tokens are projected onto ``num_words`` words at once, at most."""
    return max(FEWEST_TOKENS_PER_CHUNK, LOGITS_PER_CHUNK // max(1, num_words))


def tokens_per_softmax(num_words: int, *, on_gpu: bool, is_split: bool) -> int:
    """Return how many rows of logits are scored at once, at most."""
    logits = LOGITS_PER_SOFTMAX_GPU if on_gpu else LOGITS_PER_SOFTMAX_CPU
    return max(FEWEST_TOKENS_PER_SPLIT_SOFTMAX if is_split else 1, logits // max(1, num_words))


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
        memory: ReusedMemory | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(features_ND)
        features, weight = features_ND.to(dtype), weight_VD.to(dtype)
        sums = torch.zeros(2, device=features.device)
        grad_features_ND = torch.empty_like(features_ND)
        grad_weight_VD: Tensor | None = None
        for rows, logits_CV in _project(features, weight, split, memory):
            sums += _score(logits_CV, target_N[rows], label_smoothing, split, wants_gradient=True)
            grad_features_ND[rows] = logits_CV @ weight
            chunk_grad_weight = (logits_CV.t() @ features[rows]).to(weight_VD.dtype)
            grad_weight_VD = chunk_grad_weight if grad_weight_VD is None else grad_weight_VD.add_(chunk_grad_weight)
        if split is not None:
            dist.all_reduce(grad_features_ND, group=split.group)  # each process has what its words contribute
        ctx.save_for_backward(
            grad_features_ND, torch.zeros_like(weight_VD) if grad_weight_VD is None else grad_weight_VD
        )
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Any, ...]:
        gradients = ctx.saved_tensors
        # On CPUs a second tensor as large as the embeddings costs more than it takes to look at the number.
        if grad_loss.is_cuda or grad_loss.item() != 1.0:
            gradients = [gradient * grad_loss.to(gradient.dtype) for gradient in gradients]
        return (*gradients, None, None, None, None)


def _project(
    features_ND: Tensor, weight_VD: Tensor, split: VocabularySplit | None, memory: ReusedMemory | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the tokens of each chunk and their logits ``(C, V)``, in memory that the next chunk uses again."""
    num_words = weight_VD.size(0)
    at_once = tokens_per_chunk(_most_words(num_words, split))
    if memory is not None and not features_ND.is_cuda:
        # Of full size, so that it fits the next batch too; what is never touched takes no room.
        logits_CV = memory.empty((at_once, num_words), dtype=features_ND.dtype, device=features_ND.device)
    else:
        logits_CV = features_ND.new_empty(min(at_once, features_ND.size(0)), num_words)
    for rows in _even_slices(features_ND.size(0), at_once):
        features = features_ND[rows]
        yield rows, torch.mm(features, weight_VD.t(), out=logits_CV[: features.size(0)])


def _most_words(num_words: int, split: VocabularySplit | None) -> int:
    """Return the most words that a process has: those that share the vocabulary need the same number of slices."""
    return num_words if split is None else max(split.widths)


def _even_slices(total: int, at_most: int) -> Iterator[slice]:
    """Cut ``total`` into as few slices as possible, of about the same length; none if it is 0."""
    if total == 0:
        return
    length = -(-total // -(-total // at_most))
    for start in range(0, total, length):
        yield slice(start, min(start + length, total))


def _score(
    logits_CV: Tensor, target_C: Tensor, label_smoothing: float, split: VocabularySplit | None, wants_gradient: bool
) -> Tensor:
    """Return loss and negative log-likelihood, ``(2,)``; ``logits_CV`` becomes its own gradient, if that is wanted."""
    num_words = logits_CV.size(1)
    # loss = (1 - smoothing - share) * nll + share * sum over the vocabulary of -log p: fairseq's definition.
    share = label_smoothing / ((num_words if split is None else split.num_words) - 1)
    sums = torch.zeros(2, device=logits_CV.device)
    loss, nll = sums.unbind()
    most_words = _most_words(num_words, split)
    at_once = tokens_per_softmax(most_words, on_gpu=logits_CV.is_cuda, is_split=split is not None)
    # The same memory for all rows: on CPUs fresh memory costs more than what is computed in it.
    log_probs_RV = logits_CV.new_empty(min(at_once, logits_CV.size(0)), num_words, dtype=torch.float32)
    float_logits_RV = torch.empty_like(log_probs_RV)
    for rows in _even_slices(logits_CV.size(0), at_once):
        logits, target = logits_CV[rows], target_C[rows].unsqueeze(1)
        here = slice(target.size(0))
        float_logits = float_logits_RV[here].copy_(logits)
        if split is None:
            log_probs = torch.log_softmax(float_logits, dim=-1, out=log_probs_RV[here])
            is_here_R1 = None
        else:
            log_probs = torch.sub(float_logits, split.logsumexp(float_logits)[:, None], out=log_probs_RV[here])
            target, is_here_R1 = split.local(target)
        target_log_probs = log_probs.gather(1, target)
        chunk_nll = -(target_log_probs if is_here_R1 is None else target_log_probs * is_here_R1).sum()
        nll += chunk_nll
        loss += (1.0 - label_smoothing - share) * chunk_nll
        if label_smoothing > 0:
            loss -= share * log_probs.sum()
        if wants_gradient:
            # d loss / d logit = p - share - (1 - smoothing - share) * [target]
            grad_logits = log_probs.exp_().sub_(share) if label_smoothing > 0 else log_probs.exp_()
            at_target = grad_logits.new_full((), label_smoothing + share - 1.0).expand_as(target)
            grad_logits.scatter_add_(1, target, at_target if is_here_R1 is None else at_target * is_here_R1)
            logits.copy_(grad_logits)
    if split is not None:
        dist.all_reduce(sums, group=split.group)
    return sums


def project_and_score(
    features_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    label_smoothing: float,
    split: VocabularySplit | None = None,
    memory: ReusedMemory | None = None,
) -> tuple[Tensor, Tensor]:
    """Score the targets under ``softmax(features_ND @ weight_VD.T)``.

    Args:
        features_ND: decoder features of the real tokens, ``(N, D)``.
        weight_VD: weight of the output projection, ``(V, D)``.
        target_N: target of each token, ``(N,)``.
        label_smoothing: probability mass spread over all other words.
        split: which words this process has, if several processes share the vocabulary; they call this together.
        memory: where the logits of a chunk go on CPUs, to be used again by the next call.

    Returns:
        The label-smoothed loss and the negative log-likelihood in nats, each summed over the tokens, as fairseq's
        ``label_smoothed_nll_loss`` computes them.
    """
    if torch.is_grad_enabled() and (features_ND.requires_grad or weight_VD.requires_grad):
        return _ProjectAndScore.apply(features_ND, weight_VD, target_N, label_smoothing, split, memory)
    dtype = compute_dtype(features_ND)
    sums = torch.zeros(2, device=features_ND.device)
    for rows, logits_CV in _project(features_ND.to(dtype), weight_VD.to(dtype), split, memory):
        sums += _score(logits_CV, target_N[rows], label_smoothing, split, wants_gradient=False)
    loss, nll = sums.unbind()
    return loss, nll
