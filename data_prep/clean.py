"""Clean raw messages into plain sentence pairs, with one counter for each reason a pair is dropped for.

Reads ``<input>/<source>/en-de.tsv`` of all sources, writes ``<output>/en-de.tsv`` (source text, target text, source
name).
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.length_ratio import log_ratio, ratio_limits
from data_prep.messages import segments
from data_prep.options import add_common_options, add_recipe_options, chosen_recipe, set_up_logging
from data_prep.pair_rules import Rules
from data_prep.pairs import pair_name, read_rows, split_pair, write_rows
from data_prep.recipe import PIVOT, Language, Source
from data_prep.steps import Unit, add_counts, in_processes

logger = logging.getLogger(__name__)
VERSION = 3


@dataclass(frozen=True)
class CleanJob:
    """What one process cleans: one pair of languages, all its sources."""

    unit: Unit
    rules: Rules
    sources: tuple[Source, ...]
    raw: Path


def clean_pair(job: CleanJob) -> dict[str, Any]:
    """Clean all sources of one language pair; returns the statistics."""
    return job.unit.make(lambda temporary: _clean_pair(job, temporary))


def _clean_pair(job: CleanJob, output: Path) -> dict[str, Any]:
    by_source: dict[str, dict[str, int]] = {}
    kept: list[tuple[str, str, str]] = []
    for source in job.sources:
        path = job.raw / source.name / job.unit.output.name
        counts = by_source[source.name] = {"read": 0}
        seen: set[tuple[str, str]] = set()
        for message, translation in read_rows(path, fields=2):
            counts["read"] += 1
            pieces = segments(message, translation, source.accelerator, source.product_names)
            if pieces is None:
                add_counts(counts, {"paragraphs_differ": 1})
                continue
            add_counts(counts, {"further_paragraphs": len(pieces) - 1})
            for pair in pieces:
                fault = "duplicate" if pair in seen else job.rules.fault(*pair)
                if fault:
                    add_counts(counts, {fault: 1})
                else:
                    seen.add(pair)
                    kept.append((*pair, source.name))
    limits = ratio_limits([log_ratio(s, t) for s, t, _ in kept]) if job.rules.catalog else None
    good = []
    for row in kept:
        outlier = limits is not None and not limits[0] <= log_ratio(row[0], row[1]) <= limits[1]
        add_counts(by_source[row[2]], {"length_ratio" if outlier else "kept": 1})
        if not outlier:
            good.append(row)
    write_rows(output, good)
    total: dict[str, int] = {}
    for counts in by_source.values():
        add_counts(total, counts)
    return {"counts": total, "sources": by_source}


def clean(
    raw: Path,
    output: Path,
    languages: list[Language],
    sources: list[Source],
    jobs: int,
    keep_placeholders: bool = False,
) -> dict[str, Any]:
    """Clean the pairs of English with every language."""
    work = []
    for language in languages:
        name = f"{pair_name(PIVOT, language.code)}.tsv"
        present = tuple(s for s in sources if (raw / s.name / name).exists())
        if not present:
            raise DataError(f"no source has {language.name} ({language.code}): no {name} under {raw}")
        rules = Rules(script=language.script, keep_placeholders=keep_placeholders)
        options = {"rules": vars(rules), "sources": [[s.name, s.accelerator, s.product_names] for s in present]}
        unit = Unit("clean", VERSION, output / name, options, [raw / s.name for s in present])
        work.append(CleanJob(unit, rules, present, raw))
    total: dict[str, int] = {}
    for job, stats in zip(work, in_processes(clean_pair, work, jobs)):
        add_counts(total, stats["counts"])
        logger.info("clean: %s %s", split_pair(job.unit.output.stem)[1], stats["counts"])
    return total


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.clean", description=__doc__.splitlines()[0])
    add_recipe_options(parser)
    parser.add_argument("--input", type=Path, required=True, help="folder of raw messages, made by data_prep.extract")
    parser.add_argument("--output", type=Path, required=True, help="folder to write en-xx.tsv files to")
    parser.add_argument(
        "--placeholders", choices=["drop", "keep"],
        help="drop pairs with placeholders like %%s, or keep pairs with the same ones (default: the recipe's)",
    )  # fmt: skip
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    recipe, preset, languages = chosen_recipe(args)
    keep = (args.placeholders or recipe.cleaning.get("placeholders", "drop")) == "keep"
    total = clean(args.input, args.output, languages, recipe.sources_of(preset), args.jobs, keep)
    print(f"clean: {total.get('kept', 0):,} pairs of {total.get('read', 0):,} messages kept; dropped: {dropped(total)}")


def dropped(counts: dict[str, int]) -> str:
    """The reasons and how often, most frequent first."""
    reasons = {k: v for k, v in counts.items() if k not in {"read", "kept", "further_paragraphs"}}
    return ", ".join(f"{k} {v:,}" for k, v in sorted(reasons.items(), key=lambda item: -item[1])) or "none"


if __name__ == "__main__":
    run_program(main, "data_prep.clean")
