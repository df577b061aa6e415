"""The norm of the whole model's gradient, of which each process holds a part."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mmt.modules.collectives import is_shared_out


def num_copies(parameter: Tensor, world_size: int) -> int:
    """Return how many processes hold the same part of ``parameter`` as this one does."""
    if not is_shared_out(parameter):
        return world_size
    sizes = zip(parameter.placements, parameter.device_mesh.shape)
    num_parts = 1
    for placement, size in sizes:
        if not placement.is_replicate():
            num_parts *= size
    return world_size // num_parts


@torch.no_grad()
def clip_gradient_norm(
    gradients_by_copies: Mapping[int, Sequence[Tensor]], max_norm: float, device: torch.device
) -> Tensor:
    """Scale the gradients so that the norm of all of them is at most ``max_norm`` (0: leave them); return the norm.

    Every distinct parameter counts once, however many processes hold a copy. All processes get the same norm, so an
    infinite gradient on one of them is seen by all.

    Args:
        gradients_by_copies: this process' parts, by the number of processes that hold the same part.
        max_norm: as in ``--clip-norm``.
        device: where the processes communicate, and the norm is returned; gradients may be in the host's memory.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for copies, gradients in gradients_by_copies.items():
        norms = torch._foreach_norm([gradient.float() for gradient in gradients])
        total += torch.stack([norm.to(device) for norm in norms]).double().square().sum() / copies
    dist.all_reduce(total)
    norm = total.sqrt().float()
    if max_norm > 0:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        everything = [gradient for gradients in gradients_by_copies.values() for gradient in gradients]
        for place in {gradient.device for gradient in everything}:
            torch._foreach_mul_([gradient for gradient in everything if gradient.device == place], scale.to(place))
    return norm
