"""Every place where mmt changes, or works around, fairseq 0.12.3: one small function each, with its reason.

``apply()`` runs once, when the plugin is imported, and calling it again changes nothing. Each function wraps or
replaces one attribute of a fairseq module; those for checkpoints are in `fairseq_checkpoints.py`. For each of them
`tests/test_fairseq_compat.py`, or `test_fairseq_checkpoints.py`, holds a test that fails as soon as fairseq no longer
needs it. (That Python shows tracebacks, which `one_line_errors.py` changes, is not fairseq's doing.)
"""

import ast
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, options
from fairseq import utils as fairseq_utils
from fairseq.data import data_utils, iterators
from fairseq.data.multilingual.sampled_multi_epoch_dataset import SampledMultiEpochDataset
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.modules import checkpoint_activations
from fairseq.optim import AMPOptimizer

from mmt.distributed import rendezvous
from mmt.errors import UserError
from mmt.fairseq_checkpoints import (
    begin_elsewhere_once,
    copy_at_once,
    load_checkpoint_with_clear_errors,
    register_safe_globals,
    save_once_and_sync,
    save_or_say_why,
    save_with_all_processes,
    try_to_write_or_say_why,
)
from mmt.fairseq_options import TWO_PRECISIONS, refuse_dead_flags
from mmt.one_line_errors import install_one_line_errors


def apply() -> None:
    """Apply every workaround once."""
    register_safe_globals()
    install_one_line_errors()
    _wrap(fairseq_utils, "import_user_module", _import_other_user_modules)
    fairseq_utils.eval = _literal  # what fairseq.utils calls is looked up in the module first, then among the builtins
    _wrap(checkpoint_activations, "_checkpointed_forward", _checkpointed_with_autocast)
    _wrap(options, "parse_args_and_arch", _parse_args_without_traps)
    _wrap(checkpoint_utils, "verify_checkpoint_directory", try_to_write_or_say_why)
    _wrap(checkpoint_utils, "load_checkpoint", begin_elsewhere_once)
    _wrap(checkpoint_utils, "load_checkpoint_to_cpu", load_checkpoint_with_clear_errors)
    _wrap(checkpoint_utils, "torch_persistent_save", save_or_say_why)
    _wrap(checkpoint_utils, "_torch_persistent_save", save_once_and_sync)
    _wrap(iterators.EpochBatchIterator, "load_state_dict", _find_place_or_say_why)
    _wrap(AMPOptimizer, "step", _step_without_unscaling_again)
    _wrap(PathManager, "copy", copy_at_once)
    _wrap(checkpoint_utils, "save_checkpoint", save_with_all_processes)
    for bar in (progress_bar.BaseProgressBar, progress_bar.JsonProgressBar):
        _wrap(bar, "_format_stats", _format_without_sums)
    _wrap(data_utils, "batch_by_size", _batch_by_size_without_loss)
    _wrap(SampledMultiEpochDataset, "_next_virtual_epoch", _next_virtual_epoch_as_if_never_stopped)
    if "fairseq_cli.interactive" in sys.modules:  # it is the command that runs
        _wrap(sys.modules["fairseq_cli.interactive"], "buffered_read", _read_utf8)
    _wrap(distributed_utils, "infer_init_method", _infer_torchrun_before_counting_devices)
    _wrap(distributed_utils, "_infer_torch_distributed_launch_init", _infer_torchrun_on_any_device)


