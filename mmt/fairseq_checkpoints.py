"""How mmt changes the way in which fairseq 0.12.3 reads and writes checkpoints: one small function each, with its
reason. ``fairseq_compat.apply()`` puts them in.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from mmt.beginning import options_that_are_done
from mmt.distributed.background import do_or_put_off
from mmt.distributed.checkpoint import fill_in, why_unreadable
from mmt.distributed.shards import PARTIAL
from mmt.errors import CheckpointDamaged, NotWritten, UserError
from mmt.fairseq_options import with_options
from mmt.files import sync, sync_and_replace, why_not_written


def register_safe_globals() -> None:
    """Let ``torch.load`` read fairseq's checkpoints with ``weights_only=True``, the default since torch 2.6.

    A fairseq checkpoint holds, beside tensors, an argparse.Namespace (old checkpoints) and numpy scalars (meters).
    Nothing here can run code when it is unpickled.
    """
    scalar_constructor = np.float64(0.0).__reduce__()[0]  # numpy keeps it in a private module
    numpy_classes: list[Any] = [np.ndarray, np.dtype, scalar_constructor]
    numpy_dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)]
    torch.serialization.add_safe_globals([argparse.Namespace, *numpy_classes, *numpy_dtypes])


@contextlib.contextmanager
def _only_weights() -> Iterator[None]:
    """Let no environment variable switch off ``weights_only=True``, as guides to fairseq with torch 2.6 advise."""
    forced = os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = forced


def load_checkpoint_with_clear_errors(original: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
    """Name the file when a checkpoint is missing, truncated, foreign, or holds anything but plain data.

    fairseq lets torch's ten-line pickle messages through, some of which advise to switch the protection off.
    """
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path} does not exist")
    try:
        with _only_weights():
            state = original(path, *args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        raise CheckpointDamaged(f"checkpoint {path} cannot be read: {why_unreadable(Path(path), error)}") from error
    if "model" not in state:
        raise UserError(f"checkpoint {path} cannot be read: it is not a fairseq checkpoint (no 'model' inside)")
    return fill_in(Path(path), state)


def begin_elsewhere_once(original: Callable[..., Any], cfg: Any, trainer: Any, **kwargs: Any) -> Any:
    """Begin as the options say the first time only; later go on, whatever they say."""
    with with_options(cfg, options_that_are_done(cfg)):
        return original(cfg, trainer, **kwargs)


def try_to_write_or_say_why(original: Callable[..., None], save_dir: str) -> None:
    """Name the option when the folder for the checkpoints cannot be made, or written to."""
    try:
        original(save_dir)
    except OSError as error:
        raise NotWritten(f"--save-dir {save_dir}: nothing can be written there: {why_not_written(error)}") from error


def save_with_all_processes(original: Callable[..., Any], cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
    """Let all processes take part when a checkpoint is saved; fairseq calls only the first one's trainer."""
    return trainer.save_with_all_processes(lambda: original(cfg, trainer, *args, **kwargs))


def save_or_say_why(original: Callable[..., None], state: Any, filename: str, *args: Any, **kwargs: Any) -> None:
    """Name a checkpoint that could not be written, and leave nothing of it: fairseq leaves what it has written."""
    try:
        original(state, filename, *args, **kwargs)
    except (OSError, RuntimeError) as error:
        _remove(f"{filename}.tmp")
        raise NotWritten(f"checkpoint {filename} could not be written: {why_not_written(error)}") from error


def save_once_and_sync(original: Callable[..., None], state: Any, file: IO[bytes]) -> None:
    """Write a checkpoint once, and to the disk, before it gets its name.

    Where writing fails (a full disk), fairseq goes on in the same file behind what it has written, and a second or
    third try that succeeds gives the final name to a file that nobody can read.
    """
    torch.save(state, file)
    file.flush()
    with contextlib.suppress(OSError):  # not a file of this machine's
        os.fsync(file.fileno())


def copy_at_once(original: Callable[..., Any], src_path: str, dst_path: str, overwrite: bool = False) -> Any:
    """Let a copied checkpoint (checkpoint_last.pt, checkpoint_best.pt) have its name only when it is whole.

    fairseq writes over the old one, which is lost if the training is killed meanwhile. A link to the same file costs
    neither time nor space, and is safe, since fairseq never changes a checkpoint in its place.
    """

    partial = f"{dst_path}{PARTIAL}"

    def link() -> None:
        _remove(partial)
        try:
            os.link(src_path, partial)
        except OSError:  # a file system without links
            original(src_path, partial, overwrite=True)
        sync_and_replace(Path(partial), Path(dst_path))
        sync(Path(dst_path).parent)

    def link_or_say_why() -> None:
        try:
            link()
        except OSError as error:
            _remove(partial)
            raise NotWritten(f"checkpoint {dst_path} could not be written: {why_not_written(error)}") from error

    do_or_put_off(link_or_say_why)
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # it is not there
        os.remove(path)
