import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmt.modules.dispatch import DROP_POLICIES, CapacityDispatch, Dispatch, DroplessDispatch
from tests.modules.reference import dispatch_within_capacity, routing_from_logits

# The dispatch tables of DeepSpeed's test of topkgating, worked out by hand there: logits, top-k, capacity, and the
# (token, expert, slot) that are filled.
LOGITS_A = [[0.11, 0.2, 0.1, 0.3], [0.3, 0.4, 0.11, 0.1], [0.11, 0.1, 0.6, 0.5], [0.1, 0.11, 0.7, 0.8]]
LOGITS_B = [
    [0.5858, 0.4801, 0.6269, 0.5397, 0.9722, 0.7034],
    [0.5445, 0.6332, 0.4519, 0.6308, 0.0519, 0.6450],
    [0.4874, 0.8110, 0.7467, 0.8474, 0.0277, 0.3068],
    [0.8570, 0.6714, 0.5310, 0.3274, 0.4836, 0.9892],
]
LOGITS_C = [[0.95, 0.85, 0.90, 0.80], [0.70, 0.65, 0.75, 0.60], [0.50, 0.55, 0.45, 0.40], [0.35, 0.30, 0.25, 0.20]]
TABLES = {
    # Expert 3 has three takers and room for two: token 0, the least probable, or token 3, the last, has to go.
    ("A", "probability"): "010 100 111 220 230 321 331",
    ("A", "position"): "010 030 100 111 220 231 321",
    ("B", "probability"): "020 040 110 130 150 211 221 231 300 351",
    ("B", "position"): "020 040 050 110 130 151 211 221 231 300",
}
LOGITS = {"A": (LOGITS_A, 2), "B": (LOGITS_B, 3)}


def filled_slots(expert_TK: Tensor, dispatch: Dispatch) -> set[tuple[int, int, int]]:
    """The (token, expert, slot) of every route that is computed."""
    start_E = dispatch.counts_E.cumsum(0) - dispatch.counts_E
    slot_TK = dispatch.position_TK - start_E[expert_TK]
    return {
        (token, int(expert_TK[token, k]), int(slot_TK[token, k]))
        for token in range(expert_TK.size(0))
        for k in range(expert_TK.size(1))
        if dispatch.is_kept_TK is None or dispatch.is_kept_TK[token, k]
    }


@pytest.mark.parametrize(("table", "policy"), TABLES)
def test_dispatch_tables_with_capacity_2_are_deepspeeds(table: str, policy: str) -> None:
    logits, top_k = LOGITS[table]
    routing = routing_from_logits(logits, top_k)

    dispatch = dispatch_within_capacity(routing, capacity=2, drop_policy=policy)

    expected = {tuple(int(digit) for digit in cell) for cell in TABLES[table, policy].split()}
    assert filled_slots(routing.expert_TK, dispatch) == expected
    assert dispatch.counts_E.sum() == dispatch.route_R.numel() == len(expected)
    assert dispatch.chosen_E.sum() == len(logits) * top_k


def test_dispatch_table_without_dropping_is_deepspeeds() -> None:
    routing = routing_from_logits(LOGITS_C, top_k=2)

    slots = filled_slots(routing.expert_TK, DroplessDispatch()(routing))

    assert slots == {(0, 0, 0), (0, 2, 0), (1, 0, 1), (1, 2, 1), (2, 0, 2), (2, 1, 0), (3, 0, 3), (3, 1, 1)}


def all_to_expert_0(num_tokens: int, num_experts: int = 4) -> Tensor:
    logits = torch.zeros(num_tokens, num_experts)
    logits[:, 0] = 5.0
    return logits


def kept_tokens(dispatch: Dispatch) -> list[int]:
    return sorted(dispatch.token_R.tolist())


def test_position_policy_keeps_the_first_tokens() -> None:
    routing = routing_from_logits(all_to_expert_0(20), top_k=1)
    assert kept_tokens(dispatch_within_capacity(routing, 7, "position")) == list(range(7))


def test_random_token_selection_keeps_a_uniformly_random_subset_of_exactly_the_capacity() -> None:
    num_tokens, capacity, draws = 8, 3, 5600
    logits = all_to_expert_0(num_tokens)
    logits[:, 0] += torch.linspace(0, 3, num_tokens)  # the probability must not matter
    routing = routing_from_logits(logits, top_k=1)
    torch.manual_seed(1)
    counts: dict[tuple[int, ...], int] = {}

    for _ in range(draws):
        kept = tuple(kept_tokens(dispatch_within_capacity(routing, capacity, "random")))
        assert len(set(kept)) == capacity
        counts[kept] = counts.get(kept, 0) + 1

    # Every one of the 56 subsets of 3 out of 8 is as likely as any other, not only every token.
    num_subsets = math.comb(num_tokens, capacity)
    expected = draws / num_subsets
    assert len(counts) == num_subsets
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # 55 degrees of freedom: 93.2 is exceeded by chance once in 1,000 seeds, 24.1 is undercut once in 10,000.
    assert 24.1 < chi_square < 93.2


