import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmt.modules.balance import RoutingStatistics, balance_loss, z_loss
from mmt.modules.dispatch import CapacityDispatch, DroplessDispatch
from mmt.modules.experts import Experts
from mmt.modules.moe_layer import MoELayer
from mmt.modules.router import TokenRouter
from mmt.modules.routing import TokenContext
from tests.modules.reference import (
    NUM_EXPERTS,
    ROUTERS,
    apply_experts,
    feed_forward,
    make_batch,
    make_layer,
    pad,
    reorder,
)

every_router = pytest.mark.parametrize("router", ROUTERS)
every_k = pytest.mark.parametrize("top_k", [1, 2, 3])


def assert_equal_statistics(one: RoutingStatistics, other: RoutingStatistics) -> None:
    for field in dataclasses.fields(RoutingStatistics):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(mine, its, msg=lambda m: f"{field.name}: {m}")


def loss_of(y_TD: Tensor, statistics: RoutingStatistics) -> Tensor:
    return y_TD.square().sum() + balance_loss(statistics) + 0.1 * z_loss(statistics)


def gradients(layer: MoELayer, x_TD: Tensor, context: TokenContext) -> dict[str, Tensor]:
    """Gradients of a loss of everything that the layer returns."""
    layer.zero_grad()
    x_TD = x_TD.clone().requires_grad_()
    loss_of(*layer(x_TD, context)).backward()
    found = {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return {"x": x_TD.grad, **found}  # type: ignore[dict-item]


@every_router
@every_k
def test_the_layer_computes_what_a_plain_loop_computes(router: str, top_k: int) -> None:
    layer = make_layer(router, top_k)
    x_TD, context = make_batch(router)
    x_TD.requires_grad_()
    weights = [x_TD, *(p for p in layer.parameters())]

    y_TD, _ = layer(x_TD, context)
    slow_TD = apply_experts(layer.experts, x_TD, layer.router(x_TD, context))

    torch.testing.assert_close(y_TD, slow_TD)
    fast_grads = torch.autograd.grad(y_TD.square().sum(), weights)
    slow_grads = torch.autograd.grad(slow_TD.square().sum(), weights, allow_unused=True, materialize_grads=True)
    for fast, slow in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


@every_router
@every_k
@pytest.mark.parametrize("policy", [None, "probability", "position"])
def test_padding_changes_nothing(router: str, top_k: int, policy: str | None) -> None:
    layer = make_layer(router, top_k, None if policy is None else CapacityDispatch(0.7, policy))
    x_TD, context = make_batch(router)
    place_T = torch.tensor([0, 1, 4, 5, 6, 9, 10, 11, 12, 20, 21, 22, 29])
    padded_TD, padded_context = pad(x_TD, context, place_T, length=30)

    y_TD, statistics = layer(x_TD, context)
    padded_y_TD, padded_statistics = layer(padded_TD, padded_context)

    torch.testing.assert_close(padded_y_TD[place_T], y_TD)
    assert padded_y_TD[padded_context.is_padding_T].eq(0).all()
    assert_equal_statistics(padded_statistics, statistics)
    expected, found = gradients(layer, x_TD, context), gradients(layer, padded_TD, padded_context)
    assert found["x"][padded_context.is_padding_T].eq(0).all()
    found["x"] = found["x"][place_T]
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=lambda m: f"{name}: {m}")


def test_padding_changes_no_random_choice() -> None:
    layer = make_layer("token", 2, CapacityDispatch(0.5, "random"))
    layer.router.input_jitter = 0.1
    x_TD, context = make_batch()
    place_T = torch.arange(x_TD.size(0)) * 2

    torch.manual_seed(1)
    y_TD, statistics = layer(x_TD, context)
    torch.manual_seed(1)
    padded_y_TD, _ = layer(*pad(x_TD, context, place_T, length=40))

    assert float(statistics.dropped_routes) > 0
    torch.testing.assert_close(padded_y_TD[place_T], y_TD)


@every_router
@every_k
@pytest.mark.parametrize("policy", [None, "probability"])
def test_the_order_of_the_tokens_changes_nothing(router: str, top_k: int, policy: str | None) -> None:
    # Task and sentence routing give many tokens the same probability: with them "probability" falls back on order.
    if policy == "probability" and router != "token":
        policy = None
    layer = make_layer(router, top_k, None if policy is None else CapacityDispatch(0.7, policy))
    x_TD, context = make_batch(router)
    order_T = torch.randperm(x_TD.size(0))

    y_TD, statistics = layer(x_TD, context)
    moved_y_TD, moved_statistics = layer(*reorder(x_TD, context, order_T))

    torch.testing.assert_close(moved_y_TD, y_TD[order_T])
    assert_equal_statistics(moved_statistics, statistics)


