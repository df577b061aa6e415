"""Print the table of a built preset: pairs, words, tokens and main sources of every language, as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.files import read_json
from data_prep.options import add_recipe_options, chosen_recipe
from data_prep.pairs import pair_name
from data_prep.recipe import PIVOT, Language
from data_prep.steps import stats_path

TOP_SOURCES = 3


def _stats(output: Path) -> dict[str, Any]:
    stats = read_json(stats_path(output))
    if not isinstance(stats, dict) or "counts" not in stats:
        raise DataError(f"{stats_path(output)}: not there, or not finished; run data_prep.run first")
    return stats


def _row(language: Language, split: dict[str, int], binary: dict[str, dict[str, int]], sources: dict[str, int]) -> str:
    pair = pair_name(PIVOT, language.code)
    name = f"train.{pair}.{language.code}"
    if name not in binary:
        raise DataError(f"the binarized data is older than the text, and has no {name}; run data_prep.run again")
    tokens = binary[name]["tokens"]
    top = ", ".join(f"{name} {count / 1000:.1f}k" for name, count in list(sources.items())[:TOP_SOURCES])
    cells = [
        language.code, language.flores, language.name, language.family, language.script, language.tier,
        f"{split['train']:,}", f"{split['source_words'] / 1000:.0f}k", f"{tokens / split['train']:.1f}", top,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def card(data: Path, unique: Path, languages: list[Language]) -> str:
    """The table, languages with most text first."""
    split, binary = _stats(data / "text"), _stats(data / "bin")
    total = split["counts"]
    if "source_words" not in total:
        raise DataError(f"{stats_path(data / 'text')}: made by an older version; run data_prep.run again")
    rows = []
    for language in languages:
        pair = pair_name(PIVOT, language.code)
        counts = split["pairs"].get(pair)
        if counts is not None:
            sources = _stats(unique / f"{pair}.tsv")["sources"]
            rows.append((counts["train"], _row(language, counts, binary["by_file"], sources)))
    rows.sort(key=lambda row: -row[0])
    header = "code | FLORES-200 | language | family | script | tier | pairs | English words | tokens | main sources"
    lines = [f"| {header} |", "|---|---|---|---|---|---|---:|---:|---:|---|", *(row for _, row in rows)]
    lines.append(
        f"\n{total['train']:,} training pairs, {total['source_words']:,} English words, {len(rows)} languages."
    )
    return "\n".join(lines)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.card", description=__doc__.splitlines()[0])
    add_recipe_options(parser)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all data (default: data)")
    args = parser.parse_args()
    recipe, preset, languages = chosen_recipe(args)
    unique = args.data / recipe.work_name / f"corpus-{preset.corpus}" / "unique"
    print(card(args.data / recipe.name / preset.name, unique, languages))


if __name__ == "__main__":
    run_program(main, "data_prep.card")
