"""What one process of a mesh holds: on its GPU by kind, and in the memory of its host."""

import math
from dataclasses import dataclass

from mmt.distributed.mesh import MeshShape
from mmt.planning.activations import Activations, Batch
from mmt.planning.memory import BYTES_PER_NUMBER, split_shape, state_bytes
from mmt.planning.model import PlannedModel


@dataclass(frozen=True)
class Layout:
    """How a model is spread.

    Attributes:
        mesh: the processes.
        zero: as ``--zero``.
        offload: as ``--cpu-offload``.
    """

    mesh: MeshShape
    zero: int = 0
    offload: bool = False

    def __str__(self) -> str:
        zero = f", zero {self.zero}" if self.zero else ""
        return f"{self.mesh}{zero}{', offload' if self.offload else ''}"

    @property
    def options(self) -> list[str]:
        """The options of ``fairseq-train`` that choose it."""
        chosen = []
        if self.mesh.experts > 1:
            chosen.append(f"--expert-parallel-size {self.mesh.experts}")
        if self.mesh.tensors > 1:
            chosen.append(f"--tensor-parallel-size {self.mesh.tensors}")
        if self.zero:
            chosen.append(f"--zero {self.zero}")
        if self.zero and self.mesh.replicas > 1:
            chosen.append(f"--data-parallel-replicas {self.mesh.replicas}")
        return chosen + (["--cpu-offload"] if self.offload else [])


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one process.

    Attributes:
        parameters: its part of the parameters, on the GPU.
        gradients: its part of the gradients, on the GPU.
        optimizer: its part of Adam's state, on the GPU.
        gathered: parameters and gradients that are put together for a while, and gradients on their way.
        activations: what autograd keeps from the forward to the backward pass.
        all_to_all: rows on their way to experts.
        work: logits of a part of the batch, and the layer that is at work.
        host: parameters, gradients and optimizer state in the memory of the host.
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    all_to_all: int
    work: int
    host: int

    @property
    def gpu(self) -> int:
        """All that is on the GPU."""
        states = self.parameters + self.gradients + self.optimizer
        return states + self.gathered + self.activations + self.all_to_all + self.work


def rank_memory(
    model: PlannedModel,
    layout: Layout,
    batch: Batch,
    *,
    bf16: bool = True,
    on_gpu: bool = True,
    update_freq: int = 1,
) -> RankMemory:
    """Count the bytes of one process.

    ``--cpu-offload`` takes all parameters to the host, with their gradients and Adam's state.
    """
    mesh, zero = layout.mesh, layout.zero
    states = state_bytes(model.parameters, mesh, zero, layout.offload, update_freq=update_freq)
    # ZeRO packs a layer's gradients into one tensor before they are summed.
    packed = state_bytes(model.parameters, mesh, max(2, zero), layout.offload).whole_gradients if zero > 0 else 0
    travelling = 0  # gradients that are averaged lie side by side in a copy
    if zero == 0 and mesh.data_parallel_size > 1:
        travelling += sum(math.prod(split_shape(parameter, mesh)) for parameter in model.dense)
    if mesh.shards == 1 and mesh.replicas > 1 and not layout.offload:
        travelling += sum(math.prod(split_shape(parameter, mesh)) for parameter in model.experts)
    activations = Activations(model.cfg, model.vocabulary, batch, mesh, bf16=bf16, on_gpu=on_gpu).count()
    return RankMemory(
        parameters=0 if layout.offload else states.parameters,
        gradients=0 if layout.offload else states.gradients,
        optimizer=0 if layout.offload else states.optimizer,
        gathered=states.whole_parameters + states.whole_gradients + packed + BYTES_PER_NUMBER * travelling,
        activations=activations.kept,
        all_to_all=activations.all_to_all,
        work=activations.work,
        host=states.parameters + states.gradients + states.optimizer if layout.offload else 0,
    )
