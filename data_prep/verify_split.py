"""Prove that no sentence of the evaluation sets, and no near-duplicate of one, is in the training text, on either side.

Reads ``<data>/text/train.*`` (or a folder of such files), all languages together; exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.evalsets import read_held_out
from data_prep.lines import read_clean_lines
from data_prep.options import add_common_options, set_up_logging
from data_prep.shingles import HeldOut
from data_prep.split import find_held_out
from data_prep.train_spm import train_files

SHOWN = 5


def verify(text: Path, evalsets: list[Path], jobs: int, near: bool = True) -> dict[str, Any]:
    """Count the training sentences that are held out.

    Returns:
        ``sentences`` (different ones looked at), ``held_out``, ``exact``, ``near``, by language ``languages`` and
        ``examples``.
    """
    by_language = {}
    for language, paths in train_files(text).items():
        by_language[language] = {line for path in paths for line in read_clean_lines(path) if line}
    held_out = read_held_out(evalsets)
    found = find_held_out(sorted(set().union(*by_language.values())), HeldOut(held_out, near=near), jobs)
    kinds = list(found.values())
    return {
        "sentences": sum(map(len, by_language.values())),
        "held_out": len(set(held_out)),
        "exact": kinds.count("exact"),
        "near": kinds.count("near"),
        "languages": {lang: n for lang, texts in sorted(by_language.items()) if (n := len(texts & found.keys()))},
        "examples": sorted(found)[:SHOWN],
    }


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.verify_split", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="data folder of a preset, or a folder of train.* files"
    )
    parser.add_argument("--evalsets", type=Path, nargs="+", required=True, help="folders of evaluation sets")
    parser.add_argument(
        "--held-out-rule", choices=["near", "exact"], default="near", help="as in data_prep.split (default: near)"
    )
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    text = args.data / "text" if (args.data / "text").is_dir() else args.data
    if not text.is_dir():
        raise DataError(f"--data: no such folder: {args.data}")
    result = verify(text, args.evalsets, args.jobs, args.held_out_rule == "near")
    print(
        f"verify_split: {result['sentences']:,} training sentences against {result['held_out']:,} held-out ones, "
        f"all languages together: {result['exact']:,} equal, {result['near']:,} near-duplicates"
    )
    if result["languages"]:
        print(f"verify_split: by language {result['languages']}; for instance {result['examples']}")
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(main, "data_prep.verify_split")
