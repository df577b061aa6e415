"""The folder of a run: one training at a time writes to it, and it holds what goes with the model."""

import logging
from pathlib import Path
from typing import Any

from mmt.distributed.shards import remove_unfinished
from mmt.errors import NotWritten, UserError
from mmt.files import knows_locks, lock_until_exit, why_not_written

logger = logging.getLogger(__name__)


def claim(save_dir: Path) -> None:
    """Keep other trainings from writing to a folder, each of which would remove the other's checkpoints; and remove
    what a killed save has left in it, which may fill the disk.

    Where there is no lock, nobody knows whether what seems left is being written, and it stays.

    Raises:
        UserError: if another training writes to it.
    """
    save_dir.mkdir(parents=True, exist_ok=True)
    lock = save_dir / ".lock"
    try:
        is_ours = lock_until_exit(lock)
    except OSError as error:  # somebody else's, on a disk without room, ...
        logger.warning("%s cannot be opened (%s): no other training must write to this folder", lock, error.strerror)
        return
    if not is_ours:
        raise UserError(
            f"--save-dir {save_dir}: another training writes to this folder ({lock}); wait for its end, or choose "
            "another one (checkpoint.save_dir in a recipe)"
        )
    if knows_locks(save_dir):
        remove_unfinished(save_dir)


def keep_vocabulary(task: Any, folder: Path) -> None:
    """Write what goes with the model (``MultilingualMoETranslationTask.keep_vocabulary``) beside its checkpoints."""
    try:
        task.keep_vocabulary(folder)
    except OSError as error:
        raise NotWritten(f"the vocabulary could not be written to {folder}: {why_not_written(error)}") from error
