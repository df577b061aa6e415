"""A run that is killed goes on as if nothing had happened."""

from pathlib import Path

import pytest
import torch

from tests.system.commands import ROUTINGS, records, run, train, train_command
from tests.system.launched import launched, saved_updates, wait_until


def saved_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the model and what the optimizer keeps of each, by name."""
    saved = torch.load(checkpoint)
    states = saved["last_optimizer_state"]["state"]
    optimizer = {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}
    assert {name.split(".")[1] for name in optimizer} == {"step", "exp_avg", "exp_avg_sq"}
    return {**saved["model"], **optimizer}


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
    command = train_command(toy_data, tmp_path / "killed", *options, *saving, "--max-update", "1000000")
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
