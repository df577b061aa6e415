"""Plain data-parallel processes: dummy batches, and another number of processes."""

import functools
from pathlib import Path

import torch

from tests.tasks.test_multilingual_moe_translation import make_task
from tests.system.commands import ROUTINGS, records, train, train_together

train_with_two_processes = functools.partial(train_together, 2)

# Some gradients, such as those of key biases, are zero but for rounding, and Adam would scale the rounding up.
ADAM = ["--adam-eps", "0.001"]


def test_a_dummy_batch_weighs_nothing(toy_data: Path, tmp_path: Path) -> None:
    """With 2 processes and 7 batches, the last group of the epoch has a dummy batch; the update is that of the real
    ones.
    """
    max_tokens = 8000
    task = make_task(toy_data)
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.dataset("train"), max_tokens=max_tokens, required_batch_size_multiple=8, seed=1
    )
    assert len(batches.frozen_batches) == 7
    options = [
        *ROUTINGS["token"],
        "--max-epoch",
        "1",
        "--max-tokens",
        str(max_tokens),
        # It is a mean over the tokens of a micro-batch, and these differ.
        "--moe-balance-loss-weight",
        "0",
        "--disable-validation",
        "--lr",
        "0.001",
        "--warmup-updates",
        "1",
        *ADAM,
    ]
    train(toy_data, tmp_path / "one", *options, "--update-freq", "4")
    train_with_two_processes(toy_data, tmp_path / "two", *options, "--update-freq", "2")
    one, two = (torch.load(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    assert one["optimizer_history"][-1]["num_updates"] == two["optimizer_history"][-1]["num_updates"]
    for name, weight in one["model"].items():
        torch.testing.assert_close(two["model"][name], weight, rtol=1e-4, atol=1e-5, msg=name)


def test_a_training_goes_on_with_more_or_fewer_processes(toy_data: Path, tmp_path: Path) -> None:
    options = [*ROUTINGS["token_task"], "--disable-validation", "--lr", "0.01", "--warmup-updates", "1"]
    logged = []
    for train_on, max_update in ((train_with_two_processes, 4), (train, 6), (train_with_two_processes, 8)):
        result = train_on(toy_data, tmp_path, *options, "--max-update", str(max_update))
        logged.append(records(result, "train_inner"))
    updates = [[int(record["num_updates"]) for record in each] for each in logged]
    assert updates == [[1, 2, 3, 4], [5, 6], [7, 8]]
    losses = [float(each[0]["loss"]) for each in logged]
    assert max(losses[1:]) < losses[0]  # the weights are not fresh ones
    optimizer = torch.load(tmp_path / "checkpoint_last.pt")["last_optimizer_state"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {8}