@every_router
@every_k
def test_a_sentence_comes_out_the_same_whatever_else_is_in_the_batch(router: str, top_k: int) -> None:
    layer = make_layer(router, top_k, CapacityDispatch(0.5)).eval()
    x_TD, context = make_batch(router)
    first = context.sentence_T == 0
    state_BD = None if context.sentence_state_BD is None else context.sentence_state_BD[:1]
    alone = TokenContext(None, context.sentence_T[first], 1, context.task_id_B[:1], state_BD)

    torch.testing.assert_close(layer(x_TD[first], alone)[0], layer(x_TD, context)[0][first])


@every_router
@every_k
@pytest.mark.parametrize("policy", ["random", "probability", "position"])
def test_capacity_with_room_for_all_drops_nothing(router: str, top_k: int, policy: str) -> None:
    x_TD, context = make_batch(router)
    roomy = make_layer(router, top_k, CapacityDispatch(float(NUM_EXPERTS), policy))
    dropless = make_layer(router, top_k)

    (y_TD, statistics), (expected_TD, expected) = roomy(x_TD, context), dropless(x_TD, context)

    torch.testing.assert_close(y_TD, expected_TD)
    assert_equal_statistics(statistics, expected)
    for name, gradient in gradients(dropless, x_TD, context).items():
        torch.testing.assert_close(gradients(roomy, x_TD, context)[name], gradient)


@every_k
def test_a_token_whose_routes_are_all_dropped_comes_out_as_zeros(top_k: int) -> None:
    layer = make_layer("token", top_k, CapacityDispatch(0.01, "position"))
    x_TD, context = make_batch(lengths=(12,))
    layer.router.gate.weight.data.zero_()  # all tokens go to the same experts, and each has room for one

    y_TD, statistics = layer(x_TD, context)

    assert y_TD[0].ne(0).any() and y_TD[1:].eq(0).all()
    assert float(statistics.dropped_routes) == 11 * top_k


@every_router
def test_evaluation_is_deterministic_with_every_random_option_on(router: str) -> None:
    layer = make_layer(router, 1, CapacityDispatch(0.1, "random"))
    layer.experts.dropout = 0.5
    layer.router.input_jitter = 0.5
    x_TD, context = make_batch(router)
    assert not torch.equal(layer(x_TD, context)[0], layer(x_TD, context)[0])

    layer.eval()

    (one_TD, statistics), (other_TD, _) = layer(x_TD, context), layer(x_TD, context)
    assert torch.equal(one_TD, other_TD)
    assert float(statistics.dropped_routes) == 0.0
    torch.testing.assert_close(one_TD, apply_experts(layer.experts, x_TD, layer.router(x_TD, context)))


