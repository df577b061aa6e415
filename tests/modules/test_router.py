"""What each router looks at."""

import pytest
import torch

from mmt.modules.router import SentenceRouter, TaskRouter, TokenRouter
from mmt.modules.routing import TokenContext, choose_top_k
from tests.modules.reference import DIM, make_context


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_out_of_range_is_refused_by_name(top_k: int) -> None:
    for router, options in ((TokenRouter, {}), (TaskRouter, {"num_tasks": 2})):
        with pytest.raises(ValueError, match=rf"--moe-top-k must be between 1 and --moe-experts \(4\), but is {top_k}\."):
            router(DIM, 4, top_k, **options)


def test_weights_of_one_expert_are_probabilities_and_of_several_sum_to_one() -> None:
    logits = torch.randn(6, 4)
    assert torch.equal(choose_top_k(logits, 1).weight_TK[:, 0], logits.softmax(-1).max(-1).values)
    torch.testing.assert_close(choose_top_k(logits, 3).weight_TK.sum(-1), torch.ones(6))


def test_task_routing_depends_on_the_task_alone_and_needs_no_text() -> None:
    router = TaskRouter(DIM, 8, 2, num_tasks=3)
    context = make_context([3, 2, 4], task_ids=[2, 0, 2])
    first, second = router(torch.randn(9, DIM), context), router(torch.randn(9, DIM), context)
    assert torch.equal(first.expert_TK, second.expert_TK) and torch.equal(first.weight_TK, second.weight_TK)
    experts, weights = router.routing_of_tasks()
    tasks = torch.tensor([2] * 3 + [0] * 2 + [2] * 4)
    assert torch.equal(first.expert_TK, experts[tasks]) and torch.equal(first.weight_TK, weights[tasks])


def test_task_routing_without_task_ids_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="task_id_B"):
        TaskRouter(DIM, 4, 1, num_tasks=2)(torch.randn(2, DIM), TokenContext(None, torch.zeros(2, dtype=torch.long), 1))


def test_all_tokens_of_a_sentence_go_to_the_same_experts() -> None:
    torch.manual_seed(1)
    routing = SentenceRouter(DIM, 8, 2)(torch.randn(12, DIM), make_context([5, 4, 3]))
    for tokens in ((0, 5), (5, 9), (9, 12)):
        assert (routing.expert_TK[slice(*tokens)] == routing.expert_TK[tokens[0]]).all()


def test_the_order_of_a_sentences_words_changes_no_sentence_routing() -> None:
    router, x, context = SentenceRouter(DIM, 8, 2), torch.randn(5, DIM), make_context([5])
    torch.testing.assert_close(router(x[torch.randperm(5)], context).logits_UE, router(x, context).logits_UE)


def test_a_decoders_sentence_router_looks_at_the_given_state_and_at_no_token() -> None:
    router = SentenceRouter(DIM, 8, 2)
    context = TokenContext(None, torch.tensor([0, 0, 1]), 2, sentence_state_BD=torch.randn(2, DIM))
    assert torch.equal(router(torch.randn(3, DIM), context).logits_UE, router(torch.randn(3, DIM), context).logits_UE)


def test_jitter_moves_the_input_by_no_more_than_its_size() -> None:
    router = TokenRouter(DIM, 4, 1, input_jitter=0.1).train()
    torch.nn.init.ones_(router.gate.weight)
    x = torch.ones(1000, DIM)
    scores = router.score(x)
    assert scores.std() > 0
    assert ((scores - DIM).abs() <= 0.1 * DIM + 1e-4).all()
