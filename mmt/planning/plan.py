"""All meshes of a cluster for a model: which fit, and which is fastest."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmt.distributed.mesh import choose_shape
from mmt.planning.activations import Batch
from mmt.planning.cluster import Cluster
from mmt.planning.model import PlannedModel
from mmt.planning.rank_memory import Layout, RankMemory, rank_memory
from mmt.planning.step_time import StepTime, step_time


@dataclass(frozen=True)
class Plan:
    """One layout, judged.

    Attributes:
        layout: the mesh, ZeRO and offload.
        memory: bytes of one process.
        time: one update.
        fits: whether GPU and host have room for it.
        words_per_s: target tokens of all processes together.
    """

    layout: Layout
    memory: RankMemory
    time: StepTime
    fits: bool
    words_per_s: float


def fits(memory: RankMemory, cluster: Cluster) -> bool:
    """Tell whether GPU and host have room."""
    return memory.gpu <= cluster.usable_gpu_bytes and memory.host <= cluster.usable_host_bytes


def judge(
    model: PlannedModel, layout: Layout, batch: Batch, cluster: Cluster, *, bf16: bool = True, update_freq: int = 1
) -> Plan:
    """Count memory and time of one layout."""
    memory = rank_memory(model, layout, batch, bf16=bf16, update_freq=update_freq)
    time = step_time(model, layout, batch, cluster, bf16=bf16, update_freq=update_freq)
    words = layout.mesh.data_parallel_size * update_freq * batch.tokens("decoder")
    return Plan(layout, memory, time, fits(memory, cluster), words / time.total)


def plans(
    model: PlannedModel, batch: Batch, cluster: Cluster, *, bf16: bool = True, update_freq: int = 1
) -> list[Plan]:
    """Judge all layouts: those that fit first, fastest first, of equals the one that sends least; the rest by the
    memory that they want.
    """
    judged = [
        judge(model, layout, batch, cluster, bf16=bf16, update_freq=update_freq) for layout in layouts(model, cluster)
    ]
    return sorted(judged, key=_order)


def _order(plan: Plan) -> tuple[bool, float, int, int]:
    if not plan.fits:
        return True, 0.0, 0, plan.memory.gpu
    return False, -plan.words_per_s, plan.layout.zero, plan.memory.gpu


def layouts(model: PlannedModel, cluster: Cluster) -> Iterator[Layout]:
    """List the layouts that the options allow.

    Tensor parallelism stays in a node and divides heads and hidden units; experts divide evenly. With ZeRO, parts are
    shared out among all, within nodes, or among pairs: the sizes in between lie in between.
    """
    cfg, world = model.cfg, cluster.num_gpus
    of_tensors = [cfg.encoder.attention_heads, cfg.decoder.attention_heads]
    of_tensors += [cfg.encoder.ffn_embed_dim, cfg.decoder.ffn_embed_dim]
    for tensors in _divisors(world):
        if tensors > cluster.gpus_per_node or any(size % tensors for size in of_tensors):
            continue
        for experts in _divisors(world // tensors):
            if experts > 1 and (cfg.moe_experts == 0 or cfg.moe_experts % experts):
                continue
            rest = world // tensors // experts
            sizes = {"expert_parallel_size": experts, "tensor_parallel_size": tensors}
            yield Layout(choose_shape(world, **sizes))
            if rest * experts == 1:
                continue
            for replicas in _choices_of_replicas(rest, experts * tensors, cluster.gpus_per_node):
                if rest // replicas * experts == 1:  # nothing to share out
                    continue
                for zero in (1, 2, 3):
                    mesh = choose_shape(world, zero=zero, data_parallel_replicas=replicas, **sizes)
                    yield from (Layout(mesh, zero, offload) for offload in (False, True))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _choices_of_replicas(rest: int, taken: int, gpus_per_node: int) -> list[int]:
    shards = {1, 2, max(1, gpus_per_node // taken), rest}
    return sorted({rest // size for size in shards if size <= rest and rest % size == 0})
