"""One file out of a checkpoint with shards, to copy, to publish or to translate with."""

import json
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmt.distributed.checkpoint import ALIASES, FOLDER, OPTIMIZER_REST
from mmt.errors import NotWritten, UserError
from mmt.files import check_folder, partial_path, sync_and_replace, why_not_written

FORMATS = (".pt", ".safetensors")
# What resuming needs and translating does not.
TRAINING_FIELDS = ("last_optimizer_state", FOLDER, ALIASES, OPTIMIZER_REST)


def consolidate(checkpoint: Path, output: Path) -> int:
    """Write the weights and settings of a checkpoint into one file; return the number of parameters.

    An ordinary checkpoint of fairseq does as well: its optimizer state is left out.

    Args:
        checkpoint: a ``.pt``, with or without a folder of shards beside it.
        output: a new ``.pt`` for fairseq, or a ``.safetensors``, whose metadata has fairseq's settings as JSON under
            "cfg", and under "aliases" the names that share a tensor.

    Raises:
        UserError: if the checkpoint cannot be read, or ``output`` exists or ends in something else.
        NotWritten: if the disk is full.
    """
    if output.suffix not in FORMATS:
        raise UserError(f"--output {output}: must end in {' or '.join(FORMATS)}")
    if output.exists():
        raise UserError(f"--output {output}: exists already")
    check_folder(f"--output {output}", output.parent)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    partial = partial_path(output)
    try:
        if output.suffix == ".pt":
            kept = {key: value for key, value in state.items() if key not in TRAINING_FIELDS}
            with partial.open("wb") as file:  # given a path, torch would not say what went wrong
                # None says that nobody can go on training from here; a run without optimizer state has no such entry.
                torch.save({**kept, "last_optimizer_state": None, "cfg": _settings(state)}, file)
        else:
            _save_safetensors(state, partial)
        sync_and_replace(partial, output)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise NotWritten(f"--output {output} could not be written: {why_not_written(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return sum(tensor.numel() for tensor in _distinct(state["model"])[0].values())


def _save_safetensors(state: dict[str, Any], path: Path) -> None:
    tensors, aliases = _distinct(state["model"])
    metadata = {"format": "mmt", "cfg": json.dumps(_settings(state)), "aliases": json.dumps(aliases)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _settings(state: dict[str, Any]) -> Any:
    """Return fairseq's settings as plain data, as fairseq saves them."""
    config = state.get("cfg") or convert_namespace_to_omegaconf(state["args"])
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True, enum_to_str=True)


def _distinct(model: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, and the first name by every other name."""
    first: dict[int, str] = {}
    tensors, aliases = {}, {}
    for name, tensor in model.items():
        # An empty tensor has no memory to tell it by.
        known = first.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if known == name:
            tensors[name] = tensor
        else:
            aliases[name] = known
    return tensors, aliases