def _wrap(module: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace ``module.name`` by ``wrapper`` with the original function as its first argument, once."""
    original = getattr(module, name)
    if not hasattr(original, "wrapped_by_mmt"):

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        replacement.wrapped_by_mmt = True  # type: ignore[attr-defined]
        setattr(module, name, replacement)


def _import_other_user_modules(original: Callable[..., None], args: Any) -> None:
    """Import the module that ``--user-dir`` names, unless it is this one, by whatever path.

    Of a module that was imported already fairseq wants the very path that it was imported by.
    """
    given = getattr(args, "user_dir", None)
    here = Path(__file__).resolve().parent
    if given is not None and (str(given) == here.name or Path(given).resolve() == here):
        return
    original(args)


def _literal(text: Any) -> Any:
    """Stand for ``eval`` in fairseq.utils, which reads lists, dictionaries and booleans among the settings that way:
    the settings inside a checkpoint must not be able to run code.
    """
    if not isinstance(text, str):
        raise TypeError(f"a literal is written as text, but this is {text!r}")  # as eval does; fairseq expects it
    return ast.literal_eval(text)


def _read_utf8(original: Callable[..., Any], name: str, *args: Any) -> Iterator[Any]:
    """Read the lines to translate; name the input if it is not text."""
    try:
        yield from original(name, *args)
    except UnicodeDecodeError as error:
        raise UserError(f"--input {name}: not valid UTF-8 ({error.reason})") from error


def _find_place_or_say_why(original: Callable[..., None], iterator: Any, state: dict[str, Any]) -> None:
    """Name the options when an epoch is shorter than what a training has seen of it."""
    try:
        original(iterator, state)
    except RuntimeError as error:
        if "dataloader mismatch" not in str(error):
            raise
        raise UserError(
            f"the training stopped after {state['iterations_in_epoch']} batches of epoch {state['epoch']}, which has "
            f"{len(iterator)} now: --max-tokens, --batch-size or the data are not the same; take the old ones, or "
            "begin the data anew with --reset-dataloader"
        ) from error


def _step_without_unscaling_again(original: Callable[..., None], optimizer: AMPOptimizer) -> None:
    """Divide the gradient by the loss scale once (``--amp``).

    fairseq does it when it clips the gradient, and hands torch's scaler another object to make the step with, of which
    that one does not know that it has been done.
    """
    optimizer.scaler.step(optimizer.optimizer)
    optimizer.scaler.update()


def _format_without_sums(
    original: Callable[..., Any], bar: Any, stats: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Show no value whose name begins with an underscore: fairseq keeps them out of sight everywhere but in
    ``fairseq-validate``, where they are vectors and tables.
    """
    shown = {name: value for name, value in stats.items() if not name.startswith("_")}
    return original(bar, shown, *args, **kwargs)


def _batch_by_size_without_loss(
    original: Callable[..., list[Any]],
    indices: Any,
    num_tokens_fn: Callable[[int], int],
    num_tokens_vec: Any = None,
    max_tokens: int | None = None,
    *args: Any,
    fixed_shapes: Any = None,
    **kwargs: Any,
) -> list[Any]:
    """Keep the last batch, the longest sentences, which fairseq throws away unless its size is a multiple of
    ``--required-batch-size-multiple``; name the option if a sentence is longer than any batch.
    """
    indices = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
    if len(indices) == 0:  # where fairseq looks for the last of no batches
        return []
    sizes = (num_tokens_fn, num_tokens_vec, max_tokens, *args)
    if fixed_shapes is not None:
        return original(indices, *sizes, fixed_shapes=fixed_shapes, **kwargs)
    try:
        batches = original(indices, *sizes, **kwargs)
    except AssertionError as error:
        longest = max(map(num_tokens_fn, indices))
        raise UserError(
            f"--max-tokens {max_tokens} (in a validation --max-tokens-valid) is less than the {longest} tokens of a "
            "sentence: enlarge it, or leave such sentences out with --max-source-positions, --max-target-positions and "
            "--skip-invalid-size-inputs-valid-test"
        ) from error
    lost = indices[sum(len(batch) for batch in batches) :]
    return [*batches, lost] if len(lost) > 0 else batches


def _next_virtual_epoch_as_if_never_stopped(original: Callable[..., None], dataset: Any, epoch: int) -> None:
    """Go through the data in the same order, whether or not the training has stopped (``--virtual-epoch-size``).

    fairseq draws the order of a pass in the first virtual epoch that it sees of it, with that epoch's number as seed.
    """
    first_of_pass = epoch - (epoch - 1) % dataset.num_virtual_epochs
    if dataset._random_global_indices is None and first_of_pass < epoch:
        original(dataset, first_of_pass)
    original(dataset, epoch)


def _checkpointed_with_autocast(
    original: Callable[..., Any], forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Compute a layer's activations the second time in the type of the first (``--checkpoint-activations``)."""
    device = "cuda" if torch.is_autocast_enabled("cuda") else "cpu"
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            return forward(*args, **kwargs)

    return original(run, *args, **kwargs)


def _parse_args_without_traps(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Undo ``args.tpu = True``, which fairseq sets for every ``--bf16`` run, keep ``--cpu`` away from NCCL, do what
    ``--save-async`` asks for ourselves, and refuse flags whose engine is dead.
    """
    asked_for_tpu = "--tpu" in (kwargs.get("input_args") or sys.argv)
    try:
        parsed = original(*args, **kwargs)
    except ValueError as error:
        if "Cannot combine --fp16 and --tpu" in str(error) and not asked_for_tpu:
            raise UserError(TWO_PRECISIONS) from error
        raise
    namespace = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(namespace, "bf16", False) and not asked_for_tpu:
        namespace.tpu = False
    if getattr(namespace, "cpu", False):
        # For several processes on a machine that has GPUs.
        namespace.distributed_backend, namespace.ddp_backend = "gloo", "legacy_ddp"
    if getattr(namespace, "write_checkpoints_asynchronously", False):
        # fairseq gives up without iopath and, with it, writes no checkpoint_last.pt.
        namespace.write_checkpoints_asynchronously, namespace.save_in_background = False, True
    refuse_dead_flags(namespace)
    return parsed


def _infer_torchrun_before_counting_devices(original: Callable[..., Any], cfg: Any, *args: Any, **kwargs: Any) -> None:
    """Believe ``torchrun`` about the number of processes.

    fairseq asks for the number of CUDA devices first, and where that is 0 or 1 every process trains a model of its own,
    all into the same folder.
    """
    launched = all(key in os.environ for key in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"))
    if launched and int(os.environ["WORLD_SIZE"]) > 1 and cfg.distributed_init_method is None and not cfg.tpu:
        distributed_utils._infer_torch_distributed_launch_init(cfg)
        if rendezvous.keeps_its_store():
            cfg.distributed_init_method = rendezvous.METHOD
    else:
        original(cfg, *args, **kwargs)


def _infer_torchrun_on_any_device(original: Callable[..., Any], cfg: Any) -> None:
    """Start under ``torchrun`` on machines without CUDA too, where fairseq divides by ``cuda.device_count() == 0``."""
    if torch.cuda.is_available():
        original(cfg)
        # fairseq assumes that neighbouring ranks share a node.
        cfg.device_id = int(os.environ.get("LOCAL_RANK", cfg.device_id)) % torch.cuda.device_count()
        return
    cfg.distributed_init_method = "env://"
    cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
    cfg.distributed_rank = int(os.environ["RANK"])
    cfg.device_id = 0
    cfg.distributed_no_spawn = True
    cfg.distributed_backend = "gloo"
    # fairseq passes device_ids to torch's DDP, which torch refuses for modules on the CPU.
    cfg.ddp_backend = "legacy_ddp"
