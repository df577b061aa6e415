"""A folder of shards: the tensors of a training, each process' part in a file of its own.

The folder has its name only when it is whole and on the disk; ``checksums.json`` tells whether it still is what was
written. ``shard_files.py`` writes and reads what is in it.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import ProcessGroup

from mmt.errors import CheckpointDamaged
from mmt.files import sha256_of_file

CHECKSUMS = "checksums.json"
PREFIX = "shards_"
PARTIAL = ".partial"


def together(
    work: Callable[[], Any], failure: type[Exception] = OSError, group: ProcessGroup | None = None
) -> list[Any]:
    """Do ``work`` on every process, and return all results; a ``failure`` of one process is raised on all."""
    outcome: tuple[Any, str | None]
    try:
        outcome = work(), None
    except failure as error:
        outcome = None, str(error)
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome, group=group)
    failures = [text for _, text in outcomes if text]
    if failures:
        raise failure(failures[0])
    return [result for result, _ in outcomes]


def check(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Check the files of a folder of shards against their checksums.

    Args:
        folder: the folder.
        part: check every ``parts``-th file, from this one on.
        parts: how many processes share the work.

    Raises:
        CheckpointDamaged: names the file that is missing or differs.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(f"{folder / CHECKSUMS} cannot be read: {error}") from error
    for name in sorted(sums)[part::parts]:
        path = folder / name
        if not path.is_file():
            raise CheckpointDamaged(f"{path} is missing")
        if sha256_of_file(path) != sums[name]:
            raise CheckpointDamaged(f"{path} is not what was written: its checksum differs")


def check_together(folder: Path) -> None:
    """Check a folder with all processes, each some of the files.

    Raises:
        CheckpointDamaged: on all processes.
    """
    together(lambda: check(folder, part=dist.get_rank(), parts=dist.get_world_size()), CheckpointDamaged)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed save left in ``folder`` under a temporary name: shards, and checkpoints that were being
    written or copied.
    """
    for path in folder.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)
    for pattern in ("[!.]*.pt.tmp", f"[!.]*.pt{PARTIAL}"):  # not the hidden ones, of commands that may be running
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


def remove_unused(folder: Path, used: Collection[str | None]) -> None:
    """Remove the folders of shards in ``folder`` that no checkpoint refers to, and what a killed save left."""
    for path in folder.glob(f"{PREFIX}*"):
        if path.is_dir() and path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
