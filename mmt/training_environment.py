"""Environment variables that make training on a CPU faster; they must be set before the process starts."""

import os
from collections.abc import Mapping

# What one step frees, the next one needs again. glibc would hand it back to the kernel, which clears it page by page
# when it is touched again; here it keeps up to 4 GB of it, in pages of 2 MB. What is larger than 30 MB still goes back
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
# GNU OpenMP's threads wait for each other by spinning, by default for so long that a training beside another program
# falls to a third of its speed, with this to a half. On idle cores it costs nothing that could be measured; sleeping at
# once costs 9 %.
CPU_THREADS = {"GOMP_SPINCOUNT": "3000"}


def training_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return ``environment`` with the settings added that it does not already have."""
    threads = {} if "OMP_WAIT_POLICY" in environment else CPU_THREADS  # which GOMP_SPINCOUNT would override
    return {**CPU_ALLOCATOR, **threads, **environment}
