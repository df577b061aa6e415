"""Take in users' own text: a folder of ``train.en-de.{en,de}`` files (``valid.*`` and ``test.*`` optional), or a table.

Writes ``<output>/train/en-de.tsv`` and, where there are such files,
``<output>/{valid,test}/{valid,test}.en-de.{en,de}``, or ``{valid,test}.{en,de}`` as they are. Only lines that cannot be
used are dropped, and counted by kind; the rest is the user's choice. ``<output>/held_out`` has every line of the
validation and test files that can be read, used or not: none of them may be trained on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import DataError, run_program
from data_prep.lines import check_equal_length, read_aligned, read_lines
from data_prep.normalise import normalise
from data_prep.pair_rules import Rules
from data_prep.pairs import pair_name, write_rows
from data_prep.readers.table import read_table
from data_prep.recipe import PIVOT, check_code
from data_prep.steps import Unit, add_counts, stats_path
from data_prep.text_files import SETS, TextName, parse_name, write_lines, write_pairs

VERSION = 2
TABLE_ENDINGS = (".tsv", ".tsv.gz", ".tsv.xz", ".txt")
NAMES = "<train|valid|test>.xx-yy.xx or <valid|test>.xx"

# What an ignored file may look like that was meant to be text; in a folder of the folder only the first kind.
_LOOKS_MEANT = re.compile(r"(train|valid|dev|test)\..+")
_LOOKS_ALIGNED = re.compile(r".+\.[^.-]+-[^.-]+\.[^.]+(\.(gz|xz|bz2|zip))?")
_MOST_NAMED = 20

Texts = tuple[str, str, str, Iterator[tuple[str, str]]]  # set, source language, target language, pairs


class OwnFiles(NamedTuple):
    """The text files of a folder: ``pairs["train", "en", "de"]["en"]`` and ``multi_way["test"]["en"]`` are paths."""

    pairs: dict[tuple[str, str, str], dict[str, Path]]
    multi_way: dict[str, dict[str, Path]]

    def paths(self, *, train: bool = True) -> list[Path]:
        """All files, or all but those to train on."""
        of_pairs = [by_language for (name, *_), by_language in self.pairs.items() if train or name != "train"]
        return [path for by_language in (*of_pairs, *self.multi_way.values()) for path in by_language.values()]


def _named_files(folder: Path) -> tuple[dict[Path, TextName], dict[str, dict[str, Path]]]:
    """The files in pairs with what their names say, and the multi-way ones by set and language.

    A set ``<valid|test>.<language>`` is one if it has a language that text in pairs has too: ``test.log`` and
    ``test.py`` alone are none.
    """
    in_pairs: dict[Path, TextName] = {}
    multi_way: dict[str, dict[str, Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        name = parse_name(path.name)
        if name is None or name.set not in SETS:
            continue
        if name.source:
            in_pairs[path] = name
        elif name.set != "train":
            multi_way.setdefault(name.set, {})[name.language] = path
    codes = {code for name in in_pairs.values() for code in (name.source, name.target)}
    return in_pairs, {of_set: files for of_set, files in multi_way.items() if codes & files.keys()}


def ignored_files(folder: Path) -> list[str]:
    """Names of files that were meant to be text, as it seems, but are not called as :func:`find_files` wants them."""
    in_pairs, multi_way = _named_files(folder)
    taken = in_pairs.keys() | {path for files in multi_way.values() for path in files.values()}
    ignored = [
        path
        for path in folder.iterdir()
        if path.is_file()
        and (_LOOKS_MEANT.fullmatch(path.name) or _LOOKS_ALIGNED.fullmatch(path.name))
        and path not in taken
    ]
    for path in folder.glob("*/*"):
        of_a_step = path.parent.name.startswith(".") or stats_path(path.parent).is_file()
        if not of_a_step and _LOOKS_MEANT.fullmatch(path.name) and path.is_file():
            ignored.append(path)
    return sorted(str(path.relative_to(folder)) for path in ignored)


def tell_ignored(source: Path) -> str:
    """What to say about the ignored files of a folder; nothing if there are none, or of a table."""
    names = ignored_files(source) if source.is_dir() else []
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"not read, since their names are not {NAMES}: {', '.join(names[:_MOST_NAMED])}{more}" if names else ""


def find_files(folder: Path) -> OwnFiles:
    """The text files of a folder, by their names; a :class:`DataError` if nothing can be trained with them."""
    in_pairs, multi_way = _named_files(folder)
    found = OwnFiles({}, multi_way)
    for path, (name, source, target, language) in in_pairs.items():
        for code in (source, target, language):
            check_code(code, str(path))
        if source == target or language not in (source, target):
            raise DataError(f"{path}: must be named <train|valid|test>.<source>-<target>.<source or target>")
        found.pairs.setdefault((name, source, target), {})[language] = path
    trained = [{source, target} for name, source, target in found.pairs if name == "train"]
    if not trained:
        raise DataError(
            f"--input: no files train.<source>-<target>.<language>, like train.en-de.en and train.en-de.de, in {folder}"
        )
    for name, files in found.multi_way.items():
        if len(files) < 2:
            raise DataError(f"{min(files.values())}: the only file {name}.<language>; a test needs two languages")
        if name == "valid" and not any(pair <= files.keys() for pair in trained):
            raise DataError(
                f"{folder}: has valid.<language> in {', '.join(files)}, but no training text of any two of these; name "
                "the files of another pair valid.<source>-<target>.<language>"
            )
    return found


def read_folder(folder: Path, counts: dict[str, dict[str, int]]) -> Iterator[Texts]:
    """The files in pairs of a folder; counts go to ``counts["train.en-de"]``."""
    files = find_files(folder).pairs
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
    try:
        # Not the folder itself: it may be the one that all data is written below.
        files = [source] if source.is_file() else find_files(source).paths()
        unit = Unit("own_text", VERSION, output, {"languages": languages}, files)
        return unit.make(lambda temporary: _take_in(source, temporary, languages))
    except DataError as error:
        ignored = tell_ignored(source)  # most likely the reason
        raise DataError(f"{error}; {ignored}" if ignored else str(error)) from None


def _take_in(source: Path, output: Path, languages: list[str] | None) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    rules = Rules(script="", catalog=False)
    files = find_files(source) if source.is_dir() else OwnFiles({}, {})
    seen = {language for by_language in files.multi_way.values() for language in by_language}
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
            write_pairs(output / name, name, pair, rows)
    if missing := set(languages or ()) - seen:
        raise DataError(f"--languages: {source} has no {min(missing)!r}; it has {', '.join(sorted(seen))}")
    if not (output / "train").is_dir():
        raise DataError(
            f"--languages: {source} has no pair of {', '.join(languages or [])}; it has {', '.join(sorted(seen))}"
        )
    for name, by_language in files.multi_way.items():
        wanted = {code: path for code, path in by_language.items() if languages is None or code in languages}
        if len(wanted) > 1:
            _take_in_multi_way(wanted, output / name, rules, counts)
    held_out = _hold_out(files.paths(train=False), output / "held_out")
    total: dict[str, int] = {}
    for own in counts.values():
        add_counts(total, own)
    return {"counts": total, "sets": counts, "held_out": held_out}


def _usable(pairs: Iterator[tuple[str, str]], rules: Rules, counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    for text, translation in pairs:
        row = normalise(text), normalise(translation)
        fault = rules.fault(*row)
        if fault is None:
            yield row
        else:
            add_counts(counts, {fault: 1})


def _take_in_multi_way(files: dict[str, Path], output: Path, rules: Rules, counts: dict[str, dict[str, int]]) -> None:
    """Write the files of a multi-way set, aligned: a line that cannot be used becomes an empty one."""
    output.mkdir(parents=True, exist_ok=True)
    for path in files.values():
        if check_equal_length(min(files.values()), path) == 0:
            raise DataError(f"{path}: the file is empty")
        own = counts.setdefault(path.name, {})
        lines = []
        for line in read_lines(path, own):
            text = normalise(line or "")
            fault = rules.fault(text, text)
            if fault and line is not None:  # a line that cannot be read is counted already
                add_counts(own, {fault: 1})
            lines.append("" if fault else text)
        own["lines"] = sum(map(bool, lines))
        write_lines(output / path.name, lines)


def _hold_out(files: list[Path], output: Path) -> dict[str, int]:
    """Copy every line that can be read; returns how many these are, and by kind how many cannot."""
    counts: dict[str, int] = {}
    for path in files:
        output.mkdir(parents=True, exist_ok=True)
        lines = [line for line in read_lines(path, counts) if line is not None]
        add_counts(counts, {"lines": len(lines)})
        write_lines(output / path.name, lines)
    counts.pop("empty", None)  # there is nothing to hold out
    return counts


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
    skipped = ", ".join(f"{k} {v:,}" for k, v in stats["counts"].items() if k not in {"kept", "lines"})
    print(f"own_text: {stats['counts'].get('kept', 0):,} pairs of lines taken; skipped lines: {skipped or 'none'}")
    if held_out := stats["held_out"]:
        unreadable = ", ".join(f"{k} {v:,}" for k, v in held_out.items() if k != "lines")
        print(
            f"own_text: {held_out['lines']:,} lines of validation and test files are kept out of training; "
            f"unreadable: {unreadable or 'none'}"
        )
    if ignored := tell_ignored(args.input):
        print(f"own_text: {ignored}")


if __name__ == "__main__":
    run_program(main, "data_prep.own_text")
