"""Processes that torchrun has started again find each other, and nothing of those that were there before.

torchrun keeps its store when it starts the processes again (``--max-restarts``), and torch 2.13 writes the addresses of
the new processes under the names of the old ones: who reads too early connects to a process that is dead.
"""

import os
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

METHOD = "mmt://"
INTERVAL_SECONDS = 0.1


def keeps_its_store() -> bool:
    """Tell whether this process was started by torchrun."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def agree_on_a_name(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Return a name that all processes living now have in common, and those before them have not had.

    Each process asks with a word that nobody has used before; the first process answers, until all have heard it.
    """
    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"mmt/ask/{rank}", own)
        name = store.get(f"mmt/answer/{own}").decode()
        store.set(f"mmt/heard/{name}/{rank}", "")
        return name
    answered = set()
    missing = set(range(1, world_size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"mmt/heard/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"mmt/ask/{other}"]):
                word = store.get(f"mmt/ask/{other}").decode()
                if word not in answered:
                    store.set(f"mmt/answer/{word}", own)
                    answered.add(word)
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"processes {sorted(missing)} have not come within {timeout}")
        time.sleep(INTERVAL_SECONDS)
    return own


def _rendezvous(url: str, timeout: timedelta, **kwargs: Any) -> Iterator[tuple[dist.Store, int, int]]:
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout, **kwargs))
    yield dist.PrefixStore(agree_on_a_name(store, rank, world_size, timeout), store), rank, world_size
    raise RuntimeError("the processes can find each other only once")


dist.register_rendezvous_handler(METHOD.removesuffix("://"), _rendezvous)
