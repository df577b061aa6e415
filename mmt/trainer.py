"""The trainer that ``fairseq-train --user-dir mmt`` runs: fairseq's own, with bfloat16 autocast, exact gradient
accumulation, and models that are spread over many processes.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fairseq.trainer
import fairseq_cli.train
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils, optim, utils
from fairseq.optim import lr_scheduler
from fairseq.trainer import Trainer
from omegaconf import open_dict

from mmt.criterions.moe_label_smoothed_cross_entropy import MoELabelSmoothedCrossEntropyCriterion
from mmt.distributed.checkpoint import (
    ALIASES,
    FOLDER,
    OPTIMIZER_REST,
    SaveTogether,
    read_training,
    reading_with,
    remove_unused_shards,
    shards_of,
)
from mmt.distributed.config import ParallelConfig
from mmt.distributed.gradient_norm import clip_gradient_norm
from mmt.distributed.lockstep import Lockstep
from mmt.distributed.mesh import Mesh, choose_shape
from mmt.distributed.parallelize import ParallelModel
from mmt.distributed.peers import Peers
from mmt.distributed.shards import check_together, sync_folder, write_shards
from mmt.distributed.stop_request import EXIT_CODE, StopRequest
from mmt.distributed.training_state import collect, first_names, read_into, spread, trained_names
from mmt.errors import UserError
from mmt.fairseq_compat import refuse_dead_flags
from mmt.modules.moe_layer import MoELayer

logger = logging.getLogger(__name__)

# Unless --heartbeat-timeout says otherwise: longer than any batch, or the saving of a checkpoint, should take.
DEFAULT_TIMEOUT_SECONDS = 600


class MoETrainer(Trainer):
    """fairseq's Trainer for MoE translation.

    * ``--bf16`` means bfloat16 autocast around float32 parameters, on CPU and CUDA: the optimizer updates the
      parameters themselves, so there is neither a second copy of them nor a bfloat16 residual stream.
      ``--memory-efficient-bf16`` keeps fairseq's meaning (bfloat16 parameters).
    * ``--amp`` is float16 autocast, as in fairseq.
    * With several processes the model is spread over them as ``ParallelConfig`` says, by torch's own means in place of
      fairseq's ``--ddp-backend``; the result is that of one process with the whole batch.
    * With ``--update-freq N`` a dummy batch weighs nothing, wherever in the group it falls.
    * A process of several that runs out of memory stops the training, instead of leaving the others waiting.
    * A training goes on with another number of processes where it stopped in the data.
    * ``--patience`` counts on where a resumed training stopped counting.
    * A finished training that is started again ends at once, and leaves its checkpoints as they are.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        refuse_dead_flags(cfg.distributed_training)
        has_experts = any(isinstance(module, MoELayer) for module in model.modules())
        if has_experts and not isinstance(criterion, MoELabelSmoothedCrossEntropyCriterion):
            logger.warning(
                "--criterion %s trains without a balance loss, and logs nothing of the experts: use "
                "moe_label_smoothed_cross_entropy",
                cfg.criterion._name,
            )
        self.mesh: Mesh | None = None
        self._parallel: ParallelModel | None = None
        self._saving: SaveTogether | None = None
        self._optimizer_rest: dict[str, Any] = {}
        self._is_stopping = False
        self.stop_request = StopRequest()
        self.peers: Peers | None = None
        self._set_up_mesh(cfg, task)
        self.autocasts = bool(
            cfg.common.bf16 and not cfg.common.memory_efficient_bf16 and hasattr(task, "autocast_dtype")
        )
        if self.autocasts:
            task.autocast_dtype = torch.bfloat16
        elif cfg.common.amp and hasattr(task, "autocast_dtype"):
            task.autocast_dtype = torch.float16
        with open_dict(cfg):
            # fairseq would broadcast what the first process reads, as a pickle that the others refuse to load.
            cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        with self._without_fairseqs_bf16(cfg), _without_fairseqs_offload(cfg):
            super().__init__(cfg, task, model, criterion, quantizer)
        if isinstance(criterion, MoELabelSmoothedCrossEntropyCriterion) and self.data_parallel_world_size > 1:
            criterion.data_group = self.data_parallel_process_group

    def _set_up_mesh(self, cfg: Any, task: Any) -> None:
        """Lay out the processes, if there is more to share out than the batch; otherwise they are left to fairseq."""
        defaults = {name: value for name, value in vars(ParallelConfig()).items() if not name.startswith("_")}
        sizes = {name: getattr(getattr(task, "args", None), name, value) for name, value in defaults.items()}
        world_size, offload = cfg.distributed_training.distributed_world_size, cfg.distributed_training.cpu_offload
        if offload and (world_size == 1 or sizes["zero"] == "0"):
            raise UserError("--cpu-offload goes with --zero 1, 2 or 3, and several processes")
        if world_size > 1:
            timeout = cfg.distributed_training.heartbeat_timeout
            self.peers = Peers(timeout if timeout > 0 else DEFAULT_TIMEOUT_SECONDS)
            with open_dict(cfg):  # fairseq's own watch would interrupt this process before the culprit is found
                cfg.distributed_training.heartbeat_timeout = -1
        if sizes == defaults:
            return
        for option in ("fp16", "amp", "memory_efficient_fp16", "memory_efficient_bf16"):
            if getattr(cfg.common, option):
                raise UserError(f"--{option.replace('_', '-')} works on one process only; on several use --bf16")
        self.zero = int(sizes.pop("zero"))
        shape = choose_shape(world_size, zero=self.zero, **sizes)
        if world_size == 1:
            return
        device = "cuda" if torch.cuda.is_available() and not cfg.common.cpu else "cpu"
        self.mesh = Mesh(shape, device)
        logger.info("%d processes: %s", shape.world_size, shape)

    # Which part of the data this process works on.

    @property
    def data_parallel_world_size(self) -> int:
        return super().data_parallel_world_size if self.mesh is None else self.mesh.shape.data_parallel_size

    @property
    def data_parallel_rank(self) -> int:
        return super().data_parallel_rank if self.mesh is None else self.mesh.data_rank

    @property
    def data_parallel_process_group(self) -> Any:
        return super().data_parallel_process_group if self.mesh is None else self.mesh.data_group

    @property
    def is_data_parallel_master(self) -> bool:
        return super().is_data_parallel_master if self.mesh is None else dist.get_rank() == 0

    @property
    def use_distributed_wrapper(self) -> bool:
        return super().use_distributed_wrapper or self.mesh is not None

    @property
    def model(self) -> Any:
        if self.mesh is None:
            return super().model
        if self._parallel is None:
            offload = self.cfg.distributed_training.cpu_offload
            self._parallel = ParallelModel(
                self._model, self.mesh, zero=self.zero, device=self.device, cpu_offload=offload
            )
            # What fairseq's trainer and optimizer look for.
            self._model.no_sync = self._parallel.no_sync
            self._model.all_reduce_grads = self._parallel.finish_gradients
            if self.zero > 0 or self.mesh.shape.experts > 1:
                self.task.translate_batch = Lockstep(self._model, self.mesh.data_group)
        return self._model

    @contextlib.contextmanager
    def _without_fairseqs_bf16(self, cfg: Any) -> Iterator[None]:
        """Keep fairseq from casting the model, or wrapping the optimizer, while we autocast."""
        if not self.autocasts:
            yield
            return
        with open_dict(cfg):
            cfg.common.bf16 = False
            try:
                yield
            finally:
                cfg.common.bf16 = True

    def _build_optimizer(self) -> None:
        if self.mesh is not None:
            assert self.model is self._model and self._parallel is not None
            self._optimizer = optim.build_optimizer(self.cfg.optimizer, self._parallel.optimized)
            self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
            self._lr_scheduler.step_update(0)
            return
        with self._without_fairseqs_bf16(self.cfg):
            super()._build_optimizer()

    def _fp_convert_sample(self, sample: Any) -> Any:
        return sample if self.autocasts else super()._fp_convert_sample(sample)

    def zero_grad(self) -> None:
        super().zero_grad()
        if self._parallel is not None:
            self._parallel.zero_grad()

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        if self._parallel is None:
            return super().clip_grad_norm(clip_norm)
        return clip_gradient_norm(self._parallel.gradients_by_copies(), clip_norm)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """Run one update on a group of micro-batches.

        fairseq sets the whole group's sample size to 0 when its *last* micro-batch is a dummy, and counts the dummy's
        tokens when it is not (a gradient 1.5 times too large with ``--update-freq 2``). The task weighs dummies with 0;
        here they only go first.
        """
        # fairseq skips a batch without enough memory, but the routing losses of the other processes wait for it.
        raise_oom = raise_oom or self.data_parallel_world_size > 1
        logging_output = super().train_step(sorted(samples, key=_is_real), raise_oom)
        if self.peers is not None:
            self.peers.get_on()
        self._stop_if_asked()
        return logging_output

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        if self.peers is not None:
            self.peers.get_on()
        return super().valid_step(sample, raise_oom)

    def _stop_if_asked(self) -> None:
        """If a signal has come to any process, let this update be the last, and be saved without a validation."""
        signal = self.stop_request.signal
        asked = torch.tensor(int(signal is not None), device=self.device)
        if dist.is_initialized():
            dist.all_reduce(asked)
        if asked and not self._is_stopping:
            self._is_stopping = True
            logger.warning("%s: saving after update %d, and stopping", signal, self.get_num_updates())
            with open_dict(self.cfg):  # what fairseq looks at after each update
                self.cfg.optimization.stop_time_hours = 1e-9
                self.cfg.dataset.validate_after_updates = sys.maxsize

    def begin_epoch(self, epoch: int) -> None:
        # fairseq would first make one more update, and then compare.
        max_update = self.cfg.optimization.max_update
        if 0 < max_update <= self.get_num_updates():
            logger.info("training has all of its %d updates (--max-update)", max_update)
            raise SystemExit(0)
        super().begin_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        # fairseq saves the task's state, but hands only the extra state back to a training that is resumed.
        state["extra_state"]["task_state"] = state["task_state"]
        state["extra_state"]["early_stopping"] = dict(vars(_early_stopping()))
        state["extra_state"]["data_parallel_world_size"] = self.data_parallel_world_size
        if self.mesh is not None:  # the tensors are in the shards
            state["model"] = {}
            if "last_optimizer_state" in state:
                state["last_optimizer_state"] = {**state["last_optimizer_state"], "state": {}}
        return state

    # Checkpoints of several processes.

    def save_with_all_processes(self, save: Callable[[], Any]) -> Any:
        """Call ``save``, fairseq's function that saves checkpoints, together with all processes."""
        result = save() if self.mesh is None else self._save_together(save)
        if self._is_stopping:
            logger.warning("stopped after update %d; the same command goes on from there", self.get_num_updates())
            raise SystemExit(EXIT_CODE)
        return result

    def _save_together(self, save: Callable[[], Any]) -> Any:
        self._saving = self._saving or SaveTogether(self._write_shards)
        result = self._saving.run(save)
        if dist.get_rank() == 0:
            remove_unused_shards(Path(self.cfg.checkpoint.save_dir))
        return result

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        if self.mesh is None:
            return super().save_checkpoint(filename, extra_state)
        if self._saving is None or not self._saving.is_saving:
            # fairseq saves crash.pt when something goes wrong on this process, and the others know nothing of it.
            logger.warning("%s is not saved: the other processes would have to take part", filename)
            return None
        path = Path(filename).absolute()
        logger.info("Saving checkpoint to %s", path)
        folder = self._saving.new_folder(path, self.get_num_updates())
        state = utils.move_to_cpu(self.state_dict())
        state["extra_state"].update(extra_state)
        state.update({FOLDER: folder.name, ALIASES: first_names(self.model), OPTIMIZER_REST: self._optimizer_rest})
        checkpoint_utils.torch_persistent_save(state, str(path))
        sync_folder(path.parent)
        logger.info("Finished saving checkpoint to %s", path)
        return str(path)

    def _write_shards(self, folder: Path) -> None:
        assert self._parallel is not None
        self._parallel.reshard()
        kept = self.optimizer.state_dict()["state"] if not self.cfg.checkpoint.no_save_optimizer_state else {}
        tensors, self._optimizer_rest = collect(self.model, kept)
        write_shards(folder, tensors)

    def _read(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Fill in the tensors of a checkpoint, spread as the model is now."""
        if self.mesh is None:
            return read_training(path, state, trained_names(self.model))
        assert self.model is self._model and self._parallel is not None
        self._parallel.reshard()
        folder = shards_of(path, state)
        kept = state.get("last_optimizer_state")
        if folder is None:
            model, parts = spread(self.model, state["model"], kept["state"] if kept else {})
        else:
            check_together(folder)
            model, parts = read_into(folder, self.model, state[OPTIMIZER_REST], with_optimizer=kept is not None)
        state["model"] = model
        if kept is not None:
            kept["state"] = parts
        return state

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with reading_with(self._read):
                extra_state = super().load_checkpoint(filename, *args, **kwargs)
            if extra_state is not None:
                self._share_data_anew(extra_state)
                self.task.load_state_dict(extra_state.get("task_state", {}))
                if not kwargs.get("reset_meters"):
                    vars(_early_stopping()).update(extra_state.get("early_stopping", {}))
            return extra_state
        except Exception as error:
            # fairseq replaces every error by "please ensure that the architectures match".
            cause = error.__context__
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, RuntimeError) and "state_dict" in str(cause):
                first = str(cause).splitlines()[1:2] or [str(cause)]
                raise UserError(
                    f"checkpoint {filename} does not fit the model that the options describe: {first[0].strip()}"
                ) from error
            raise

    def _share_data_anew(self, extra_state: dict[str, Any]) -> None:
        """Find the place in the data again with another number of processes: fairseq counts batches per process."""
        before, now = extra_state.get("data_parallel_world_size"), self.data_parallel_world_size
        position = extra_state["train_iterator"]
        if before in (None, now) or not position.get("iterations_in_epoch"):
            return
        seen = position["iterations_in_epoch"] * before
        position["iterations_in_epoch"] = seen // now
        logger.info("going on after %d batches of the epoch with %d processes in place of %d", seen, now, before)
        if seen % now:
            logger.warning(
                "%d batches are not a multiple of %d processes: the last %d are seen again", seen, now, seen % now
            )


@contextlib.contextmanager
def _without_fairseqs_offload(cfg: Any) -> Iterator[None]:
    """Keep fairseq from refusing ``--cpu-offload``, which it does without fairscale."""
    chosen = cfg.distributed_training.cpu_offload
    with open_dict(cfg):
        cfg.distributed_training.cpu_offload = False
        try:
            yield
        finally:
            cfg.distributed_training.cpu_offload = chosen


def _is_real(sample: Any) -> bool:
    return sample is not None and len(sample) > 0


def _early_stopping() -> Any:
    """Return the function of the running training command that counts validations for ``--patience``.

    It keeps the best score and the count as attributes of itself, and nowhere else.
    """
    return getattr(sys.modules["__main__"], "should_stop_early", fairseq_cli.train.should_stop_early)


def install_trainer() -> None:
    """Make fairseq's training command use ``MoETrainer``.

    ``fairseq_cli.train.main`` looks ``Trainer`` up in its own module when it runs. That module may be imported before
    the plugin (the command line), after it (a script that imports mmt first), or run as ``__main__`` (``python -m
    fairseq_cli.train``).
    """
    fairseq.trainer.Trainer = MoETrainer
    for name in ("fairseq_cli.train", "__main__"):
        module = sys.modules.get(name)
        if getattr(module, "Trainer", None) is Trainer:
            module.Trainer = MoETrainer  # type: ignore[union-attr]
