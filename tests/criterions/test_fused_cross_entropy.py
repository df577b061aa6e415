"""The fused projection and cross-entropy against fairseq's own loss on a full log-softmax."""

import math

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from mmt.criterions import fused_cross_entropy
from mmt.criterions.fused_cross_entropy import project_and_score, tokens_per_chunk
from mmt.modules.reused_memory import ReusedMemory


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("at_once", [3, 100])
def test_loss_and_gradients_equal_those_of_fairseq(
    label_smoothing: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_cross_entropy, "tokens_per_chunk", lambda num_words: at_once)
    monkeypatch.setattr(fused_cross_entropy, "tokens_per_softmax", lambda *_, **__: 2)
    torch.manual_seed(1)
    target = torch.randint(0, 11, (7,))
    features, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    expected, expected_nll = label_smoothed_nll_loss(
        torch.log_softmax(features @ weight.t(), dim=-1), target, label_smoothing
    )
    (3.0 * expected).backward()
    expected_gradients = features.grad.clone(), weight.grad.clone()
    features.grad = weight.grad = None

    loss, nll = project_and_score(features, weight, target, label_smoothing)
    (3.0 * loss).backward()

    torch.testing.assert_close(loss, expected.float())
    torch.testing.assert_close(nll, expected_nll.float())
    torch.testing.assert_close(features.grad, expected_gradients[0])
    torch.testing.assert_close(weight.grad, expected_gradients[1])


@pytest.mark.parametrize("at_once", [3, 100])
def test_without_gradients_none_are_computed(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_cross_entropy, "tokens_per_chunk", lambda num_words: at_once)
    features, weight = torch.randn(4, 5), torch.nn.Parameter(torch.randn(11, 5))
    expected = project_and_score(features, weight, torch.arange(4), 0.1)
    monkeypatch.setattr(fused_cross_entropy._ProjectAndScore, "apply", None)

    with torch.no_grad():
        found = project_and_score(features, weight, torch.arange(4), 0.1)

    torch.testing.assert_close(found, expected)


def test_no_token_at_all_gives_zero_loss_and_zero_gradients() -> None:
    features, weight = torch.randn(0, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)

    loss, nll = project_and_score(features, weight, torch.zeros(0, dtype=torch.long), 0.1)
    loss.backward()

    assert loss.item() == nll.item() == 0.0
    assert weight.grad.eq(0).all()


def test_logits_of_all_batches_use_the_same_memory() -> None:
    torch.manual_seed(1)
    memory, weight = ReusedMemory(), torch.randn(11, 5, requires_grad=True)
    shape, pending, addresses = (tokens_per_chunk(11), 11), [], set()
    for num_tokens in (7, 3, 9):
        features, target = torch.randn(num_tokens, 5, requires_grad=True), torch.randint(0, 11, (num_tokens,))
        losses = [project_and_score(features, weight, target, 0.1, memory=place)[0] for place in (memory, None)]
        pending.append((features, losses))
        assert memory._storage is not None and memory._storage.nbytes() == 4 * math.prod(shape)
        addresses.add(memory._storage.data_ptr())

    assert len(addresses) == 1
    for features, (found, expected) in pending:  # long after their logits have been overwritten
        assert found == expected
        torch.testing.assert_close(
            torch.autograd.grad(found, [features, weight]), torch.autograd.grad(expected, [features, weight])
        )


def test_two_backward_passes_through_one_graph_give_twice_the_gradient() -> None:
    torch.manual_seed(1)
    features, weight = torch.randn(4, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    loss, _ = project_and_score(features, weight, torch.arange(4), 0.1)

    loss.backward(retain_graph=True)
    once = features.grad.clone(), weight.grad.clone()
    loss.backward()

    torch.testing.assert_close((features.grad, weight.grad), tuple(2 * gradient for gradient in once))


def test_under_autocast_the_loss_stays_close_to_float32() -> None:
    torch.manual_seed(1)
    features, weight, target = torch.randn(64, 32), torch.randn(100, 32) * 0.1, torch.randint(0, 100, (64,))
    exact, _ = project_and_score(features, weight, target, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = project_and_score(features, weight, target, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=2e-3, atol=0)
