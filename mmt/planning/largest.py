"""The largest model that fits a cluster, grown in two ways: by more experts, or by width with an expert per GPU."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from mmt.distributed.mesh import MeshShape
from mmt.planning.activations import Batch
from mmt.planning.cluster import Cluster
from mmt.planning.model import PlannedModel
from mmt.planning.plan import fits
from mmt.planning.rank_memory import Layout, RankMemory, rank_memory

HEAD_WIDTH = 64


@dataclass(frozen=True)
class Largest:
    """What fits.

    Attributes:
        way: which memory is used.
        layout: how it is spread.
        model: the model; None if not even the smallest fits.
        memory: of one process.
    """

    way: str
    layout: Layout
    model: PlannedModel | None
    memory: RankMemory | None


@dataclass(frozen=True)
class Way:
    """Which memory is used, and how.

    Attributes:
        name: what it is called.
        layouts: the best of them counts.
        without_copies: as if gradients were summed in small buckets, and not all of them copied; mmt does not do that.
    """

    name: str
    layouts: tuple[Layout, ...]
    without_copies: bool = False


def ways(cluster: Cluster) -> list[Way]:
    """List the ways to hold a model; experts are spread over as many processes as possible."""
    world = cluster.num_gpus
    plain = (Layout(MeshShape(1, 1, world, 1)),)
    found = [Way("GPUs, whole dense part on each", plain)]
    if world == 1:
        return found
    found.append(Way("the same, if gradients were not copied", plain, without_copies=True))
    tensors = [size for size in (1, 2, 4, 8) if size <= cluster.gpus_per_node and world % size == 0]
    meshes = [MeshShape(1, 1, world // size, size) for size in tensors]
    found.append(Way("GPUs, ZeRO-3", tuple(Layout(mesh, 3) for mesh in meshes)))
    found.append(Way("GPUs and hosts, ZeRO-3", tuple(Layout(mesh, 3, offload=True) for mesh in meshes)))
    return found


def more_experts(model: PlannedModel, batch: Batch, cluster: Cluster, *, bf16: bool = True) -> list[Largest]:
    """Add experts to each layer, at the same widths: as many as fit."""

    def grow(layout: Layout) -> Callable[[int], PlannedModel]:
        fewest, step = _fewest_experts(model, layout.mesh.experts), layout.mesh.experts
        return lambda size: model.with_experts(fewest + (size - 1) * step)

    return [_best(way, grow, lambda _: 1, batch, cluster, bf16) for way in ways(cluster)]


def wider(model: PlannedModel, batch: Batch, cluster: Cluster, *, bf16: bool = True) -> list[Largest]:
    """Widen all layers: the hidden width stays four times the width.

    Each has as many experts as there are GPUs; where a token chooses more, the next multiple.
    """
    made: dict[int, PlannedModel] = {}

    def of_width(size: int) -> PlannedModel:
        if size not in made:
            width = size * HEAD_WIDTH
            made[size] = model.with_options(
                encoder_embed_dim=width,
                encoder_ffn_embed_dim=4 * width,
                encoder_attention_heads=size,
                decoder_embed_dim=None,
                decoder_ffn_embed_dim=None,
                decoder_input_dim=None,
                decoder_output_dim=None,
                decoder_attention_heads=size,
                moe_experts=_fewest_experts(model, cluster.num_gpus),
            )
        return made[size]

    # Heads are whole, and divided among the processes that split a layer.
    return [
        _best(way, lambda _: of_width, lambda layout: layout.mesh.tensors, batch, cluster, bf16)
        for way in ways(cluster)
    ]


def _fewest_experts(model: PlannedModel, processes: int) -> int:
    """Return how many experts are enough for a token's choices, and the same number on each process."""
    return processes * math.ceil(model.cfg.moe_top_k / processes)


Grow = Callable[[int], PlannedModel]


def _best(
    way: Way, grow: Callable[[Layout], Grow], step: Callable[[Layout], int], batch: Batch, cluster: Cluster, bf16: bool
) -> Largest:
    found = [_largest(way, layout, grow(layout), step(layout), batch, cluster, bf16) for layout in way.layouts]
    return max(found, key=lambda largest: largest.model.num_parameters if largest.model else 0)


def _largest(
    way: Way, layout: Layout, of_size: Grow, step: int, batch: Batch, cluster: Cluster, bf16: bool
) -> Largest:
    """Find the largest multiple of ``step`` that fits."""

    def memory(size: int) -> RankMemory:
        found = rank_memory(of_size(size), layout, batch, bf16=bf16)
        return dataclasses.replace(found, gathered=0) if way.without_copies else found

    def does_fit(size: int) -> bool:
        return fits(memory(size), cluster)

    if not does_fit(step):
        return Largest(way.name, layout, None, None)
    low, high = 1, 2
    while does_fit(high * step):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if does_fit(middle * step) else (low, middle)
    return Largest(way.name, layout, of_size(low * step), memory(low * step))
