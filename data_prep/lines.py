"""Reading text files that may hold anything, one line for one sentence, with bad lines counted by kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import DataError
from data_prep.steps import add_counts

# Far beyond any sentence; a longer line is data of another kind, and is skipped without being held in memory.
MAX_LINE_CHARACTERS = 10_000
_READ_BYTES = 4 * MAX_LINE_CHARACTERS + 2


def check_line(raw: bytes) -> tuple[str | None, str]:
    """Decode one line without its newline: ``(text, "")``, or ``(None, kind of fault)``."""
    if b"\0" in raw:
        return None, "nul_byte"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    if len(text) > MAX_LINE_CHARACTERS:
        return None, "line_too_long"
    text = text.removesuffix("\r")
    return (text, "") if text.strip() else (None, "empty")


def read_text(path: Path) -> str:
    """The whole text of a small file; a :class:`DataError` if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, but its byte {error.start} is not: {error.reason}") from None


def read_clean_lines(path: Path) -> Iterator[str]:
    """Yield every line of text that an earlier step wrote; a :class:`DataError` names the first that is not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield raw.removesuffix(b"\n").decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: must be UTF-8, but is not: {error.reason}") from None


def _checked_lines(path: Path) -> Iterator[tuple[str | None, str]]:
    """Yield what :func:`check_line` says of every line.

    Only the newline character ends a line, so that two aligned files stay aligned whatever else they hold.
    """
    with path.open("rb") as file:
        first = True
        while raw := file.readline(_READ_BYTES):
            if first:
                raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
            if not raw.endswith(b"\n") and len(raw) >= _READ_BYTES - 3:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(1 << 20)
                text, fault = None, "line_too_long"
            else:
                text, fault = check_line(raw.removesuffix(b"\n"))
            yield text, fault


def read_lines(path: Path, counts: dict[str, int]) -> Iterator[str | None]:
    """Yield every line of ``path``, None for a bad one, which is counted in ``counts`` by kind."""
    for text, fault in _checked_lines(path):
        if fault:
            add_counts(counts, {fault: 1})
        yield text


def count_lines(path: Path) -> int:
    """Number of lines; a last line without newline counts."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def check_equal_length(first: Path, second: Path) -> int:
    """Return the common number of lines of two aligned files; a :class:`DataError` names both where they differ."""
    for path in (first, second):
        if not path.is_file():
            raise DataError(f"no such file: {path}")
    first_lines, second_lines = count_lines(first), count_lines(second)
    if first_lines != second_lines:
        raise DataError(
            f"aligned files must have the same number of lines: {first} has {first_lines}, {second} has {second_lines}"
        )
    return first_lines


def read_aligned(first: Path, second: Path, counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of lines that are good on both sides; each other one is counted once, by its first fault."""
    check_equal_length(first, second)
    for (left, left_fault), (right, right_fault) in zip(_checked_lines(first), _checked_lines(second), strict=True):
        if left is not None and right is not None:
            yield left, right
        else:
            add_counts(counts, {left_fault or right_fault: 1})
