"""Lines from a stream that may never end, in windows, with what is wrong in them counted."""

import codecs
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

READ_BYTES = 1 << 16


@dataclass
class Problem:
    """How often something happened, and in which line (from 1) first."""

    count: int = 0
    first_line: int = 0

    def add(self, line_number: int) -> None:
        self.count += 1
        self.first_line = self.first_line or line_number


@dataclass
class InputReport:
    """What was wrong in the input, in words."""

    lines: int = 0
    problems: dict[str, Problem] = field(default_factory=dict)

    def add(self, what: str, line_number: int) -> None:
        """Count one line with the problem ``what``."""
        self.problems.setdefault(what, Problem()).add(line_number)

    def messages(self) -> list[str]:
        """One sentence per kind of problem."""
        return [
            f"{what}: {problem.count} of {self.lines} lines, the first is line {problem.first_line}"
            for what, problem in self.problems.items()
        ]


class LineReader:
    """Read windows of lines from a binary stream.

    A window closes when it is full, when the input ends, or when no more input has come for ``patience_s`` seconds, so
    that whoever types or pipes single lines gets answers at once, and files are read in full windows.

    Args:
        stream: an open file, pipe or terminal; it is read through its file descriptor.
        window: lines in a full window.
        patience_s: how long to wait for more lines while there are some to translate.
        max_line_bytes: what a line has beyond is thrown away, so that input without line breaks cannot fill the memory.

    Attributes:
        report: what was wrong so far.
    """

    def __init__(
        self, stream: BinaryIO, *, window: int = 1000, patience_s: float = 0.1, max_line_bytes: int = 1 << 20
    ) -> None:
        self._fd = stream.fileno()
        self._window = window
        self._patience_s = patience_s
        self._max_line_bytes = max_line_bytes
        self.report = InputReport()

    def windows(self) -> Iterator[list[str]]:
        """Yield non-empty lists of at most ``window`` lines, decoded, without their line breaks."""
        lines: list[bytes] = []
        tail = bytearray()
        ended = False
        while not ended:
            if lines and not select.select([self._fd], [], [], self._patience_s)[0]:
                yield self._decoded(lines)
                lines = []
            chunk = os.read(self._fd, READ_BYTES)
            ended = not chunk
            *complete, rest = chunk.split(b"\n")
            for part in complete:
                lines.append(self._joined(tail, part))
                tail = bytearray()
            tail += rest[: self._max_line_bytes + 1 - len(tail)]
            if ended and tail:
                lines.append(bytes(tail))
            while len(lines) >= self._window:
                yield self._decoded(lines[: self._window])
                lines = lines[self._window :]
        if lines:
            yield self._decoded(lines)

    def _joined(self, tail: bytearray, part: bytes) -> bytes:
        return bytes(tail + part[: self._max_line_bytes + 1 - len(tail)])

    def _decoded(self, lines: list[bytes]) -> list[str]:
        return [self._decode(line) for line in lines]

    def _decode(self, raw: bytes) -> str:
        self.report.lines += 1
        number = self.report.lines
        if len(raw) > self._max_line_bytes:
            self.report.add(f"longer than {self._max_line_bytes} bytes, the rest was ignored", number)
            # Not in the middle of a character: three more bytes may belong to the last one.
            raw = raw[: self._max_line_bytes]
            raw = raw[: codecs.utf_8_decode(raw, "replace", False)[1]]
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        raw = raw.removesuffix(b"\r")
        if b"\0" in raw:
            self.report.add("NUL bytes, read as spaces", number)
            raw = raw.replace(b"\0", b" ")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.report.add("invalid UTF-8, the wrong bytes read as U+FFFD", number)
            return raw.decode("utf-8", errors="replace")
