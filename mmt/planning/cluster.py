"""A cluster: how many GPUs, how much memory, how fast they compute and talk."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from mmt.errors import UserError

FOLDER = Path(__file__).parent / "clusters"
GIB = 2**30
_COUNT, _AT_LEAST_ZERO, _POSITIVE = "whole number above 0", "number from 0 on", "number above 0"
_KINDS = {"nodes": _COUNT, "gpus_per_node": _COUNT, "reserved_gib": _AT_LEAST_ZERO}


@dataclass(frozen=True)
class Cluster:
    """One kind of node, as often as there are nodes.

    Attributes:
        name: what it is called.
        nodes: how many.
        gpus_per_node: GPUs of each.
        gpu_memory_gib: memory of a GPU.
        host_memory_gib: memory of a node, outside of its GPUs.
        teraflops: what a GPU's data sheet promises for dense matrix products in 16 bits.
        teraflops_32bit: the same for 32 bits (TF32 where there is it).
        efficiency: the part of that which training reaches while it computes.
        gigabytes_per_s_in_node: what a GPU sends to others of its node.
        gigabytes_per_s_between_nodes: what a GPU sends to other nodes, when all GPUs of the node do.
        gigabytes_per_s_to_host: between a GPU and the memory of its host.
        gigabytes_per_s_gpu_memory: between a GPU and its own memory.
        gigabytes_per_s_host_memory: between the processors of a node and their memory.
        reserved_gib: memory of a GPU that is lost to the driver, to kernels and to fragmentation.
        note: what others report of it.
    """

    name: str
    nodes: int
    gpus_per_node: int
    gpu_memory_gib: float
    host_memory_gib: float
    teraflops: float
    teraflops_32bit: float
    efficiency: float
    gigabytes_per_s_in_node: float
    gigabytes_per_s_between_nodes: float
    gigabytes_per_s_to_host: float
    gigabytes_per_s_gpu_memory: float
    gigabytes_per_s_host_memory: float
    reserved_gib: float
    note: str = ""

    @property
    def num_gpus(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus_per_node

    @property
    def usable_gpu_bytes(self) -> int:
        """Memory of a GPU that a training can use."""
        return int((self.gpu_memory_gib - self.reserved_gib) * GIB)

    @property
    def usable_host_bytes(self) -> int:
        """Memory of a host for each of its GPUs; a tenth of it is left to the system and to the data."""
        return int(0.9 * self.host_memory_gib * GIB / self.gpus_per_node)


def names() -> list[str]:
    """The clusters that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_cluster(name: str) -> Cluster:
    """Read a shipped cluster by its name, or any by the path of its file.

    Raises:
        UserError: names the file, and what is missing, unknown or not a number above 0.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"--cluster {name}: no such file, nor one of {', '.join(names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--cluster {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"--cluster {path}: must be a list of names and values")
    values.setdefault("name", path.stem)
    known = [field.name for field in fields(Cluster)]
    for key in values:
        if key not in known:
            raise UserError(f"--cluster {path}: unknown {key!r}; a cluster has {', '.join(known)}")
    for key in known:
        if key not in values and key != "note":
            raise UserError(f"--cluster {path}: {key} is missing")
        if key in ("name", "note"):
            continue
        kind = _KINDS.get(key, _POSITIVE)
        types = int if kind == _COUNT else (int, float)
        is_number = isinstance(values[key], types) and not isinstance(values[key], bool)
        if not is_number or not (values[key] >= 0 if kind == _AT_LEAST_ZERO else values[key] > 0):
            raise UserError(f"--cluster {path}: {key} must be a {kind}, but is {values[key]!r}")
    return Cluster(**values)
