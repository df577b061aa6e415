"""Several processes that share out work: the directions of an evaluation, the languages of a translation.

Whoever is free claims the next piece that nobody has: a lock on a file, which the end of a process releases,
whatever ends it. So nobody waits for a process that is gone, and what it had begun is done by another.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from mmt.errors import UserError, first_line
from mmt.files import knows_locks, try_lock

logger = logging.getLogger(__name__)

START_TIMEOUT = timedelta(minutes=10)  # a model is loaded within that time
WAIT_S = 0.2  # between looks at what other processes have claimed


def rank_and_world_size() -> tuple[int, int]:
    """Return which of how many processes this is, as torchrun and the job scripts tell it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do what is in the ``with`` block, and then the others; the last time that any one waits.

    Raises:
        UserError: on the others, if the first process has ended meanwhile.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        yield
        return
    try:
        dist.init_process_group("gloo", timeout=START_TIMEOUT)
    except ValueError as error:  # where the others are is not said
        raise UserError(f"WORLD_SIZE is {world_size}, but {error}") from error
    except RuntimeError as error:  # of torch.distributed
        if rank > 0:
            raise UserError("the processes that share this work have not met, see their messages") from error
        logger.warning("the other processes have not been met (%s); this one works alone", first_line(error))
    try:
        if rank == 0:
            yield
        if dist.is_initialized():
            _wait_for_the_first(rank)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if rank > 0:
        yield


def _wait_for_the_first(rank: int) -> None:
    try:
        dist.barrier()
    except RuntimeError as error:  # of torch.distributed
        if rank > 0:  # the first one needs nobody
            raise UserError("the first of the processes that share this work has ended, see its message") from error


class Claims:
    """Who works on what.

    Args:
        folder: where the locks are; shared by the processes, which may be on several hosts.

    Raises:
        UserError: if there are several processes, and files in the folder cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if rank_and_world_size()[1] > 1 and not knows_locks(folder):
            raise UserError(
                f"{folder}: the disk offers no locks on files, by which several processes share out work; use one "
                "process, or a folder on another disk"
            )

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claim ``name`` for the ``with`` block; False if another process has it."""
        descriptor = try_lock(self.folder / name)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def in_turn(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names, each when no other process has it; it is claimed until the next one is asked for.

        Another process may have done meanwhile what was to be done: that is for the caller to find out.
        """
        todo = list(names)
        while todo:
            claimed_by_others = []
            for name in todo:
                with self.claim(name) as is_mine:
                    if is_mine:
                        yield name
                    else:
                        claimed_by_others.append(name)
            todo = claimed_by_others
            if todo:
                time.sleep(WAIT_S)
