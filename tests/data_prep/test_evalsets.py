"""Unpacking frozen evaluation sets."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from data_prep import evalsets
from data_prep.errors import DataError
from data_prep.files import sha256_of
from tests.data_prep.helpers import assert_user_error, run_step, tar_bytes, write_lines


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


def test_files_behind_links_are_held_out_once(tmp_path: Path) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    own.mkdir()
    write_lines(elsewhere / "dev" / "dev.de", ["Ein Satz"])
    (own / "flores").symlink_to(elsewhere)
    (elsewhere / "dev" / "back").symlink_to(own)  # a circle

    assert evalsets.read_held_out([own]) == ["Ein Satz"]
    assert evalsets.linked_folders([own, elsewhere]) == [own / "flores", elsewhere / "dev" / "back"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "test.de", ["Ein Satz"])
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str):
        if path.endswith("closed"):  # what another user's folder does, but not to root
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied: .*closed"):
        evalsets.read_held_out([tmp_path])
    with pytest.raises(DataError, match="no such folder: .*missing"):
        evalsets.read_held_out([tmp_path / "missing"])


@pytest.mark.parametrize(
    "name",
    [
        "test.en.txt", "test.txt", "test.tsv", "metadata_dev.tsv", "test.de.gz", "test.sgm", "sentences",
    ],
)  # fmt: skip
def test_a_file_that_would_not_be_read_as_it_is_meant_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "deep" / name, ["a line"])
    write_lines(tmp_path / "test.de", ["Ein Satz"])

    with pytest.raises(DataError, match=re.escape(f"deep/{name}: a file of an evaluation set must be plain text")):
        evalsets.held_out_files([tmp_path])


def test_what_is_no_text_may_lie_beside_it(tmp_path: Path) -> None:
    text = ["test.de", "test.zh_Hans", "news-2014.en-de.de", "eng_Latn.devtest", "test.pt-BR", "new.test.v2.de"]
    other = ["README", "README.md", "NOTICE", "LICENSE", "LICENCE.txt", "scores.json", "notes.md", "ids.txt"]
    for name in [*text, *other, ".test.de.swp", ".git/config"]:
        write_lines(tmp_path / name, ["a line"])

    assert sorted(path.name for path in evalsets.held_out_files([tmp_path])) == sorted(text)


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
