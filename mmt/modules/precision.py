"""The type to compute in, where autocast does not reach: custom autograd functions and types chosen by hand."""

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return autocast's type on the device of ``x`` where autocast is on, else the type of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
