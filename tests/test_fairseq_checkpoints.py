"""One test for each change to how fairseq reads and writes checkpoints, which also fails when fairseq itself no longer
needs it.
"""

import argparse
import errno
import inspect
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Callable

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, file_io
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.file_io import PathManager
from omegaconf import OmegaConf

from mmt.errors import NotWritten, UserError


def test_checkpoints_load_without_allowing_code(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    extra_state = {"train_iterator": {"epoch": 1}, "val_loss": np.float64(2.5)}
    arguments = argparse.Namespace(arch="transformer", task="translation")
    history = [{"optimizer_name": "adam", "num_updates": 3, "lr_scheduler_state": {"best": None}}]
    torch.save(
        {"model": {"w": torch.ones(2)}, "args": arguments, "extra_state": extra_state, "optimizer_history": history},
        path,
    )
    assert checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"]["w"].tolist() == [1.0, 1.0]
    # No longer needed once fairseq passes weights_only itself (then the safe globals may still be).
    assert "weights_only" not in inspect.getsource(checkpoint_utils.load_checkpoint_to_cpu.__wrapped__)


class _RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
@pytest.mark.parametrize("forced", ["0", "1"])
def test_a_checkpoint_that_tries_to_run_code_is_refused_and_runs_none(
    save, forced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    save({"model": {}, "cfg": None, "extra_state": _RunsCode(marker)}, path)
    with pytest.raises(UserError, match=r"evil\.pt cannot be read"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not marker.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == forced


def test_truncated_empty_foreign_and_missing_checkpoints_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"model": {"w": torch.ones(1000)}, "cfg": None}, whole)
    (tmp_path / "truncated.pt").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"weights": torch.ones(2)}, tmp_path / "foreign.pt")
    (tmp_path / "folder.pt").mkdir()
    for name, reason in (
        ("truncated.pt", "truncated"),
        ("empty.pt", "empty"),
        ("foreign.pt", "not a fairseq checkpoint"),
        ("missing.pt", "does not exist"),
        ("folder.pt", "does not exist"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*{reason}"):
            checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / name))
    # No longer needed once fairseq names the file.
    with pytest.raises(Exception) as theirs:
        checkpoint_utils.load_checkpoint_to_cpu.__wrapped__(str(tmp_path / "truncated.pt"))
    assert "truncated.pt" not in str(theirs.value)


def test_a_checkpoint_that_could_not_be_written_once_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fails_at_first(state: object, file: IO[bytes]) -> None:
        written.append(state)
        file.write(b"half")
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fails_at_first)
    path = tmp_path / "checkpoint_last.pt"
    with pytest.raises(UserError, match=rf"^checkpoint {path} could not be written: No space left on device$"):
        checkpoint_utils.torch_persistent_save({"model": {}}, str(path))
    assert list(tmp_path.iterdir()) == []
    # No longer needed once fairseq removes what it has written in vain ...
    written.clear()
    with pytest.raises(OSError, match="No space left"):
        checkpoint_utils.torch_persistent_save.__wrapped__({"model": {}}, str(path))
    assert [left.name for left in tmp_path.iterdir()] == ["checkpoint_last.pt.tmp"]
    # ... and begins a second try at the beginning of the file.
    written.clear()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with (tmp_path / "unsafe.pt").open("wb") as file:
        checkpoint_utils._torch_persistent_save.__wrapped__({"model": {}}, file)
    assert (tmp_path / "unsafe.pt").read_bytes() == b"halfhalf"


def test_a_folder_that_cannot_be_written_to_is_named_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    save_dir = tmp_path / "file" / "run"
    message = f"^--save-dir {save_dir}: nothing can be written there: Not a directory$"
    with pytest.raises(NotWritten, match=message):
        checkpoint_utils.verify_checkpoint_directory(str(save_dir))
    # No longer needed once fairseq names the option.
    with pytest.raises(OSError) as theirs:
        checkpoint_utils.verify_checkpoint_directory.__wrapped__(str(save_dir))
    assert "--save-dir" not in str(theirs.value)


