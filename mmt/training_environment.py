"""Environment variables that make training on a CPU faster; they must be set before the process starts."""

import os
from collections.abc import Mapping

# glibc hands freed pages back to the kernel after every step and faults them in again, 4 kB at a time. Asking for 2 MB
# pages makes that cheap, without keeping freed memory back (MALLOC_MMAP_MAX_=0 does, and grew a run with batches of
# changing shape to many gigabytes).
CPU_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}


def training_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return ``environment`` with the settings added that it does not already have."""
    return {**CPU_ALLOCATOR, **environment}
