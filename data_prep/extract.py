"""Read the sources' own formats and write raw messages, one layout for all: ``<output>/<source>/en-de.tsv``."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import source_readers
from data_prep.errors import DataError, run_program
from data_prep.options import add_common_options, add_recipe_options, chosen_recipe, set_up_logging
from data_prep.pairs import pair_name, write_rows
from data_prep.recipe import PIVOT, Language, Source
from data_prep.source_readers import Messages
from data_prep.steps import Unit, add_counts, in_processes, withdraw

logger = logging.getLogger(__name__)
VERSION = 3
# U+FFFD stands for bytes that are no text in their character set; a lone surrogate ("\ud83d" in JSON) is no character.
_INVALID = re.compile("[\ufffd\ud800-\udfff]")

READERS: dict[str, Callable[[Source, list[Path], list[Language], dict[str, int]], Iterator[Messages]]] = {
    "mo": source_readers.read_catalogs,
    "pak": source_readers.read_packs,
    "json": source_readers.read_json_messages,
    "ddtp": source_readers.read_descriptions,
    "mallard": source_readers.read_help_pages,
    "table": source_readers.read_tables,
}


@dataclass(frozen=True)
class ExtractJob:
    """What one process reads: one source, all languages."""

    unit: Unit
    source: Source
    archives: tuple[Path, ...]
    languages: tuple[Language, ...]


def extract_source(job: ExtractJob) -> dict[str, Any]:
    """Extract one source; returns the statistics."""
    return job.unit.make(lambda temporary: _extract(job, temporary))


def _extract(job: ExtractJob, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    counts: dict[str, int] = {}
    by_language: dict[str, int] = {}
    messages: dict[str, list[tuple[str, str]]] = {}
    for code, pairs in READERS[job.source.kind](job.source, list(job.archives), list(job.languages), counts):
        into = messages.setdefault(code, [])
        for source, target in pairs:
            if not target:
                add_counts(counts, {"untranslated": 1})
            elif "\0" in source or "\0" in target:
                add_counts(counts, {"nul_byte": 1})
            elif _INVALID.search(source) or _INVALID.search(target):
                add_counts(counts, {"invalid_utf8": 1})
            else:
                into.append((source, target))
    for code in sorted(messages):
        by_language[code] = write_rows(folder / f"{pair_name(PIVOT, code)}.tsv", messages[code])
    counts["messages"] = sum(by_language.values())
    return {"counts": counts, "languages": by_language}


def extract(
    downloads: Path, output: Path, languages: list[Language], sources: list[Source], jobs: int
) -> dict[str, int]:
    """Extract every source whose packages are there; a source without any is left out and named."""
    work = []
    for source in sources:
        if source.kind not in READERS:
            raise DataError(f"source {source.name}: unknown kind {source.kind!r}; known are {', '.join(READERS)}")
        archives = source_readers.archives_of(source, downloads)
        if not archives:
            logger.warning("extract: %s is left out, none of its packages is in %s", source.name, downloads)
            withdraw("extract", output / source.name)  # what it gave when they were there
            continue
        options = {
            "kind": source.kind,
            "files": source.files,
            "languages": {lang.code: lang.locales for lang in languages},
        }
        unit = Unit("extract", VERSION, output / source.name, options, archives)
        work.append(ExtractJob(unit, source, tuple(archives), tuple(languages)))
    if not work:
        raise DataError(f"nothing to extract: none of the sources' packages is in {downloads}")
    total: dict[str, int] = {}
    # The largest first, so that no process is left alone with one at the end.
    work.sort(key=lambda job: -sum(p.stat().st_size for p in job.archives if p.exists()))
    for job, stats in zip(work, in_processes(extract_source, work, jobs)):
        add_counts(total, stats["counts"])
        logger.info("extract: %s %s", job.source.name, stats["counts"])
    return total


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.extract", description=__doc__.splitlines()[0])
    add_recipe_options(parser)
    parser.add_argument("--input", type=Path, required=True, help="folder of downloads, made by data_prep.fetch")
    parser.add_argument("--output", type=Path, required=True, help="folder to write <source>/en-xx.tsv to")
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    recipe, preset, languages = chosen_recipe(args)
    if not args.languages:  # a package is read once for all languages, whichever the preset takes
        languages = [language for code, language in recipe.languages.items() if code != PIVOT]
    total = extract(args.input, args.output, languages, recipe.sources_of(preset), args.jobs)
    rest = ", ".join(f"{k} {v:,}" for k, v in total.items() if k != "messages")
    print(f"extract: {total['messages']:,} raw messages; {rest or 'nothing skipped'}")


if __name__ == "__main__":
    run_program(main, "data_prep.extract")