def test_all_processes_take_part_in_saving() -> None:
    taken_part = []
    other = SimpleNamespace(
        data_parallel_rank=1,
        consolidate_optimizer=lambda: None,
        should_save_checkpoint_on_current_rank=False,
        always_call_state_dict_during_save_checkpoint=False,
        save_with_all_processes=taken_part.append,
    )
    checkpoint_utils.save_checkpoint(CheckpointConfig(), other, None, None)
    assert len(taken_part) == 1
    # No longer needed once fairseq tells the trainers of the other processes of a save.
    assert taken_part[0]() is None


class Beginner:
    """What fairseq asks of a trainer to load a checkpoint, with the name that it asks for."""

    checkpoint_suffix = ""
    asked_for: tuple[str, bool]

    def load_checkpoint(self, filename: str, reset_optimizer: bool, *others: object, **kwargs: object) -> None:
        self.asked_for = Path(filename).name, reset_optimizer

    def get_train_iterator(self, **kwargs: object) -> SimpleNamespace:
        return SimpleNamespace(epoch=1)

    def lr_step(self, epoch: int) -> None:
        pass


def test_a_training_begins_elsewhere_once(tmp_path: Path) -> None:
    def asked_for(load: Callable[..., object], **options: object) -> tuple[str, bool]:
        section = OmegaConf.structured(CheckpointConfig(save_dir=str(tmp_path), **options))
        cfg = OmegaConf.create({"common": {"model_parallel_size": 1}, "checkpoint": section}).checkpoint
        before, beginner = dict(cfg), Beginner()
        load(cfg, beginner)
        assert dict(cfg) == before
        return beginner.asked_for

    def save(**beginning: object) -> None:
        extra = {"train_iterator": {}, "beginning": beginning}
        state = {"extra_state": extra, "last_optimizer_state": {}, "optimizer_history": [{"num_updates": 1}]}
        torch.save(state, tmp_path / "checkpoint_1_1.pt")

    (tmp_path / "other.pt").touch()
    elsewhere = {"restore_file": str(tmp_path / "other.pt"), "reset_optimizer": True}
    original = checkpoint_utils.load_checkpoint.__wrapped__
    assert asked_for(checkpoint_utils.load_checkpoint, **elsewhere) == ("other.pt", True)
    save()
    assert asked_for(checkpoint_utils.load_checkpoint, **elsewhere) == ("other.pt", True)
    save(**elsewhere)  # there is no checkpoint_last.pt: the newest one counts, and our trainer finds it
    assert asked_for(checkpoint_utils.load_checkpoint, **elsewhere) == ("checkpoint_last.pt", False)
    finetune = {"finetune_from_model": str(tmp_path / "other.pt")}
    assert asked_for(checkpoint_utils.load_checkpoint, **finetune) == ("checkpoint_last.pt", False)
    # No longer needed once fairseq itself goes on with what a run has.
    assert asked_for(original, **elsewhere) == ("other.pt", True)
    assert asked_for(original, **finetune) == ("other.pt", True)


def test_a_copied_checkpoint_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, last = tmp_path / "checkpoint_best.pt", tmp_path / "checkpoint_last.pt"
    best.write_text("new")
    last.write_text("old")
    still_open = last.open()
    assert PathManager.copy(str(best), str(last), overwrite=True)
    assert (last.read_text(), still_open.read()) == ("new", "old")

    # Without hard links, and out of space while copying.
    def no_links(*paths: str) -> None:
        raise OSError("not supported")

    def half_a_copy(source: str, destination: str) -> None:
        Path(destination).write_text("ha")
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "link", no_links)
    last.unlink()  # another name of the same file
    last.write_text("old")
    message = f"^checkpoint {last} could not be written: no space left on device$"
    with monkeypatch.context() as patch, pytest.raises(NotWritten, match=message):
        patch.setattr(file_io.shutil, "copyfile", half_a_copy)
        PathManager.copy(str(best), str(last), overwrite=True)
    assert last.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    PathManager.copy(str(best), str(last), overwrite=True)
    assert last.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_best.pt", "checkpoint_last.pt"]

    # No longer needed once fairseq leaves the old file alone until the new one is whole.
    last.write_text("old")
    inode = last.stat().st_ino
    PathManager.copy.__wrapped__(str(best), str(last), overwrite=True)
    assert last.stat().st_ino == inode
