"""Tables of sentences (``.tsv``, also ``.gz`` or ``.xz``): one pair a line, or one column for each language.

With a header ``en<TAB>de<TAB>ru`` a line holds one sentence in every language (a field may be empty).
Without one, a line holds ``source language, target language, source text, target text``.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from data_prep.errors import DataError
from data_prep.lines import MAX_LINE_CHARACTERS, check_line
from data_prep.recipe import LANGUAGE_CODE, PIVOT, check_code

# Four columns of one language each would also be four fields; the header of the pair form may be given in words.
PAIR_HEADERS = {
    ("src-lang", "tgt-lang", "source", "target"),
    ("source-language", "target-language", "source", "target"),
}


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _rows(path: Path, counts: dict[str, int]) -> Iterator[tuple[int, list[str]]]:
    limit = 4 * MAX_LINE_CHARACTERS * 120  # a line may hold a hundred languages
    with _open(path) as file:
        number, skipping = 0, False
        try:
            while raw := file.readline(limit):
                ends = raw.endswith(b"\n")
                if skipping or (not ends and len(raw) == limit):
                    if not skipping:
                        counts["line_too_long"] = counts.get("line_too_long", 0) + 1
                        number += 1
                    skipping = not ends
                    continue
                number += 1
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                fields = []
                for field in raw.removesuffix(b"\n").split(b"\t"):
                    text, fault = check_line(field)
                    if fault and fault != "empty":
                        counts[fault] = counts.get(fault, 0) + 1
                    fields.append(text or "")
                yield number, fields
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"{path}: damaged: {error}") from None


def read_table(path: Path, counts: dict[str, int]) -> Iterator[tuple[str, str, str, str]]:
    """Yield ``(source language, target language, source text, target text)``; bad fields are counted by kind.

    In the form with one column for each language, every pair is with English if there is an English column, else with
    the first column.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    rows = _rows(path, counts)
    try:
        number, first = next(rows)
    except StopIteration:
        raise DataError(f"{path}: the file is empty") from None
    if tuple(f.lower() for f in first) in PAIR_HEADERS:
        yield from _pair_rows(path, rows, counts)
    elif len(first) >= 2 and all(LANGUAGE_CODE.fullmatch(f) for f in first):
        if len(set(first)) != len(first):
            raise DataError(f"{path}: the header names a language twice: {' '.join(first)}")
        yield from _column_rows(path, first, rows, counts)
    elif len(first) == 4:
        yield from _pair_rows(path, _chain((number, first), rows), counts)
    else:
        raise DataError(
            f"{path}: line 1 must be a tab-separated header of language codes (en de ru), or a pair with the fields "
            f"src-lang, tgt-lang, source, target; it has {len(first)} field(s)"
        )


def _chain(first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _pair_rows(
    path: Path, rows: Iterator[tuple[int, list[str]]], counts: dict[str, int]
) -> Iterator[tuple[str, str, str, str]]:
    for number, fields in rows:
        if fields == [""]:
            counts["empty"] = counts.get("empty", 0) + 1
            continue
        if len(fields) != 4:
            raise DataError(f"{path}, line {number}: must have 4 tab-separated fields, but has {len(fields)}")
        source, target = (check_code(code, f"{path}, line {number}") for code in fields[:2])
        if source == target:
            raise DataError(f"{path}, line {number}: source and target language are both {source}")
        if fields[2] and fields[3]:
            yield source, target, fields[2], fields[3]
        else:
            counts["empty"] = counts.get("empty", 0) + 1


def _column_rows(
    path: Path, languages: list[str], rows: Iterator[tuple[int, list[str]]], counts: dict[str, int]
) -> Iterator[tuple[str, str, str, str]]:
    pivot = languages.index(PIVOT) if PIVOT in languages else 0
    for number, fields in rows:
        if fields == [""]:
            counts["empty"] = counts.get("empty", 0) + 1
            continue
        if len(fields) != len(languages):
            raise DataError(
                f"{path}, line {number}: must have {len(languages)} tab-separated fields, but has {len(fields)}"
            )
        for column, text in enumerate(fields):
            if column != pivot:
                if text and fields[pivot]:
                    yield languages[pivot], languages[column], fields[pivot], text
                else:
                    counts["empty"] = counts.get("empty", 0) + 1
