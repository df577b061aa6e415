"""Spread a model over the processes of a mesh."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from mmt.distributed.expert_parallel import ExpertExchange
from mmt.distributed.gradient_norm import num_copies
from mmt.distributed.mesh import Mesh
from mmt.distributed.reduce_scatter import ReduceScatterOnCPU
from mmt.distributed.replicated_gradients import ReplicatedGradients, local_gradient
from mmt.distributed.split_rules import shard_dimension, tensor_dimension
from mmt.distributed.tensor_parallel import split_model
from mmt.errors import UserError
from mmt.modules.collectives import is_shared_out, own_part
from mmt.modules.moe_layer import MoELayer, moe_layers

# Layers return the sum of two tensors, transposed, and nothing in fairseq's transformer changes it in place.
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


class ParallelModel:
    """A model whose parameters are spread over the processes, and what has to be done to train it.

    The model itself is changed in place: it keeps its class, its modules, and the names of its parameters.

    Args:
        model: the same on all processes, on the CPU.
        mesh: the processes.
        zero: 0 to 3, as in ``--zero``.
        device: where to compute.
        cpu_offload: keep parameters, gradients and optimizer state in the memory of the host.
        expert_chunks: as in ``--expert-parallel-chunks``.

    Raises:
        UserError: if the experts cannot be spread so.
    """

    def __init__(
        self,
        model: Any,
        mesh: Mesh,
        *,
        zero: int,
        device: torch.device,
        cpu_offload: bool = False,
        expert_chunks: int = 1,
    ) -> None:
        self.model = model
        self.mesh = mesh
        # One process has nothing to share out, but it can offload.
        self.zero = zero if mesh.shape.shards * mesh.shape.experts > 1 or cpu_offload else 0
        self._shares_experts = self.zero > 0 and (mesh.shape.shards > 1 or cpu_offload)
        self._replicated: list[ReplicatedGradients] = []
        for layer in moe_layers(model):
            _spread_experts(layer, mesh, expert_chunks)
        if mesh.shape.tensors > 1:
            split_model(model, mesh.whole["tensors"])
        if self.zero == 0:
            model.to(device)
        else:
            self._shard(device, CPUOffloadPolicy(device.type == "cuda") if cpu_offload else OffloadPolicy())
        self._average_gradients()
        # What the optimizer works on: this process' parts, plain tensors that share memory with the parameters.
        self._parts = [_own_part(parameter) for parameter in model.parameters() if parameter.requires_grad]
        self.optimized = [part for part, _ in self._parts]

    def _shard(self, device: torch.device, offload: OffloadPolicy) -> None:
        """Share out parameters, layer by layer, so that no more than one whole layer is on the device at a time."""
        shape = self.mesh.shape

        def share_out(module: nn.Module, mesh: DeviceMesh, num_shards: int, keep_whole: bool = False) -> None:
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=self.zero == 3 and not keep_whole,
                shard_placement_fn=functools.partial(_shard_placement, num_shards=num_shards),
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
                offload_policy=offload,
                ignored_params=ignored,
            )
            assert isinstance(module, FSDPModule)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no averages
            if device.type == "cpu":
                module.set_custom_reduce_scatter(ReduceScatterOnCPU())

        ignored: set[nn.Parameter] = set()
        for layer in moe_layers(self.model):
            if self._shares_experts:
                share_out(layer.experts, self.mesh.expert_shards(), shape.shards)
                assert isinstance(layer.experts, FSDPModule)
                # Their rows come from all batches, though fewer processes hold these experts. If only one does, torch
                # would divide twice, and ReplicatedGradients divides instead.
                layer.experts.set_gradient_divide_factor(float(shape.data_parallel_size if shape.shards > 1 else 1))
            else:
                ignored |= set(layer.experts.to(device).parameters())
        for layer in [*self.model.encoder.layers, *self.model.decoder.layers]:
            share_out(layer, self.mesh.dense_shards(), shape.shards * shape.experts)
        # The rest: embeddings, which the criterion uses after the forward pass.
        share_out(self.model, self.mesh.dense_shards(), shape.shards * shape.experts, keep_whole=True)
        register_fsdp_forward_method(self.model, "run")

    def _sharded(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def _average_gradients(self) -> None:
        """Average what ``fully_shard`` does not."""
        shape = self.mesh.shape
        of_experts = [p for layer in moe_layers(self.model) for p in layer.experts.parameters()]
        if shape.shards == 1 and of_experts:
            is_summed = shape.replicas == 1 or self._shares_experts
            group = None if is_summed else self.mesh.whole["replicas"].get_group()
            self._replicated.append(ReplicatedGradients(of_experts, group, shape.data_parallel_size))
        if self.zero == 0:
            experts = set(of_experts)
            dense = [p for p in self.model.parameters() if p not in experts]
            group = self.mesh.data_group if shape.data_parallel_size > 1 else None
            self._replicated.append(ReplicatedGradients(dense, group, shape.data_parallel_size))

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let gradients add up without communication: for all but the last backward pass of an update.

        With ``--zero 2`` and 3 the gradients are shared out after each pass all the same, since whole ones would need
        the memory that sharing out saves.
        """
        sharded = self._sharded() if self.zero == 1 else []
        for replicated in self._replicated:
            replicated.is_active = False
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for replicated in self._replicated:
                replicated.is_active = True
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)

    def finish_gradients(self) -> None:
        """Wait until all gradients are the averages over all batches."""
        for replicated in self._replicated:
            replicated.finish()
        for part, parameter in self._parts:
            part.grad = local_gradient(parameter)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def gradients_by_copies(self) -> dict[int, list[Tensor]]:
        """Return this process' parts of the gradients, by the number of processes that hold the same part."""
        found: dict[int, list[Tensor]] = {}
        for part, parameter in self._parts:
            assert part.grad is not None, "finish_gradients() comes first"
            found.setdefault(num_copies(parameter, self.mesh.shape.world_size), []).append(part.grad)
        return found

    def reshard(self) -> None:
        """Let go of whole parameters, so that what is left is this process' share."""
        for module in self._sharded():
            module.reshard()


