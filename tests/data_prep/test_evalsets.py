"""Unpacking frozen evaluation sets."""

import shutil
from pathlib import Path

import pytest

from data_prep import evalsets
from data_prep.errors import DataError
from data_prep.files import sha256_of
from tests.data_prep.helpers import assert_user_error, run_step, tar_bytes


def test_sets_are_unpacked_once_and_line_by_line_aligned(tmp_path: Path) -> None:
    folder = evalsets.unpack("software50", tmp_path)
    before = (folder / "dev" / "dev.de").stat().st_mtime_ns

    assert {
        len((folder / s / f"{s}.{lang}").read_text().splitlines()) for s in ("dev",) for lang in ("en", "de", "zh")
    } == {500}
    assert len(list((folder / "test").glob("test.*"))) == len(list((folder / "udhr").glob("udhr.*"))) == 51
    assert evalsets.unpack("software50", tmp_path) == folder
    assert (folder / "dev" / "dev.de").stat().st_mtime_ns == before


def test_a_lost_file_is_unpacked_again(tmp_path: Path) -> None:
    folder = evalsets.unpack("software50", tmp_path)
    (folder / "test" / "test.sw").unlink()

    evalsets.unpack("software50", tmp_path)

    assert (folder / "test" / "test.sw").is_file()


def test_a_file_that_a_user_added_stays_and_is_held_out(tmp_path: Path) -> None:
    folder = evalsets.unpack("software50", tmp_path)
    (folder / "test" / "test.xx").write_text("a line of my own\n")

    evalsets.unpack("software50", tmp_path)

    assert "a line of my own" in evalsets.read_held_out([folder, folder / "test"])
    (folder / "test" / "test.sw").unlink()
    with pytest.raises(DataError, match="test.xx: not a file of the step evalsets"):
        evalsets.unpack("software50", tmp_path)
    assert (folder / "test" / "test.xx").is_file()


@pytest.mark.parametrize(("line", "fault"), [(b"caf\xe9", "invalid_utf8"), (b"a\0b", "nul_byte")])
def test_a_line_that_cannot_be_kept_out_is_an_error_that_names_it(tmp_path: Path, line: bytes, fault: str) -> None:
    (tmp_path / "test.en-sw.sw").write_bytes(b"sawa\n\n" + line + b"\n")

    with pytest.raises(DataError, match=rf"test.en-sw.sw, line 3: cannot be kept out of training \({fault}\)"):
        evalsets.read_held_out([tmp_path])


def test_archive_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in evalsets.PACKED.glob("software50-eval.*"):
        shutil.copy(file, tmp_path / file.name)
    with (tmp_path / "software50-eval.tar.xz").open("ab") as archive:
        archive.write(b"x")
    monkeypatch.setattr(evalsets, "PACKED", tmp_path)

    with pytest.raises(DataError, match="its SHA-256 must be"):
        evalsets.unpack("software50", tmp_path / "out")


def test_archive_with_a_member_outside_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "evil-eval.tar.xz"
    archive.write_bytes(tar_bytes({"evil/dev/dev.en": b"x\n", "evil/../../escaped": b"x"}))
    (tmp_path / "evil-eval.tar.xz.sha256").write_text(sha256_of(archive))
    monkeypatch.setattr(evalsets, "PACKED", tmp_path)

    with pytest.raises(DataError, match="points outside"):
        evalsets.unpack("evil", tmp_path / "out" / "sets")
    assert not list((tmp_path / "out").rglob("*[a-z]*.en")) and not (tmp_path / "out" / "sets" / "evil").exists()


def test_unknown_set_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    assert_user_error(
        run_step("evalsets", "--name", "news", "--output", tmp_path), "unknown evaluation set 'news'", "software50"
    )
