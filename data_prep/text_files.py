"""Folders of aligned text files: what the files are called, and how they are found, read and written.

``<set>.<language>`` is aligned line by line with the set's files of all other languages (it is multi-way),
``<set>.<pair>.<language>`` with the other file of its pair only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.errors import DataError
from data_prep.lines import check_equal_length, read_aligned, read_lines
from data_prep.normalise import normalise
from data_prep.pairs import pair_name, split_pair
from data_prep.recipe import LANGUAGE_CODE
from data_prep.steps import add_counts

# They tell how a file is written. Where one is a language's code too, that language can be called tsv_Latn.
FORMATS = {"csv", "doc", "gz", "pdf", "po", "sgm", "tar", "tgz", "tmx", "tsv", "txt", "xml", "xz", "zip", "zst"}
# The sets of text that a model is trained, validated and tested on.
SETS = ("train", "valid", "test")
_NAME = re.compile(r"([^.]+)(?:\.([^.]+)-([^.]+))?\.([^.]+)")

Pair = tuple[str, str]


class TextName(NamedTuple):
    """What the name of a text file says; ``source`` and ``target`` are empty if the file is multi-way."""

    set: str
    source: str
    target: str
    language: str


def parse_name(name: str) -> TextName | None:
    """What the name says; None if it is not that of a text file.

    The codes of a pair are not checked: whoever reads the file says what is wrong with them. ``test.sentences`` and
    ``test.txt`` look like multi-way files, so that there the language must be a code.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parsed = TextName(*match.groups(default=""))
    if not parsed.source and (parsed.language in FORMATS or not LANGUAGE_CODE.fullmatch(parsed.language)):
        return None
    return parsed


def folders_below(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield ``folder`` and every folder in it, linked ones too, with the names of its files, but for hidden ones.

    A folder that cannot be read is an error, since nobody would miss the files in it.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for path, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:  # a second link to a folder, or one to a folder above
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(path), sorted(name for name in names if not name.startswith("."))


def read_set(folder: Path, pairs: list[str], counts: dict[str, dict[str, int]]) -> dict[str, list[Pair]]:
    """The aligned lines of an evaluation set, for the trained pairs and for every other pair that has files of its own.

    Args:
        folder: holds ``<its name>.<lang>`` or ``<its name>.<pair>.<lang>``; of a pair that has both, the latter count.
            Of the former, a pair without a line that has text in both is left out.
        pairs: those that are trained; files of ``de-en`` count for ``en-de`` if that is trained.
        counts: gets the bad lines by pair and kind.
    """
    name = folder.name
    files = {}
    for pair in pairs:
        left, right = (folder / f"{name}.{language}" for language in split_pair(pair))
        if left.is_file() and right.is_file():
            files[pair] = left, right
    named = {path.name.removeprefix(f"{name}.").split(".")[0] for path in folder.glob(f"{name}.*-*.*")}
    for pair in sorted(named):
        left, right = (folder / f"{name}.{pair}.{language}" for language in split_pair(pair))
        turned = pair_name(*reversed(split_pair(pair)))
        if turned not in pairs:
            files[pair] = left, right
        elif turned in named:
            raise DataError(f"{folder}: has both {pair} and {turned}; one file serves both directions")
        else:
            files[turned] = right, left
    if not any(folder.glob(f"{name}.*")):
        raise DataError(f"{folder}: no files {name}.<language> or {name}.<pair>.<language> in it")
    found = {}
    for pair, (left, right) in files.items():
        skipped = counts.setdefault(pair, {})
        rows = [(normalise(a), normalise(b)) for a, b in read_aligned(left, right, skipped)]
        found[pair] = [row for row in rows if all(row)]
        if len(found[pair]) < len(rows):  # of characters that nobody sees
            add_counts(skipped, {"empty": len(rows) - len(found[pair])})
        is_multi_way = left.name == f"{name}.{split_pair(pair)[0]}"
        if not found[pair] and is_multi_way:
            del found[pair]
        elif not found[pair]:
            raise DataError(f"{left} and {right.name}: no line has text in both; skipped: {skipped or 'none'}")
    return found


def read_multi_way(folder: Path, languages: Iterable[str], counts: dict[str, int]) -> dict[str, list[str]]:
    """The lines of a folder's multi-way files ``<its name>.<lang>`` that have text in all of ``languages`` it has.

    They are aligned, so that any two languages are a test. Without two such files there are none; the lines that are
    left out are counted.
    """
    files = {code: path for code in sorted(languages) if (path := folder / f"{folder.name}.{code}").is_file()}
    if len(files) < 2:
        return {}
    first, *others = files.values()
    for other in others:
        check_equal_length(first, other)
    columns = [[normalise(line or "") for line in read_lines(path, {})] for path in files.values()]
    rows = list(zip(*columns, strict=True))
    whole = [row for row in rows if all(row)]
    if len(whole) < len(rows):
        counts["lines_not_in_all_languages"] = len(rows) - len(whole)
    return {code: [row[column] for row in whole] for column, code in enumerate(files)} if whole else {}


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write one sentence a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def write_pairs(folder: Path, name: str, pair: str, rows: list[Pair]) -> None:
    """Write ``<name>.<pair>.<lang>`` for both languages."""
    for side, language in enumerate(split_pair(pair)):
        write_lines(folder / f"{name}.{pair}.{language}", (row[side] for row in rows))
