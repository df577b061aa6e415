"""Checkpoints of a training on several processes: a small ``checkpoint_*.pt`` beside a folder of shards.

The ``.pt`` has fairseq's fields, but in place of tensors the name of the folder; several of them (best, last, epoch)
may share one. It is written when the shards are complete, so whenever the training is killed, every ``.pt`` is usable.
"""

import contextlib
import contextvars
import glob
import logging
import pickle
import secrets
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mmt.distributed.shards import PARTIAL, PREFIX, check, remove_unused
from mmt.distributed.training_state import read_whole
from mmt.errors import CheckpointDamaged, UserError

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
FOLDER = "shards"
ALIASES = "aliases"
OPTIMIZER_REST = "optimizer_rest"

State = dict[str, Any]


class OfAnotherProcess(UserError):
    """What went wrong on the process that saves, as the others learn of it."""

    exit_code = 1


class SaveTogether:
    """Lets process 0 save as fairseq does, which decides on names and removes old checkpoints, while the others stand
    by to write their shards.

    Args:
        write: writes this process' shards into a folder; called by all processes together.
    """

    def __init__(self, write: Callable[[Path], None]) -> None:
        self._write = write
        self.is_saving = False

    def run(self, save: Callable[[], Any]) -> Any:
        """Call ``save`` on process 0; on the others wait until it has returned.

        Raises:
            UserError: on all processes, if saving failed on one.
        """
        if dist.get_rank() > 0:
            return self._stand_by()
        self.is_saving = True
        try:
            result = save()
        except Exception as error:
            if not getattr(error, "is_known_to_all", False):
                _broadcast(("failed", str(error)))
            raise
        finally:
            self.is_saving = False
        _broadcast(("done", ""))
        return result

    def _stand_by(self) -> None:
        while True:
            order, text = _broadcast(None)
            if order == "done":
                return
            if order == "failed":
                raise OfAnotherProcess(f"process 0 could not save a checkpoint: {text}")
            self._write(Path(text))

    def new_folder(self, beside: Path, num_updates: int) -> Path:
        """Write the shards of all processes into a new folder beside a checkpoint.

        Called on process 0, within ``run``.
        """
        if not self.is_saving:
            raise UserError(f"{beside}: a checkpoint of several processes can be saved by all of them only")
        # Never a folder that an older checkpoint may refer to.
        folder = beside.parent / f"{PREFIX}{num_updates}_{secrets.token_hex(4)}"
        _broadcast(("write", str(folder)))
        self._write(folder)
        return folder


def _broadcast(order: tuple[str, str] | None) -> tuple[str, str]:
    """Send ``order`` from process 0 to all; return it on every process."""
    box = [order]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def _head(path: Path) -> State:
    """Return what is in a checkpoint, but for the numbers in its tensors."""
    is_zip = zipfile.is_zipfile(path)  # not before torch 1.6
    return torch.load(path, map_location="meta", weights_only=True, mmap=is_zip)


def why_unreadable(path: Path, error: Exception) -> str:
    """Return in a few words why a checkpoint could not be read."""
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower() and "GLOBAL" in str(error):
        return "it holds objects other than weights and settings, which could run code, so it is refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (pickle.UnpicklingError, RuntimeError, EOFError, OSError)):
        return "it is truncated or not a checkpoint"
    return "it is not a fairseq checkpoint"  # torch could read it, but fairseq misses its fields


def identity(path: Path) -> str | None:
    """Return what tells a checkpoint from others in words, None if there is none of that name.

    Raises:
        CheckpointDamaged: if it, or its folder of shards, cannot be read.
    """
    if not path.exists():
        return None
    try:
        head = _head(path)
        history = head.get("optimizer_history")
        updates = history[-1]["num_updates"] if history else "no"
        folder = shards_of(path, head)
    except CheckpointDamaged:
        raise
    except Exception as error:
        raise CheckpointDamaged(f"checkpoint {path} cannot be read: {why_unreadable(path, error)}") from error
    return f"one of {updates} updates, {path.stat().st_size} bytes{f', with {folder.name}' if folder else ''}"


def suffixed(name: str, suffix: str) -> str:
    """Return the name of a checkpoint with ``--checkpoint-suffix``, put together as fairseq does."""
    return name.replace(".pt", f"{suffix}.pt")


def beginning(save_dir: Path, suffix: str = "") -> State:
    """Return how the training that wrote the newest readable checkpoint began, as ``MoETrainer`` recorded it; empty if
    nobody did.
    """
    for path in [save_dir / suffixed(LAST, suffix), *newest_first(save_dir, suffix, also_without_optimizer=True)]:
        with contextlib.suppress(Exception):  # there is none, or it is damaged
            return dict(_head(path)["extra_state"].get("beginning", {}))
    return {}


