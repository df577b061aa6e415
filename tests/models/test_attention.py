"""Our attention against fairseq's, with the same weights."""

import copy
from typing import Any

import pytest
import torch
from fairseq import modules
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmt.models.attention import MultiheadAttention, additive_mask

LENGTH, SENTENCES, DIM = 5, 3, 16  # two heads of 8, which the fused kernels need


def pair_of_attentions(self_attention: bool) -> tuple[modules.MultiheadAttention, MultiheadAttention]:
    torch.manual_seed(1)
    kinds: dict[str, Any] = {"self_attention": self_attention, "encoder_decoder_attention": not self_attention}
    fairseqs = modules.MultiheadAttention(DIM, num_heads=2, **kinds)
    for parameter in fairseqs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # fairseq's biases are zero
    ours = MultiheadAttention(DIM, num_heads=2, **kinds)
    ours.load_state_dict(fairseqs.state_dict())
    return fairseqs, ours


def padding(length: int) -> Tensor:
    is_padding = torch.zeros(SENTENCES, length, dtype=torch.bool)
    is_padding[1, -2:] = True
    return is_padding


FUTURE = torch.triu(torch.full((LENGTH, LENGTH), float("-inf")), 1)


@pytest.mark.parametrize("key_padding_mask", [None, padding(LENGTH)], ids=["full", "padded"])
@pytest.mark.parametrize("attn_mask", [None, FUTURE, FUTURE.bool()], ids=["all", "causal", "causal-boolean"])
def test_self_attention_and_its_gradients_equal_fairseqs(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> None:
    fairseqs, ours = pair_of_attentions(self_attention=True)
    gradients = []
    outputs = []
    for attention in (fairseqs, ours):
        torch.manual_seed(2)
        attention.double()  # what remains is the rounding of fairseq's and torch's float32 parts
        x = torch.randn(LENGTH, SENTENCES, DIM, dtype=torch.float64, requires_grad=True)
        y, weights = attention(x, x, x, key_padding_mask, need_weights=False, attn_mask=attn_mask)
        assert weights is None
        y.square().sum().backward()
        outputs.append(y)
        gradients.append([x.grad, *(parameter.grad for parameter in attention.parameters())])
    torch.testing.assert_close(outputs[1], outputs[0])
    for our_gradient, expected in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(our_gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_head", [False, True])
def test_cross_attention_returns_the_same_weights_as_fairseq(per_head: bool) -> None:
    fairseqs, ours = pair_of_attentions(self_attention=False)
    query, memory = torch.randn(LENGTH, SENTENCES, DIM), torch.randn(7, SENTENCES, DIM)
    results = [
        attention(query, memory, memory, padding(7), static_kv=True, need_weights=True, need_head_weights=per_head)
        for attention in (fairseqs, ours)
    ]
    torch.testing.assert_close(results[1], results[0])


def test_the_fused_kernel_computes_the_same() -> None:
    _, ours = pair_of_attentions(self_attention=True)
    q, k, v = torch.randn(3, LENGTH, SENTENCES, DIM)
    mask = additive_mask(FUTURE, padding(LENGTH), torch.float32)
    torch.testing.assert_close(ours._attend_fused(q, k, v, mask), ours._attend(q, k, v, mask)[0])


def test_step_by_step_equals_the_whole_sequence() -> None:
    _, ours = pair_of_attentions(self_attention=True)
    x = torch.randn(LENGTH, SENTENCES, DIM)
    whole, _ = ours(x, x, x, attn_mask=FUTURE)
    state: dict[str, Any] = {}
    steps = [ours(x[t : t + 1], x[t : t + 1], x[t : t + 1], incremental_state=state)[0] for t in range(LENGTH)]
    torch.testing.assert_close(torch.cat(steps), whole)


def test_dropout_of_weights_is_applied_in_training_only() -> None:
    _, ours = pair_of_attentions(self_attention=True)
    ours.dropout_module.p = 0.5
    x = torch.randn(LENGTH, SENTENCES, DIM)
    assert not torch.equal(ours(x, x, x)[0], ours(x, x, x)[0])
    ours.eval()
    assert torch.equal(ours(x, x, x)[0], copy.deepcopy(ours)(x, x, x)[0])


def test_autocast_computes_in_bfloat16_close_to_float32() -> None:
    _, ours = pair_of_attentions(self_attention=True)
    x = torch.randn(LENGTH, SENTENCES, DIM)
    exact, _ = ours(x, x, x, padding(LENGTH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = ours(x, x, x, padding(LENGTH))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


class _Called(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.gpu
@pytest.mark.parametrize("key_padding_mask", [None, padding(LENGTH)], ids=["full", "padded"])
@pytest.mark.parametrize("attn_mask", [None, FUTURE], ids=["all", "causal"])
def test_a_gpu_computes_the_same_with_a_kernel_that_fits_every_shape(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> None:
    _, ours = pair_of_attentions(self_attention=True)
    x = torch.randn(LENGTH, SENTENCES, DIM)
    expected, _ = ours(x, x, x, key_padding_mask, need_weights=False, attn_mask=attn_mask)
    on_gpu = [None if mask is None else mask.cuda() for mask in (key_padding_mask, attn_mask)]
    ours, x = ours.cuda(), x.cuda()
    found, _ = ours(x, x, x, on_gpu[0], need_weights=False, attn_mask=on_gpu[1])
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    with _Called() as called, torch.autocast("cuda", dtype=torch.bfloat16):
        rounded, _ = ours(x, x, x, on_gpu[0], need_weights=False, attn_mask=on_gpu[1])
    torch.testing.assert_close(rounded.float().cpu(), expected, rtol=0.1, atol=0.1)
    kernels = {name for name in called.names if "scaled_dot_product" in name}
    assert kernels and not any("cudnn" in name for name in kernels)
