"""Take in users' own text: a folder of ``train.en-de.{en,de}`` files (``valid.*`` and ``test.*`` optional), or a table.

Writes ``<output>/train/en-de.tsv`` and, where there are such files,
``<output>/{valid,test}/{valid,test}.en-de.{en,de}``. Only lines that cannot be used are dropped, and counted by kind;
the rest is the user's choice.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.lines import check_equal_length, read_aligned
from data_prep.normalise import normalise
from data_prep.pair_rules import Rules
from data_prep.pairs import pair_name, write_rows
from data_prep.readers.table import read_table
from data_prep.recipe import PIVOT, check_code
from data_prep.steps import Unit, add_counts

VERSION = 1
TABLE_ENDINGS = (".tsv", ".tsv.gz", ".tsv.xz", ".txt")
_FILE = re.compile(r"(train|valid|test)\.([^.]+)-([^.]+)\.([^.]+)")

# What an ignored file may look like that was meant to be text in two languages.
_LOOKS_ALIGNED = re.compile(r".+\.[^.-]+-[^.-]+\.[^.]+(\.(gz|xz|bz2|zip))?")

Texts = tuple[str, str, str, Iterator[tuple[str, str]]]  # set, source language, target language, pairs


def ignored_files(folder: Path) -> list[str]:
    """Names of files that look like aligned text, but are not called as :func:`read_folder` wants them."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return [name for name in names if _LOOKS_ALIGNED.fullmatch(name) and not _FILE.fullmatch(name)]


def _folder_files(folder: Path) -> dict[tuple[str, str, str], dict[str, Path]]:
    found: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        name, source, target, language = match.groups()
        for code in (source, target, language):
            check_code(code, str(path))
        if source == target or language not in (source, target):
            raise DataError(f"{path}: must be named <train|valid|test>.<source>-<target>.<source or target>")
        found.setdefault((name, source, target), {})[language] = path
    if not any(name == "train" for name, _, _ in found):
        raise DataError(
            f"--input: no files train.<source>-<target>.<language>, like train.en-de.en and train.en-de.de, in {folder}"
        )
    return found


def read_folder(folder: Path, counts: dict[str, dict[str, int]]) -> Iterator[Texts]:
    """The aligned files of a folder; counts go to ``counts["train.en-de"]``."""
    files = _folder_files(folder)
    for (name, source, target), by_language in files.items():
        for language in (source, target):
            if language not in by_language:
                raise DataError(f"no such file: {folder / f'{name}.{source}-{target}.{language}'}")
        if check_equal_length(by_language[source], by_language[target]) == 0:
            raise DataError(f"{by_language[source]}: the file is empty")
    for (name, source, target), by_language in files.items():
        if (name, target, source) in files and target < source:
            raise DataError(
                f"{folder}: has both {name}.{source}-{target} and {name}.{target}-{source}; a pair is trained and "
                "tested in both directions"
            )
        own = counts.setdefault(f"{name}.{source}-{target}", {})
        yield name, source, target, read_aligned(by_language[source], by_language[target], own)


def read_table_pairs(path: Path, counts: dict[str, dict[str, int]]) -> Iterator[Texts]:
    """The pairs of a table; a pair written in both directions is one pair."""
    by_pair: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, target, text, translation in read_table(path, counts.setdefault("table", {})):
        # With English first, so that en-de and de-en meet; else in order of first use.
        if target == PIVOT or (source != PIVOT and (target, source) in by_pair):
            source, target, text, translation = target, source, translation, text
        by_pair.setdefault((source, target), []).append((text, translation))
    if not by_pair:
        raise DataError(f"{path}: no usable pair of sentences; skipped lines: {counts['table'] or 'none'}")
    for (source, target), pairs in sorted(by_pair.items()):
        yield "train", source, target, iter(pairs)


def take_in(source: Path, output: Path, languages: list[str] | None) -> dict[str, Any]:
    """Read a folder or a table; returns the statistics."""
    if not source.exists():
        raise DataError(f"--input: no such file or folder: {source}")
    if source.is_file() and not source.name.endswith(TABLE_ENDINGS):
        raise DataError(f"--input: a table must end in {', '.join(TABLE_ENDINGS)}, but is {source.name}")
    # Not the folder itself: it may be the one that all data is written below.
    files = [source] if source.is_file() else [p for found in _folder_files(source).values() for p in found.values()]
    unit = Unit("own_text", VERSION, output, {"languages": languages}, files)
    return unit.make(lambda temporary: _take_in(source, temporary, languages))


def _take_in(source: Path, output: Path, languages: list[str] | None) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    rules = Rules(script="", catalog=False)
    seen: set[str] = set()
    for name, first, second, pairs in (read_folder if source.is_dir() else read_table_pairs)(source, counts):
        seen |= {first, second}
        if languages is not None and not {first, second} <= set(languages):
            continue
        pair = pair_name(first, second)
        own = counts.setdefault(f"{name}.{pair}", {})
        rows = list(_usable(pairs, rules, own))
        own["kept"] = len(rows)
        if not rows:
            raise DataError(f"{source}: no usable pair of {first} and {second} in {name}; skipped: {own}")
        (output / name).mkdir(parents=True, exist_ok=True)
        if name == "train":
            write_rows(output / name / f"{pair}.tsv", ((*row, "own") for row in rows))
        else:
            for side, language in enumerate((first, second)):
                text = "".join(row[side] + "\n" for row in rows)
                (output / name / f"{name}.{pair}.{language}").write_text(text, encoding="utf-8")
    if missing := set(languages or ()) - seen:
        raise DataError(f"--languages: {source} has no {min(missing)!r}; it has {', '.join(sorted(seen))}")
    if not (output / "train").is_dir():
        raise DataError(
            f"--languages: {source} has no pair of {', '.join(languages or [])}; it has {', '.join(sorted(seen))}"
        )
    total: dict[str, int] = {}
    for own in counts.values():
        add_counts(total, own)
    return {"counts": total, "sets": counts}


def _usable(pairs: Iterator[tuple[str, str]], rules: Rules, counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    for text, translation in pairs:
        row = normalise(text), normalise(translation)
        fault = rules.fault(*row)
        if fault is None:
            yield row
        else:
            counts[fault] = counts.get(fault, 0) + 1


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.own_text", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="folder of text files, or a table .tsv[.gz|.xz]")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--languages", help="only pairs of these, comma separated (default: all)")
    parser.add_argument("--verbose", action="store_true", help="print the counts of every file")
    args = parser.parse_args()
    languages = sorted({c.strip() for c in args.languages.split(",")} - {""}) if args.languages else None
    stats = take_in(args.input, args.output, languages)
    if args.verbose:
        for name, counts in stats["sets"].items():
            print(f"own_text: {name}: {counts}")
    skipped = ", ".join(f"{k} {v:,}" for k, v in stats["counts"].items() if k != "kept")
    print(f"own_text: {stats['counts'].get('kept', 0):,} pairs of lines taken; skipped lines: {skipped or 'none'}")
    if args.input.is_dir() and (ignored := ignored_files(args.input)):
        print(f"own_text: not read, since their names are not <train|valid|test>.xx-yy.xx: {', '.join(ignored)}")


if __name__ == "__main__":
    run_program(main, "data_prep.own_text")
