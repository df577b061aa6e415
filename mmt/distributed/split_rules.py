"""Along which dimension a parameter is split, by its name and shape: what is done, and what `mmt plan` counts."""

from collections.abc import Collection, Sequence

# Tensor parallelism: attention by heads, feed-forward networks by hidden units, words by words.
_TENSOR_DIMENSIONS = {
    "q_proj.weight": 0,
    "q_proj.bias": 0,
    "k_proj.weight": 0,
    "k_proj.bias": 0,
    "v_proj.weight": 0,
    "v_proj.bias": 0,
    "out_proj.weight": 1,
    "fc1.weight": 0,
    "fc1.bias": 0,
    "fc2.weight": 1,
    "embed_tokens.weight": 0,
    "output_projection.weight": 0,
    "experts.weight_1": 1,
    "experts.bias_1": 1,
    "experts.weight_2": 2,
}


def is_of_experts(name: str) -> bool:
    """Tell whether a parameter of this name has a first dimension of experts."""
    return name.rpartition(".")[0].endswith("experts")


def tensor_dimension(name: str) -> int | None:
    """Return the dimension that tensor parallelism splits; None if every process has all of the parameter."""
    return _TENSOR_DIMENSIONS.get(".".join(name.split(".")[-2:]))


def shard_dimension(shape: Sequence[int], taken: Collection[int], num_shards: int) -> int | None:
    """Choose the dimension along which ZeRO shares a parameter out: one that is not split yet, and that divides evenly.

    None leaves it to torch: the first one, evenly or not.
    """
    for dimension, size in enumerate(shape):
        if dimension not in taken and size % num_shards == 0:
            return dimension
    return None
