"""Where a training begins: anew, with a checkpoint that an option names, or where its run has stopped."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmt.distributed.checkpoint import LAST, beginning, newest_first, suffixed
from mmt.errors import UserError, as_typed

logger = logging.getLogger(__name__)

BEGINNING = {  # fairseq's options about where a training begins, and their defaults
    "restore_file": LAST,
    "reset_dataloader": False,
    "reset_lr_scheduler": False,
    "reset_meters": False,
    "reset_optimizer": False,
}
# Those that name a checkpoint for a run that has none of its own.
FIRST_TIME_ONLY = ("finetune_from_model", "continue_once")


def how_it_begins(cfg: Any) -> dict[str, Any]:
    """Return the options of ``--restore-file`` and ``--reset-*`` that are set, of fairseq's CheckpointConfig."""
    return {option: cfg[option] for option, default in BEGINNING.items() if cfg[option] != default}


def options_that_are_done(cfg: Any) -> dict[str, Any]:
    """Return the options of a training's beginning that must not count any more, since its run has begun, with the
    values that they must have.

    fairseq would begin with another checkpoint (``--restore-file``), or reset something (``--reset-*``), whenever the
    command is started, and a job that is put back into the queue would never end. Neither does a run that has
    checkpoints, but not the last one, begin anew from ``--finetune-from-model`` or ``--continue-once``.

    Args:
        cfg: fairseq's CheckpointConfig.

    Raises:
        UserError: names an option whose checkpoint is needed and is not there, or that does not go with another one.
    """
    save_dir, suffix = Path(cfg.save_dir), cfg.checkpoint_suffix or ""
    begins = how_it_begins(cfg)
    first = [option for option in FIRST_TIME_ONLY if cfg[option] is not None]
    if begins and cfg.finetune_from_model is not None:
        raise UserError(
            "--finetune-from-model takes the weights of a model and nothing else: it does not go with "
            f"{', '.join(map(as_typed, begins))}"
        )
    if begins and beginning(save_dir, suffix) == begins:
        logger.warning(
            "going on with the training in %s, which has begun with the same --restore-file and --reset-* options; to "
            "begin with them once more choose another --save-dir, or remove its checkpoints",
            save_dir,
        )
        return {**BEGINNING, **dict.fromkeys(first)}
    if "restore_file" in begins:
        _refuse_missing(cfg, "restore_file", suffixed(cfg.restore_file, suffix))  # what fairseq looks for
    elif first and _has_checkpoints(save_dir, suffix, of_others=[Path(cfg[option]) for option in first]):
        return dict.fromkeys(first)
    else:
        for option in first:
            _refuse_missing(cfg, option, cfg[option])
    return {}


def refuse_to_forget(save_dir: Path, suffix: str = "") -> None:
    """Refuse to begin anew in the folder of a run, if none of its checkpoints can be gone on from.

    Args:
        save_dir: the folder.
        suffix: of the run's checkpoints (``--checkpoint-suffix``).

    Raises:
        UserError: names the newest of them, and what can be done with it.
    """
    checkpoints = newest_first(save_dir, suffix, also_without_optimizer=True)
    if checkpoints:
        raise UserError(
            f"--save-dir {save_dir}: no training can go on from the checkpoints in it, which have no optimizer state "
            f"(--no-save-optimizer-state); choose another folder, where --finetune-from-model {checkpoints[0]} begins "
            "with their weights"
        )


def _has_checkpoints(save_dir: Path, suffix: str, of_others: Collection[Path]) -> bool:
    found = newest_first(save_dir, suffix, also_without_optimizer=True)
    elsewhere = {path.resolve() for path in of_others}  # one path may be relative, and the other absolute
    return (save_dir / suffixed(LAST, suffix)).exists() or any(path.resolve() not in elsewhere for path in found)


def _refuse_missing(cfg: Any, option: str, path: str) -> None:
    """Refuse an option whose checkpoint is not there: fairseq would begin anew, or show a traceback."""
    if not Path(path).is_file():
        raise UserError(f"{as_typed(option)} {cfg[option]}: there is no such checkpoint")
