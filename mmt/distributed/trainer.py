"""fairseq's trainer for a model that is spread over several processes: data, expert and tensor parallelism, ZeRO."""

import copy
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils, optim, utils
from fairseq.optim import lr_scheduler
from fairseq.trainer import Trainer
from omegaconf import open_dict
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from mmt.distributed.background import Background, do
from mmt.distributed.checkpoint import (
    ALIASES,
    FOLDER,
    OPTIMIZER_REST,
    SaveTogether,
    read_training,
    remove_unused_shards,
    shards_of,
)
from mmt.distributed.config import ParallelConfig
from mmt.distributed.gradient_norm import clip_gradient_norm
from mmt.distributed.lockstep import Lockstep
<<<<<<< HEAD
from mmt.distributed.mesh import Mesh, check_exchange, choose_shape
from mmt.distributed.parallelize import ParallelModel
=======
from mmt.distributed.mesh import Mesh, choose_shape
from mmt.distributed.parallelize import ParallelModel, moe_layers
>>>>>>> small
from mmt.distributed.peers import Peers
from mmt.distributed.shards import check_together, write_shards
from mmt.distributed.stop_request import EXIT_CODE, StopRequest
from mmt.distributed.training_state import collect, first_names, read_into, spread, trained_names
from mmt.errors import UserError
from mmt.fairseq_compat import switched_off
from mmt.files import sync

logger = logging.getLogger(__name__)

# Unless --heartbeat-timeout says otherwise: longer than any batch, or the saving of a checkpoint, should take.
DEFAULT_TIMEOUT_SECONDS = 600


