import pytest
import torch

from mmt.modules.router import SentenceRouter, TaskRouter, TokenRouter
from mmt.modules.routing import TokenContext, choose_top_k
from tests.modules.reference import DIM, NUM_EXPERTS, NUM_TASKS, make_batch, make_layer


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_the_best_experts_are_chosen_in_order(top_k: int) -> None:
    logits_TE = torch.randn(20, 6)

    routing = choose_top_k(logits_TE, top_k)

    assert torch.equal(routing.expert_TK, logits_TE.argsort(dim=-1, descending=True)[:, :top_k])
    torch.testing.assert_close(routing.probability_TK, logits_TE.softmax(-1).gather(1, routing.expert_TK))


def test_with_one_expert_per_token_the_weight_is_its_probability() -> None:
    logits_TE = torch.randn(5, 4)
    torch.testing.assert_close(choose_top_k(logits_TE, 1).weight_TK, logits_TE.softmax(-1).amax(-1, keepdim=True))


@pytest.mark.parametrize("top_k", [2, 3, 4])
def test_with_more_experts_the_weights_sum_to_1_in_proportion_to_the_probabilities(top_k: int) -> None:
    routing = choose_top_k(torch.randn(5, 4), top_k)
    torch.testing.assert_close(routing.weight_TK.sum(-1), torch.ones(5))
    ratio_TK = routing.weight_TK / routing.probability_TK
    torch.testing.assert_close(ratio_TK, ratio_TK[:, :1].expand_as(ratio_TK))


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_gets_a_gradient_through_the_weights(top_k: int) -> None:
    layer = make_layer("token", top_k)
    x_TD, context = make_batch()
    layer(x_TD, context)[0].square().sum().backward()
    assert layer.router.gate.weight.grad is not None
    assert layer.router.gate.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("top_k", [0, 7, -1])
@pytest.mark.parametrize("router", [TokenRouter, SentenceRouter, TaskRouter])
def test_more_experts_per_token_than_there_are_is_refused(router: type, top_k: int) -> None:
    options = {"num_tasks": 2} if router is TaskRouter else {}
    message = rf"^--moe-top-k must be between 1 and --moe-experts \(6\), but is {top_k}\.$"
    with pytest.raises(ValueError, match=message):
        router(DIM, 6, top_k, **options)


def test_impossible_jitter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--moe-input-jitter must be at least 0 and below 1, but is 1\.5\.$"):
        TokenRouter(4, 4, 1, input_jitter=1.5)


@pytest.mark.parametrize("router", ["token", "sentence", "task"])
def test_routing_is_float32_whatever_the_model_computes_in(router: str) -> None:
    layer = make_layer(router, top_k=2)
    x_TD, context = make_batch(router)
    expected = layer.router(x_TD.bfloat16().float(), context)

    with torch.autocast("cpu", torch.bfloat16):
        routing = layer.router(x_TD.bfloat16(), context)

    for name in ("logits_UE", "probability_UE", "weight_TK"):
        assert getattr(routing, name).dtype == torch.float32
        assert torch.equal(getattr(routing, name), getattr(expected, name)), name


def test_jitter_changes_the_scores_in_training_only_and_by_no_more_than_asked() -> None:
    router = TokenRouter(1, 4, 1, input_jitter=0.1)
    x_TD = torch.ones(1000, 1)
    context = TokenContext()

    factor = router(x_TD, context).logits_UE / router.gate.weight.t()

    assert 0.9 <= factor.min() < 0.91
    assert 1.09 < factor.max() <= 1.1
    router.eval()
    assert torch.equal(router(x_TD, context).logits_UE, router.gate.weight.t().expand(1000, 4))


def test_a_sentence_has_one_set_of_experts_chosen_by_the_mean_of_its_tokens() -> None:
    router = make_layer("sentence", top_k=2).router
    x_TD, context = make_batch("sentence", lengths=(5, 3, 1))

    routing = router(x_TD, context)

    means = torch.stack([x_TD[:5].mean(0), x_TD[5:8].mean(0), x_TD[8]])
    expected = choose_top_k(means @ router.gate.weight.t(), 2)
    assert torch.equal(routing.expert_TK, expected.expert_TK[context.sentence_T])
    torch.testing.assert_close(routing.weight_TK, expected.weight_TK[context.sentence_T])


def test_decoder_sentence_routing_looks_at_the_given_state_only() -> None:
    router = make_layer("sentence", top_k=2).router
    x_TD, context = make_batch("decoder sentence")

    routing, other = router(x_TD, context), router(torch.randn_like(x_TD), context)

    assert torch.equal(routing.logits_UE, other.logits_UE)
    assert torch.equal(routing.expert_TK, other.expert_TK)
    torch.testing.assert_close(routing.logits_UE, context.sentence_state_BD @ router.gate.weight.t())


def test_task_routing_depends_on_the_task_id_only() -> None:
    layer = make_layer("task", top_k=2)
    x_TD, context = make_batch("task", lengths=(4, 2, 3))
    of_tasks = choose_top_k(layer.router.score_tasks(), 2)

    routing, other = layer.router(x_TD, context), layer.router(torch.randn_like(x_TD), context)

    task_T = context.task_id_B[context.sentence_T]
    for part in (routing, other):
        assert torch.equal(part.expert_TK, of_tasks.expert_TK[task_T])
        assert torch.equal(part.weight_TK, of_tasks.weight_TK[task_T])
    assert of_tasks.expert_TK.shape == of_tasks.weight_TK.shape == (NUM_TASKS, 2)


@pytest.mark.parametrize(
    ("router", "context"),
    [
        ("sentence", TokenContext()),
        ("task", TokenContext(task_id_B=torch.tensor([0, 1]))),
        ("task", TokenContext(sentence_T=torch.tensor([0, 1]))),
    ],
)
def test_a_router_says_what_it_misses(router: str, context: TokenContext) -> None:
    with pytest.raises(ValueError, match=rf"^{router} routing needs context\."):
        make_layer(router).router(torch.randn(2, DIM), context)


def test_gates_have_no_bias() -> None:
    assert all(make_layer(router).router.gate.bias is None for router in ("token", "sentence", "task"))
    assert make_layer("task").router.gate.weight.shape == (NUM_EXPERTS, DIM)
