"""The planner's answers as text."""

from collections.abc import Sequence

from tabulate import tabulate

from mmt.planning.cluster import GIB, Cluster
from mmt.planning.largest import Largest
from mmt.planning.plan import Plan

GIGA = 1e9


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def cluster_line(cluster: Cluster) -> str:
    """Say what there is, and what of it can be used."""
    return (
        f"{cluster.name}: {cluster.nodes} x {cluster.gpus_per_node} GPUs. Usable for each: "
        f"{_gib(cluster.usable_gpu_bytes)} of {cluster.gpu_memory_gib:g} GiB ({cluster.reserved_gib:g} reserved), and "
        f"{_gib(cluster.usable_host_bytes)} GiB of its host (90 % of {cluster.host_memory_gib:g} / "
        f"{cluster.gpus_per_node})"
    )


def memory_table(plans: Sequence[Plan]) -> str:
    """Memory of one process by kind, in GiB."""
    header = ["mesh", "parameters", "gradients", "optimizer", "gathered", "activations", "all-to-all", "work"]
    rows = []
    for plan in plans:
        memory = plan.memory
        kinds = [memory.parameters, memory.gradients, memory.optimizer, memory.gathered, memory.activations]
        kinds += [memory.all_to_all, memory.work, memory.gpu, memory.host]
        rows.append([str(plan.layout), *map(_gib, kinds), "yes" if plan.fits else "no"])
    return tabulate(rows, [*header, "GPU", "host", "fits"], disable_numparse=True, stralign="right")


def time_table(plans: Sequence[Plan]) -> str:
    """Speed, the parts of an update in milliseconds, and what one process sends, in GB."""
    header = ["mesh", "words/s", "ms", "compute", "all-to-all", "tensors", "sharing", "host", "optimizer"]
    header += ["GB all-to-all", "GB tensors", "GB sharing", "GB host"]
    rows = []
    for plan in plans:
        time = plan.time
        parts = [time.total, time.compute, time.all_to_all, time.tensors, time.sharing, time.host, time.optimizer]
        sent = [time.all_to_all_bytes, time.tensor_bytes, time.sharing_bytes, time.host_bytes]
        rows.append(
            [str(plan.layout), f"{plan.words_per_s:,.0f}", *(f"{1000 * part:.0f}" for part in parts)]
            + [f"{size / GIGA:.2f}" for size in sent]
        )
    return tabulate(rows, header, disable_numparse=True, stralign="right")


def largest_table(found: Sequence[Largest]) -> str:
    """The largest models that fit, with what they need."""
    header = ["memory of", "mesh", "width", "experts", "parameters", "of them dense", "states", "gathered", "other"]
    rows = []
    for largest in found:
        if largest.model is None or largest.memory is None:
            rows.append([largest.way, str(largest.layout), "does not fit at any size"])
            continue
        memory, cfg = largest.memory, largest.model.cfg
        states = memory.parameters + memory.gradients + memory.optimizer
        other = memory.activations + memory.all_to_all + memory.work
        dense = sum(parameter.num_elements for parameter in largest.model.dense)
        rows.append(
            [largest.way, str(largest.layout), str(cfg.encoder.embed_dim), str(cfg.moe_experts)]
            + [f"{largest.model.num_parameters / GIGA:,.1f}B", f"{dense / GIGA:.2f}B"]
            + [_gib(size) for size in (states, memory.gathered, other, memory.gpu, memory.host)]
        )
    return tabulate(rows, [*header, "GPU", "host"], disable_numparse=True, stralign="right")


def reasons(found: Sequence[Largest], cluster: Cluster) -> str:
    """Say, for each answer, what a parameter costs, and what leaves no more room."""
    lines = [
        "A parameter costs 16 bytes: 4 itself, 4 its gradient, 8 Adam's mean and square, all in 32 bits. All layers "
        "compute their activations twice (--checkpoint-activations)."
    ]
    for largest in found:
        if largest.model is None or largest.memory is None:
            continue
        memory, total = largest.memory, largest.model.num_parameters
        states = memory.parameters + memory.gradients + memory.optimizer
        room = cluster.usable_gpu_bytes - memory.gpu
        free_on_host = cluster.usable_host_bytes - memory.host
        by = "host memory" if memory.host and free_on_host / cluster.usable_host_bytes < 0.05 else "GPU memory"
        lines.append(
            f"- {largest.way}: {total / GIGA:,.0f}B x 16 bytes / {cluster.num_gpus} GPUs = "
            f"{16 * total / cluster.num_gpus / GIB:.1f} GiB each if every byte were held once; held are "
            f"{_gib(states)} on the GPU and {_gib(memory.host)} on the host, and {_gib(memory.gpu - states)} on the "
            f"GPU come and go. {_gib(room)} GiB of the GPU are left; {by} is the limit."
        )
    return "\n".join(lines)
