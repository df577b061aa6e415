"""A run that is killed goes on as if nothing had happened."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import CheckpointConfig

from mmt.distributed.saving_trainer import SavingTrainer
from mmt.trainer import MoETrainer
from tests.system.commands import FOR_EVER, ROUTINGS, records, run, train, train_command
from tests.system.launched import launched, saved_updates, wait_until


def saved_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the model and what the optimizer keeps of each, by name."""
    saved = torch.load(checkpoint)
    states = saved["last_optimizer_state"]["state"]
    optimizer = {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}
    assert {name.split(".")[1] for name in optimizer} == {"step", "exp_avg", "exp_avg_sq"}
    return {**saved["model"], **optimizer}


def trainer_without_model(save_dir: Path, *, max_tokens: int = 1000, **checkpoint: Any) -> MoETrainer:
    """What a trainer looks at when it goes on from a checkpoint, beside the model and the data."""
    trainer = MoETrainer.__new__(MoETrainer)
    trainer.cfg = SimpleNamespace(
        checkpoint=CheckpointConfig(save_dir=str(save_dir), **checkpoint),
        dataset={"max_tokens": max_tokens, "batch_size": None},
        distributed_training=SimpleNamespace(distributed_world_size=1, ddp_backend="legacy_ddp"),
        optimization=SimpleNamespace(update_freq=[1]),
    )
    trainer.task = SimpleNamespace(load_state_dict=lambda state: None)
    trainer.mesh, trainer._beginning = None, {}
    return trainer


