"""Run by torchrun: the gradient of a model that is spread over processes, beside that of the whole model on one.

Prints, on process 0, a JSON object for each mesh of ``MESHES`` that fits the number of processes.
"""

import copy
import json
import os
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode

import mmt  # noqa: F401  (registers the model)
from mmt.distributed.gradient_norm import clip_gradient_norm
from mmt.distributed.mesh import Mesh, MeshShape
from mmt.distributed.parallelize import ParallelModel
from tests.models.tiny import batch, tiny_model

# replicas, shards, experts, tensors, --zero, and --cpu-offload
MESHES = [
    (2, 1, 1, 1, 0, False),
    (1, 1, 2, 1, 0, False),
    (1, 1, 1, 2, 0, False),
    (1, 1, 2, 1, 2, False),
    (1, 2, 1, 1, 3, False),
    (2, 1, 2, 1, 0, False),
    (1, 2, 2, 1, 3, False),
    (2, 1, 2, 1, 2, False),
    (1, 1, 2, 2, 1, False),
    (1, 1, 2, 1, 1, True),
    (1, 1, 1, 2, 1, True),
    (1, 2, 2, 1, 2, True),
    (2, 1, 2, 1, 1, True),
]
MAX_NORM = 0.001
CPU = torch.device("cpu")


class AllToAlls(TorchDispatchMode):
    """Counts the all-to-alls that are started while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # noqa: D105
        self.count += "alltoall" in str(operator) or "all_to_all" in str(operator)
        return operator(*args, **(kwargs or {}))


def loss_of(model, number: int) -> torch.Tensor:
    """Return a loss of the ``number``-th batch; each batch has another number of sentences and words."""
    generator = torch.Generator().manual_seed(number)
    sentences = [torch.randint(5, 20, (3 + number + i,), generator=generator).tolist() for i in range(number + 2)]
    features, _ = model(**batch(sentences, sentences[::-1]), features_only=True)
    return features.float().pow(2).sum()


def whole_norm(model, num_batches: int) -> float:
    """Return the norm of the gradient of the mean loss of all batches."""
    model = copy.deepcopy(model)
    for number in range(num_batches):
        (loss_of(model, number) / num_batches).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()


def is_offloaded(model) -> bool:
    """Tell whether all parameters have their place in the host's memory, wherever the model computes."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    groups = [module._get_fsdp_state()._fsdp_param_group for module in modules]
    managed = [parameter for group in groups if group is not None for parameter in group.fsdp_params]
    return {parameter.sharded_param for parameter in managed if parameter.offload_to_cpu} == set(model.parameters())


def main() -> None:
    """Compare all meshes of as many processes as there are."""
    dist.init_process_group("gloo")
    for replicas, shards, experts, tensors, zero, offload in MESHES:
        shape = MeshShape(replicas, shards, experts, tensors)
        if shape.world_size != dist.get_world_size():
            continue
        model = tiny_model(moe_experts=4, moe_top_k=2, moe_freq=1)
        expected = whole_norm(model, shape.data_parallel_size)
        mesh = Mesh(shape, "cpu")
        parallel = ParallelModel(model, mesh, zero=zero, device=torch.device("cpu"), cpu_offload=offload)
        with AllToAlls() as forward:
            loss = loss_of(model, mesh.data_rank)
        with AllToAlls() as backward:
            loss.backward()
        parallel.finish_gradients()
        found = clip_gradient_norm(parallel.gradients_by_copies(), MAX_NORM, CPU).item()
        clipped = clip_gradient_norm(parallel.gradients_by_copies(), 0, CPU).item()
        # A fault on the last process only, in what it alone may hold.
        gradients = [gradient for part in parallel.gradients_by_copies().values() for gradient in part]
        if dist.get_rank() == dist.get_world_size() - 1:
            gradients[-1].view(-1)[0] = float("inf")
        with_inf = clip_gradient_norm(parallel.gradients_by_copies(), MAX_NORM, CPU).item()
        seen = [None] * dist.get_world_size()
        dist.all_gather_object(seen, (found, clipped, with_inf))
        if dist.get_rank() == 0:
            facts: dict[str, Any] = {"offload": offload, "offloaded": is_offloaded(model)}
            facts |= {"mesh": str(shape), "zero": zero, "experts": experts, "expected": expected, "seen": seen}
            print(json.dumps({**facts, "forward": forward.count, "backward": backward.count}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    # Nothing is left to do, and gloo's threads sometimes abort a process that takes its time.
    main()
    os._exit(0)