class ParallelTrainer(Trainer):
    """fairseq's Trainer on any number of processes.

    * The model is spread over the processes as ``ParallelConfig`` says, by torch's own means in place of fairseq's
      ``--ddp-backend``; the result is that of one process with the whole batch. Without any of these options several
      processes are plain data-parallel ones, and are left to fairseq.
    * Checkpoints are written and read by all processes together, each its part.
    * A process that dies, hangs, fails or runs out of memory ends all of them, and is named.
    * At a signal all of them save and stop.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        self.mesh: Mesh | None = None
        self.zero = 0
        self._expert_chunks = 1
        self._parallel: ParallelModel | None = None
        self._saving: SaveTogether | None = None
        self._saving_group: dist.ProcessGroup | None = None
        self._optimizer_rest: dict[str, Any] = {}
        self._is_stopping = False
        self.stop_request = StopRequest()
        self.peers = _watch_peers(cfg.distributed_training)
        self._background = Background() if getattr(getattr(task, "args", None), "save_in_background", False) else None
        self._set_up_mesh(cfg, task, model)
        with open_dict(cfg):
            # fairseq would broadcast what the first process reads, as a pickle that the others refuse to load.
            cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        with switched_off(cfg.distributed_training, "cpu_offload"):  # fairseq refuses it without fairscale
            super().__init__(cfg, task, model, criterion, quantizer)
        if hasattr(criterion, "data_group") and self.data_parallel_world_size > 1:
            criterion.data_group = self.data_parallel_process_group

    def _set_up_mesh(self, cfg: Any, task: Any, model: Any) -> None:
        """Lay out the processes, if there is more to share out than the batch; otherwise they are left to fairseq."""
        defaults = {name: value for name, value in vars(ParallelConfig()).items() if not name.startswith("_")}
        sizes = {name: getattr(getattr(task, "args", None), name, value) for name, value in defaults.items()}
        world_size, offload = cfg.distributed_training.distributed_world_size, cfg.distributed_training.cpu_offload
        if offload and (world_size == 1 or sizes["zero"] == 0):
            raise UserError("--cpu-offload goes with --zero 1, 2 or 3, and several processes")
        if sizes == defaults:
            return
        for option in ("fp16", "amp", "memory_efficient_fp16", "memory_efficient_bf16"):
            if getattr(cfg.common, option):
                raise UserError(f"--{option.replace('_', '-')} works on one process only; on several use --bf16")
        self.zero, self._expert_chunks = sizes.pop("zero"), sizes.pop("expert_parallel_chunks")
        node_size = sizes.pop("expert_parallel_node_size")
        check_exchange(sizes["expert_parallel_size"], node_size, self._expert_chunks)
        num_experts = next((layer.experts.num_experts for layer in moe_layers(model)), 0)
        shape = choose_shape(world_size, num_experts=num_experts, zero=self.zero, **sizes)
        if world_size == 1:
            return
        device = "cuda" if torch.cuda.is_available() and not cfg.common.cpu else "cpu"
        self.mesh = Mesh(shape, device, node_size)
        if self._background is not None:  # its messages must not get mixed up with the training's
            self._saving_group = dist.new_group(backend="gloo")
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
                self._model,
                self.mesh,
                zero=self.zero,
                device=self.device,
                cpu_offload=offload,
                expert_chunks=self._expert_chunks,
            )
            # What fairseq's trainer and optimizer look for.
            self._model.no_sync = self._parallel.no_sync
            self._model.all_reduce_grads = self._parallel.finish_gradients
            if self.zero > 0 or self.mesh.shape.experts > 1:
                self.task.translate_batch = Lockstep(self._model, self.mesh.data_group)
        return self._model

    def _build_optimizer(self) -> None:
        if self.mesh is None:
            super()._build_optimizer()
            return
        assert self.model is self._model and self._parallel is not None
        self._optimizer = optim.build_optimizer(self.cfg.optimizer, self._parallel.optimized)
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    def zero_grad(self) -> None:
        super().zero_grad()
        if self._parallel is not None:
            self._parallel.zero_grad()

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        if self._parallel is None:
            return super().clip_grad_norm(clip_norm)
        return clip_gradient_norm(self._parallel.gradients_by_copies(), clip_norm)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        # fairseq skips a batch without enough memory, but the routing losses of the other processes wait for it.
        raise_oom = raise_oom or self.data_parallel_world_size > 1
        logging_output = super().train_step(samples, raise_oom)
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
        asked = signal is not None
        if dist.is_initialized():
            number = torch.tensor(int(asked), device=self.device)
            dist.all_reduce(number)
            asked = bool(number)
        if asked and not self._is_stopping:
            self._is_stopping = True
            logger.warning("%s: saving after update %d, and stopping", signal, self.get_num_updates())
            with open_dict(self.cfg):  # what fairseq looks at after each update
                self.cfg.optimization.stop_time_hours = 1e-9
                self.cfg.dataset.validate_after_updates = sys.maxsize

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
        if self._is_stopping:
            logger.warning("stopped after update %d; the same command goes on from there", self.get_num_updates())
            raise SystemExit(EXIT_CODE)
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
                do(lambda: logger.info("the checkpoint of update %d is on the disk", updates))
        if self._is_stopping:
            background.wait()
        return result

    def _save_together(self, save: Callable[[], Any]) -> Any:
        if self.mesh is None:
            return save()
        self._saving = self._saving or SaveTogether(self._write_shards)
        result = self._saving.run(save)
        if dist.get_rank() == 0:
            do(lambda: remove_unused_shards(Path(self.cfg.checkpoint.save_dir)))
        return result

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        if self.mesh is None and not self.should_save_checkpoint_on_current_rank:
            return None
        if self.mesh is not None and (self._saving is None or not self._saving.is_saving):
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
        do(lambda: _write_head(path, state))
        return str(path)

    def _write_shards(self, folder: Path) -> None:
        assert self._parallel is not None
        self._parallel.reshard()
        kept = self.optimizer.state_dict()["state"] if not self.cfg.checkpoint.no_save_optimizer_state else {}
        tensors, self._optimizer_rest = collect(self.model, kept)
        if self._background is not None:
            tensors = BlockingAsyncStager().stage(tensors)
        do(lambda: write_shards(folder, tensors, self._saving_group))

    def read_checkpoint(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
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


def _watch_peers(cfg: Any) -> Peers | None:
    if cfg.distributed_world_size == 1:
        return None
    peers = Peers(cfg.heartbeat_timeout if cfg.heartbeat_timeout > 0 else DEFAULT_TIMEOUT_SECONDS)
    with open_dict(cfg):  # fairseq's own watch would interrupt this process before the culprit is found
        cfg.heartbeat_timeout = -1
    return peers


def _write_head(path: Path, state: dict[str, Any]) -> None:
    checkpoint_utils.torch_persistent_save(state, str(path))
    sync(path.parent)
    logger.info("Finished saving checkpoint to %s", path)
