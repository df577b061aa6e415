"""Experts side by side compute what they compute one after the other."""

import pytest
import torch

from mmt.modules import relu_by_expert
from mmt.modules.experts import Experts
from mmt.modules.side_by_side import run_in_turn, run_side_by_side


pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("counts", [[3, 0, 5, 2], [0, 0, 0, 0], [10, 0, 0, 0], [9, 1, 0, 0], [1, 1, 1, 1]])
def test_every_segment_is_computed_once(counts: list[int]) -> None:
    segments = relu_by_expert._segments(counts)
    seen: list[int] = []
    run_side_by_side(segments, lambda: None, lambda segment, _: seen.append(segment[0]))
    assert sorted(seen) == [expert for expert, _ in segments]


def test_an_error_of_one_thread_is_raised() -> None:
    def fail(segment: tuple[int, slice], scratch: None) -> None:
        raise RuntimeError(f"expert {segment[0]}")

    with pytest.raises(RuntimeError, match="expert"):
        run_side_by_side([(0, slice(0, 2)), (1, slice(2, 4)), (2, slice(4, 6))], lambda: None, fail)


@pytest.mark.parametrize("counts", [[30, 0, 50, 20], [0, 0, 0, 7], [5, 5, 5, 5]])
def test_outputs_and_gradients_are_the_same(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_by_expert, "LARGE_MATRIX", 0)
    ways = []
    monkeypatch.setattr(relu_by_expert, "run_side_by_side", lambda *args: (ways.append(1), run_side_by_side(*args))[1])
    results = []
    for way in (run_side_by_side, run_in_turn):
        torch.manual_seed(1)
        experts = Experts(4, 16, 32)
        x = torch.randn(sum(counts), 16).bfloat16().requires_grad_()
        if way is run_in_turn:
            monkeypatch.setattr(relu_by_expert, "LARGE_MATRIX", 2**60)
        y = experts(x, torch.tensor(counts))
        y.float().square().sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in experts.parameters())])
    assert len(ways) == 2  # forward and backward
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_it_works_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_by_expert, "LARGE_MATRIX", 0)
    experts = Experts(4, 16, 32).eval()
    x = torch.randn(8, 16).bfloat16()
    with torch.inference_mode():
        inferred = experts(x, torch.tensor([2, 2, 2, 2]))
    torch.testing.assert_close(inferred, experts(x, torch.tensor([2, 2, 2, 2])).detach())


def test_the_number_of_threads_is_what_it_was() -> None:
    run_side_by_side([(0, slice(0, 2)), (1, slice(2, 4)), (2, slice(4, 6))], lambda: None, lambda *_: None)
    assert torch.get_num_threads() == 2
