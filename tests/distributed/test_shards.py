"""A folder of shards tells whether it is what was written."""

import json
import os
import pickle
from pathlib import Path

import pytest

from mmt.distributed import shard_files, shards
from mmt.distributed.checkpoint import remove_unused_shards
from mmt.errors import CheckpointDamaged
from mmt.files import sha256_of_file


def folder_of_shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards_1_ab"
    folder.mkdir()
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
        (folder / name).write_bytes(name.encode() * 100)
    sums = {path.name: sha256_of_file(path) for path in folder.iterdir()}
    (folder / shards.CHECKSUMS).write_text(json.dumps(sums))
    return folder


def test_a_whole_folder_passes(tmp_path: Path) -> None:
    shards.check(folder_of_shards(tmp_path))


def test_one_flipped_bit_is_found_by_one_of_the_processes(tmp_path: Path) -> None:
    folder = folder_of_shards(tmp_path)
    path = folder / "__1_0.distcp"
    content = bytearray(path.read_bytes())
    content[123] ^= 1
    path.write_bytes(bytes(content))
    faults = []
    for part in range(2):
        try:
            shards.check(folder, part=part, parts=2)
        except CheckpointDamaged as error:
            faults.append(str(error))
    assert len(faults) == 1
    assert "__1_0.distcp is not what was written" in faults[0]


@pytest.mark.parametrize("name", ["__0_0.distcp", shards.CHECKSUMS])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = folder_of_shards(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointDamaged, match=name):
        shards.check(folder)


def test_files_that_another_host_has_written_elsewhere_are_missed_when_they_are_saved(tmp_path: Path) -> None:
    folder_of_shards(tmp_path).rename(tmp_path / "new.partial")
    (tmp_path / "new.partial" / ".metadata").touch()
    with pytest.raises(OSError, match="__9_0.distcp.* is not here: --save-dir must be a shared folder"):
        shard_files._finish(tmp_path / "new.partial", tmp_path / "new", [{"__0_0.distcp": ""}, {"__9_0.distcp": ""}])
    assert not (tmp_path / "new").exists()


def test_folders_that_no_checkpoint_refers_to_are_removed(tmp_path: Path) -> None:
    used, unused, killed = (tmp_path / name for name in ("shards_1_ab", "shards_2_cd", "shards_3_ef.partial"))
    for folder in (used, unused, killed, tmp_path / "other"):
        folder.mkdir()
    shards.remove_unused(tmp_path, {"shards_1_ab"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "shards_1_ab"]


def test_what_a_killed_save_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shards_3_ef.partial").mkdir()
    left = ["checkpoint_1_2.pt.tmp", "checkpoint_last.pt.partial", "crash.pt.tmp"]
    kept = [".model.pt.partial", "checkpoint_last.pt", "dict.txt"]  # the first may be what mmt consolidate is writing
    for name in (*left, *kept):
        (tmp_path / name).touch()
    shards.remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


class RunsCode:
    """What is pickled in place of metadata by someone who wants it to run."""

    def __reduce__(self):
        return os.system, ("touch run",)


def test_metadata_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of_shards(tmp_path)
    (folder / ".metadata").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(CheckpointDamaged, match=r"\.metadata holds objects .* could run code, so it is refused"):
        shard_files.names_and_shapes(folder)
    assert not (tmp_path / "run").exists()


def test_where_a_checkpoint_cannot_be_read_no_whole_folder_is_removed(tmp_path: Path) -> None:
    for name in ("shards_1_ab", "shards_2_cd.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint_best.pt").write_bytes(b"who knows")
    remove_unused_shards(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_best.pt", "shards_1_ab"]
    (tmp_path / "checkpoint_best.pt").unlink()
    remove_unused_shards(tmp_path)
    assert not list(tmp_path.iterdir())
