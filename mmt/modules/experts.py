"""The experts: E feed-forward networks with stacked weights, each applied to its own rows."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from mmt.modules.collectives import own_part, sum_gradient_over_ranks, sum_over_ranks
from mmt.modules.grouped_experts import feed_forward_grouped
from mmt.modules.relu_by_expert import ReluFeedForwardByExpert
from mmt.modules.reused_memory import ReusedMemory

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Experts(nn.Module):
    """E feed-forward networks ``activation(x W1 + b1) W2 + b2``.

    Weights are stacked as ``(E, F, D)`` and ``(E, D, F)``, so that they can be sharded, packed and sliced by expert;
    slice ``e`` is fairseq's ``fc1`` and ``fc2``, with the same initialisation.

    Args:
        num_experts: E.
        model_dim: D.
        ffn_dim: F.
        activation: "relu" or "gelu". ReLU has a faster path on CPUs.
        dropout: dropout of the hidden states in training.

    Raises:
        ValueError: if ``activation`` is unknown or ``dropout`` out of range.
    """

    def __init__(
        self, num_experts: int, model_dim: int, ffn_dim: int, *, activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            names = ", ".join(ACTIVATIONS)
            raise ValueError(f"--activation-fn must be one of {names} with --moe-experts, but is {activation!r}.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"--activation-dropout must be at least 0 and below 1, but is {dropout}.")
        self.activation = activation
        self.dropout = dropout
        self.weight_1 = nn.Parameter(torch.empty(num_experts, ffn_dim, model_dim))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.weight_2 = nn.Parameter(torch.empty(num_experts, model_dim, ffn_dim))
        self.bias_2 = nn.Parameter(torch.empty(num_experts, model_dim))
        # Processes that hold a part of the hidden units each, and work on the same rows.
        self.split_group: ProcessGroup | None = None
        # Where processes hold some experts each: sends rows to where they are computed, and brings the outputs back.
        self.exchange: Callable[[Experts, Tensor, Tensor], Tensor] | None = None
        self._gradient_memory = ReusedMemory(), ReusedMemory()
        self.reset_parameters()

    @property
    def num_experts(self) -> int:
        """E."""
        return self.weight_1.size(0)

    def reset_parameters(self) -> None:
        """Initialise every expert as torch initialises a linear layer."""
        for weight, bias in ((self.weight_1, self.bias_1), (self.weight_2, self.bias_2)):
            bound = 1.0 / math.sqrt(weight.size(2))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def train(self, mode: bool = True) -> "Experts":
        """Switch to training or evaluation, which needs no memory for gradients."""
        if not mode:
            for memory in self._gradient_memory:
                memory.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return what ``print`` shows in the brackets."""
        num_experts, ffn_dim, model_dim = self.weight_1.shape
        return f"{num_experts}, {model_dim}, {ffn_dim}, activation={self.activation!r}, dropout={self.dropout}"

    def forward(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Apply the experts.

        Args:
            x_RD: rows sorted by expert, ``(R, D)``.
            counts_E: rows of each expert, ``(E,)``.

        Returns:
            The experts' outputs, ``(R, D)`` in the type of ``x_RD``.
        """
        if self.exchange is not None:
            return self.exchange(self, x_RD, counts_E)
        (compute,) = self.in_parts(1)
        return compute(x_RD, counts_E)

    def in_parts(self, number: int) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Return a function for each of ``number`` equal parts of this process' experts, which does as ``forward``."""
        weights = [own_part(weight) for weight in (self.weight_1, self.bias_1, self.weight_2, self.bias_2)]
        if number == 1:
            return [functools.partial(self._compute, *weights)]
        return [functools.partial(self._compute, *part) for part in zip(*(weight.chunk(number) for weight in weights))]

    def _compute(
        self, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, x_RD: Tensor, counts_E: Tensor
    ) -> Tensor:
        if self.split_group is None:
            return self._feed_forward(x_RD, weight_1, bias_1, weight_2, bias_2, counts_E)
        if self.split_group.rank() > 0:
            bias_2 = bias_2 - bias_2.detach()  # it is added once: zero in value, but each process has its gradient
        x_RD = sum_gradient_over_ranks(x_RD, self.split_group)
        return sum_over_ranks(self._feed_forward(x_RD, weight_1, bias_1, weight_2, bias_2, counts_E), self.split_group)

    def _feed_forward(
        self, x_RD: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, counts_E: Tensor
    ) -> Tensor:
        weights = weight_1, bias_1, weight_2, bias_2
        dropout = self.dropout if self.training else 0.0
        if x_RD.size(0) > 0 and (x_RD.is_cuda or self.activation != "relu"):
            return feed_forward_grouped(x_RD, *weights, counts_E, ACTIVATIONS[self.activation], dropout)
        return ReluFeedForwardByExpert.apply(x_RD, *weights, counts_E.tolist(), dropout, self._gradient_memory)
