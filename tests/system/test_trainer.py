"""What the trainer adds to fairseq's, through the real command."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmt.distributed.saving_trainer import SavingTrainer
from mmt.errors import UserError
from mmt.resuming import share_data_anew
from mmt.trainer import MoETrainer
from tests.system.commands import LANGUAGE_TOKENS, PLUGIN, ROUTINGS, launcher, records, run, train, train_command
from tests.system.launched import TIMEOUT_SECONDS, wait_until
from tests.toy_data import write_toy_data

SHORT = [*ROUTINGS["token_task"], "--max-update", "3", "--disable-validation"]


def test_bf16_trains_float32_parameters(toy_data: Path, tmp_path: Path) -> None:
    exact = train(toy_data, tmp_path / "fp32", *SHORT)
    rounded = train(toy_data, tmp_path / "bf16", *SHORT, "--bf16")
    checkpoint = torch.load(tmp_path / "bf16" / "checkpoint_last.pt")
    assert {tensor.dtype for tensor in checkpoint["model"].values() if tensor.is_floating_point()} == {torch.float32}
    state = checkpoint["last_optimizer_state"]["state"]
    assert {parameter["exp_avg"].dtype for parameter in state.values()} == {torch.float32}
    losses = [[float(record["loss"]) for record in records(result, "train_inner")] for result in (exact, rounded)]
    assert losses[0] != losses[1]  # bfloat16 took part
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.gpu
def test_bf16_trains_and_translates_on_cuda(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["token_task"], "--max-update", "20", "--disable-validation", "--bf16"]
    result = run([word for word in train_command(toy_data, tmp_path, *options) if word != "--cpu"])
    assert result.returncode == 0, result.stderr[-3000:]
    losses = [float(record["loss"]) for record in records(result, "train_inner")]
    assert losses[-1] < losses[0]
    direction = [*LANGUAGE_TOKENS, "--lang-pairs", "en-aa", "--source-lang", "en", "--target-lang", "aa"]
    task = [*PLUGIN, "--task", "multilingual_moe_translation", *direction]
    translated = run(
        ["fairseq-generate", toy_data, *task, "--path", tmp_path / "checkpoint_last.pt", "--gen-subset", "valid"]
    )
    assert translated.returncode == 0, translated.stderr[-3000:]
    assert "H-0" in translated.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_gpu_gives_the_losses_of_a_cpu(routing: str, toy_data: Path, tmp_path: Path) -> None:
    command = train_command(toy_data, tmp_path, *ROUTINGS[routing], "--max-update", "5", "--disable-validation")
    losses = []
    for words in (command, [word for word in command if word != "--cpu"]):
        result = run([*words, "--no-save"])
        assert result.returncode == 0, result.stderr[-3000:]
        losses.append([float(record["loss"]) for record in records(result, "train_inner")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_experts_without_our_criterion_are_warned_of(toy_data: Path, tmp_path: Path) -> None:
    result = train(toy_data, tmp_path, *SHORT, "--criterion", "label_smoothed_cross_entropy")
    assert "--criterion label_smoothed_cross_entropy trains without a balance loss" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        (["--encoder-ffn-embed-dim", "96"], "does not fit the model that the options describe: "),
        (["--langs", "aa,en,bb"], "the languages do not fit the checkpoint: its languages are en, aa, bb, those of"),
        (["--optimizer", "adam"], "checkpoint_last.pt: Optimizer does not match; please reset the optimizer (--reset"),
        (
            ["--criterion", "label_smoothed_cross_entropy"],
            "checkpoint_last.pt: Criterion does not match; please reset the optimizer (--reset-optimizer)",
        ),
    ],
)
def test_a_training_that_goes_on_with_other_options_is_refused(
    change: list[str], message: str, toy_data: Path, tmp_path: Path
) -> None:
    train(toy_data, tmp_path, *SHORT)
    refused = run(train_command(toy_data, tmp_path, *SHORT, *change))
    assert refused.returncode == 2
    assert message in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bf16", "--fp16"], "--bf16 is one precision, and --fp16 or --amp another: choose one"),
        (["--bf16", "--amp"], "--bf16 is one precision, and --fp16 or --amp another: choose one"),
        (["--memory-efficient-bf16"], "--memory-efficient-bf16 does not work with --optimizer fused_adam: use adam"),
        (["--best-checkpoint-metric", "chrf"], "--best-checkpoint-metric chrf needs --eval-bleu"),
        (["--eval-bleu", "--best-checkpoint-metric", "bleu_aa-bb"], "aa-bb is not one of the directions en-aa, aa-en"),
        (["--maximize-best-checkpoint-metric"], "--best-checkpoint-metric loss: less is better, so --maximize-best-"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_training(
    options: list[str], message: str, toy_data: Path, tmp_path: Path
) -> None:
    refused = run(train_command(toy_data, tmp_path, *SHORT, *options))
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr.splitlines()[-1]
    assert not records(refused, "train_inner")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--restore-file", "typo.pt"], "--restore-file typo.pt: there is no such checkpoint"),
        (["--finetune-from-model", "typo.pt"], "--finetune-from-model typo.pt: there is no such checkpoint"),
        (["--best-checkpoint-metric", "losss"], "--best-checkpoint-metric losss: no validation has it (is it loss?);"),
    ],
)
def test_what_is_not_there_is_named_before_the_training(
    options: list[str], message: str, toy_data: Path, tmp_path: Path
) -> None:
    refused = run(train_command(toy_data, tmp_path, *SHORT, *options))
    assert refused.returncode == 2, refused.stderr
    assert f"mmt: error: {message}" in refused.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.pt"))


def test_that_a_batch_has_no_size_is_one_line(toy_data: Path, tmp_path: Path) -> None:
    command = train_command(toy_data, tmp_path, *SHORT)
    place = command.index("--max-tokens")
    refused = run(command[:place] + command[place + 2 :])
    assert refused.returncode == 2
    said = "mmt: error: Must specify batch size either with --max-tokens or --batch-size"
    assert refused.stderr.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (["--max-tokens-valid", "5"], "--max-tokens 5 (in a validation --max-tokens-valid) is less than the "),
        (["--max-source-positions", "2"], "train data: there is no sentence in it, or none within --max-source-"),
    ],
)
def test_sentences_that_no_batch_can_hold_are_one_line(
    limits: list[str], message: str, toy_data: Path, tmp_path: Path
) -> None:
    refused = run(train_command(toy_data, tmp_path, *ROUTINGS["dense"], *limits, "--max-update", "1"))
    assert refused.returncode == 2
    assert f"mmt: error: {message}" in refused.stderr.splitlines()[-1]


def test_a_split_to_validate_on_of_which_nothing_is_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_empty(*args: object) -> None:
        raise Exception("The dataset is empty. This could indicate that all elements in it have been skipped.")

    monkeypatch.setattr(SavingTrainer, "get_valid_iterator", is_empty, raising=False)
    with pytest.raises(UserError, match="^valid_hard data: there is no sentence in it, or none within --max-source-"):
        MoETrainer.__new__(MoETrainer).get_valid_iterator("valid_hard")


@pytest.mark.parametrize(("has_our_task", "expected"), [(True, [{}, {"id": 1}]), (False, [{"id": 1}, {}])])
def test_dummy_batches_go_first_with_our_task_and_stay_where_they_are_with_others(
    has_our_task: bool, expected: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SavingTrainer, "train_step", lambda self, samples, raise_oom: samples)
    trainer = MoETrainer.__new__(MoETrainer)
    trainer._has_our_task = has_our_task
    assert trainer.train_step([{"id": 1}, {}]) == expected


def test_a_validation_sentence_that_is_too_long_is_one_line(toy_data: Path, tmp_path: Path) -> None:
    limits = ["--max-source-positions", "5", "--max-target-positions", "5"]
    refused = run(train_command(toy_data, tmp_path, *ROUTINGS["dense"], *limits, "--max-update", "1"))
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert "mmt: error: Size of sample #" in last and "--skip-invalid-size-inputs-valid-test" in last
    assert "samples have invalid sizes and will be skipped" in refused.stdout + refused.stderr  # those to train on


def test_one_training_at_a_time_writes_to_a_folder(toy_data: Path, tmp_path: Path) -> None:
    command = train_command(toy_data, tmp_path, *ROUTINGS["dense"], "--disable-validation", "--max-update", "100000")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            wait_until((tmp_path / ".lock").exists, "the first to lock its folder")
            refused = run(command, timeout=TIMEOUT_SECONDS)
        finally:
            first.kill()
    assert refused.returncode == 2
    assert f"--save-dir {tmp_path}: another training writes to this folder" in refused.stderr.splitlines()[-1]
    again = run(train_command(toy_data, tmp_path, *ROUTINGS["dense"], "--disable-validation", "--max-update", "1"))
    assert again.returncode == 0, again.stderr[-2000:]  # the lock has gone with the process


def test_a_run_keeps_the_vocabulary_that_it_began_with(toy_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    options = [*ROUTINGS["dense"], "--disable-validation", "--save-interval-updates", "1"]
    with subprocess.Popen(
        train_command(data, tmp_path / "run", *options, "--max-update", "100000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as training:
        try:
            wait_until((tmp_path / "run" / "dict.txt").exists, "the first checkpoint's vocabulary")
            (data / "dict.txt").write_text("prepared anew 1\n")
            saved = len(list((tmp_path / "run").glob("checkpoint_*_*.pt")))

            def goes_on() -> bool:
                return len(list((tmp_path / "run").glob("checkpoint_*_*.pt"))) >= saved + 3

            wait_until(lambda: goes_on() or training.poll() is not None, "checkpoints")
            assert training.poll() is None
        finally:
            training.kill()
    assert (tmp_path / "run" / "dict.txt").read_bytes() == (toy_data / "dict.txt").read_bytes()


def test_a_moving_average_leaves_whole_numbers_as_they_are(toy_data: Path, tmp_path: Path) -> None:
    train(toy_data, tmp_path, *SHORT, "--decoder-routing", "task", "--moe-task-id", "pair", "--store-ema")
    saved = torch.load(tmp_path / "checkpoint_last.pt")
    tables = [name for name in saved["model"] if name.endswith("task_of_pair")]
    assert tables
    for name in tables:
        assert torch.equal(saved["extra_state"]["ema"][name], saved["model"][name])


def test_the_halves_may_differ_in_width_with_every_routing(toy_data: Path, tmp_path: Path) -> None:
    widths = ["--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "64"]
    command = train_command(toy_data, tmp_path, *ROUTINGS["sentence"], *widths, *SHORT[-3:])
    command.remove("--share-all-embeddings")
    result = run(command)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_training_that_goes_on_with_another_dictionary_is_refused(toy_data: Path, tmp_path: Path) -> None:
    other = write_toy_data(tmp_path / "other", train_size=50)
    lines = (other / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    train(toy_data, tmp_path / "run", *SHORT)
    refused = run(train_command(other, tmp_path / "run", *SHORT))
    assert refused.returncode == 2
    assert "the dictionary does not fit the checkpoint" in refused.stderr.splitlines()[-1]


def test_patience_goes_on_counting_where_the_training_stopped(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["dense"], "--lr", "0", "--validate-interval-updates", "5", "--patience", "3"]
    train(toy_data, tmp_path, *options, "--max-update", "10")  # the best at 5, the first without improvement at 10
    resumed = train(toy_data, tmp_path, *options, "--max-update", "100")  # the second at 15, the third at 20
    assert int(records(resumed, "train_inner")[-1]["num_updates"]) == 20


@pytest.mark.parametrize(
    ("place", "before", "now", "update_freq", "expected"),
    [
        (6, 2, 4, [1], 3),
        (6, 2, 4, [2], 2),  # 12 batches are 3 for each process, which is amid an update
        (5, 1, 1, [2], 4),  # --update-freq was another one
        (6, 1, 1, [2], 6),
        (6, None, 3, [4], 4),
        (0, 2, 4, [2], 0),
    ],
)
def test_a_training_goes_on_at_the_beginning_of_an_update(
    place: int, before: int | None, now: int, update_freq: list[int], expected: int
) -> None:
    position = {"epoch": 3, "iterations_in_epoch": place}
    cfg = SimpleNamespace(optimization=SimpleNamespace(update_freq=update_freq))

    share_data_anew(cfg, {"data_parallel_world_size": before, "train_iterator": position}, now)

    assert position["iterations_in_epoch"] == expected


def test_an_epoch_that_is_gone_on_with_by_larger_updates_is_not_begun_again(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["dense"], "--disable-validation"]
    train(toy_data, tmp_path, *options, "--max-update", "3")
    resumed = train(toy_data, tmp_path, *options, "--max-epoch", "1", "--update-freq", "2")
    assert "the last 1 are seen again" in resumed.stdout + resumed.stderr
    epochs = [int(record["epoch"]) for record in records(resumed, "train")]
    assert epochs == [1]


def test_processes_that_load_data_do_not_clean_up_after_an_earlier_epoch() -> None:
    code = """
