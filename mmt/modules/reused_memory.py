"""Memory for large tensors that is used again in the next step.

Logits, and the gradients of experts, are the largest tensors of a training step. Once freed, tensors this large go back
to the operating system, which hands out zeroed pages again one by one. On a CPU that costs as much as a quarter of the
time of an MoE layer, whatever the allocator's settings.
"""

import functools
import math
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

    def empty(self, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised, contiguous tensor."""
        fresh = functools.partial(torch.empty, dtype=dtype, device=device)
        num_bytes = math.prod(shape) * dtype.itemsize
        storage = self._storage
        if storage is None or storage.nbytes() != num_bytes or storage.device != device:  # the module was moved or cast
            tensor = fresh(shape)
            self._storage = tensor.untyped_storage()
            return tensor
        if torch._C._storage_Use_Count(storage._cdata) > _OWN_REFERENCES:
            return fresh(shape)
        return fresh(0).set_(storage, 0, shape, torch.empty(shape, device="meta").stride())

    def empty_like(self, like: Tensor) -> Tensor:
        """Return an uninitialised, contiguous tensor with the shape, type and device of ``like``."""
        return self.empty(tuple(like.shape), dtype=like.dtype, device=like.device)

    def clear(self) -> None:
        """Give the memory back as soon as nobody uses it."""
        self._storage = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReusedMemory":
        return ReusedMemory()

    def __reduce__(self) -> tuple[type["ReusedMemory"], tuple[()]]:
        return ReusedMemory, ()
