"""Bytes of parameters, gradients and optimizer state on one process, counted tensor by tensor."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mmt.distributed.mesh import MeshShape
from mmt.distributed.split_rules import is_of_experts, shard_dimension, tensor_dimension

BYTES_PER_NUMBER = 4  # parameters, gradients and optimizer state are in 32 bits, with --bf16 too
NUMBERS_OF_ADAM = 2  # mean and square of the gradient


@dataclass(frozen=True)
class ParameterShape:
    """One parameter of a model.

    Attributes:
        name: in the model.
        shape: of the whole.
        layer: the part of the model that is put together at a time with ZeRO-3: "encoder.layers.3", or "" for the rest.
    """

    name: str
    shape: tuple[int, ...]
    layer: str

    @property
    def num_elements(self) -> int:
        """Numbers in the whole parameter."""
        return math.prod(self.shape)

    @functools.cached_property
    def is_of_experts(self) -> bool:
        """Whether the first dimension is that of experts."""
        return is_of_experts(self.name)

    @functools.cached_property
    def tensor_dimension(self) -> int | None:
        """The dimension that tensor parallelism splits."""
        return tensor_dimension(self.name)


def parameter_shapes(model: nn.Module) -> list[ParameterShape]:
    """List the parameters of a model, which may be on the device "meta"."""
    return [
        ParameterShape(name, tuple(parameter.shape), _layer_of(name)) for name, parameter in model.named_parameters()
    ]


def _layer_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[1:2] == ["layers"] else ""


def split_shape(parameter: ParameterShape, mesh: MeshShape) -> tuple[int, ...]:
    """Return the shape that expert and tensor parallelism leave to a process; the first ones, if not even."""
    shape = list(parameter.shape)
    if parameter.is_of_experts:
        shape[0] = -(-shape[0] // mesh.experts)
    dimension = parameter.tensor_dimension
    if dimension is not None:
        shape[dimension] = -(-shape[dimension] // mesh.tensors)
    return tuple(shape)


def num_shards(parameter: ParameterShape, mesh: MeshShape, zero: int) -> int:
    """Return among how many processes ZeRO shares out a parameter."""
    if zero == 0:
        return 1
    return mesh.shards if parameter.is_of_experts else mesh.shards * mesh.experts


def own_elements(parameter: ParameterShape, mesh: MeshShape, zero: int) -> int:
    """Return how many numbers of a parameter a process holds between updates; the first ones, if not even."""
    shape = split_shape(parameter, mesh)
    shards = num_shards(parameter, mesh, zero)
    if shards == 1:
        return math.prod(shape)
    taken = {0} if parameter.is_of_experts and mesh.experts * mesh.tensors > 1 else set()
    dimension = parameter.tensor_dimension
    if dimension is not None and mesh.tensors > 1:
        taken.add(dimension)
    chosen = shard_dimension(parameter.shape, taken, shards) or 0
    return math.prod(shape) // shape[chosen] * -(-shape[chosen] // shards)


@dataclass(frozen=True)
class StateBytes:
    """What a process holds between updates, and what comes on top while it computes.

    Attributes:
        parameters: its part of the parameters.
        gradients: its part of the gradients.
        optimizer: its part of Adam's state.
        whole_parameters: parameters that are put together for the forward and backward pass.
        whole_gradients: gradients before they are shared out.
    """

    parameters: int
    gradients: int
    optimizer: int
    whole_parameters: int
    whole_gradients: int


def state_bytes(
    parameters: Sequence[ParameterShape], mesh: MeshShape, zero: int, offload: bool = False, *, update_freq: int = 1
) -> StateBytes:
    """Count the bytes of one process.

    ``--zero 1`` and 2 put all parameters together and keep them for the backward pass; 3 has two layers at a time, one
    that is at work and one that is on its way. Embeddings stay together. Whole gradients are those of a layer, and with
    ``--zero 1`` of all, if they are added up over several micro-batches. Experts of which a process holds all are put
    together only if they come from the host.
    """
    own = sum(own_elements(parameter, mesh, zero) for parameter in parameters)
    by_layer: dict[str, int] = {}
    for parameter in parameters:
        if num_shards(parameter, mesh, zero) > 1 or offload:
            size = math.prod(split_shape(parameter, mesh))
            by_layer[parameter.layer] = by_layer.get(parameter.layer, 0) + size
    outside = by_layer.pop("", 0)
    largest = max(by_layer.values(), default=0)
    everything = sum(by_layer.values())
    whole_parameters = outside + (2 * largest if zero == 3 else everything)
    whole_gradients = outside + (everything if zero == 1 and update_freq > 1 else largest)
    return StateBytes(
        parameters=BYTES_PER_NUMBER * own,
        gradients=BYTES_PER_NUMBER * own,
        # Adam counts its steps in one number for each parameter.
        optimizer=BYTES_PER_NUMBER * (NUMBERS_OF_ADAM * own + len(parameters)),
        whole_parameters=BYTES_PER_NUMBER * whole_parameters,
        whole_gradients=BYTES_PER_NUMBER * whole_gradients,
    )
