"""One translation for each English sentence: exact repeats, variants, overused translations, and caps on sources.

Reads ``<input>/en-de.tsv`` of data_prep.clean and writes ``<output>/en-de.tsv`` with the same columns.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.files import stable_hash
from data_prep.options import (
    add_common_options,
    add_recipe_options,
    chosen_recipe,
    refuse_without_effect,
    set_up_logging,
)
from data_prep.pairs import pair_name, pairs_in, read_rows, write_rows
from data_prep.recipe import PIVOT
from data_prep.steps import Unit, add_counts, in_processes

logger = logging.getLogger(__name__)
VERSION = 1

# A translation of more sources than this is a fault of alignment or says nothing ("not available").
MAX_SOURCES_OF_TARGET = 6

Row = tuple[str, str, str]


@dataclass(frozen=True)
class DeduplicateJob:
    """What one process does: one pair of languages."""

    unit: Unit
    cleaned: Path
    priority: tuple[str, ...]
    caps: dict[str, int]
    one_translation: bool = True


def merge_variants(rows: Iterable[Row], priority: tuple[str, ...], counts: dict[str, int]) -> list[Row]:
    """Keep for every source text the translation that most sources give; in a tie, the most trusted source's."""
    rank = {name: i for i, name in enumerate(priority)}
    translations: dict[str, dict[str, set[str]]] = {}
    for text, translation, source in rows:
        add_counts(counts, {"read": 1})
        translations.setdefault(text, {}).setdefault(translation, set()).add(source)
    best = []
    for text, variants in translations.items():

        def trust(item: tuple[str, set[str]]) -> tuple[int, int, str]:
            return -len(item[1]), min(rank.get(s, len(rank)) for s in item[1]), item[0]

        translation, sources = min(variants.items(), key=trust)
        best.append((text, translation, min(sources, key=lambda s: (rank.get(s, len(rank)), s))))
        add_counts(counts, {"variant": len(variants) - 1})
    counts["repeated"] = counts.get("read", 0) - len(best) - counts.get("variant", 0)
    return best


def merge_repeats(rows: Iterable[Row], counts: dict[str, int]) -> list[Row]:
    """Keep every different pair once, in order: for users' own text, whose variants are theirs to choose."""
    unique: dict[tuple[str, str], str] = {}
    for text, translation, source in rows:
        add_counts(counts, {"read": 1})
        unique.setdefault((text, translation), source)
    counts["repeated"] = counts.get("read", 0) - len(unique)
    return [(*pair, source) for pair, source in unique.items()]


def drop_overused_targets(rows: list[Row], counts: dict[str, int]) -> list[Row]:
    """Drop all pairs whose translation belongs to too many sources."""
    uses = Counter(translation for _, translation, _ in rows)
    kept = [row for row in rows if uses[row[1]] <= MAX_SOURCES_OF_TARGET]
    counts["overused_translation"] = len(rows) - len(kept)
    return kept


def cap_sources(rows: list[Row], caps: dict[str, int], counts: dict[str, int]) -> list[Row]:
    """Keep at most ``caps[source]`` pairs of a source: those with the smallest hash, whatever their order."""
    for source, cap in caps.items():
        hashes = sorted(stable_hash(text) for text, _, name in rows if name == source)
        if len(hashes) > cap:
            limit = hashes[cap]
            before = len(rows)
            rows = [row for row in rows if row[2] != source or stable_hash(row[0]) < limit]
            add_counts(counts, {"over_cap": before - len(rows)})
    return rows


def deduplicate_pair(job: DeduplicateJob) -> dict[str, Any]:
    """Deduplicate one language pair; returns the statistics."""
    return job.unit.make(lambda temporary: _deduplicate(job, temporary))


def _deduplicate(job: DeduplicateJob, output: Path) -> dict[str, Any]:
    counts: dict[str, int] = {}
    rows = ((text, translation, source) for text, translation, source in read_rows(job.cleaned, fields=3))
    if job.one_translation:
        merged = drop_overused_targets(merge_variants(rows, job.priority, counts), counts)
    else:
        merged = merge_repeats(rows, counts)
    merged = cap_sources(merged, job.caps, counts)
    counts["kept"] = write_rows(output, merged)
    return {"counts": counts, "sources": dict(Counter(source for _, _, source in merged).most_common())}


def deduplicate(
    cleaned: Path,
    output: Path,
    pairs: list[str],
    jobs: int,
    priority: tuple[str, ...] = (),
    caps: dict[str, int] | None = None,
    one_translation: bool = True,
) -> dict[str, int]:
    """Deduplicate the files ``<pair>.tsv`` of a folder."""
    work = []
    options = {"priority": priority, "caps": caps or {}, "one_translation": one_translation}
    for pair in pairs:
        path = cleaned / f"{pair}.tsv"
        if not path.is_file():
            raise DataError(f"no such file: {path}")
        unit = Unit("deduplicate", VERSION, output / path.name, options, [path])
        work.append(DeduplicateJob(unit, path, priority, caps or {}, one_translation))
    total: dict[str, int] = {}
    for job, stats in zip(work, in_processes(deduplicate_pair, work, jobs)):
        add_counts(total, stats["counts"])
        logger.info("deduplicate: %s %s", job.cleaned.stem, stats["counts"])
    return total


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.deduplicate", description=__doc__.splitlines()[0])
    add_recipe_options(parser, required=False)
    parser.add_argument("--input", type=Path, required=True, help="folder of en-xx.tsv files, made by data_prep.clean")
    parser.add_argument("--output", type=Path, required=True, help="folder to write en-xx.tsv files to")
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    if args.recipe is None:  # users' own text: only repeats of a whole pair go
        refuse_without_effect(args, "without --recipe", "--preset", "--languages")
        print(describe(deduplicate(args.input, args.output, pairs_in(args.input), args.jobs, one_translation=False)))
        return
    recipe, preset, languages = chosen_recipe(args)
    sources = recipe.sources_of(preset)
    total = deduplicate(
        args.input,
        args.output,
        [pair_name(PIVOT, language.code) for language in languages],
        args.jobs,
        priority=tuple(s.name for s in sources),
        caps={s.name: s.cap for s in sources if s.cap},
    )
    print(describe(total))


def describe(counts: dict[str, int]) -> str:
    """One line about a run."""
    rest = ", ".join(f"{k} {v:,}" for k, v in counts.items() if k not in {"read", "kept"})
    return f"deduplicate: {counts.get('kept', 0):,} of {counts.get('read', 0):,} pairs kept; {rest}"


if __name__ == "__main__":
    run_program(main, "data_prep.deduplicate")
