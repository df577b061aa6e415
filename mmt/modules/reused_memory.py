"""Memory for large gradients that is used again in the next step.

Gradients of experts are the largest tensors of a training step, and ``zero_grad`` gives them back to the operating
system, which hands out zeroed pages again one by one. On a CPU that costs as much as a quarter of the layer's time,
whatever the allocator's settings.
"""

from typing import Any

import torch
from torch import Tensor

_OWN_REFERENCES = 1  # what a storage counts that only this object holds


class ReusedMemory:
    """Keeps the memory of one tensor, and hands it out again when nobody uses it any more.

    "Nobody" is what the storage's reference count says, so a gradient that someone still holds (gradient accumulation,
    ``autograd.grad``) is never overwritten: then new memory is made. Copies and pickles of an object are empty.
    """

    def __init__(self) -> None:
        self._storage: torch.UntypedStorage | None = None

    def empty_like(self, like: Tensor) -> Tensor:
        """Return an uninitialised, contiguous tensor with the shape, type and device of ``like``."""
        num_bytes = like.numel() * like.element_size()
        storage = self._storage
        if storage is not None and (storage.nbytes() != num_bytes or storage.device != like.device):
            storage = None  # the module was moved or cast
        if storage is None:
            fresh = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            self._storage = fresh.untyped_storage()
            return fresh
        if torch._C._storage_Use_Count(storage._cdata) > _OWN_REFERENCES:
            return torch.empty(like.shape, dtype=like.dtype, device=like.device)
        strides = torch.empty(like.shape, device="meta").stride()
        return torch.empty(0, dtype=like.dtype, device=like.device).set_(storage, 0, like.shape, strides)

    def clear(self) -> None:
        """Give the memory back as soon as nobody uses it."""
        self._storage = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReusedMemory":
        return ReusedMemory()

    def __reduce__(self) -> tuple[type["ReusedMemory"], tuple[()]]:
        return ReusedMemory, ()
