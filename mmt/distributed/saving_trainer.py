"""fairseq's trainer, with checkpoints that all processes write and read together."""

import atexit
import copy
import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from fairseq import checkpoint_utils, utils

from mmt.distributed.background import Background, do_or_put_off
from mmt.distributed.checkpoint import (
    ALIASES,
    FOLDER,
    OPTIMIZER_REST,
    SaveTogether,
    identity,
    read_training,
    remove_unused_shards,
    shards_of,
)
from mmt.distributed.shards import check_together, together
from mmt.distributed.stop_request import EXIT_CODE
from mmt.distributed.trainer import DEFAULT_TIMEOUT_SECONDS, ParallelTrainer
from mmt.distributed.training_state import collect, first_names, read_into, spread, trained_names
from mmt.errors import CheckpointDamaged, UserError
from mmt.files import sync

logger = logging.getLogger(__name__)


class SavingTrainer(ParallelTrainer):
    """Where the model is spread over processes, each writes and reads its part of a checkpoint, as a folder of shards.

    With ``--save-in-background`` the training goes on meanwhile, on one process too.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        super().__init__(cfg, task, model, criterion, quantizer)
        self._saving = SaveTogether(self._write_shards) if self.mesh is not None else None
        self._optimizer_rest: dict[str, Any] = {}
        self._background: Background | None = None
        self._saving_group: dist.ProcessGroup | None = None
        if getattr(getattr(task, "args", None), "save_in_background", False):
            self._background = Background()
            if dist.is_initialized():  # its messages must not get mixed up with the training's
                self._saving_group = dist.new_group(backend="gloo")
            atexit.register(self._finish_saving)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.mesh is not None:  # the tensors are in the shards
            state["model"] = {}
            if "last_optimizer_state" in state:
                state["last_optimizer_state"] = {**state["last_optimizer_state"], "state": {}}
        return state

    def save_with_all_processes(self, save: Callable[[], Any]) -> Any:
        """Call ``save``, fairseq's function that saves checkpoints, together with all processes."""
        if self._background is None:
            result = self._save_together(save)
        else:
            result = self._save_in_background(self._background, save)
        if self.is_stopping:
            self._stop()
        return result

    def _save_in_background(self, background: Background, save: Callable[[], Any]) -> Any:
        def wait_and_save() -> Any:
            background.wait()
            return save()

        if dist.is_initialized() and dist.get_rank() > 0:
            background.wait()  # what all processes know of is raised here, what only the first one does below
        with background.collecting():
            result = self._save_together(wait_and_save)
            if self.is_data_parallel_master:
                updates = self.get_num_updates()
                do_or_put_off(lambda: logger.info("the checkpoint of update %d is on the disk", updates))
        if self.is_stopping:
            background.wait()
        return result

    def _save_together(self, save: Callable[[], Any]) -> Any:
        result = save() if self._saving is None else self._saving.run(save)
        if self.is_data_parallel_master:
            do_or_put_off(lambda: remove_unused_shards(Path(self.cfg.checkpoint.save_dir)))
        return result

    def _stop(self) -> None:
        if dist.is_initialized():
            dist.barrier()  # torchrun and srun end the others soon after the first one: none may be writing still
        if self.cfg.checkpoint.no_save:
            logger.warning("stopped after update %d; nothing is saved (--no-save)", self.get_num_updates())
            raise SystemExit(1)
        logger.warning("stopped after update %d; the same command goes on from there", self.get_num_updates())
        raise SystemExit(EXIT_CODE)

    def _finish_saving(self) -> None:
        """Wait, when the program ends, for the save that is under way, on all processes."""
        assert self._background is not None
        try:
            self._background.wait()
            if self._saving_group is not None:
                dist.monitored_barrier(self._saving_group, timedelta(seconds=DEFAULT_TIMEOUT_SECONDS))
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stdout.flush()
            os._exit(1)  # an exception could not change the exit code any more

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        if self._saving is None and not self.should_save_checkpoint_on_current_rank:
            return None
        if self._saving is not None and not self._saving.is_saving:
            # fairseq saves crash.pt when something goes wrong on this process, and the others know nothing of it.
            logger.warning("%s is not saved: the other processes would have to take part", filename)
            return None
        path = Path(filename).absolute()
        logger.info("Saving checkpoint to %s", path)
        folder = self._saving.new_folder(path, self.get_num_updates()) if self._saving is not None else None
        state = utils.move_to_cpu(self.state_dict())
        state["extra_state"].update(extra_state)
        if folder is not None:
            state.update({FOLDER: folder.name, ALIASES: first_names(self.model), OPTIMIZER_REST: self._optimizer_rest})
        if self._background is not None:
            state = copy.deepcopy(state)
        do_or_put_off(lambda: _write_head(path, state))
        return str(path)

    def _write_shards(self, folder: Path) -> None:
        from torch.distributed.checkpoint.staging import BlockingAsyncStager

        from mmt.distributed.shard_files import write_shards

        assert self._parallel is not None
        self._parallel.reshard()
        kept = self.optimizer.state_dict()["state"] if not self.cfg.checkpoint.no_save_optimizer_state else {}
        tensors, self._optimizer_rest = collect(self.model, kept)
        if self._background is not None:
            tensors = BlockingAsyncStager().stage(tensors)
        do_or_put_off(lambda: write_shards(folder, tensors, self._saving_group))

    def agree_on(self, path: Path) -> None:
        """Make sure that all processes find the same checkpoint under a name, or none, before any of them reads it.

        Raises:
            CheckpointDamaged: on all processes, if one of them cannot read it.
            UserError: if they find different ones.
        """
        if not dist.is_initialized():
            return
        found = together(lambda: identity(path), CheckpointDamaged)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise UserError(
                    f"checkpoint {path}: process 0 finds {found[0] or 'none'}, process {rank} {other or 'none'}. "
                    "--save-dir must be a folder that all hosts share"
                )

    def read_checkpoint(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Fill in the tensors of a checkpoint, spread as the model is now."""
        if self.mesh is None:
            return read_training(path, state, trained_names(self.get_model()))  # without what fairseq wraps it in
        model, parallel = self.model, self._parallel  # the model is spread when it is first asked for
        assert parallel is not None
        parallel.reshard()
        folder = shards_of(path, state)
        kept = state.get("last_optimizer_state")
        if folder is None:
            own, parts = spread(model, state["model"], kept["state"] if kept else {})
        else:
            check_together(folder)
            own, parts = read_into(folder, model, state[OPTIMIZER_REST], with_optimizer=kept is not None)
        state["model"] = own
        if kept is not None:
            kept["state"] = parts
        return state


def _write_head(path: Path, state: dict[str, Any]) -> None:
    checkpoint_utils.torch_persistent_save(state, str(path))
    sync(path.parent)
    logger.info("Finished saving checkpoint to %s", path)
