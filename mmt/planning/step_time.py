"""How long an update takes: an estimate from what is computed and sent, and what the cluster's file promises.

It orders meshes; it does not promise seconds. Each part says what it counts.
"""

from dataclasses import dataclass
from typing import Any

from mmt.models.build_moe import is_moe_layer
from mmt.planning.activations import Batch
from mmt.planning.cluster import Cluster
from mmt.planning.memory import BYTES_PER_NUMBER, own_elements
from mmt.planning.model import PlannedModel
from mmt.planning.rank_memory import Layout

GIGA, TERA = 1e9, 1e12
# Adam reads parameter, gradient, mean and square, and writes all but the gradient, 4 bytes each.
BYTES_OF_ADAM = 28
# A weight is read in 32 bits and written in 16 for the forward pass, read twice in 16, its gradient written in 32.
BYTES_OF_WEIGHT = 14


@dataclass(frozen=True)
class StepTime:
    """Seconds of one update, and bytes that one process sends for it.

    Attributes:
        compute: matrix products, and the reading of weights.
        all_to_all: rows to experts and back; nothing else can be done meanwhile.
        tensors: sums over the processes that split a layer; likewise.
        sharing: gradients averaged, parameters put together; goes on beside the computation.
        host: between GPU and host, beside the computation too.
        optimizer: Adam, on the GPU or on the host.
        all_to_all_bytes, tensor_bytes, sharing_bytes, host_bytes: what is sent.
    """

    compute: float
    all_to_all: float
    tensors: float
    sharing: float
    host: float
    optimizer: float
    all_to_all_bytes: int
    tensor_bytes: int
    sharing_bytes: int
    host_bytes: int

    @property
    def total(self) -> float:
        """What runs beside the computation costs only what it takes longer."""
        beside = self.sharing + self.host
        return max(self.compute, beside) + self.all_to_all + self.tensors + self.optimizer


def _bytes_of_parts(model: PlannedModel, layout: Layout, zero: int) -> dict[str, int]:
    """Bytes of this process' experts, and of its part of everything else."""
    parts = {"experts": model.experts, "dense": model.dense}
    return {
        name: BYTES_PER_NUMBER * sum(own_elements(parameter, layout.mesh, zero) for parameter in part)
        for name, part in parts.items()
    }


def forward_flops(cfg: Any, vocabulary: int, batch: Batch) -> int:
    """Count the operations of a forward pass: two for each number of a weight and token, and attention's own products.

    Attention: 4 matrices of width x width, and twice length x width for scores and sums. Feed-forward: 2 matrices,
    of ``top_k`` experts where there are experts. The output projection: one matrix of vocabulary x width.
    """
    total = 0
    source, target = batch.source_length, batch.target_length
    for side in ("encoder", "decoder"):
        n, width, hidden = batch.tokens(side), getattr(cfg, side).embed_dim, getattr(cfg, side).ffn_embed_dim
        length = source if side == "encoder" else target
        for index in range(getattr(cfg, side).layers):
            total += n * (8 * width * width + 4 * length * width)
            if side == "decoder":
                total += n * (4 * width * width + 4 * source * width) + batch.tokens("encoder") * 4 * width * width
            is_moe = is_moe_layer(cfg, side, index)
            total += n * 4 * width * hidden * (cfg.moe_top_k if is_moe else 1)
            total += n * 2 * width * cfg.moe_experts if is_moe else 0
    return total + batch.tokens("decoder") * 2 * cfg.decoder.embed_dim * vocabulary


