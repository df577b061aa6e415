"""What a router is told, and what it answers.

Shape letters used in this package: T tokens (flattened), B sentences, D model dim, F feed-forward dim, E experts, K experts per token, U units that a router decides for (tokens, sentences or
tasks), R routes: the (token, expert) pairs that are computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenContext:
    """What routers may look at besides the states of the tokens.

    Attributes:
        is_padding_T: True where a token is padding, ``(T,)``; None if none is.
        sentence_T: index of the sentence that each token belongs to, ``(T,)``.
        num_sentences: B.
        task_id_B: task of each sentence, ``(B,)``; needed by task routers.
        sentence_state_BD: what decoder sentence routers look at in place of their own tokens, ``(B, D)``: the mean of the encoder's states. None in an encoder.
    """

    is_padding_T: Tensor | None
    sentence_T: Tensor
    num_sentences: int
    task_id_B: Tensor | None = None
    sentence_state_BD: Tensor | None = None


@dataclass(frozen=True)
class Routing:
    """A router's answer: every token's experts with their weights.

    Attributes:
        logits_UE: float32 scores of each decision unit, ``(U, E)``.
        expert_TK: chosen experts, best first, ``(T, K)``.
        weight_TK: float32 mixing weights with gradient, ``(T, K)``.
        probability_TK: softmax probabilities of the chosen experts, without gradient, ``(T, K)``; what the "probability" drop policy ranks by.
        unit_T: decision unit of each token, ``(T,)``; None if every token is its own.
    """

    logits_UE: Tensor
    expert_TK: Tensor
    weight_TK: Tensor
    probability_TK: Tensor
    unit_T: Tensor | None


def choose_top_k(logits_UE: Tensor, top_k: int, unit_T: Tensor | None = None) -> Routing:
    """Choose each unit's ``top_k`` best experts.

    With ``top_k`` 1 the weight is the softmax probability (Switch, Fedus et al. 2021), so that the router gets a gradient; with more, the chosen probabilities are scaled to sum to 1 (GShard, Lepikhin et al. 2020).
    """
    probability_UE = torch.softmax(logits_UE, dim=-1)
    probability_UK, expert_UK = probability_UE.topk(top_k, dim=-1)
    weight_UK = probability_UK if top_k == 1 else probability_UK / probability_UK.sum(dim=-1, keepdim=True)
    probability_UK = probability_UK.detach()
    if unit_T is not None:
        expert_UK, weight_UK, probability_UK = expert_UK[unit_T], weight_UK[unit_T], probability_UK[unit_T]
    return Routing(logits_UE, expert_UK, weight_UK, probability_UK, unit_T)
