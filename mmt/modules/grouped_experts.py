"""Experts by torch's grouped matrix product: what GPUs use, and other activations than ReLU."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def feed_forward_grouped(
    x_RD: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    counts_E: Tensor,
    activation: Callable[[Tensor], Tensor],
    dropout: float,
) -> Tensor:
    """Apply the experts.

    In bfloat16 on Hopper and Blackwell GPUs a product is one kernel for all experts, which does not wait for
    ``counts_E``; elsewhere torch multiplies for one expert after the other.

    Args:
        x_RD: rows sorted by expert, ``(R, D)``.
        weight_1: ``(E, F, D)``; may be of another type than the rows (autocast).
        bias_1: ``(E, F)``.
        weight_2: ``(E, D, F)``.
        bias_2: ``(E, D)``.
        counts_E: rows of each expert, ``(E,)``.
        activation: applied to the hidden states ``(R, F)``.
        dropout: dropout of the hidden states; 0 in evaluation.

    Returns:
        The experts' outputs, ``(R, D)``.
    """
    ends_E = counts_E.cumsum(0).to(torch.int32)
    expert_R = torch.arange(counts_E.numel(), device=x_RD.device)
    expert_R = torch.repeat_interleave(expert_R, counts_E, output_size=x_RD.size(0))
    is_of_RE = x_RD.new_zeros(x_RD.size(0), counts_E.numel()).scatter_(1, expert_R[:, None], 1.0)

    def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(rows.dtype).transpose(1, 2)
        if weight.requires_grad:
            # Some GPU kernels leave the gradient of experts without rows unset (pytorch issue 172439). It lies in
            # memory as the weights do; filled as it is seen here, it would be turned around, and back again later.
            is_empty_E = counts_E.eq(0)
            weight.register_hook(lambda grad: grad.mT.masked_fill(is_empty_E[:, None, None], 0.0).mT)
        product = F.grouped_mm(rows, weight, offs=ends_E)
        if product.requires_grad:
            product.register_hook(Tensor.contiguous)  # a broadcast gradient, such as a sum's, would be refused
        # Not bias[expert_R], whose gradient would be added up row by row in bfloat16, which ends at 256.
        return product + is_of_RE @ bias.to(rows.dtype)

    with torch.autocast(x_RD.device.type, enabled=False):
        hidden_RF = activation(linear(x_RD, weight_1, bias_1))
        return linear(F.dropout(hidden_RF, dropout, training=dropout > 0), weight_2, bias_2)
