"""Where a training begins, told by the options and by what is in its folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import CheckpointConfig
from omegaconf import OmegaConf

from mmt.beginning import BEGINNING, how_it_begins, options_that_are_done, refuse_to_forget
from mmt.errors import UserError


def options(**values: Any) -> Any:
    return OmegaConf.structured(CheckpointConfig(**values))


def save(path: Path, *, has_optimizer: bool = True, **beginning: Any) -> None:
    extra = {"train_iterator": {}, "beginning": beginning}
    state: dict[str, Any] = {"extra_state": extra, "optimizer_history": [{"num_updates": 1}]}
    if has_optimizer:
        state["last_optimizer_state"] = {}
    torch.save(state, path)


def test_only_options_that_are_set_are_remembered() -> None:
    assert how_it_begins(options()) == {}
    assert how_it_begins(options(restore_file="a.pt", reset_meters=True)) == {
        "restore_file": "a.pt",
        "reset_meters": True,
    }


@pytest.mark.parametrize("option", ["restore_file", "finetune_from_model", "continue_once"])
def test_a_checkpoint_that_is_not_there_is_named_with_its_option(option: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "typo.pt")
    cfg = options(save_dir=str(tmp_path / "run"), **{option: missing})
    message = f"^--{option.replace('_', '-')} {missing}: there is no such checkpoint$"
    with pytest.raises(UserError, match=message):
        options_that_are_done(cfg)
    (tmp_path / "typo.pt").touch()
    assert options_that_are_done(cfg) == {}


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "checkpoint_1_1.pt"])
@pytest.mark.parametrize("has_optimizer", [True, False])
def test_a_checkpoint_to_begin_with_may_be_gone_once_the_run_has_its_own(
    name: str, has_optimizer: bool, tmp_path: Path
) -> None:
    cfg = options(save_dir=str(tmp_path), finetune_from_model=str(tmp_path / "gone.pt"))
    save(tmp_path / name, has_optimizer=has_optimizer)
    assert options_that_are_done(cfg) == {"finetune_from_model": None}


def test_a_checkpoint_to_begin_with_is_not_the_runs_own_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "run" / "checkpoint_pre.pt"
    other.parent.mkdir()
    save(other)
    assert options_that_are_done(options(save_dir="run", finetune_from_model=str(other))) == {}
    assert options_that_are_done(options(save_dir=str(other.parent), finetune_from_model="run/checkpoint_pre.pt")) == {}


def test_a_run_has_the_checkpoints_with_its_suffix_only(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    cfg = options(save_dir=str(tmp_path), finetune_from_model=str(tmp_path / "model.pt"), checkpoint_suffix="_b")
    save(tmp_path / "checkpoint_last.pt")
    assert options_that_are_done(cfg) == {}
    save(tmp_path / "checkpoint_1_1_b.pt", has_optimizer=False)
    assert options_that_are_done(cfg) == {"finetune_from_model": None}
    with pytest.raises(UserError, match=f"--finetune-from-model {tmp_path / 'checkpoint_1_1_b.pt'} begins with"):
        refuse_to_forget(tmp_path, "_b")
    refuse_to_forget(tmp_path, "_c")


def test_a_run_that_has_begun_goes_on_though_the_checkpoint_to_begin_with_is_gone(tmp_path: Path) -> None:
    elsewhere = {"restore_file": str(tmp_path / "gone.pt"), "reset_optimizer": True}
    cfg = options(save_dir=str(tmp_path), **elsewhere)
    save(tmp_path / "checkpoint_last.pt", **elsewhere)
    assert options_that_are_done(cfg) == BEGINNING


def test_the_weights_of_a_model_alone_do_not_go_with_other_beginnings() -> None:
    cfg = options(finetune_from_model="model.pt", reset_optimizer=True, reset_meters=True)
    message = "^--finetune-from-model .* does not go with --reset-meters, --reset-optimizer$"
    with pytest.raises(UserError, match=message):
        options_that_are_done(cfg)


def test_a_run_without_optimizer_state_is_not_begun_again_beside_its_checkpoints(tmp_path: Path) -> None:
    refuse_to_forget(tmp_path)  # nothing is there
    torch.save({"extra_state": {"train_iterator": {}}, "last_optimizer_state": None}, tmp_path / "checkpoint_model.pt")
    refuse_to_forget(tmp_path)  # a published model is nobody's run
    save(tmp_path / "checkpoint_1_1.pt", has_optimizer=False)
    message = f"^--save-dir {tmp_path}: .* --finetune-from-model {tmp_path / 'checkpoint_1_1.pt'} begins with"
    with pytest.raises(UserError, match=message):
        refuse_to_forget(tmp_path)
