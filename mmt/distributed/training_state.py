"""The tensors of a training under names and shapes that do not depend on how many processes it runs on.

Names are ``model.<name>`` and ``optimizer.<name of the parameter>.<kind>``, such as
``optimizer.encoder.layers.0.fc1.weight.exp_avg``. In a training of several processes tensors are DTensors, each process
holding its part; in one process, and in an ordinary checkpoint of fairseq, they are whole.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmt.errors import UserError
from mmt.modules.collectives import is_shared_out, own_part

State = dict[str, Any]


def first_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of every parameter by each of its names: embeddings and output projection may be one."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def trained_names(model: nn.Module) -> list[str]:
    """Return the names of the trained parameters, in the order of the optimizer."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def like(parameter: Tensor, value: Any) -> Any:
    """Return what the optimizer keeps of this process' part of a parameter, as a part of the whole."""
    if not is_shared_out(parameter) or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return type(parameter).from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def cut_out(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return what this process holds of ``whole``, if it is spread like ``parameter``."""
    if not is_shared_out(parameter):
        return whole
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(whole.shape, parameter.device_mesh, parameter.placements)
    return whole[tuple(slice(start, start + size) for start, size in zip(offset, shape))].contiguous()


def collect(model: nn.Module, optimizer: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], State]:
    """Return the tensors of a training by name, and what else the optimizer keeps, by parameter and kind.

    Args:
        model: with its parameters shared out.
        optimizer: what the optimizer keeps of this process' part of each trained parameter, by their number.
    """
    first = first_names(model)
    tensors = {f"model.{name}": t for name, t in model.state_dict().items() if first.get(name, name) == name}
    rest: State = {}
    parameters = dict(model.named_parameters())
    for number, name in enumerate(trained_names(model)):
        for kind, value in optimizer.get(number, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{kind}"] = like(parameters[name], value)
            else:
                rest.setdefault(name, {})[kind] = value
    return tensors, rest


def read_into(folder: Path, model: nn.Module, rest: State, *, with_optimizer: bool) -> tuple[State, dict[int, State]]:
    """Read a folder of shards, spread as ``model`` is.

    Returns:
        The model's state, and what the optimizer keeps of this process' part of each trained parameter.

    Raises:
        UserError: if the shards are of another model.
    """
    from mmt.distributed.shard_files import names_and_shapes, read_shards

    saved = names_and_shapes(folder)
    parameters = dict(model.named_parameters())
    first = first_names(model)
    into: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if first.get(name, name) == name:
            shape = saved.get(f"model.{name}", (None,))[0]
            if shape != tuple(tensor.shape):
                found = "does not have it" if shape is None else f"has {shape}"
                raise UserError(
                    f"{folder} does not fit the model: {name} is {tuple(tensor.shape)}, but the checkpoint {found}"
                )
            into[f"model.{name}"] = torch.empty_like(tensor)
    numbers = {name: number for number, name in enumerate(trained_names(model))}
    optimizer: dict[int, State] = {numbers[name]: dict(values) for name, values in rest.items() if name in numbers}
    for key, (shape, dtype) in saved.items() if with_optimizer else ():
        kind, _, name = key.partition(".")
        name, _, what = name.rpartition(".")
        if kind == "optimizer" and name in numbers:
            parameter = parameters[name]
            is_spread = shape == tuple(parameter.shape)
            into[key] = torch.empty_like(parameter, dtype=dtype) if is_spread else torch.empty(shape, dtype=dtype)
            optimizer.setdefault(numbers[name], {})[what] = into[key]
    read_shards(folder, into)
    state = {name: into[f"model.{first.get(name, name)}"] for name in model.state_dict()}
    local = {n: {k: own_part(v) for k, v in s.items()} for n, s in optimizer.items()}
    return state, local


def spread(
    model: nn.Module, whole: Mapping[str, Tensor], optimizer: Mapping[int, Mapping[str, Any]]
) -> tuple[State, dict[int, State]]:
    """Return this process' parts of the whole tensors of an ordinary checkpoint, as ``read_into`` does."""
    state: State = {}
    own = model.state_dict()
    for name, tensor in whole.items():
        target = own.get(name)
        if target is not None and is_shared_out(target) and target.shape == tensor.shape:
            tensor = like(target, cut_out(tensor, target).to(target.device))
        state[name] = tensor  # of another shape, it is refused when it is loaded
    parameters = dict(model.named_parameters())
    parts: dict[int, State] = {}
    for number, name in enumerate(trained_names(model)):
        for kind, value in optimizer.get(number, {}).items():
            is_spread = isinstance(value, Tensor) and value.shape == parameters[name].shape
            parts.setdefault(number, {})[kind] = cut_out(value, parameters[name]) if is_spread else value
    return state, parts


def read_whole(folder: Path, aliases: Mapping[str, str], kinds: Iterable[str] = ("model",)) -> dict[str, Tensor]:
    """Read the whole tensors of a folder of shards, without any model.

    Args:
        folder: the shards.
        aliases: first name by every name of a parameter.
        kinds: "model" and "optimizer".
    """
    from mmt.distributed.shard_files import names_and_shapes, read_shards

    chosen = {
        key: torch.empty(shape, dtype=dtype)
        for key, (shape, dtype) in names_and_shapes(folder).items()
        if key.partition(".")[0] in kinds
    }
    read_shards(folder, chosen)
    for name, first in aliases.items():
        if f"model.{first}" in chosen:
            chosen[f"model.{name}"] = chosen[f"model.{first}"]
    return chosen