def test_random_token_selection_keeps_every_route_of_an_expert_with_room() -> None:
    logits = all_to_expert_0(12)
    logits[9:, 2] = 10.0
    routing = routing_from_logits(logits, top_k=1)

    dispatch = dispatch_within_capacity(routing, 4, "random")

    assert dispatch.counts_E.tolist() == [4, 0, 3, 0]
    assert dispatch.chosen_E.tolist() == [9, 0, 3, 0]
    assert kept_tokens(dispatch)[-3:] == [9, 10, 11]


@pytest.mark.parametrize(
    ("capacity_factor", "num_tokens", "top_k", "num_experts", "capacity"),
    [(1.0, 10, 1, 4, 3), (1.0, 12, 1, 4, 3), (1.25, 12, 2, 4, 8), (1.1, 100, 1, 10, 11), (0.01, 5, 1, 4, 1)],
)
def test_capacity_is_the_factor_times_the_fair_share_rounded_up(
    capacity_factor: float, num_tokens: int, top_k: int, num_experts: int, capacity: int
) -> None:
    assert CapacityDispatch(capacity_factor).capacity(num_tokens * top_k, num_experts) == capacity


def test_capacity_is_at_least_one() -> None:
    assert CapacityDispatch(1e-9).capacity(4, num_experts=8) == 1


def test_capacity_drops_in_training_only() -> None:
    routing = routing_from_logits(all_to_expert_0(20), top_k=1)
    dispatch = CapacityDispatch(1.0)
    assert dispatch.train()(routing).counts_E.tolist() == [5, 0, 0, 0]
    assert dispatch.eval()(routing).counts_E.tolist() == [20, 0, 0, 0]


@pytest.mark.parametrize("policy", DROP_POLICIES)
def test_a_capacity_factor_drops_what_the_capacity_that_follows_from_it_does(policy: str) -> None:
    routing = routing_from_logits(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), top_k=2)
    torch.manual_seed(2)
    by_factor = CapacityDispatch(0.75, policy).train()(routing)
    torch.manual_seed(2)
    by_capacity = dispatch_within_capacity(routing, 8, policy)  # ceil(0.75 * 2 * 20 / 4)

    assert by_factor.route_R.tolist() == by_capacity.route_R.tolist()
    assert by_factor.route_R.numel() < 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity_factor": 0.0}, r"^--moe-capacity-factor must be above 0, but is 0\.0\.$"),
        ({"capacity_factor": math.nan}, r"^--moe-capacity-factor must be above 0, but is nan\.$"),
        (
            {"capacity_factor": 1.0, "drop_policy": "last"},
            r"^--moe-drop-policy must be one of random, probability, position, but is 'last'\.$",
        ),
    ],
)
def test_impossible_capacity_options_are_refused(arguments: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CapacityDispatch(**arguments)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 12),
    num_experts=st.integers(1, 5),
    data=st.data(),
    policy=st.sampled_from(["dropless", "random", "probability", "position"]),
)
def test_every_dispatch_sorts_by_expert_and_knows_the_way_back(
    num_tokens: int, num_experts: int, data: st.DataObject, policy: str
) -> None:
    top_k = data.draw(st.integers(1, num_experts))
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    routing = routing_from_logits(torch.randn(num_tokens, num_experts, generator=generator), top_k)
    if policy == "dropless":
        dispatch, capacity = DroplessDispatch()(routing), num_tokens
    else:
        capacity = data.draw(st.integers(1, 6))
        dispatch = dispatch_within_capacity(routing, capacity, policy)

    expert_N = routing.expert_TK.reshape(-1)
    expert_R = expert_N[dispatch.route_R]
    assert expert_R.tolist() == sorted(expert_R.tolist())
    assert dispatch.counts_E.tolist() == expert_R.bincount(minlength=num_experts).tolist()
    assert dispatch.chosen_E.tolist() == expert_N.bincount(minlength=num_experts).tolist()
    assert dispatch.counts_E.tolist() == dispatch.chosen_E.clamp(max=capacity).tolist()
    is_kept_N = torch.ones(expert_N.numel(), dtype=torch.bool)
    if dispatch.is_kept_TK is not None:
        is_kept_N = dispatch.is_kept_TK.reshape(-1)
    assert dispatch.route_R[dispatch.position_TK.reshape(-1)[is_kept_N]].tolist() == is_kept_N.nonzero()[:, 0].tolist()
    assert torch.equal(dispatch.token_R, dispatch.route_R // top_k)
