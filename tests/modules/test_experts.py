import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmt.modules.experts import ACTIVATIONS, Experts
from mmt.modules.grouped_experts import feed_forward_grouped
from tests.modules.reference import feed_forward

MODEL_DIM, FFN_DIM = 8, 24
COUNTS = {
    "some rows each": [3, 1, 4, 2],
    "empty experts": [0, 5, 0, 1],
    "one gets all": [0, 0, 6, 0],
    "no rows": [0, 0, 0, 0],
}


def run(experts: Experts, x_RD: Tensor, counts: list[int]) -> list[Tensor]:
    """Output and all gradients of the module, for a random gradient of the output."""
    x_RD = x_RD.clone().requires_grad_()
    y_RD = experts(x_RD, torch.tensor(counts))
    return [y_RD, *gradients(experts, x_RD, y_RD)]


def gradients(experts: Experts, x_RD: Tensor, y_RD: Tensor) -> list[Tensor]:
    grad = torch.randn(y_RD.shape, generator=torch.Generator().manual_seed(2)).to(y_RD.dtype)
    return list(torch.autograd.grad(y_RD, [x_RD, *experts.parameters()], grad))


def run_one_by_one(experts: Experts, x_RD: Tensor, counts: list[int]) -> list[Tensor]:
    """The same with plain autograd, one expert after the other."""
    x_RD = x_RD.clone().requires_grad_()
    parts = [feed_forward(experts, expert, rows) for expert, rows in enumerate(x_RD.split(counts))]
    y_RD = torch.cat(parts) + 0.0 * sum(p.sum() for p in experts.parameters())
    return [y_RD, *gradients(experts, x_RD, y_RD)]


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_experts_compute_what_a_plain_loop_computes(counts: list[int]) -> None:
    experts = Experts(4, MODEL_DIM, FFN_DIM)
    x_RD = torch.randn(sum(counts), MODEL_DIM)
    for fast, slow in zip(run(experts, x_RD, counts), run_one_by_one(experts, x_RD, counts), strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_gradients_of_the_experts_are_right(counts: list[int]) -> None:
    experts = Experts(4, 3, 5).double()
    x_RD = torch.randn(sum(counts), 3, dtype=torch.float64, requires_grad=True)

    # gradcheck moves the parameters in place, so they need not be passed on.
    assert torch.autograd.gradcheck(lambda x, *_: experts(x, torch.tensor(counts)), (x_RD, *experts.parameters()))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_expert_without_rows_gets_a_zero_gradient_and_not_none(activation: str) -> None:
    experts = Experts(4, MODEL_DIM, FFN_DIM, activation=activation)
    # Memory that is not zero by chance: an unset gradient would show.
    torch.full((4, FFN_DIM, MODEL_DIM), torch.nan)

    experts(torch.randn(6, MODEL_DIM), torch.tensor(COUNTS["empty experts"])).sum().backward()

    for name, parameter in experts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[[0, 2]].eq(0).all(), name
        assert parameter.grad[[1, 3]].ne(0).any(dim=-1).all() or "1" in name, name


def test_one_expert_is_a_dense_feed_forward_network() -> None:
    experts = Experts(1, MODEL_DIM, FFN_DIM)
    fc1, fc2 = nn.Linear(MODEL_DIM, FFN_DIM), nn.Linear(FFN_DIM, MODEL_DIM)
    with torch.no_grad():
        for mine, its in zip(experts.parameters(), (*fc1.parameters(), *fc2.parameters())):
            mine.copy_(its[None])
    x_RD = torch.randn(5, MODEL_DIM)

    y_RD, grad_x, *grads = run(experts, x_RD, [5])
    x_RD.requires_grad_()
    dense_y = fc2(F.relu(fc1(x_RD)))
    grad = torch.randn(y_RD.shape, generator=torch.Generator().manual_seed(2))
    dense_grads = torch.autograd.grad(dense_y, [x_RD, *fc1.parameters(), *fc2.parameters()], grad)

    torch.testing.assert_close(y_RD, dense_y)
    for mine, its in zip([grad_x, *(g[0] for g in grads)], dense_grads, strict=True):
        torch.testing.assert_close(mine, its)


def test_experts_are_initialised_as_fairseq_initialises_its_feed_forward_layers() -> None:
    experts, fc1, fc2 = Experts(8, 64, 256), nn.Linear(64, 256), nn.Linear(256, 64)
    for mine, its in zip(experts.parameters(), (*fc1.parameters(), *fc2.parameters()), strict=True):
        assert float(mine.abs().max()) == pytest.approx(float(its.abs().max()), rel=0.05)
        assert float(mine.std()) == pytest.approx(float(its.std()), rel=0.15)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_grouped_product_computes_the_same_with_every_activation(activation: str) -> None:
    counts = COUNTS["empty experts"]
    experts = Experts(4, MODEL_DIM, FFN_DIM, activation=activation)
    function = {"relu": F.relu, "gelu": F.gelu}[activation]
    x_RD = torch.randn(6, MODEL_DIM, requires_grad=True)

    grouped = feed_forward_grouped(x_RD, *experts.parameters(), torch.tensor(counts), ACTIVATIONS[activation], 0.0)
    parts = zip(x_RD.split(counts), *experts.parameters())
    plain = torch.cat([function(rows @ w1.t() + b1) @ w2.t() + b2 for rows, w1, b1, w2, b2 in parts])

    torch.testing.assert_close(grouped, plain)
    torch.testing.assert_close(experts(x_RD, torch.tensor(counts)), plain)
    for mine, its in zip(gradients(experts, x_RD, grouped), gradients(experts, x_RD, plain), strict=True):
        torch.testing.assert_close(mine, its)


def test_the_gradient_of_a_bias_is_not_added_up_in_bfloat16() -> None:
    experts = Experts(2, 8, 16, activation="gelu")
    y_RD = experts(torch.randn(1000, 8).bfloat16(), torch.tensor([1000, 0]))
    y_RD.backward(torch.ones_like(y_RD))

    assert experts.bias_2.grad is not None
    torch.testing.assert_close(experts.bias_2.grad, torch.tensor([[1000.0] * 8, [0.0] * 8]))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_dropout_drops_hidden_states_in_training_only_and_keeps_their_mean(activation: str) -> None:
    experts = Experts(1, 4, 20000, activation=activation, dropout=0.25)
    nn.init.constant_(experts.weight_2, 1 / 20000)
    x_RD = torch.randn(2, 4)

    noisy, kept = experts(x_RD, torch.tensor([2])), experts.eval()(x_RD, torch.tensor([2]))
    again = experts(x_RD, torch.tensor([2]))

    assert torch.equal(kept, again)
    assert not torch.equal(noisy, kept)
    torch.testing.assert_close(noisy, kept, atol=0.02, rtol=0.0)


def test_gradients_go_through_the_hidden_states_that_dropout_kept() -> None:
    experts = Experts(2, 3, 6, dropout=0.5).double()
    x_RD = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def apply(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return experts(x, torch.tensor([1, 3]))

    assert torch.autograd.gradcheck(apply, x_RD)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_rows_in_bfloat16_give_gradients_in_the_type_of_the_weights(activation: str) -> None:
    counts = COUNTS["empty experts"]
    experts = Experts(4, MODEL_DIM, FFN_DIM, activation=activation)
    x_RD = torch.randn(6, MODEL_DIM)

    low, full = run(experts, x_RD.bfloat16(), counts), run(experts, x_RD, counts)

    assert [part.dtype for part in low] == [torch.bfloat16] * 2 + [torch.float32] * 4
    for half, whole in zip(low, full, strict=True):
        torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"activation": "tanh"},
            r"^--activation-fn must be one of relu, gelu with --moe-experts, but is 'tanh'\.$",
        ),
        ({"dropout": 1.0}, r"^--activation-dropout must be at least 0 and below 1, but is 1\.0\.$"),
    ],
)
def test_impossible_options_are_refused(arguments: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experts(2, 4, 8, **arguments)  # type: ignore[arg-type]
