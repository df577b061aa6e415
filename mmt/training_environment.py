"""Environment variables that make training on a CPU faster; they must be set before the process starts."""

import os
from collections.abc import Mapping

# What one step frees, the next one needs again. glibc would hand it back to the kernel, which clears it page by page
# when it is touched again; here it keeps what is smaller than 32 MB, in pages of 2 MB. Larger memory still goes back
# (MALLOC_MMAP_MAX_=0 keeps it too, and grew a run with batches of changing shape to many gigabytes): what is large in
# every step is mmt.modules.reused_memory's.
CPU_ALLOCATOR = {
    "GLIBC_TUNABLES": ":".join(
        [
            "glibc.malloc.hugetlb=1",
            f"glibc.malloc.mmap_threshold={32 * 2**20}",
            f"glibc.malloc.trim_threshold={4 * 2**30}",
        ]
    ),
    "THP_MEM_ALLOC_ENABLE": "1",
}
# OpenMP's threads wait for each other by spinning, by default for so long that two programs on the same cores all but
# stand still. So short a time costs nothing that could be measured on idle cores; sleeping at once costs 9 %.
CPU_THREADS = {"GOMP_SPINCOUNT": "3000"}


def training_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return ``environment`` with the settings added that it does not already have."""
    return {**CPU_ALLOCATOR, **CPU_THREADS, **environment}
