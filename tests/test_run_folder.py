"""A run's folder belongs to one training."""

from pathlib import Path

import pytest

from mmt.run_folder import claim


def test_what_a_killed_save_has_left_is_removed_by_the_training_that_has_the_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_1_2.pt.tmp").touch()
    claim(tmp_path)
    assert not (tmp_path / "checkpoint_1_2.pt.tmp").exists()


def test_a_folder_whose_lock_cannot_be_opened_can_be_written_to_and_nothing_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".lock").mkdir()
    (tmp_path / "checkpoint_1_2.pt.tmp").touch()
    claim(tmp_path)
    assert f"{tmp_path / '.lock'} cannot be opened (Is a directory): no other training must write" in caplog.text
    assert (tmp_path / "checkpoint_1_2.pt.tmp").exists()


def test_a_folder_is_made_if_there_is_none(tmp_path: Path) -> None:
    claim(tmp_path / "runs" / "new")
    assert (tmp_path / "runs" / "new" / ".lock").is_file()
