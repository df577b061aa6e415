"""The files in a folder of shards, as ``torch.distributed.checkpoint`` lays them out: any number of processes can read
what others wrote.

Importing this takes torch half a second, so it is left to the functions that need it.
"""

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from mmt.distributed.shards import CHECKSUMS, PARTIAL, together
from mmt.errors import CheckpointDamaged, NotWritten
from mmt.files import sha256_of_file, sync, write_text

# What DCP's .metadata is made of, beside torch's number types.
_OF_METADATA = {
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(("torch.distributed.checkpoint.metadata", name) for name in ("_MEM_FORMAT_ENCODING", *metadata.__all__)),
}


class WritingFailed(NotWritten):
    """A checkpoint could not be written; raised on all processes."""

    is_known_to_all = True


def write_shards(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Write every process' part of ``tensors``; called by all processes together.

    Args:
        folder: where to.
        tensors: by name.
        group: of all processes, for messages about it; default: torch's default group.

    Raises:
        WritingFailed: on all processes, if one of them could not write; nothing is left under the folder's name.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        writer = FileSystemWriter(partial, sync_files=True, overwrite=True)
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
        own = sorted(partial.glob(f"__{dist.get_rank()}_*"))
        checksums = together(lambda: {path.name: sha256_of_file(path) for path in own}, group=group)
        together(lambda: _finish(partial, folder, checksums) if dist.get_rank() == 0 else None, group=group)
    except (CheckpointException, OSError) as error:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise WritingFailed(f"{folder.parent}: a checkpoint could not be written: {_reason(error)}") from error


def _finish(partial: Path, folder: Path, checksums: list[dict[str, str]]) -> None:
    """Give a complete folder its name."""
    sums = {name: value for part in checksums for name, value in part.items()}
    missing = [name for name in sums if not (partial / name).is_file()]
    if missing:
        raise OSError(f"what another host has written ({missing[0]}) is not here: --save-dir must be a shared folder")
    sums[".metadata"] = sha256_of_file(partial / ".metadata")
    write_text(partial / CHECKSUMS, json.dumps(sums, indent=1))
    sync(partial)
    os.rename(partial, folder)
    sync(folder.parent)


def _reason(error: BaseException) -> str:
    """Return what went wrong on the first process where something did."""
    failures = getattr(error, "failures", None)
    return str(next(iter(failures.values()))[0] if failures else error)


class _Unpickler(pickle.Unpickler):
    """Reads metadata, and refuses what could run code."""

    def find_class(self, module: str, name: str) -> Any:
        is_number_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_number_type or (module, name) in _OF_METADATA:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Reader(FileSystemReader):
    """torch's reader, which would run whatever code the metadata holds."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                found = _Unpickler(file).load()
        except pickle.UnpicklingError as error:
            raise CheckpointDamaged(
                f"{path} holds objects other than sizes and places of tensors, which could run code, so it is refused "
                f"({error})"
            ) from error
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


def names_and_shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and type of every tensor in a folder, by name."""
    entries = _Reader(folder).read_metadata().state_dict_metadata
    return {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def read_shards(folder: Path, into: dict[str, Tensor]) -> None:
    """Read tensors, or this process' parts of them, into the memory of ``into``."""
    dcp.load(into, storage_reader=_Reader(folder), no_dist=not dist.is_initialized())