def newest_first(save_dir: Path, suffix: str = "", *, also_without_optimizer: bool = False) -> list[Path]:
    """List the checkpoints in a folder that a training can go on from, those with the most updates first.

    Args:
        save_dir: the folder.
        suffix: of the training (``--checkpoint-suffix``); checkpoints without it are not listed.
        also_without_optimizer: also those that a training has written, but cannot go on from as if it had not stopped
            (``--no-save-optimizer-state``).
    """
    updates = {}
    for path in save_dir.glob(f"checkpoint*{glob.escape(suffix)}.pt"):
        with contextlib.suppress(Exception):  # damaged
            head = _head(path)
            # A crash.pt has no place in the data, and a published model None in place of an optimizer state.
            optimizer = head.get("last_optimizer_state", {} if also_without_optimizer else None)
            if "train_iterator" in head["extra_state"] and optimizer is not None:
                updates[path] = head["optimizer_history"][-1]["num_updates"]
    return sorted(updates, key=lambda path: (-updates[path], path.name))


def remove_unused_shards(save_dir: Path) -> None:
    """Remove the folders of shards that no checkpoint refers to any more, and what a killed save left.

    Where a checkpoint cannot be read, nobody knows which it refers to, and all whole folders stay.
    """
    if not any(save_dir.glob(f"{PREFIX}*")):
        return
    used: set[str | None] = set()
    for path in filter(Path.exists, save_dir.glob("*.pt")):  # not what a link that leads nowhere names
        try:
            used.add(_head(path).get(FOLDER))
        except Exception as error:
            logger.warning("no old shards are removed, since %s cannot be read: %s", path, why_unreadable(path, error))
            used |= {folder.name for folder in save_dir.glob(f"{PREFIX}*") if folder.suffix != PARTIAL}
    remove_unused(save_dir, used)


Reader = Callable[[Path, State], State]
_reader: contextvars.ContextVar[Reader | None] = contextvars.ContextVar("reader", default=None)


@contextlib.contextmanager
def reading_with(reader: Reader) -> Iterator[None]:
    """Let ``reader`` fill in the tensors of every checkpoint that is loaded meanwhile."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def fill_in(path: Path, state: State) -> State:
    """Return the state of a checkpoint with its tensors, whichever of the two forms it has.

    Unless ``reading_with`` says otherwise these are the whole tensors of the model, for use on one process.
    """
    reader = _reader.get()
    if reader is not None:
        return reader(path, state)
    return read_model(path, state)


def shards_of(path: Path, state: State) -> Path | None:
    """Return the folder of shards that a checkpoint refers to; None if it holds its tensors itself.

    Raises:
        CheckpointDamaged: if the folder is not there.
    """
    name = state.get(FOLDER)
    if name is None:
        return None
    folder = path.parent / name
    if not folder.is_dir():
        raise CheckpointDamaged(f"checkpoint {path}: its folder {name} is not beside it")
    return folder


def read_model(path: Path, state: State) -> State:
    """Fill in the whole tensors of the model."""
    folder = shards_of(path, state)
    if folder is None:
        return state
    check(folder)
    state["model"] = _of_model(read_whole(folder, state[ALIASES]))
    return state


def _of_model(tensors: State) -> State:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def read_training(path: Path, state: State, names: list[str]) -> State:
    """Fill in the whole tensors of model and optimizer.

    Args:
        path: the checkpoint.
        state: what is in it.
        names: of the trained parameters, in the order of the optimizer.
    """
    folder = shards_of(path, state)
    if folder is None:
        return state
    check(folder)
    tensors = read_whole(folder, state[ALIASES], kinds=("model", "optimizer"))
    state["model"] = _of_model(tensors)
    numbers = {name: number for number, name in enumerate(names)}
    by_number: dict[int, State] = {}
    for name, values in state[OPTIMIZER_REST].items():
        if name in numbers:  # that the model is another one is said when its weights are loaded
            by_number.setdefault(numbers[name], {}).update(values)
    for key, tensor in tensors.items():
        name, _, kind = key.removeprefix("optimizer.").rpartition(".")
        if key.startswith("optimizer.") and name in numbers:
            by_number.setdefault(numbers[name], {})[kind] = tensor
    if state.get("last_optimizer_state") is not None:
        state["last_optimizer_state"]["state"] = by_number
    return state
