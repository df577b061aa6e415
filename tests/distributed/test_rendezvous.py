"""Processes that are started again agree on a name of their own."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from mmt.distributed.rendezvous import agree_on_a_name

SOON = timedelta(seconds=20)


def test_every_start_of_the_processes_has_a_name_of_its_own() -> None:
    store = dist.HashStore()
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda rank: agree_on_a_name(store, rank, 3, SOON), range(3)))
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_what_a_dead_process_has_asked_misleads_nobody() -> None:
    store = dist.HashStore()
    store.set("mmt/ask/1", "of the dead")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(agree_on_a_name, store, 0, 2, SOON)
        assert store.get("mmt/answer/of the dead")  # the first process takes it for alive, and still waits
        second = pool.submit(agree_on_a_name, store, 1, 2, SOON)
    assert first.result() == second.result()


def test_the_missing_processes_are_named() -> None:
    with pytest.raises(dist.DistStoreError, match=r"processes \[1\] have not come within 0:00:00"):
        agree_on_a_name(dist.HashStore(), 0, 2, timedelta(seconds=0))
