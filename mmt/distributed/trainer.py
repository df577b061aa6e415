"""fairseq's trainer for a model that is spread over several processes: data, expert and tensor parallelism, ZeRO."""

import logging
import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from fairseq import optim
from fairseq.optim import lr_scheduler
from fairseq.trainer import Trainer
from omegaconf import open_dict

from mmt.distributed.config import ParallelConfig
from mmt.distributed.gradient_norm import clip_gradient_norm
from mmt.distributed.lockstep import Lockstep
from mmt.distributed.mesh import Mesh, check_exchange, choose_shape
from mmt.distributed.peers import Peers
from mmt.distributed.stop_request import StopRequest
from mmt.errors import UserError, as_typed
from mmt.fairseq_options import switched_off
from mmt.modules.dispatch import CapacityDispatch
from mmt.modules.moe_layer import moe_layers

if TYPE_CHECKING:
    from mmt.distributed.parallelize import ParallelModel

logger = logging.getLogger(__name__)

# Unless --heartbeat-timeout says otherwise: longer than any batch, or the saving of a checkpoint, should take.
DEFAULT_TIMEOUT_SECONDS = 600
MESH_OPTIONS = "--expert-parallel-size, --tensor-parallel-size and --zero"
WHOLE_TENSOR_OPTIMIZERS = ("adafactor", "lamb")
# Section and name of what fairseq does with whole models, and what to take in its place, if anything.
WHOLE_MODEL_OPTIONS = {
    ("common", "fp16"): "--bf16",
    ("common", "amp"): "--bf16",
    ("common", "memory_efficient_fp16"): "--bf16",
    ("common", "memory_efficient_bf16"): "--bf16",
    ("ema", "store_ema"): None,
    ("optimization", "use_bmuf"): None,
    ("model", "encoder_layerdrop"): None,  # each process would leave out layers of its own choice
    ("model", "decoder_layerdrop"): None,
}
# What fairseq looks at after each update, and what makes it stop, and save without a validation.
STOPPING: dict[tuple[str, str], Any] = {
    ("optimization", "stop_time_hours"): 1e-9,
    ("dataset", "validate_after_updates"): sys.maxsize,
    ("checkpoint", "no_last_checkpoints"): False,
}