def ring_speed(cluster: Cluster, size: int, stride: int) -> float:
    """Return the bytes a second at which ``size`` processes, every ``stride``-th one, pass data around.

    Across nodes, all members on a node send through ports of their own.
    """
    if size * stride <= cluster.gpus_per_node:
        return GIGA * cluster.gigabytes_per_s_in_node
    members = max(1, cluster.gpus_per_node // stride)
    return GIGA * min(cluster.gigabytes_per_s_in_node, members * cluster.gigabytes_per_s_between_nodes)


def step_time(
    model: PlannedModel, layout: Layout, batch: Batch, cluster: Cluster, *, bf16: bool = True, update_freq: int = 1
) -> StepTime:
    """Estimate one update of ``update_freq`` micro-batches.

    * compute: forward and twice as much backward; a third more for ``--checkpoint-activations``, which computes twice.
      Divided by ``tensors``; at ``efficiency`` of what the data sheet promises. Weights are read from memory for every
      micro-batch, however few tokens there are.
    * all-to-all: ``top_k`` rows per token, there and back, forward and backward; of the group's P processes, P-1 are
      others, and those outside of the node are reached at the speed between nodes.
    * tensors: a layer sums its output over the group after attention and after the feed-forward part, forward and
      backward; a sum sends 2 (N-1)/N of it.
    * sharing: without ZeRO all gradients are summed, 2 (N-1)/N of them. With it they are summed into parts, (N-1)/N,
      per update (1) or micro-batch (2, 3), and parameters are put together for every micro-batch once (1, 2) or twice
      (3); parts are then summed over the replicas. Everything is in 32 bits.
    * host: with offload parameters go up as often as they are put together, gradients come down as often as they are
      summed, and Adam works at the speed of the host's memory.

    What is left out: the time that a message takes however short it is, experts that are busier than others, and
    processes that wait for each other's longer sentences.
    """
    cfg, mesh = model.cfg, layout.mesh
    passes = 4 if cfg.checkpoint_activations else 3
    product = 2 if bf16 else BYTES_PER_NUMBER
    flops_per_s = TERA * (cluster.teraflops if bf16 else cluster.teraflops_32bit) * cluster.efficiency
    compute = update_freq * passes * forward_flops(cfg, model.vocabulary, batch) / mesh.tensors / flops_per_s
    gpu_memory = GIGA * cluster.gigabytes_per_s_gpu_memory
    whole, own = _bytes_of_parts(model, layout, zero=0), _bytes_of_parts(model, layout, layout.zero)
    compute += update_freq * sum(whole.values()) / BYTES_PER_NUMBER * BYTES_OF_WEIGHT / gpu_memory

    rows = {side: batch.tokens(side) * getattr(cfg, side).embed_dim for side in ("encoder", "decoder")}
    moe_layers = {
        side: sum(is_moe_layer(cfg, side, index) for index in range(getattr(cfg, side).layers)) for side in rows
    }
    routed = product * cfg.moe_top_k * sum(moe_layers[side] * rows[side] for side in rows)
    journeys = update_freq * 2 * (passes - 1) * routed
    near = max(1, min(mesh.experts, cluster.gpus_per_node // mesh.tensors))
    to_near, to_far = journeys * (near - 1) // mesh.experts, journeys * (mesh.experts - near) // mesh.experts
    all_to_all = to_near / (GIGA * cluster.gigabytes_per_s_in_node)
    all_to_all += to_far / (GIGA * cluster.gigabytes_per_s_between_nodes)

    sums = 2 * cfg.encoder.layers * rows["encoder"] + 3 * cfg.decoder.layers * rows["decoder"]
    tensor_bytes = update_freq * (passes - 1) * product * sums * 2 * (mesh.tensors - 1) // mesh.tensors
    tensors = tensor_bytes / ring_speed(cluster, mesh.tensors, 1)

    sharing, sharing_bytes = 0.0, 0
    gathers = update_freq * (2 if layout.zero == 3 else 1) if layout.zero else 0
    reduces = update_freq if layout.zero >= 2 else 1
    for name, size, stride in (
        ("dense", mesh.shards * mesh.experts, mesh.tensors),
        ("experts", mesh.shards, mesh.experts * mesh.tensors),
    ):
        # Copies of experts are summed once, all else after each batch that is reduced.
        times = 1 if name == "experts" and mesh.shards == 1 else reduces
        outer, outer_stride = mesh.replicas, mesh.shards * mesh.experts * mesh.tensors
        part = whole[name]
        if layout.zero == 0 and name == "dense":
            size, outer = size * outer, 1
            sent = 2 * part * (size - 1) // size
        else:
            sent = (gathers + reduces) * part * (size - 1) // size
            part //= size
        sharing += sent / ring_speed(cluster, size, stride)
        over_replicas = times * 2 * part * (outer - 1) // outer
        sharing += over_replicas / ring_speed(cluster, outer, outer_stride)
        sharing_bytes += sent + over_replicas

    on_host = sum(own.values()) if layout.offload else 0
    host_bytes = (gathers + reduces) * on_host
    on_gpu = sum(own.values()) - on_host
    optimizer = BYTES_OF_ADAM / BYTES_PER_NUMBER * on_gpu / gpu_memory
    per_gpu = GIGA * cluster.gigabytes_per_s_host_memory / cluster.gpus_per_node
    optimizer += BYTES_OF_ADAM / BYTES_PER_NUMBER * on_host / per_gpu
    return StepTime(
        compute=compute,
        all_to_all=all_to_all,
        tensors=tensors,
        sharing=sharing,
        host=host_bytes / (GIGA * cluster.gigabytes_per_s_to_host),
        optimizer=optimizer,
        all_to_all_bytes=to_near + to_far,
        tensor_bytes=tensor_bytes,
        sharing_bytes=sharing_bytes,
        host_bytes=host_bytes,
    )
