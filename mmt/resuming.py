"""What a checkpoint remembers of a training beside fairseq's state, and how the training goes on with it."""

import logging
import sys
from typing import Any

import fairseq_cli.train

from mmt.errors import as_typed

logger = logging.getLogger(__name__)


def what_to_remember(cfg: Any, num_processes: int) -> dict[str, Any]:
    """Return what the functions below look for in the extra state of a checkpoint.

    Args:
        cfg: of the training.
        num_processes: that share its data.
    """
    return {
        "early_stopping": dict(vars(_early_stopping())),
        "best_checkpoint_metric": cfg.checkpoint.best_checkpoint_metric,
        "data_parallel_world_size": num_processes,
        "size_of_batches": _size_of_batches(cfg),
    }


def go_on_with_best_score(cfg: Any, extra_state: dict[str, Any]) -> None:
    """Go on with the best score so far and the count of validations since, unless they are of another metric."""
    now = cfg.checkpoint.best_checkpoint_metric
    before = extra_state.get("best_checkpoint_metric", now)
    if before == now:
        vars(_early_stopping()).update(extra_state.get("early_stopping", {}))
        return
    extra_state.pop("best", None)  # fairseq would compare the scores of one metric with those of the other
    logger.warning(
        "--best-checkpoint-metric was %s before, and is %s now: the best checkpoint is chosen anew", before, now
    )


def _early_stopping() -> Any:
    """Return the function of the running training command that counts validations for ``--patience``.

    It keeps the best score and the count as attributes of itself, and nowhere else.
    """
    return getattr(sys.modules["__main__"], "should_stop_early", fairseq_cli.train.should_stop_early)


def warn_of_other_batches(cfg: Any, extra_state: dict[str, Any]) -> None:
    """Say that a place in the data, which is counted in batches, is another one with batches of another size."""
    before = extra_state.get("size_of_batches")
    is_amid_epoch = (extra_state.get("train_iterator") or {}).get("iterations_in_epoch")
    if not is_amid_epoch or before is None or before == _size_of_batches(cfg):
        return
    changes = [
        f"{as_typed(option)} was {before.get(option)} before, and is {value} now"
        for option, value in _size_of_batches(cfg).items()
        if value != before.get(option)
    ]
    logger.warning(
        "%s: the training goes on after as many batches of the epoch as it has seen, which are other sentences",
        "; ".join(changes),
    )


def _size_of_batches(cfg: Any) -> dict[str, int | None]:
    """Return the options that say which sentences make a batch of one process."""
    return {option: cfg.dataset[option] for option in ("max_tokens", "batch_size")}


def share_data_anew(cfg: Any, extra_state: dict[str, Any], num_processes: int) -> None:
    """Find the place in the data again, with another number of processes or another ``--update-freq``.

    fairseq counts micro-batches per process, and begins an epoch anew if it goes on amid those of an update.

    Args:
        cfg: of the training that goes on.
        extra_state: of the checkpoint; its place in the data is changed.
        num_processes: that share the data now.
    """
    position = extra_state.get("train_iterator") or {}  # a published model has none
    if not position.get("iterations_in_epoch"):
        return
    before = extra_state.get("data_parallel_world_size") or num_processes
    seen = position["iterations_in_epoch"] * before
    by_epoch = cfg.optimization.update_freq
    of_an_update = by_epoch[min(position.get("epoch", 1), len(by_epoch)) - 1]
    position["iterations_in_epoch"] = seen // num_processes // of_an_update * of_an_update
    if before != num_processes:
        logger.info(
            "going on after %d batches of the epoch with %d processes in place of %d", seen, num_processes, before
        )
    if again := seen - position["iterations_in_epoch"] * num_processes:
        logger.warning(
            "%d batches are not a multiple of %d processes x --update-freq %d: the last %d are seen again",
            seen, num_processes, of_an_update, again,
        )  # fmt: skip
