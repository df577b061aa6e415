"""The files between the steps: ``en-de.tsv``, tab-separated ``source text, target text[, where it comes from]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.errors import DataError
from data_prep.lines import read_clean_lines

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_UNESCAPES = {value: key for key, value in _ESCAPES.items()}
_TO_ESCAPE = re.compile(r"[\\\n\t\r]")
_ESCAPED = re.compile(r"\\[\\ntr]")


def escape(text: str) -> str:
    """Write line breaks, tabs and backslashes as two characters each: raw messages hold paragraphs."""
    return _TO_ESCAPE.sub(lambda m: _ESCAPES[m[0]], text) if _TO_ESCAPE.search(text) else text


def unescape(text: str) -> str:
    """Undo :func:`escape`."""
    return _ESCAPED.sub(lambda m: _UNESCAPES[m[0]], text) if "\\" in text else text


def write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> int:
    """Write rows with escaped fields and return how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write("\t".join(map(escape, row)) + "\n")
            count += 1
    return count


def read_rows(path: Path, fields: int) -> Iterator[list[str]]:
    """Yield the rows of a file that :func:`write_rows` made; a :class:`DataError` names one without so many fields."""
    for number, line in enumerate(read_clean_lines(path), start=1):
        row = [unescape(field) for field in line.split("\t")]
        if len(row) < fields:
            raise DataError(f"{path}, line {number}: must have {fields} tab-separated fields, but has {len(row)}")
        yield row


def pair_name(source: str, target: str) -> str:
    """``en-de``."""
    return f"{source}-{target}"


def split_pair(name: str) -> tuple[str, str]:
    """``("en", "de")`` for ``en-de``."""
    source, _, target = name.partition("-")
    return source, target


def pairs_in(folder: Path) -> list[str]:
    """The pairs of languages of a folder of ``<pair>.tsv`` files."""
    names = sorted(p.stem for p in folder.glob("*-*.tsv"))
    if not names:
        raise DataError(f"no files <pair>.tsv in {folder}")
    return names
