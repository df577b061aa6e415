"""Which process does what: a grid of processes with the dimensions replicas x shards x experts x tensors.

* *tensors*: processes that work on the same batch, each with a part of every layer. Neighbours, since they talk most.
* *experts*: processes that hold different experts. For everything else they are data-parallel.
* *shards*: data-parallel processes that share out parameters, gradients or optimizer state (ZeRO).
* *replicas*: data-parallel processes that hold the same.

So a dense parameter is shared out over shards x experts, an expert over shards, and the batch over replicas x shards x
experts.
"""

import warnings
from dataclasses import dataclass

from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mmt.errors import UserError

# ``fully_shard`` wants meshes that are cut out of the same one as those of the parameters that are split already.
warnings.filterwarnings("ignore", "Slicing a flattened dim from root mesh")

DIMENSIONS = ("replicas", "shards", "experts", "tensors")


@dataclass(frozen=True)
class MeshShape:
    """The size of each dimension."""

    replicas: int
    shards: int
    experts: int
    tensors: int

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.replicas * self.shards * self.experts * self.tensors

    @property
    def data_parallel_size(self) -> int:
        """How many different batches are worked on at the same time."""
        return self.replicas * self.shards * self.experts

    def __str__(self) -> str:
        sizes = zip((self.replicas, self.shards, self.experts, self.tensors), DIMENSIONS)
        return " x ".join(f"{size} {name}" for size, name in sizes if size > 1) or "1 process"


def choose_shape(
    world_size: int,
    *,
    num_experts: int | None = None,
    expert_parallel_size: int = 1,
    tensor_parallel_size: int = 1,
    zero: int = 0,
    data_parallel_replicas: int | None = None,
) -> MeshShape:
    """Lay the processes out as the options say.

    Args:
        world_size: the number of processes.
        num_experts: of each layer, 0 for a dense model; None does not look at them.
        expert_parallel_size: as all that follow, of the option with this name.
        tensor_parallel_size: see there.
        zero: see there.
        data_parallel_replicas: see there.

    Raises:
        UserError: names the option that does not fit, the rule and the value.
    """
    for option, size in (
        ("--expert-parallel-size", expert_parallel_size),
        ("--tensor-parallel-size", tensor_parallel_size),
        ("--data-parallel-replicas", data_parallel_replicas),
    ):
        if size is not None and size < 1:
            raise UserError(f"{option} must be 1 or more, but is {size}")
    if zero not in (0, 1, 2, 3):
        raise UserError(f"--zero must be 0, 1, 2 or 3, but is {zero}")
    if expert_parallel_size > 1 and num_experts == 0:
        raise UserError(f"--expert-parallel-size {expert_parallel_size} goes with --moe-experts, but that is 0")
    if num_experts is not None and num_experts % expert_parallel_size:
        raise UserError(
            f"--expert-parallel-size must divide --moe-experts ({num_experts}), but is {expert_parallel_size}; with "
            "more processes than that, the experts are replicated"
        )
    taken = expert_parallel_size * tensor_parallel_size
    if world_size % taken:
        raise UserError(
            f"the number of processes ({world_size}) must be a multiple of --expert-parallel-size x "
            f"--tensor-parallel-size ({expert_parallel_size} x {tensor_parallel_size})"
        )
    rest = world_size // taken
    if zero == 0:
        if data_parallel_replicas is not None:
            raise UserError("--data-parallel-replicas goes with --zero 1, 2 or 3: without, all processes are replicas")
        return MeshShape(rest, 1, expert_parallel_size, tensor_parallel_size)
    replicas = data_parallel_replicas or 1
    if rest % replicas:
        raise UserError(
            f"--data-parallel-replicas must divide the {rest} groups of processes (processes / --expert-parallel-size "
            f"/ --tensor-parallel-size), but is {replicas}"
        )
    return MeshShape(replicas, rest // replicas, expert_parallel_size, tensor_parallel_size)


def check_exchange(expert_parallel_size: int, node_size: int, chunks: int) -> None:
    """Check the options that say how tokens travel between experts.

    Raises:
        UserError: names the option, the rule and the value.
    """
    if node_size < 1 or expert_parallel_size % node_size:
        raise UserError(
            f"--expert-parallel-node-size must divide --expert-parallel-size ({expert_parallel_size}), but is "
            f"{node_size}"
        )
    if chunks < 1:
        raise UserError(f"--expert-parallel-chunks must be 1 or more, but is {chunks}")
    if chunks > 1 and expert_parallel_size == 1:
        raise UserError(f"--expert-parallel-chunks {chunks} goes with --expert-parallel-size 2 or more, but that is 1")


@dataclass(frozen=True)
class NodeGroups:
    """The processes that hold the different experts, where they are on several nodes."""

    within: ProcessGroup  # those on this node
    between: ProcessGroup  # those that have this process' place in their nodes


class Mesh:
    """The processes of this training, and the groups in which this process communicates.

    Args:
        shape: its sizes; ``torch.distributed`` must run with as many processes.
        device: "cpu" or "cuda".
        expert_node_size: how many of the processes that hold the different experts are on one node. ``node_groups`` is
            None where that is 1, or all of them.
    """

    def __init__(self, shape: MeshShape, device: str, expert_node_size: int = 1) -> None:
        self.shape = shape
        sizes = (shape.replicas, shape.shards, shape.experts, shape.tensors)
        self.whole = init_device_mesh(device, sizes, mesh_dim_names=DIMENSIONS)
        self.data = self.whole["replicas", "shards", "experts"]._flatten("data")
        self.whole["shards", "experts"]._flatten("dense_shards")
        self.node_groups = self._node_groups(expert_node_size) if 1 < expert_node_size < shape.experts else None

    def _node_groups(self, size: int) -> NodeGroups:
        by_node = self.whole["experts"]._unflatten(0, (self.shape.experts // size, size), ("nodes", "places"))
        return NodeGroups(by_node["places"].get_group(), by_node["nodes"].get_group())

    def dense_shards(self) -> DeviceMesh:
        """The processes that share out what is not an expert, all of them or within replicas."""
        return self.whole["replicas", "dense_shards"] if self.shape.replicas > 1 else self.whole["dense_shards"]

    def expert_shards(self) -> DeviceMesh:
        """The processes that share out experts."""
        return self.whole["replicas", "shards"] if self.shape.replicas > 1 else self.whole["shards"]

    @property
    def data_group(self) -> ProcessGroup:
        """The processes that work on different batches."""
        return self.data.get_group()

    @property
    def data_rank(self) -> int:
        """Which part of the batches this process works on."""
        return self.data.get_local_rank()

    @property
    def expert_group(self) -> ProcessGroup:
        """The processes that hold the different experts."""
        return self.whole["experts"].get_group()

    @property
    def tensor_group(self) -> ProcessGroup:
        """The processes that split each layer between them."""
        return self.whole["tensors"].get_group()

    def model_parallel(self) -> DeviceMesh:
        """The dimensions over which an expert's own tensors are split."""
        return self.whole["experts", "tensors"]