import gc
import mmt.trainer
from torch.utils.data import DataLoader, Dataset

class Epoch:
    def __init__(self):
        self.batches = iter(DataLoader(range(4), num_workers=1))
        self.itself = self

class Sentences(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return gc.collect()

gc.disable()
Epoch()
print(list(DataLoader(Sentences(), num_workers=1)))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert loaded.returncode == 0, loaded.stderr
    assert "tensor" in loaded.stdout
    assert "can only test a child process" not in loaded.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adafactor"], "--optimizer adafactor looks at whole matrices"),
        (["--store-ema"], "--store-ema does not go with --expert-parallel-size"),
        (["--moe-experts", "0", "--encoder-layerdrop", "0.5"], "--encoder-layerdrop does not go with --expert-"),
        (["--tensor-parallel-size", "2", "--stop-time-hours", "9"], "--stop-time-hours does not go with --tensor-par"),
        (["--fp16"], "--fp16 does not go with --expert-parallel-size, --tensor-parallel-size and --zero on several"),
    ],
)
def test_what_does_not_go_with_parts_of_a_model_is_refused(
    options: list[str], message: str, toy_data: Path, tmp_path: Path
) -> None:
    command = train_command(toy_data, tmp_path, *SHORT, "--zero", "1", *options)
    start = command.index("--adam-betas")  # which adafactor does not know
    del command[start : start + 2]
    refused = run([*launcher(2), *command], timeout=TIMEOUT_SECONDS)
    assert refused.returncode != 0
    assert f"mmt: error: {message}" in refused.stderr