@pytest.fixture
def early_stopping(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What fairseq counts for --patience, of this test only."""
    counted = SimpleNamespace()
    monkeypatch.setattr("mmt.resuming._early_stopping", lambda: counted)
    return counted


def gone_on_with(
    stopped: MoETrainer, resumed: MoETrainer, monkeypatch: pytest.MonkeyPatch, **of_fairseq: Any
) -> dict[str, Any]:
    """Return what ``resumed`` hands to fairseq of what ``stopped`` has saved, with what fairseq adds to it."""
    with monkeypatch.context() as patch:
        patch.setattr(SavingTrainer, "state_dict", lambda self: {"extra_state": {}, "task_state": {}})
        saved = {**stopped.state_dict()["extra_state"], **of_fairseq}
        patch.setattr(SavingTrainer, "load_checkpoint", lambda *args, **kwargs: copy.deepcopy(saved), raising=False)
        return resumed._load_checkpoint("checkpoint_last.pt", reset_meters=False)


@pytest.mark.parametrize(("metric", "best"), [("chrf", 45.0), ("bleu", None)])
def test_the_best_score_so_far_counts_unless_it_is_one_of_another_metric(
    metric: str,
    best: float | None,
    early_stopping: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = trainer_without_model(tmp_path, best_checkpoint_metric="chrf")
    resumed = trainer_without_model(tmp_path, best_checkpoint_metric=metric)
    counted = {"best": 45.0, "num_runs": 2}

    extra_state = gone_on_with(stopped, resumed, monkeypatch, best=45.0, early_stopping=counted)

    assert extra_state.get("best") == best
    assert vars(early_stopping) == (counted if best else {})
    is_said = "--best-checkpoint-metric was chrf before, and is bleu now: the best checkpoint is" in caplog.text
    assert is_said == (best is None)


@pytest.mark.parametrize(
    ("place", "now", "is_warned_of"),
    [
        (7, {"max_tokens": 500}, True),
        (7, {"max_tokens": 1000}, False),
        (0, {"max_tokens": 500}, False),  # at the beginning of an epoch
        (7, {"max_tokens": 500, "reset_dataloader": True}, False),
        (7, {"max_tokens": 500, "finetune_from_model": "checkpoint_last.pt"}, False),
    ],
)
@pytest.mark.usefixtures("early_stopping")
def test_a_place_in_the_data_that_batches_of_another_size_shift_is_warned_of(
    place: int,
    now: dict[str, Any],
    is_warned_of: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped, resumed = trainer_without_model(tmp_path, max_tokens=1000), trainer_without_model(tmp_path, **now)
    position = {"epoch": 1, "iterations_in_epoch": place}

    extra_state = gone_on_with(stopped, resumed, monkeypatch, train_iterator=position)

    assert extra_state["train_iterator"] == position
    warning = "--max-tokens was 1000 before, and is 500 now: the training goes on after as many batches"
    assert (warning in caplog.text) == is_warned_of


def test_a_training_whose_checkpoints_have_a_suffix_goes_on_from_the_newest_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for updates, name in enumerate(["checkpoint_1_1_b.pt", "checkpoint_1_2_b.pt", "checkpoint_1_3.pt"], start=1):
        state = {"extra_state": {"train_iterator": {}}, "last_optimizer_state": {}}
        torch.save({**state, "optimizer_history": [{"num_updates": updates}]}, tmp_path / name)
    asked_for = []
    monkeypatch.setattr(MoETrainer, "_load_checkpoint", lambda self, path: asked_for.append(Path(path).name))

    trainer_without_model(tmp_path, checkpoint_suffix="_b").load_checkpoint(str(tmp_path / "checkpoint_last_b.pt"))

    assert asked_for == ["checkpoint_1_2_b.pt"]


def test_a_pass_in_virtual_epochs_goes_on_with_the_same_sentences(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["dense"], "--disable-validation", "--sampling-method", "temperature"]
    options += ["--virtual-epoch-size", "1000"]  # eight make a pass
    whole = train(toy_data, tmp_path / "whole", *options, "--max-epoch", "3")
    losses = {int(record["num_updates"]): record["loss"] for record in records(whole, "train_inner")}
    seen: dict[int, str] = {}
    for epochs in ("1", "2", "3"):
        stopped = train(toy_data, tmp_path / "stopped", *options, "--max-epoch", epochs)
        of_epoch = {int(record["num_updates"]): record["loss"] for record in records(stopped, "train_inner")}
        assert min(of_epoch) == len(seen) + 1  # it has gone on, not begun anew
        seen |= of_epoch
    assert seen == losses


def test_a_training_begins_with_another_checkpoint_once(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["dense"], "--disable-validation"]
    train(toy_data, tmp_path / "other", *options, "--max-update", "5")
    other = ["--restore-file", str(tmp_path / "other" / "checkpoint_last.pt"), "--reset-optimizer"]
    other += ["--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]

    def updates(max_update: int, *beginning: str) -> list[int]:
        result = train(toy_data, tmp_path / "run", *options, *beginning, "--max-update", str(max_update))
        return [int(record["num_updates"]) for record in records(result, "train_inner")]

    assert updates(3, *other) == [1, 2, 3]
    assert updates(4, *other) == [4]  # as a job that was put back into the queue
    assert updates(5) == [5]
    assert updates(6, *other) == [6]  # it still knows how it began
    last = tmp_path / "run" / "checkpoint_last.pt"
    last.with_name("checkpoint_1_6.pt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:1000])
    assert updates(7, *other) == [7]
    assert updates(2, *other, "--restore-file", str(last)) == [1, 2]  # another beginning


def test_a_training_goes_on_with_more_directions_and_judges_them_too(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["token"], "--eval-bleu", "--valid-sentences-per-direction", "2"]
    options += ["--save-interval-updates", "2"]
    train(toy_data, tmp_path, *options, "--lang-pairs", "en-aa,aa-en", "--max-update", "2")
    result = train(toy_data, tmp_path, *options, "--lang-pairs", "en-aa,aa-en,en-bb", "--max-update", "4")
    (judged,) = records(result, "valid")
    assert {f"valid_bleu_{direction}" for direction in ("en-aa", "aa-en", "en-bb")} <= judged.keys()


def test_a_run_that_cannot_be_gone_on_with_is_not_begun_again_in_its_folder(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["dense"], "--disable-validation", "--save-interval-updates", "2"]
    options += ["--no-save-optimizer-state", "--no-last-checkpoints"]
    train(toy_data, tmp_path, *options, "--max-update", "2")
    refused = run(train_command(toy_data, tmp_path, *options, "--max-update", "4"))
    assert refused.returncode == 2
    assert f"--save-dir {tmp_path}: no training can go on from the checkpoints in it" in refused.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint_1_2.pt"]


@pytest.mark.parametrize("saving", [[], ["--save-in-background"]], ids=["waiting", "in the background"])
def test_save_kill_resume_gives_the_same_losses_and_weights_to_the_last_digit(
    saving: list[str], toy_data: Path, tmp_path: Path
) -> None:
    options = [*ROUTINGS["token_task"], "--save-interval-updates", "10", "--disable-validation", "--dropout", "0.1"]
    options += ["--moe-input-jitter", "0.01", "--moe-capacity-factor", "1.0"]
    command = train_command(toy_data, tmp_path / "killed", *options, *saving, *FOR_EVER)
    log = tmp_path / "log"
    with launched(command, log) as process:
        wait_until((tmp_path / "killed" / "checkpoint_last.pt").exists, "a checkpoint", log, interval_s=0.02)
        process.kill()
        process.wait()
    saved = saved_updates(tmp_path / "killed")
    end = ["--max-update", str(saved + 20)]
    resumed = train(toy_data, tmp_path / "killed", *options, *saving, *end)
    whole = train(toy_data, tmp_path / "whole", *options, *end)

    losses = {int(record["num_updates"]): record["loss"] for record in records(whole, "train_inner")}
    resumed_losses = {int(record["num_updates"]): record["loss"] for record in records(resumed, "train_inner")}
    assert list(losses) == list(range(1, saved + 21))
    # It has gone on, not begun anew.
    assert resumed_losses == {update: losses[update] for update in range(saved + 1, saved + 21)}

    expected, tensors = (saved_tensors(tmp_path / run / "checkpoint_last.pt") for run in ("whole", "killed"))
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
