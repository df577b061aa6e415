"""From a checkpoint's path to a model and its task, ready to translate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from omegaconf import DictConfig

from mmt.errors import UserError, what_does_not_fit
from mmt.fairseq_options import switched_off
from mmt.tasks.vocabulary_files import DICTIONARY, DIRECTIONS, FILES, LANGUAGES, holds_vocabulary

TASK = "multilingual_moe_translation"
# In a run's folder, the first that exists is used.
CHECKPOINT_NAMES = ("checkpoint_best.pt", "checkpoint_last.pt")
# Options of the task that name files, and the file of a data folder that stands for each.
_DATA_FILES = {
    "lang_dict": LANGUAGES,
    "fixed_dictionary": DICTIONARY,
    "source_dict": DICTIONARY,
    "target_dict": DICTIONARY,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, with what fairseq needs to use it.

    Attributes:
        data: the data folder that it was trained with, or that the user has named; need not be there.
        vocabulary: the folder of its dictionary, SentencePiece model and languages.
    """

    model: Any
    task: Any
    config: Any
    path: Path
    data: Path
    vocabulary: Path


def find_checkpoint(path: str | Path, option: str = "--model") -> Path:
    """Return the checkpoint file that ``path`` means: a file, or a run's folder with a best or a last checkpoint.

    Args:
        path: what the user has typed.
        option: where.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in CHECKPOINT_NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{option} {path}: the folder holds neither {' nor '.join(CHECKPOINT_NAMES)}")
    if not path.is_file():
        raise UserError(f"{option} {path}: no such file or folder")
    if path.suffix == ".safetensors":
        raise UserError(f"{option} {path}: .safetensors is for other programs; mmt and fairseq read .pt")
    return path


def load_model(path: str | Path, *, data: str | Path | None = None, device: str = "cpu") -> LoadedModel:
    """Load a checkpoint of ``--task multilingual_moe_translation``.

    Args:
        path: a checkpoint or a run's folder.
        data: folder with dict.txt, spm.model and lang_list.txt; default: the checkpoint's own, where a run keeps
            them, or else the data folder that the model was trained with.
        device: "cpu" or "cuda".

    Raises:
        UserError: names the option and the file if the checkpoint cannot be used, or does not fit the data folder.
    """
    checkpoint = find_checkpoint(path)
    _check_device(device)
    # Reads with weights_only=True, see mmt.fairseq_checkpoints.
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    task_config = _task_config(state, checkpoint)
    folder = Path(data) if data is not None else Path(str(task_config.data).split(":")[0])
    vocabulary = _use_vocabulary(task_config, None if data is None else Path(data), checkpoint)
    if getattr(task_config, "lang_pairs", None) is None and not (vocabulary / DIRECTIONS).is_file():
        task_config.lang_pairs = ",".join(state.get("task_state", {}).get("lang_pairs", [])) or None
    try:
        models, config, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    except UserError as error:
        raise UserError(f"--model {checkpoint}, data folder {vocabulary}: {error}") from error
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        # fairseq checks nothing: a checkpoint with missing weights or settings surfaces in many ways.
        reason = what_does_not_fit(error)[:300] or type(error).__name__
        raise UserError(f"--model {checkpoint}: its weights do not fit its settings ({reason})") from error
    model = models[0]
    model.to(device).eval()
    with switched_off(config.common, "bf16"):  # in which it was trained
        model.prepare_for_inference_(config)
    return LoadedModel(model, task, config, checkpoint, folder, vocabulary)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, but is {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine, or this build of torch, has no CUDA device")


def _task_config(state: dict[str, Any], checkpoint: Path) -> Any:
    """Return the task's options inside a checkpoint's state, after a check that the task is ours."""
    config = state.get("cfg")
    task_config = config.get("task") if config is not None else state.get("args")
    if isinstance(config, DictConfig) and task_config is None:
        raise UserError(f"--model {checkpoint}: there are no task settings in it")
    name = getattr(task_config, "_name", None) or getattr(task_config, "task", None)
    if name != TASK:
        raise UserError(
            f"--model {checkpoint}: it was trained with --task {name}, but only models of --task {TASK} can be used"
        )
    return task_config


def _use_vocabulary(task_config: Any, data: Path | None, checkpoint: Path) -> Path:
    """Point the task's options to the files that go with the model, wherever they are; return their folder."""
    if data is None:
        if not holds_vocabulary(checkpoint.parent):
            folder = Path(str(task_config.data).split(":")[0])
            if not folder.is_dir():
                raise UserError(
                    f"--model {checkpoint} was trained with the data folder {folder}, which is not here; "
                    f"put its {', '.join(FILES)} beside the checkpoint, or give its place with --data"
                )
            return folder
        data = checkpoint.parent
    if not data.is_dir():
        raise UserError(f"--data {data}: no such folder")
    if not any(data.glob("dict*.txt")):
        raise UserError(
            f"--data {data}: there is no dictionary (dict.txt) in it; "
            "it must be the folder that the model was trained with"
        )
    task_config.data = str(data)
    task_config.sampling_weights_from_file = None  # of training only
    for option, name in _DATA_FILES.items():
        if getattr(task_config, option, None) is not None:
            setattr(task_config, option, str(data / name))
    pairs = getattr(task_config, "lang_pairs", None)
    # Directions that were listed one by one stay; those from a file come from the new folder's file.
    if isinstance(pairs, str) and ("/" in pairs or pairs.endswith(".txt")) and (data / DIRECTIONS).is_file():
        task_config.lang_pairs = str(data / DIRECTIONS)
    return data
