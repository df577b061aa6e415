"""One test for each workaround, which also fails when fairseq itself no longer needs it."""

import argparse
import errno
import inspect
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Callable

import fairseq_cli.train
import fairseq_cli.validate
import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, file_io, options, trainer
from fairseq import utils as fairseq_utils
from fairseq.data import ListDataset, data_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.multilingual.sampled_multi_epoch_dataset import SampledMultiEpochDataset
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.modules import checkpoint_activations
from fairseq.optim import AMPOptimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.sgd import SGD
from fairseq_cli import interactive
from omegaconf import OmegaConf

import mmt
from mmt import fairseq_compat
from mmt.errors import NotWritten, UserError
from mmt.optim.fused_adam import FusedAdam
from mmt.trainer import MoETrainer


def test_applying_twice_changes_nothing() -> None:
    before = options.parse_args_and_arch, checkpoint_utils.load_checkpoint_to_cpu, sys.excepthook
    fairseq_compat.apply()
    assert before == (options.parse_args_and_arch, checkpoint_utils.load_checkpoint_to_cpu, sys.excepthook)


def test_the_plugin_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = argparse.Namespace(user_dir="mmt")
    fairseq_utils.import_user_module(by_name)
    # No longer needed once fairseq looks among the modules that are there.
    monkeypatch.setattr(fairseq_utils.import_user_module, "memo", set(), raising=False)
    with pytest.raises((FileNotFoundError, ImportError)):
        fairseq_utils.import_user_module.__wrapped__(by_name)


