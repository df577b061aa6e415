"""Dropout with cheap random numbers, against what dropout is."""

import math

import pytest
import torch

from mmt.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_elements_are_dropped_independently_with_probability_p_and_the_rest_is_scaled(p: float) -> None:
    torch.manual_seed(1)
    num_rows, num_columns = 500, 1003  # not a multiple of the four elements that share a random number
    y = Dropout(p)(torch.ones(num_rows, num_columns))
    is_dropped = y.eq(0)

    assert torch.allclose(y[~is_dropped], torch.tensor(1 / (1 - p)), rtol=1e-4)
    deviation = math.sqrt(p * (1 - p) / y.numel())
    assert abs(is_dropped.float().mean().item() - p) < 4 * deviation
    for shift in (1, 2, 3, 4):  # neighbours say nothing about each other
        both = (is_dropped[:, shift:] & is_dropped[:, :-shift]).float().mean().item()
        assert abs(both - p * p) < 6 * deviation


def test_the_gradient_passes_where_the_input_passed() -> None:
    x = torch.randn(7, 9, requires_grad=True)
    y = Dropout(0.5)(x)
    y.backward(torch.full_like(y, 3.0))
    assert torch.equal(x.grad, torch.where(y.eq(0), 0.0, 6.0))


def test_the_same_seed_drops_the_same() -> None:
    drop = Dropout(0.3)
    torch.manual_seed(5)
    first = drop(torch.ones(100))
    torch.manual_seed(5)
    assert torch.equal(first, drop(torch.ones(100)))


def test_nothing_is_dropped_in_evaluation_unless_retained() -> None:
    x = torch.ones(1000)
    drop = Dropout(0.5).eval()
    assert drop(x) is x
    drop.make_generation_fast_("drop", retain_dropout=True)
    assert drop(x).eq(0).any()
