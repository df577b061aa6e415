"""Which checkpoints a training finds in its folder, and what it takes from them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmt.distributed import checkpoint
from mmt.distributed.checkpoint import OfAnotherProcess, identity, newest_first, read_training, remove_unused_shards
from mmt.distributed.training_state import first_names


def save(path: Path, updates: int, optimizer: dict[str, Any] | None = {}, **extra: Any) -> None:
    torch.save(
        {
            "model": {"w": torch.ones(2)},
            "extra_state": {"train_iterator": {"epoch": 1}, **extra},
            "optimizer_history": [{"num_updates": updates}],
            "last_optimizer_state": optimizer,
        },
        path,
    )


def remove_optimizer(path: Path) -> None:
    """Make a checkpoint one of ``--no-save-optimizer-state``."""
    state = torch.load(path)
    del state["last_optimizer_state"]
    torch.save(state, path)


def test_a_training_goes_on_from_its_own_whole_checkpoints_only(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint_1_3.pt", 3)
    save(tmp_path / "checkpoint_1_6.pt", 6)
    save(tmp_path / "model.pt", 9)  # of someone else's
    save(tmp_path / "checkpoint_published.pt", 9, optimizer=None)
    save(tmp_path / "checkpoint_1_8.pt", 8)
    remove_optimizer(tmp_path / "checkpoint_1_8.pt")
    (tmp_path / "checkpoint_1_9.pt").write_bytes(b"damaged")

    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint_1_6.pt", "checkpoint_1_3.pt"]
    assert newest_first(tmp_path, also_without_optimizer=True)[0].name == "checkpoint_1_8.pt"
    assert len(newest_first(tmp_path, also_without_optimizer=True)) == 3


def test_that_another_process_could_not_save_is_a_failure_of_the_machine() -> None:
    assert OfAnotherProcess("process 0 could not save a checkpoint").exit_code == 1


def test_a_run_remembers_how_it_began_without_optimizer_state_too(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint_1_8.pt", 8, beginning={"reset_meters": True})
    remove_optimizer(tmp_path / "checkpoint_1_8.pt")
    assert checkpoint.beginning(tmp_path) == {"reset_meters": True}


def test_a_link_that_leads_nowhere_does_not_keep_old_shards(tmp_path: Path) -> None:
    (tmp_path / "best.pt").symlink_to(tmp_path / "gone.pt")
    (tmp_path / "shards_1_ab").mkdir()

    remove_unused_shards(tmp_path)

    assert not (tmp_path / "shards_1_ab").exists()


def test_a_checkpoint_of_the_time_before_zip_files_is_told_from_others(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(2)}, "optimizer_history": [{"num_updates": 7}]}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    assert (identity(tmp_path / "old.pt") or "").startswith("one of 7 updates")


def test_what_the_optimizer_kept_of_parameters_that_are_gone_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    model = nn.ModuleDict({"kept": nn.Linear(2, 2, bias=False)})
    tensors = {f"{kind}.{name}.weight{end}": torch.ones(2) for name in ("kept", "gone") for kind, end in
               (("model", ""), ("optimizer", ".exp_avg"))}  # fmt: skip
    monkeypatch.setattr(checkpoint, "check", lambda folder: None)
    monkeypatch.setattr(checkpoint, "read_whole", lambda *args, **kwargs: tensors)
    state = {
        "shards": "shards",
        "aliases": first_names(model),
        "optimizer_rest": {"kept.weight": {"step": 3}, "gone.weight": {"step": 3}},
        "last_optimizer_state": {"state": {}},
    }

    found = read_training(tmp_path / "checkpoint_last.pt", state, ["kept.weight"])

    assert found["model"].keys() == {"kept.weight", "gone.weight"}  # which fairseq compares with the model
    assert found["last_optimizer_state"]["state"].keys() == {0}
    assert found["last_optimizer_state"]["state"][0].keys() == {"step", "exp_avg"}
