"""One test for each workaround, which also fails when fairseq itself no longer needs it."""

import argparse
import inspect
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import fairseq_cli.train
import fairseq_cli.validate
import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options, trainer
from fairseq import utils as fairseq_utils
from fairseq.data import ListDataset, data_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.multilingual.sampled_multi_epoch_dataset import SampledMultiEpochDataset
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from fairseq.modules import checkpoint_activations
from fairseq.optim import AMPOptimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.sgd import SGD
from fairseq_cli import interactive

import mmt
from mmt import fairseq_compat
from mmt.errors import UserError
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