class ParallelTrainer(Trainer):
    """fairseq's Trainer on any number of processes.

    * The model is spread over the processes as ``ParallelConfig`` says, by torch's own means in place of fairseq's
      ``--ddp-backend``; the result is that of one process with the whole batch. Without any of these options several
      processes are plain data-parallel ones, and are left to fairseq.
    * A process that dies, hangs, fails or runs out of memory ends all of them, and is named.
    * At a signal the update is the last one for all of them.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        self.mesh: Mesh | None = None
        self.zero = 0
        self._expert_chunks = 1
        self._parallel: "ParallelModel | None" = None
        self.is_stopping = False
        self._before_stopping: dict[tuple[str, str], Any] = {}
        self.stop_request = StopRequest()
        self.peers = _watch_peers(cfg.distributed_training)
        self._set_up_mesh(cfg, task, model)
        with open_dict(cfg):
            # fairseq would broadcast what the first process reads, as a pickle that the others refuse to load.
            cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        with switched_off(cfg.distributed_training, "cpu_offload"):  # fairseq refuses it without fairscale
            super().__init__(cfg, task, model, criterion, quantizer)
        if self.data_parallel_world_size > 1:
            if hasattr(criterion, "data_group"):
                criterion.data_group = self.data_parallel_process_group
            for layer in moe_layers(model):
                if isinstance(layer.dispatch, CapacityDispatch):
                    layer.dispatch.group = self.data_parallel_process_group

    def _set_up_mesh(self, cfg: Any, task: Any, model: Any) -> None:
        """Lay out the processes, if there is more to share out than the batch; otherwise they are left to fairseq."""
        defaults = {name: value for name, value in vars(ParallelConfig()).items() if not name.startswith("_")}
        sizes = {name: getattr(getattr(task, "args", None), name, value) for name, value in defaults.items()}
        world_size, offload = cfg.distributed_training.distributed_world_size, cfg.distributed_training.cpu_offload
        if offload and (world_size == 1 or sizes["zero"] == 0):
            raise UserError("--cpu-offload goes with --zero 1, 2 or 3, and several processes")
        if sizes == defaults:
            return
        self.zero, self._expert_chunks = sizes.pop("zero"), sizes.pop("expert_parallel_chunks")
        node_size = sizes.pop("expert_parallel_node_size")
        check_exchange(sizes["expert_parallel_size"], node_size, self._expert_chunks)
        num_experts = next((layer.experts.num_experts for layer in moe_layers(model)), 0)
        shape = choose_shape(world_size, num_experts=num_experts, zero=self.zero, **sizes)
        if world_size == 1:
            return
        for (section, option), replacement in WHOLE_MODEL_OPTIONS.items():
            if getattr(cfg[section], option, None):
                advice = f": use {replacement}" if replacement else ""
                raise UserError(f"{as_typed(option)} does not go with {MESH_OPTIONS} on several processes{advice}")
        if cfg.optimization.stop_time_hours and shape.tensors > 1:
            raise UserError(
                "--stop-time-hours does not go with --tensor-parallel-size, whose processes would not stop at the same "
                "update: let SIGUSR1 stop it, as scripts/train.slurm does"
            )
        if cfg.optimizer._name in WHOLE_TENSOR_OPTIMIZERS:
            raise UserError(
                f"--optimizer {cfg.optimizer._name} looks at whole matrices, of which a process has parts with "
                f"{MESH_OPTIONS}: use adam or fused_adam"
            )
        if self.zero and shape.shards * shape.experts == 1 and not offload:
            raise UserError(
                f"--zero {self.zero} shares out among data-parallel processes, but in this layout there is one in each "
                f"group: {shape}. Use --zero 0"
            )
        device = "cuda" if torch.cuda.is_available() and not cfg.common.cpu else "cpu"
        self.mesh = Mesh(shape, device, node_size)
        logger.info("%d processes: %s, zero %d%s", shape.world_size, shape, self.zero, ", offload" if offload else "")

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
            # What it needs of torch takes half a second to import, and one process does not need it.
            from mmt.distributed.parallelize import ParallelModel

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
        _ = self.model  # is spread when it is first asked for
        parallel = self._parallel
        assert parallel is not None
        self._optimizer = optim.build_optimizer(self.cfg.optimizer, parallel.optimized)
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    def zero_grad(self) -> None:
        super().zero_grad()
        if self._parallel is not None:
            self._parallel.zero_grad()

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        if self._parallel is None:
            return super().clip_grad_norm(clip_norm)
        return clip_gradient_norm(self._parallel.gradients_by_copies(), clip_norm, self.device)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        logging_output = super().train_step(samples, raise_oom or self._others_wait)
        if self.peers is not None:
            self.peers.get_on()
        self._stop_if_asked()
        return logging_output

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        if self.peers is not None:
            self.peers.get_on()
        return super().valid_step(sample, raise_oom or self._others_wait)

    @property
    def _others_wait(self) -> bool:
        """Whether other processes wait for this one in each batch, which fairseq would skip for want of memory."""
        return self.cfg.distributed_training.distributed_world_size > 1

    def _stop_if_asked(self) -> None:
        """If a signal has come to any process, let this update be the last, and be saved without a validation."""
        signal = self.stop_request.signal
        asked = signal is not None
        if dist.is_initialized():
            number = torch.tensor(int(asked), device=self.device)
            dist.all_reduce(number)
            asked = bool(number)
        if asked and not self.is_stopping:
            self.is_stopping = True
            reason = signal or "a signal to another process"
            logger.warning("%s: saving after update %d, and stopping", reason, self.get_num_updates())
            with open_dict(self.cfg):
                for (section, option), value in STOPPING.items():
                    self._before_stopping[section, option] = self.cfg[section][option]
                    self.cfg[section][option] = value

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        for (section, option), value in self._before_stopping.items():  # what the user has chosen
            state["cfg"][section][option] = value
        return state


def _watch_peers(cfg: Any) -> Peers | None:
    if cfg.distributed_world_size == 1:
        return None
    peers = Peers(cfg.heartbeat_timeout if cfg.heartbeat_timeout > 0 else DEFAULT_TIMEOUT_SECONDS)
    with open_dict(cfg):  # fairseq's own watch would interrupt this process before the culprit is found
        cfg.heartbeat_timeout = -1
    return peers