def _training_parser() -> argparse.ArgumentParser:
    """A fresh parser; fairseq looks for --user-dir in sys.argv while it makes one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fairseq-train"])
        return options.get_training_parser("translation")


def test_bf16_does_not_become_tpu() -> None:
    arguments = ["data", "--task", "translation", "--arch", "moe_transformer", "--bf16", "--cpu"]
    assert options.parse_args_and_arch(_training_parser(), input_args=arguments).tpu is False
    # No longer needed once fairseq's own function leaves --tpu alone.
    assert options.parse_args_and_arch.__wrapped__(_training_parser(), input_args=arguments).tpu is True


def test_several_processes_on_cpus_do_not_ask_for_nccl() -> None:
    arguments = ["data", "--task", "translation", "--arch", "moe_transformer", "--cpu"]
    ours = options.parse_args_and_arch(_training_parser(), input_args=arguments)
    assert (ours.distributed_backend, ours.ddp_backend) == ("gloo", "legacy_ddp")
    # No longer needed once fairseq chooses what works on CPUs.
    theirs = options.parse_args_and_arch.__wrapped__(_training_parser(), input_args=arguments)
    assert (theirs.distributed_backend, theirs.ddp_backend) == ("nccl", "pytorch_ddp")


def test_save_async_is_our_saving_in_the_background() -> None:
    arguments = ["data", "--task", "multilingual_moe_translation", "--arch", "moe_transformer", "--save-async"]
    ours = options.parse_args_and_arch(_training_parser(), input_args=arguments)
    assert (ours.write_checkpoints_asynchronously, ours.save_in_background) == (False, True)
    # No longer needed once fairseq writes asynchronously without iopath, checkpoint_last.pt included.
    theirs = options.parse_args_and_arch.__wrapped__(_training_parser(), input_args=arguments)
    assert theirs.write_checkpoints_asynchronously
    assert "iopath" in inspect.getsource(fairseq_cli.train.main)
    assert "is not copying" in inspect.getsource(checkpoint_utils.save_checkpoint.__wrapped__)


@pytest.mark.parametrize(
    "arguments, replacement",
    [
        (["--ddp-backend", "fully_sharded"], "--zero 3"),
        (["--ddp-backend", "slowmo"], "--ddp-backend legacy_ddp"),
        (["--zero-sharding", "os"], "--zero 1"),
        (["--use-sharded-state"], "--zero"),
        (["--pipeline-model-parallel"], "--tensor-parallel-size"),
    ],
)
def test_flags_of_dead_engines_are_refused_by_name(arguments: list[str], replacement: str) -> None:
    with pytest.raises(UserError, match=rf"^{' '.join(arguments)} needs fairscale, .* Use {replacement}.* instead$"):
        options.parse_args_and_arch(
            _training_parser(), input_args=["data", "--task", "translation", "--arch", "moe_transformer", *arguments]
        )


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


def test_settings_that_try_to_run_code_are_refused_and_run_none(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"__import__('os').mkdir({str(marker)!r})"
    for read in (fairseq_utils.eval_str_list, fairseq_utils.eval_str_dict, fairseq_utils.eval_bool):
        with pytest.raises((ValueError, SyntaxError)):
            read(code)
    assert not marker.exists()
    assert fairseq_utils.eval_str_list("[0.5, 1]") == [0.5, 1.0]
    assert fairseq_utils.eval_str_list("3", type=int) == [3]
    assert fairseq_utils.eval_str_dict("{'a': 1}") == {"a": 1}
    assert [fairseq_utils.eval_bool(value) for value in ("True", "False", None)] == [True, False, False]
    # No longer needed once fairseq parses literals.
    assert "eval(x)" in inspect.getsource(fairseq_utils.eval_str_list)


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


def test_an_epoch_shorter_than_what_was_seen_of_it_is_told_with_the_options() -> None:
    iterator = EpochBatchIterator(ListDataset([0, 1]), collate_fn=list, batch_sampler=[[0], [1]])
    place = {"version": 2, "epoch": 1, "iterations_in_epoch": 3}
    message = "^the training stopped after 3 batches of epoch 1, which has 2 now: --max-tokens, --batch-size or "
    with pytest.raises(UserError, match=message):
        iterator.load_state_dict(place)
    # No longer needed once fairseq names the options.
    with pytest.raises(RuntimeError, match="dataloader mismatch"):
        EpochBatchIterator.load_state_dict.__wrapped__(iterator, place)


def _amp_optimizer(kind: str, weight: torch.nn.Parameter) -> AMPOptimizer:
    """An optimizer with a learning rate of 1 and a loss scale of 4, on the CPU."""
    if kind == "sgd":
        wrapped = SGD(SimpleNamespace(lr=[1.0], momentum=0.0, weight_decay=0.0), [weight])
    else:
        wrapped = FusedAdam(FairseqAdamConfig(lr=[1.0], adam_eps=1.0), [weight])
    common = SimpleNamespace(fp16_init_scale=4.0, min_loss_scale=0.0)
    optimizer = AMPOptimizer(SimpleNamespace(optimizer=None, common=common), [weight], wrapped)
    optimizer._grad_scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # fairseq's does nothing without CUDA
    return optimizer


# After one update with a gradient of 1: 1 - 1, and 1 - 1 / (1 + eps), since Adam divides by the gradient's size.
@pytest.mark.parametrize(("kind", "expected"), [("sgd", 0.0), ("fused_adam", 0.5)])
def test_amp_divides_the_gradient_by_the_loss_scale_once(kind: str, expected: float) -> None:
    def updated(step: Callable[[AMPOptimizer], None]) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = _amp_optimizer(kind, weight)
        optimizer.backward(weight.sum())
        optimizer.clip_grad_norm(0.0)
        step(optimizer)
        return weight.detach()

    torch.testing.assert_close(updated(AMPOptimizer.step), torch.full((3,), expected))
    # No longer needed once fairseq gives torch's scaler the same object when it clips and when it makes the step.
    assert updated(AMPOptimizer.step.__wrapped__)[0] > expected + 0.1


@pytest.mark.parametrize("kind", ["sgd", "fused_adam"])
def test_amp_leaves_out_an_update_whose_gradient_is_not_finite_and_lowers_the_loss_scale(kind: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = _amp_optimizer(kind, weight)
    optimizer.backward(weight.sum())
    assert weight.grad is not None
    weight.grad[0] = torch.inf
    optimizer.clip_grad_norm(1.0)
    optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 1.0]
    assert optimizer.scaler.get_scale() == 2.0


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


def test_lines_to_translate_that_are_no_text_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"caf\xe9\n")
    monkeypatch.setattr(interactive, "buffered_read", inspect.unwrap(interactive.buffered_read))
    # No longer needed once fairseq names the input.
    with pytest.raises(UnicodeDecodeError):
        list(interactive.buffered_read(str(path), 1))
    fairseq_compat.apply()  # as in fairseq-interactive, which has been imported by then
    with pytest.raises(UserError, match=f"^--input {path}: not valid UTF-8"):
        list(interactive.buffered_read(str(path), 1))


def test_a_layer_is_computed_again_in_the_type_of_the_first_time() -> None:
    layer, types = torch.nn.Linear(4, 4), []

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = layer(x)
        types.append(y.dtype)
        return y

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = checkpoint_activations._checkpointed_forward(forward, False, torch.ones(2, 4, requires_grad=True))
    output.float().sum().backward()
    assert types == [torch.bfloat16, torch.bfloat16]
    # No longer needed once fairseq's backward pass autocasts as its forward pass did.
    assert "autocast" not in inspect.getsource(checkpoint_activations.CheckpointFunction)


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


@pytest.mark.parametrize("kind", [progress_bar.SimpleProgressBar, progress_bar.JsonProgressBar])
def test_progress_bars_show_no_sums(kind: type) -> None:
    bar = kind([])
    assert set(bar._format_stats({"loss": 1.5, "_score_sums": torch.ones(2, 3)})) == {"loss"}
    # No longer needed once fairseq-validate logs meters, as fairseq-train does, in place of the criterion's output.
    assert "progress.log(log_output" in inspect.getsource(fairseq_cli.validate)


def test_batching_loses_no_sentence() -> None:
    options = {"num_tokens_fn": lambda index: 1, "max_tokens": 8, "required_batch_size_multiple": 8}
    batches = data_utils.batch_by_size(np.arange(20), **options)
    assert [batch.tolist() for batch in batches] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert [batch.tolist() for batch in data_utils.batch_by_size(range(3), **options)] == [[0, 1, 2]]
    # No longer needed once fairseq keeps the last four itself.
    assert sum(map(len, data_utils.batch_by_size.__wrapped__(np.arange(20), **options))) == 16


def test_no_sentences_are_no_batches() -> None:
    options = {"num_tokens_fn": lambda index: 1, "max_tokens": 8, "required_batch_size_multiple": 8}
    assert data_utils.batch_by_size([], **options) == []
    # No longer needed once fairseq does not look for the last of no batches.
    with pytest.raises((IndexError, ValueError)):
        data_utils.batch_by_size.__wrapped__([], **options)


def test_a_sentence_that_is_longer_than_any_batch_is_told_with_the_option() -> None:
    options = {"num_tokens_fn": lambda index: 3 * index, "max_tokens": 8, "required_batch_size_multiple": 8}
    assert sum(map(len, data_utils.batch_by_size(np.arange(3), **options))) == 3
    with pytest.raises(UserError, match=r"^--max-tokens 8 \(in a validation --max-tokens-valid\) is less than the 9 "):
        data_utils.batch_by_size(np.arange(4), **options)
    # No longer needed once fairseq names the option.
    with pytest.raises(AssertionError, match="Sentences lengths should not exceed max_tokens=8"):
        data_utils.batch_by_size.__wrapped__(np.arange(4), **options)


def test_a_pass_in_virtual_epochs_has_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def dataset(epoch: int) -> SampledMultiEpochDataset:
        sentences = OrderedDict({"main:en-de": ListDataset(list(range(100)), np.ones(100))})
        return SampledMultiEpochDataset(sentences, epoch=epoch, virtual_epoch_size=10, seed=1)

    def order(dataset: SampledMultiEpochDataset) -> list[int]:
        return dataset._random_global_indices.tolist()

    never_stopped = dataset(11)
    never_stopped.set_epoch(12)
    assert order(dataset(12)) == order(never_stopped) != order(dataset(1))
    # No longer needed once fairseq's own function gives a pass one order, wherever it is gone on with.
    original = SampledMultiEpochDataset._next_virtual_epoch.__wrapped__
    monkeypatch.setattr(SampledMultiEpochDataset, "_next_virtual_epoch", original)
    assert order(dataset(12)) != order(never_stopped)


def test_torchrun_starts_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    one_process = {
        "distributed_init_method": None,
        "tpu": False,
        "distributed_world_size": 1,
        "pipeline_model_parallel": False,
    }
    config = argparse.Namespace(**one_process)
    distributed_utils.infer_init_method(config)
    assert (config.distributed_rank, config.distributed_world_size, config.distributed_backend) == (1, 2, "gloo")
    # No longer needed once fairseq believes torchrun's WORLD_SIZE on machines without CUDA ...
    alone = argparse.Namespace(**one_process)
    distributed_utils.infer_init_method.__wrapped__(alone)
    assert alone.distributed_init_method is None
    # ... and stops dividing by the number of CUDA devices.
    with pytest.raises(ZeroDivisionError):
        distributed_utils._infer_torch_distributed_launch_init.__wrapped__(argparse.Namespace())


@pytest.mark.parametrize("code", ["import mmt, fairseq_cli.train as t", "import fairseq_cli.train as t, mmt"])
def test_the_training_command_uses_our_trainer_whatever_is_imported_first(code: str) -> None:
    check = f"{code}; print(t.Trainer.__name__)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "MoETrainer"


def test_the_trainer_is_installed_here_too() -> None:
    assert trainer.Trainer is MoETrainer
    assert mmt.__version__
