"""Which routes are kept, and where they go."""

import pytest
import torch

from mmt.modules.dispatch import CapacityDispatch, keep_within_capacity, sort_by_expert
from mmt.modules.routing import choose_top_k

# Logits and dispatch tables of DeepSpeed's tests (tests/unit/moe/test_moe.py, TestTopkGate): dispatch[token, expert, slot].
A = [[0.11, 0.2, 0.1, 0.3], [0.3, 0.4, 0.11, 0.1], [0.11, 0.1, 0.6, 0.5], [0.1, 0.11, 0.7, 0.8]]
B = [
    [0.5858, 0.4801, 0.6269, 0.5397, 0.9722, 0.7034],
    [0.5445, 0.6332, 0.4519, 0.6308, 0.0519, 0.6450],
    [0.4874, 0.8110, 0.7467, 0.8474, 0.0277, 0.3068],
    [0.8570, 0.6714, 0.5310, 0.3274, 0.4836, 0.9892],
]
C = [[0.95, 0.85, 0.90, 0.80], [0.70, 0.65, 0.75, 0.60], [0.50, 0.55, 0.45, 0.40], [0.35, 0.30, 0.25, 0.20]]
GOLDEN = {
    "A by probability": (A, 2, 2, "probability", "010 100 111 220 230 321 331"),
    "A by position": (A, 2, 2, "position", "010 030 100 111 220 231 321"),
    "B by probability": (B, 3, 2, "probability", "020 040 110 130 150 211 221 231 300 351"),
    "B by position": (B, 3, 2, "position", "020 040 050 110 130 151 211 221 231 300"),
    "C without dropping": (C, 2, 4, "position", "000 020 101 121 202 210 303 311"),
}


@pytest.mark.parametrize("case", list(GOLDEN))
def test_dispatch_tables_are_the_golden_ones(case: str) -> None:
    logits, top_k, capacity, policy, expected = GOLDEN[case]
    routing = choose_top_k(torch.tensor(logits), top_k)
    num_experts = len(logits[0])
    kept = keep_within_capacity(
        routing.expert_TK, routing.probability_TK, torch.ones_like(routing.expert_TK, dtype=torch.bool), num_experts, capacity, policy
    )
    dispatch = sort_by_expert(routing, kept, chosen_E=None)
    experts = torch.repeat_interleave(dispatch.counts_E)
    first_E = dispatch.counts_E.cumsum(0) - dispatch.counts_E
    slots = torch.arange(len(experts)) - first_E[experts]
    table = sorted(zip(dispatch.token_R.tolist(), experts.tolist(), slots.tolist()))
    assert table == sorted(tuple(int(digit) for digit in entry) for entry in expected.split())


def test_random_token_selection_keeps_a_uniformly_random_subset() -> None:
    torch.manual_seed(1)
    tokens, capacity, draws = 20, 5, 4000
    expert_TK = torch.zeros(tokens, 1, dtype=torch.long)
    is_real = torch.ones(tokens, 1, dtype=torch.bool)
    kept_T = torch.zeros(tokens)
    kept_pairs = torch.zeros(tokens, tokens)
    for _ in range(draws):
        kept = keep_within_capacity(expert_TK, torch.rand(tokens, 1), is_real, 2, capacity, "random")[:, 0].float()
        assert kept.sum() == capacity
        kept_T += kept
        kept_pairs += kept[:, None] * kept[None, :]
    expected = draws * capacity / tokens
    # Chi-square with 19 degrees of freedom (scaled for drawing without replacement): 43.8 is exceeded once in 1000 runs.
    chi_square = ((kept_T - expected) ** 2 / expected).sum() * (tokens - 1) / (tokens - capacity)
    assert chi_square < 43.8
    # Subsets, not only tokens: every pair is kept together equally often.
    pairs = kept_pairs[torch.triu(torch.ones(tokens, tokens), 1).bool()]
    expected_pair = draws * capacity * (capacity - 1) / (tokens * (tokens - 1))
    assert (pairs - expected_pair).abs().max() < 5 * expected_pair**0.5


def test_keeping_by_position_keeps_exactly_the_first() -> None:
    kept = keep_within_capacity(torch.zeros(9, 1, dtype=torch.long), torch.rand(9, 1), torch.ones(9, 1, dtype=torch.bool), 2, 4, "position")
    assert kept[:, 0].tolist() == [True] * 4 + [False] * 5


@pytest.mark.parametrize("policy", ["random", "probability", "position"])
def test_padding_takes_no_room(policy: str) -> None:
    is_real = torch.tensor([False, False, True, True, False])[:, None]
    kept = keep_within_capacity(torch.zeros(5, 1, dtype=torch.long), torch.full((5, 1), 0.9), is_real, 1, 2, policy)
    assert kept[:, 0].tolist() == is_real[:, 0].tolist()


def test_an_expert_takes_at_most_its_share_times_the_capacity_factor() -> None:
    torch.manual_seed(1)
    routing = choose_top_k(torch.randn(40, 4), 2)
    dispatch = CapacityDispatch(0.5, "random").train()(routing, None)
    assert dispatch.counts_E.max() == 10  # ceil(0.5 * 2 * 40 / 4)
    assert dispatch.chosen_E.sum() == 80


def test_evaluation_never_drops() -> None:
    routing = choose_top_k(torch.randn(40, 4), 2)
    dispatch = CapacityDispatch(0.5, "random").eval()(routing, None)
    assert dispatch.counts_E.sum() == 80 and dispatch.is_kept_TK is None


@pytest.mark.parametrize("arguments, message", [((0.0, "random"), "--moe-capacity-factor must be above 0, but is 0.0"), ((1.0, "last"), "'last'")])
def test_arguments_out_of_range_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CapacityDispatch(*arguments)
