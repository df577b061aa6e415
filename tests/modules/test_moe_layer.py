"""The layer against a slow reference, and what its output may not depend on."""


import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmt.modules.dispatch import CapacityDispatch
from mmt.modules.experts import Experts, feed_forward_grouped
from mmt.modules.permute import combine, gather
from mmt.modules.routing import TokenContext
from tests.modules.reference import DIM, HIDDEN, ROUTERS, make_context, make_layer, roomy, slow_moe


def gradients(layer: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = dict(layer.named_parameters())
    torch.manual_seed(7)
    weights = torch.randn_like(y)
    found = torch.autograd.grad((y * weights).sum(), [x, *parameters.values()], allow_unused=True)
    return dict(zip(["x", *parameters], found))


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_outputs_and_gradients_equal_those_of_the_slow_reference(router: str, top_k: int) -> None:
    layer = make_layer(router, top_k=top_k).double()
    context = make_context([4, 7, 2], padded_length=7)
    x = torch.randn(21, DIM, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x, context)
    expected = slow_moe(layer, x, context)
    torch.testing.assert_close(y, expected.to(y.dtype), rtol=1e-5, atol=1e-6)
    theirs = gradients(layer, x, expected)
    for name, gradient in gradients(layer, x, y).items():
        if theirs[name] is not None:
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("dropped", [False, True])
def test_gradients_pass_gradcheck_with_and_without_dropped_routes(dropped: bool) -> None:
    dispatch = CapacityDispatch(0.6, "position") if dropped else None
    layer = make_layer(top_k=2, dispatch=dispatch).double().train()
    context = make_context([3, 3])
    weights = list(layer.experts.parameters())

    x = torch.randn(6, DIM, dtype=torch.float64, requires_grad=True)
    routing = layer.router(x.detach(), context)
    plan = layer.dispatch(routing, None)
    assert (plan.is_kept_TK is not None) == dropped
    mixing = routing.weight_TK.detach().double().requires_grad_()

    def outputs(x: torch.Tensor, mixing: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return combine(layer.experts(gather(x, plan), plan.counts_E), mixing, plan)

    assert torch.autograd.gradcheck(outputs, [x, mixing, *weights])


def test_one_expert_is_the_dense_feed_forward_network() -> None:
    layer = make_layer(num_experts=1, top_k=1)
    experts = layer.experts
    x = torch.randn(10, DIM, requires_grad=True)
    y, _ = layer(x, make_context([10]))
    dense = F.linear(F.relu(F.linear(x, experts.weight_1[0], experts.bias_1[0])), experts.weight_2[0], experts.bias_2[0])
    torch.testing.assert_close(y, dense)
    theirs = gradients(experts, x, dense)
    for name, gradient in gradients(experts, x, y).items():
        torch.testing.assert_close(gradient, theirs[name], msg=name)


@pytest.mark.parametrize("policy", ["random", "probability", "position"])
@pytest.mark.parametrize("router", ROUTERS)
def test_dropless_equals_capacity_with_room(router: str, policy: str) -> None:
    context, x = make_context([4, 7, 2], padded_length=7), torch.randn(21, DIM)
    dropless, roomy_layer = make_layer(router).train(), make_layer(router, dispatch=roomy(policy)).train()
    torch.testing.assert_close(roomy_layer(x, context)[0], dropless(x, context)[0], rtol=0, atol=0)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_padding_and_the_rest_of_the_batch_change_no_real_token_and_no_statistic(router: str, top_k: int) -> None:
    layer = make_layer(router, top_k=top_k)
    lengths, tasks = [4, 7, 2], [0, 2, 1]
    tight = make_context(lengths, task_ids=tasks)
    x = torch.randn(13, DIM)
    y, statistics = layer(x, tight)

    padded = make_context(lengths, padded_length=9, task_ids=tasks)
    x_padded = torch.full((27, DIM), 99.0)
    x_padded[~padded.is_padding_T] = x
    y_padded, statistics_padded = layer(x_padded, padded)

    torch.testing.assert_close(y_padded[~padded.is_padding_T], y)
    assert y_padded[padded.is_padding_T].eq(0).all()
    for name, value in vars(statistics).items():
        torch.testing.assert_close(vars(statistics_padded)[name], value, msg=name)
    for sentence in range(3):
        mine = tight.sentence_T == sentence
        alone = make_context([lengths[sentence]], task_ids=[tasks[sentence]])
        torch.testing.assert_close(layer(x[mine], alone)[0], y[mine], rtol=1e-4, atol=1e-6)


def test_padding_and_order_change_no_capacity() -> None:
    layer = make_layer(dispatch=CapacityDispatch(0.5, "probability")).train()
    x = torch.randn(12, DIM)
    y, statistics = layer(x, make_context([12]))
    order = torch.randperm(12)
    y_shuffled, _ = layer(x[order], make_context([12]))
    torch.testing.assert_close(y_shuffled, y[order])
    y_padded, statistics_padded = layer(torch.cat([x, torch.ones(5, DIM)]), make_context([12], padded_length=17))
    torch.testing.assert_close(y_padded[:12], y)
    assert statistics_padded.dropped_routes == statistics.dropped_routes > 0


def test_a_token_whose_routes_are_all_dropped_comes_out_as_zeros() -> None:
    layer = make_layer(num_experts=2, top_k=1, dispatch=CapacityDispatch(0.5, "position")).train()
    nn.init.zeros_(layer.router.gate.weight)  # ties: everything goes to one expert
    y, statistics = layer(torch.randn(8, DIM), make_context([8]))
    assert statistics.dropped_routes == 6
    assert y[2:].eq(0).all() and y[:2].ne(0).any()


@pytest.mark.parametrize("router", ROUTERS)
def test_evaluation_is_deterministic_whatever_jitter_and_capacity(router: str) -> None:
    options = {} if router == "task" else {"input_jitter": 0.5}
    layer = make_layer(router, dispatch=CapacityDispatch(0.5, "random"), **options)
    context, x = make_context([6, 6]), torch.randn(12, DIM)
    layer.train()
    training = [layer(x, context)[0] for _ in range(4)]
    assert any(not torch.equal(training[0], other) for other in training[1:])
    layer.eval()
    assert all(torch.equal(layer(x, context)[0], layer(x, context)[0]) for _ in range(3))


def test_experts_without_tokens_get_zero_gradients_not_none() -> None:
    layer = make_layer(num_experts=4, top_k=1)
    nn.init.zeros_(layer.router.gate.weight)
    y, statistics = layer(torch.randn(5, DIM), make_context([5]))
    y.sum().backward()
    used = statistics.tokens_per_expert_E > 0
    assert used.sum() == 1  # ties: everything goes to one expert
    for name, parameter in layer.experts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[~used].eq(0).all(), name
        assert parameter.grad[used].ne(0).any(), name


@pytest.mark.parametrize("router", ROUTERS)
def test_a_batch_of_padding_alone_gives_zeros_and_zero_gradients(router: str) -> None:
    layer = make_layer(router)
    context = TokenContext(torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.long), 1, task_id_B=torch.tensor([1]))
    x = torch.randn(6, DIM, requires_grad=True)
    y, statistics = layer(x, context)
    y.sum().backward()
    assert y.eq(0).all() and x.grad.eq(0).all() and statistics.num_tokens == 0
    assert all(parameter.grad.eq(0).all() for parameter in layer.experts.parameters())


def test_no_tokens_at_all() -> None:
    layer = make_layer()
    empty = TokenContext(None, torch.zeros(0, dtype=torch.long), 0)
    y, _ = layer(torch.zeros(0, DIM, requires_grad=True), empty)
    y.sum().backward()
    assert y.shape == (0, DIM)
    assert layer.experts.weight_1.grad.eq(0).all()


def test_routing_stays_float32_under_bfloat16_autocast() -> None:
    layer = make_layer()
    x, context = torch.randn(50, DIM), make_context([50])
    exact = layer.router(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, statistics = layer(x, context)
        under_autocast = layer.router(x, context)
    assert torch.equal(exact.expert_TK, under_autocast.expert_TK)
    assert under_autocast.weight_TK.dtype == statistics.probability_sum_E.dtype == torch.float32
    torch.testing.assert_close(y, layer(x, context)[0], rtol=0.05, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(x, context)[0].square().sum()
    loss.backward()
    assert layer.experts.weight_1.grad.dtype == torch.float32 and layer.experts.weight_1.grad.isfinite().all()


def test_the_grouped_matrix_product_computes_the_same_as_the_loop() -> None:
    torch.manual_seed(1)
    experts = Experts(4, 16, 32)
    counts = torch.tensor([3, 0, 5, 2])
    x = torch.randn(10, 16, requires_grad=True)
    weights = experts.weight_1, experts.bias_1, experts.weight_2, experts.bias_2
    loop, grouped = experts(x, counts), feed_forward_grouped(x, *weights, counts, 0.0)
    torch.testing.assert_close(grouped, loop)
    theirs = gradients(experts, x, loop)
    for name, gradient in gradients(experts, x, grouped).items():
        torch.testing.assert_close(gradient, theirs[name], msg=name)


def test_dropout_of_the_hidden_states_scales_and_lets_the_same_units_through_backwards() -> None:
    torch.manual_seed(1)
    experts = Experts(1, DIM, HIDDEN, dropout=0.5).double().train()
    x = torch.randn(4, DIM, dtype=torch.float64, requires_grad=True)

    def outputs(*arguments: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return experts(arguments[0], torch.tensor([4]))

    assert torch.autograd.gradcheck(outputs, [x, *experts.parameters()])
    assert not torch.equal(outputs(x), experts.eval()(x, torch.tensor([4])))


def test_statistics_may_be_added_up_over_batches() -> None:
    layer = make_layer()
    x = torch.randn(20, DIM)
    _, whole = layer(x, make_context([20]))
    _, first = layer(x[:8], make_context([8]))
    _, second = layer(x[8:], make_context([12]))
    for name, value in vars(whole).items():
        torch.testing.assert_close(vars(first)[name] + vars(second)[name], value, msg=name)
