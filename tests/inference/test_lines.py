"""Reading lines: windows, patience, bad bytes."""

import os
import threading
from pathlib import Path

import pytest

from mmt.inference.lines import LineReader


def read_all(content: bytes, tmp_path: Path, **kwargs: int) -> tuple[list[list[str]], LineReader]:
    path = tmp_path / "input"
    path.write_bytes(content)
    with path.open("rb") as file:
        reader = LineReader(file, **kwargs)
        return list(reader.windows()), reader


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a\nb\nc\n", [["a", "b"], ["c"]]),
        (b"a\nb\nc", [["a", "b"], ["c"]]),
        (b"\n\na\n\n", [["", ""], ["a", ""]]),
        (b"a\r\nb\r\n", [["a", "b"]]),  # lines of Windows
        ("\ufeffa\n\ufeffb".encode(), [["a", "\ufeffb"]]),  # a byte-order mark is no text
        ("a\u2028b\x0bc\x85\n".encode(), [["a\u2028b\x0bc\x85"]]),  # only a line feed ends a line
    ],
)
def test_lines_come_in_windows(content: bytes, expected: list[list[str]], tmp_path: Path) -> None:
    windows, reader = read_all(content, tmp_path, window=2)

    assert windows == expected
    assert reader.report.messages() == []


def test_many_lines_of_any_length_come_complete(tmp_path: Path) -> None:
    lines = [f"{i} " + "ö" * (i * 37 % 3000) for i in range(1000)]

    windows, _ = read_all("\n".join(lines).encode(), tmp_path, window=7)

    assert [line for window in windows for line in window] == lines
    assert {len(window) for window in windows[:-1]} == {7}


def test_bad_bytes_are_replaced_and_counted_and_no_line_is_lost(tmp_path: Path) -> None:
    windows, reader = read_all(b"good\n\xff bad\nzero\0zero\n\xc3\nlast\n", tmp_path)

    assert windows == [["good", "\ufffd bad", "zero zero", "\ufffd", "last"]]
    assert reader.report.messages() == [
        "invalid UTF-8, the wrong bytes read as U+FFFD: 2 of 5 lines, the first is line 2",
        "NUL bytes, read as spaces: 1 of 5 lines, the first is line 3",
    ]


@pytest.mark.parametrize("size", [9, 10, 11, 12])
def test_a_line_that_is_too_long_is_cut_between_characters(size: int, tmp_path: Path) -> None:
    windows, reader = read_all("€€€€€\nnext\n".encode(), tmp_path, max_line_bytes=size)

    assert windows == [["€" * (size // 3), "next"]]
    assert reader.report.messages() == [
        f"longer than {size} bytes, the rest was ignored: 1 of 2 lines, the first is line 1"
    ]


def test_a_huge_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    windows, reader = read_all(b"x" * 5_000_000 + b"\nnext", tmp_path)

    assert [len(line) for line in windows[0]] == [1 << 20, 4]
    assert reader.report.lines == 2


def test_a_window_closes_when_no_more_input_comes() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as stream:
        windows = LineReader(stream, window=1000, patience_s=0.01).windows()
        os.write(write_end, b"first\nsecond\nthi")
        assert next(windows) == ["first", "second"]
        os.write(write_end, b"rd\n")
        assert next(windows) == ["third"]
        threading.Timer(0.05, os.close, [write_end]).start()
        assert list(windows) == []
