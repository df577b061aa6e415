"""What a router is told, and what it answers.

Shape letters used in this package: T tokens (flattened), B sentences, D model dim, F feed-forward dim, E experts,
K experts per token, U units that a router decides for (tokens, sentences or tasks), R routes: the (token, expert)
pairs that are computed.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenContext:
    """What routers may look at besides the states of the tokens. One context serves all layers of a pass.

    Attributes:
        is_padding_T: True where a token is padding, or belongs to a sentence that is finished, ``(T,)``; None if none.
        sentence_T: index of the sentence that each token belongs to, ``(T,)``; needed by sentence and task routers.
        num_sentences: B.
        task_id_B: task of each sentence, ``(B,)``; needed by task routers.
        sentence_state_BD: what decoder sentence routers look at in place of their own tokens, ``(B, D)``: the mean
            of the encoder's states. None in an encoder.
    """

    is_padding_T: Tensor | None = None
    sentence_T: Tensor | None = None
    num_sentences: int = 0
    task_id_B: Tensor | None = None
    sentence_state_BD: Tensor | None = None

    @cached_property
    def real_token_R(self) -> Tensor | None:
        """Indices of the tokens that are not padding, in their order; None if there is no padding."""
        return None if self.is_padding_T is None else self.is_padding_T.logical_not().nonzero().squeeze(-1)

    @cached_property
    def without_padding(self) -> "TokenContext":
        """The context of the real tokens alone."""
        if self.real_token_R is None:
            return self
        sentence_T = None if self.sentence_T is None else self.sentence_T[self.real_token_R]
        return TokenContext(None, sentence_T, self.num_sentences, self.task_id_B, self.sentence_state_BD)


@dataclass(frozen=True)
class Routing:
    """A router's answer: every token's experts with their weights.

    Attributes:
        logits_UE: float32 scores of each decision unit, with gradient, ``(U, E)``.
        probability_UE: their softmax, with gradient, ``(U, E)``.
        expert_TK: chosen experts, best first, ``(T, K)``.
        weight_TK: float32 mixing weights with gradient, ``(T, K)``.
        unit_T: decision unit of each token, ``(T,)``; None if every token is its own.
    """

    logits_UE: Tensor
    probability_UE: Tensor
    expert_TK: Tensor
    weight_TK: Tensor
    unit_T: Tensor | None

    @property
    def num_experts(self) -> int:
        """E."""
        return self.logits_UE.size(-1)

    @property
    def probability_TK(self) -> Tensor:
        """Softmax probability of each chosen expert, without gradient, ``(T, K)``."""
        probability_UE = self.probability_UE.detach()
        probability_TE = probability_UE if self.unit_T is None else probability_UE[self.unit_T]
        return probability_TE.gather(-1, self.expert_TK)


def count_each(index_N: Tensor, size: int) -> Tensor:
    """Return how often each number below ``size`` occurs in ``index_N``, ``(size,)``.

    As ``torch.bincount`` does, which makes the program wait for a GPU to find the largest number.
    """
    return index_N.new_zeros(size).scatter_add_(0, index_N, torch.ones_like(index_N))


def choose_top_k(logits_UE: Tensor, top_k: int, unit_T: Tensor | None = None) -> Routing:
    """Choose each unit's ``top_k`` best experts.

    With ``top_k`` 1 the weight is the softmax probability (Switch, Fedus et al. 2021), so that the router gets a
    gradient; with more, the chosen probabilities are scaled to sum to 1 (GShard, Lepikhin et al. 2020).

    Args:
        logits_UE: float32 scores, ``(U, E)``.
        top_k: K.
        unit_T: decision unit of each token, ``(T,)``; None if every token is its own.
    """
    probability_UE = torch.softmax(logits_UE, dim=-1)
    if top_k == 1:
        weight_UK, expert_UK = probability_UE.max(dim=-1, keepdim=True)  # several times faster than topk(1) on a CPU
    else:
        weight_UK, expert_UK = probability_UE.topk(top_k, dim=-1)
        weight_UK = weight_UK / weight_UK.sum(dim=-1, keepdim=True)
    if unit_T is not None:
        expert_UK, weight_UK = expert_UK[unit_T], weight_UK[unit_T]
    return Routing(logits_UE, probability_UE, expert_UK, weight_UK, unit_T)