def _own_part(parameter: nn.Parameter) -> tuple[nn.Parameter, nn.Parameter]:
    """Return this process' part of a parameter, and the parameter."""
    part = own_part(parameter)
    return (parameter if part is parameter else nn.Parameter(part.detach())), parameter


def _spread_experts(layer: MoELayer, mesh: Mesh, chunks: int) -> None:
    """Keep this process' experts, and of each its part of the hidden units."""
    experts, shape = layer.experts, mesh.shape
    if shape.experts == shape.tensors == 1:
        return
    for name, parameter in list(experts.named_parameters()):
        dimension = tensor_dimension(f"experts.{name}")
        placements = (Shard(0), Replicate() if dimension is None else Shard(dimension))
        # Every process has all of them, so none is sent.
        spread = distribute_tensor(parameter.detach(), mesh.model_parallel(), placements, src_data_rank=None)
        setattr(experts, name, nn.Parameter(spread))
    if shape.experts > 1:
        own_experts = experts.num_experts // shape.experts
        if own_experts % chunks:
            raise UserError(
                f"--expert-parallel-chunks must divide the number of experts of each process ({own_experts}), but is "
                f"{chunks}"
            )
        experts.exchange = ExpertExchange(mesh.expert_group, mesh.node_groups, chunks)
    if shape.tensors > 1:
        experts.split_group = mesh.tensor_group


def _shard_placement(parameter: nn.Parameter, num_shards: int) -> Shard | None:
    placements = parameter.placements if is_shared_out(parameter) else ()
    taken = {placement.dim for placement in placements if isinstance(placement, Shard)}
    dimension = shard_dimension(parameter.shape, taken, num_shards)
    return None if dimension is None else Shard(dimension)