@every_router
@pytest.mark.parametrize("dispatch", [DroplessDispatch(), CapacityDispatch(1.0)], ids=["dropless", "capacity"])
@pytest.mark.parametrize("why", ["no tokens", "padding only"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_without_tokens_everything_works_and_gradients_are_zero(
    router: str, dispatch: nn.Module, why: str, activation: str
) -> None:
    layer = make_layer(router, 2, dispatch)
    layer.experts.activation = activation
    x_TD, context = make_batch(router)
    if why == "no tokens":
        x_TD, context = x_TD[:0], dataclasses.replace(context, sentence_T=context.sentence_T[:0])
    else:
        context = dataclasses.replace(context, is_padding_T=torch.ones(x_TD.size(0), dtype=torch.bool))

    y_TD, statistics = layer(x_TD, context)
    loss_of(y_TD, statistics).backward()

    assert y_TD.shape == x_TD.shape and y_TD.eq(0).all()
    assert float(statistics.num_tokens) == 0.0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.eq(0).all(), name


def test_experts_without_tokens_get_zero_gradients() -> None:
    layer = make_layer("token", 1)
    x_TD, context = make_batch(lengths=(2,))
    used = layer.router(x_TD, context).expert_TK.unique()

    found = gradients(layer, x_TD, context)

    for name in ("experts.weight_1", "experts.bias_1", "experts.weight_2", "experts.bias_2"):
        assert found[name].flatten(1).any(dim=1).nonzero()[:, 0].tolist() == used.tolist(), name


class _Identity(nn.Module):
    """Experts that do nothing."""

    def forward(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        return x_RD * 1.0


@every_router
@pytest.mark.parametrize("top_k", [2, 3])
def test_experts_that_do_nothing_give_every_token_back(router: str, top_k: int) -> None:
    layer = make_layer(router, top_k)
    layer.experts = _Identity()
    x_TD, context = make_batch(router)
    torch.testing.assert_close(layer(x_TD, context)[0], x_TD)


@every_router
def test_one_expert_is_a_dense_feed_forward_network(router: str) -> None:
    layer = make_layer(router, 1, num_experts=1)
    x_TD, context = make_batch(router)
    torch.testing.assert_close(layer(x_TD, context)[0], feed_forward(layer.experts, 0, x_TD))


@every_router
@pytest.mark.parametrize("dispatch", [DroplessDispatch(), CapacityDispatch(0.5, "probability")], ids=["all", "some"])
def test_under_bfloat16_autocast_the_routing_stays_and_the_outputs_are_close(router: str, dispatch: nn.Module) -> None:
    layer = make_layer(router, 2, dispatch)
    x_TD, context = make_batch(router)
    y_TD, statistics = layer(x_TD, context)
    expected = gradients(layer, x_TD, context)

    with torch.autocast("cpu", torch.bfloat16):
        low_y_TD, low_statistics = layer(x_TD, context)
    layer.zero_grad()
    loss_of(low_y_TD, low_statistics).backward()

    assert low_y_TD.dtype == torch.float32
    assert_equal_statistics(low_statistics, statistics)
    torch.testing.assert_close(low_y_TD, y_TD, atol=0.03, rtol=0.03)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        torch.testing.assert_close(parameter.grad, expected[name], atol=0.1, rtol=0.1)


@every_k
def test_a_layer_in_bfloat16_works_without_autocast(top_k: int) -> None:
    layer = make_layer("token", top_k).bfloat16()
    x_TD, context = make_batch()
    y_TD, statistics = layer(x_TD.bfloat16(), context)
    loss_of(y_TD, statistics).backward()
    assert y_TD.dtype == torch.bfloat16
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


@every_router
@pytest.mark.parametrize("dispatch", [DroplessDispatch(), CapacityDispatch(0.5, "random")], ids=["dropless", "random"])
def test_activation_checkpointing_changes_no_gradient(router: str, dispatch: nn.Module) -> None:
    layer = make_layer(router, 2, dispatch)
    layer.experts.dropout = 0.2
    x_TD, context = make_batch(router)
    x_TD, context = pad(x_TD, context, torch.arange(x_TD.size(0)) + 3, length=20)
    torch.manual_seed(1)
    expected = gradients(layer, x_TD, context)

    layer.zero_grad()
    torch.manual_seed(1)
    loss_of(*checkpoint(layer, x_TD, context, use_reentrant=False)).backward()

    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=lambda m: f"{name}: {m}")


def test_a_layer_takes_its_weights_from_a_state_dict() -> None:
    layer, other = make_layer("task", 2), make_layer("task", 1)
    names = ["router.task_embedding.weight", "router.gate.weight"]
    names += [f"experts.{part}" for part in ("weight_1", "bias_1", "weight_2", "bias_2")]
    assert list(layer.state_dict()) == names

    other.load_state_dict(layer.state_dict())

    assert all(torch.equal(other.state_dict()[name], value) for name, value in layer.state_dict().items())


def test_no_tensor_grows_with_tokens_times_experts_times_capacity() -> None:
    num_tokens, num_experts = 256, 64
    layer = MoELayer(TokenRouter(4, num_experts, 2), CapacityDispatch(2.0), Experts(num_experts, 4, 4))
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(part.numel() for part in torch.utils._pytree.tree_leaves(result) if isinstance(part, Tensor))
            return result

    with Watch():
        y_TD, statistics = layer(torch.randn(num_tokens, 4, requires_grad=True), TokenContext())
        loss_of(y_TD, statistics).backward()

    assert len(sizes) > 100
    assert max(sizes) <= num_tokens * num_experts


@pytest.mark.gpu
@every_router
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_computes_the_same_on_a_gpu(router: str, dtype: torch.dtype) -> None:
    layer = make_layer(router, 2)
    x_TD, context = make_batch(router)
    expected = gradients(layer, x_TD, context)
    moved = {field.name: getattr(context, field.name) for field in dataclasses.fields(TokenContext)}
    moved = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in moved.items()}

    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = gradients(layer.cuda(), x_TD.cuda(), TokenContext(**moved))

    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].cpu(), gradient, atol=tolerance, rtol=tolerance)
