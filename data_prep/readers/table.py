"""Tables of sentences (``.tsv``, also ``.gz`` or ``.xz``): one pair a line, or one column for each language.

With a header ``en<TAB>de<TAB>ru`` a line holds one sentence in every language (a field may be empty).
Without one, a line holds ``source language, target language, source text, target text``.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple, cast

from data_prep.errors import DataError
from data_prep.lines import MAX_LINE_CHARACTERS, check_line
from data_prep.recipe import LANGUAGE_CODE, PIVOT, check_code
from data_prep.steps import add_counts

# Four columns of one language each would also be four fields; the header of the pair form may be given in words.
PAIR_HEADERS = {
    ("src-lang", "tgt-lang", "source", "target"),
    ("source-language", "target-language", "source", "target"),
}


class _Row(NamedTuple):
    """One line: its number, its fields (empty where they are bad), and what is wrong with each bad one."""

    number: int
    fields: list[str]
    faults: list[str]


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _rows(path: Path, counts: dict[str, int]) -> Iterator[_Row]:
    limit = 4 * MAX_LINE_CHARACTERS * 120  # a line may hold a hundred languages
    with _open(path) as file:
        number, skipping = 0, False
        try:
            while raw := file.readline(limit):
                ends = raw.endswith(b"\n")
                if skipping or (not ends and len(raw) == limit):
                    if not skipping:
                        add_counts(counts, {"line_too_long": 1})
                        number += 1
                    skipping = not ends
                    continue
                number += 1
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                checked = [check_line(field) for field in raw.removesuffix(b"\n").split(b"\t")]
                faults = [fault for _, fault in checked if fault and fault != "empty"]
                yield _Row(number, [text or "" for text, _ in checked], faults)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{path}: damaged: {error}") from None


def read_table(path: Path, counts: dict[str, int]) -> Iterator[tuple[str, str, str, str]]:
    """Yield ``(source language, target language, source text, target text)``; lines without a usable pair are
    counted by kind.

    In the form with one column for each language, every pair is with English if there is an English column, else with
    the first column; each bad field is counted, an empty one is not.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    rows = _rows(path, counts)
    try:
        first_row = next(rows)
    except StopIteration:
        raise DataError(f"{path}: the file is empty") from None
    first = first_row.fields
    if tuple(f.lower() for f in first) in PAIR_HEADERS:
        yield from _pair_rows(path, rows, counts)
        return
    second = next(rows, None)
    rows = chain([second] if second else [], rows)
    # Four short words are a header, unless the second line begins with codes too, and shares one: then both are pairs.
    codes = second.fields[:2] if second else []
    is_pair = len(first) == 4 and _are_codes(codes) and not set(codes).isdisjoint(first[:2])
    if len(first) >= 2 and _are_codes(first) and not is_pair:
        if len(set(first)) != len(first):
            raise DataError(f"{path}: the header names a language twice: {' '.join(first)}")
        yield from _column_rows(path, first, rows, counts)
    elif len(first) == 4:
        yield from _pair_rows(path, chain([first_row], rows), counts)
    else:
        raise DataError(
            f"{path}: line 1 must be a tab-separated header of language codes (en de ru), or a pair with the fields "
            f"src-lang, tgt-lang, source, target; it has {len(first)} field(s)"
        )


def _are_codes(fields: list[str]) -> bool:
    return all(LANGUAGE_CODE.fullmatch(field) for field in fields)


def _filled_rows(path: Path, rows: Iterable[_Row], width: int, counts: dict[str, int]) -> Iterator[_Row]:
    """The rows but for blank lines, all of ``width`` fields."""
    for row in rows:
        if row.fields == [""]:
            add_counts(counts, {row.faults[0] if row.faults else "empty": 1})
        elif len(row.fields) != width:
            raise DataError(
                f"{path}, line {row.number}: must have {width} tab-separated fields, but has {len(row.fields)}"
            )
        else:
            yield row


def _pair_rows(path: Path, rows: Iterable[_Row], counts: dict[str, int]) -> Iterator[tuple[str, str, str, str]]:
    for number, fields, faults in _filled_rows(path, rows, 4, counts):
        if faults:
            add_counts(counts, {faults[0]: 1})
            continue
        source, target = (check_code(code, f"{path}, line {number}") for code in fields[:2])
        if source == target:
            raise DataError(f"{path}, line {number}: source and target language are both {source}")
        if fields[2] and fields[3]:
            yield source, target, fields[2], fields[3]
        else:
            add_counts(counts, {"empty": 1})


def _column_rows(
    path: Path, languages: list[str], rows: Iterable[_Row], counts: dict[str, int]
) -> Iterator[tuple[str, str, str, str]]:
    pivot = languages.index(PIVOT) if PIVOT in languages else 0
    for _, fields, faults in _filled_rows(path, rows, len(languages), counts):
        for fault in faults:
            add_counts(counts, {fault: 1})
        others = [column for column, text in enumerate(fields) if column != pivot and text]
        if fields[pivot] and others:
            for column in others:
                yield languages[pivot], languages[column], fields[pivot], fields[column]
        elif not faults:
            add_counts(counts, {"empty": 1})
