"""Text files that hold anything: bad lines are counted by kind, and alignment survives them."""

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.lines import check_equal_length, count_lines, read_aligned, read_lines

GOOD_AND_BAD = b"\xef\xbb\xbfone\n\xff\xfe\ntwo\0\n\n   \n" + b"x" * 100_000 + b"\nsix\xe2\x80\xa8still six\r\nlast"


def test_bad_lines_are_counted_by_kind_and_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.en"
    path.write_bytes(GOOD_AND_BAD)
    counts: dict[str, int] = {}

    lines = list(read_lines(path, counts))

    assert lines == ["one", None, None, None, None, None, "six\u2028still six", "last"]
    assert counts == {"invalid_utf8": 1, "nul_byte": 1, "empty": 2, "line_too_long": 1}


def test_a_pair_is_kept_only_if_both_sides_are_good(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(GOOD_AND_BAD)
    (tmp_path / "a.de").write_bytes(b"eins\nzwei\ndrei\nvier\n5\n6\n\nletzte\n")
    counts: dict[str, int] = {}

    assert list(read_aligned(tmp_path / "a.en", tmp_path / "a.de", counts)) == [("one", "eins"), ("last", "letzte")]
    assert counts["empty"] == 3


def test_a_pair_of_lines_is_counted_once_however_many_sides_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\n\n\n\xff\n")
    (tmp_path / "a.de").write_bytes(b"eins\n\nzwei\n\n")
    counts: dict[str, int] = {}

    assert list(read_aligned(tmp_path / "a.en", tmp_path / "a.de", counts)) == [("one", "eins")]
    assert counts == {"empty": 2, "invalid_utf8": 1}


def test_files_of_unequal_length_are_an_error_with_both_names_and_counts(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("1\n2\n3")
    (tmp_path / "a.de").write_text("1\n2\n")

    with pytest.raises(DataError, match=r"same number of lines: .*a\.en has 3, .*a\.de has 2"):
        check_equal_length(tmp_path / "a.en", tmp_path / "a.de")


def test_counting_agrees_with_reading_for_a_line_longer_than_any_buffer(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a\n" + b"y" * 3_000_000 + b"\nb\n")

    assert count_lines(path) == len(list(read_lines(path, {}))) == 3
