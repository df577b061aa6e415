"""Tensor parallelism (Shoeybi et al. 2019): each process of a group holds a part of every matrix.

Attention is split by heads, feed-forward networks and experts by hidden units, embeddings and output projection by
words. Everything between them is computed by all processes alike.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from mmt.errors import UserError
from mmt.modules.vocabulary_parallel import SplitEmbedding, SplitProjection


def split_model(model: Any, mesh: DeviceMesh) -> None:
    """Split all but the experts of a transformer, in place.

    Raises:
        UserError: if heads or hidden units cannot be split evenly, or the softmax is not one product.
    """
    if model.decoder.adaptive_softmax is not None:
        raise UserError("--adaptive-softmax-cutoff does not go with --tensor-parallel-size: leave it out")
    for side, half in (("encoder", model.encoder), ("decoder", model.decoder)):
        for layer in half.layers:
            for attention in (layer.self_attn, getattr(layer, "encoder_attn", None)):
                if attention is not None:
                    _split_attention(attention, mesh, side)
            if isinstance(layer.fc1, nn.Linear):  # otherwise the layer has experts
                _check_divides(mesh.size(), layer.fc1.out_features, f"--{side}-ffn-embed-dim")
                parallelize_module(layer, mesh, {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()})
    _split_vocabulary(model, mesh)


def _check_divides(size: int, total: int, option: str) -> None:
    if total % size:
        raise UserError(f"--tensor-parallel-size must divide {option} ({total}), but is {size}")


def _split_attention(attention: Any, mesh: DeviceMesh, side: str) -> None:
    _check_divides(mesh.size(), attention.num_heads, f"--{side}-attention-heads")
    columns, rows = ColwiseParallel(), RowwiseParallel()
    parallelize_module(attention, mesh, {"q_proj": columns, "k_proj": columns, "v_proj": columns, "out_proj": rows})
    attention.num_heads //= mesh.size()
    attention.embed_dim //= mesh.size()  # fairseq: the width of all heads together
    attention._set_skip_embed_dim_check()  # fairseq would compare it with the width of the input


def _split_vocabulary(model: Any, mesh: DeviceMesh) -> None:
    """Split embeddings and output projection by words; what was one parameter stays one."""
    embeddings = {id(half.embed_tokens): half.embed_tokens for half in (model.encoder, model.decoder)}.values()
    projection = model.decoder.output_projection
    split: dict[int, nn.Parameter] = {}

    def part(weight: Tensor) -> nn.Parameter:
        if id(weight) not in split:
            split[id(weight)] = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None))
        return split[id(weight)]

    for module, kind in [*((embedding, SplitEmbedding) for embedding in embeddings), (projection, SplitProjection)]:
        module.weight = part(module.weight)
        module.__class__ = kind
        module.group = mesh.get_group()
